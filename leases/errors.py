"""Refusals of this app that a person can meet."""

from __future__ import annotations

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

    Never reaches a person: :func:`leases.booking.with_capacity` turns it into another
    attempt or into :class:`NotEnoughCapacity`.
    """
