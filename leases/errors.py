"""Refusals of this app that a person can meet."""

from __future__ import annotations

from collections.abc import Iterable

from portal.common.errors import Conflict


class NotEnoughCapacity(Conflict):
    """The request does not fit. ``extra["alternatives"]`` lists what does, as plain JSON facts."""

    code = "not-enough-capacity"


class HoldLapsed(Conflict):
    """The hold's deadline has passed: quote again."""

    code = "quote-expired"


class WrongState(Conflict):
    """The lease's state does not allow this."""

    code = "wrong-state"


class ShortPick(Exception):
    """A pick found fewer nodes than wanted: proves nothing until nodes were waited for.

    ``lapsed`` are the leases, by pk, whose hold has lapsed and lies in the way. The
    transaction must roll back. Never reaches a person: :func:`leases.booking.with_capacity`
    turns it into another attempt or into :class:`NotEnoughCapacity`.
    """

    def __init__(self, lapsed: Iterable[int] = ()) -> None:
        super().__init__()
        self.lapsed = list(lapsed)
