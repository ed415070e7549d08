"""Fill what a lease is missing: when the customer agrees, or when nothing more can be lost."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F, Q
from django.utils.translation import gettext as _

from leases import lifecycle, moving, picking
from leases.errors import NotEnoughCapacity, ShortPick, WrongState
from leases.lifecycle import PROMISED, RUNNING
from leases.models import Lease, Shortfall
from portal.accounts.models import User
from portal.common.errors import NotFound
from portal.common.periods import Period
from portal.common.transactions import durable, require_transaction, retry_conflicts


def fill(
    shortfall: Shortfall, lease: Lease, *, locked: list[int] | None, actor: User | None, now: datetime
) -> bool:
    """Part: give the locked lease an equal free node for what is left of a shortfall without one."""
    require_transaction()
    start, end = max(shortfall.period.lower, now), shortfall.period.upper
    if start >= end:
        return False
    new = moving.take_equal(lease, start=start, end=end, instead_of=None, locked=locked, now=now)
    if new is None:
        return False
    message = _("An equal server takes the place of the missing one.")
    moving.close_shortfall(shortfall, lease, now=now, message=message)
    moving.exchanged(lease, old=None, new=new, actor=actor, now=now, message=message)
    return True


def replace_missing(*, shortfall_id: int, actor: User | None, now: datetime) -> Lease:
    """Give a promised lease an equal free node now: the customer agrees to lose what is on the old one.

    A failed node that the lease still has is taken away first. Raises
    :class:`NotEnoughCapacity` when no equal node is free (nothing changes then), and
    :class:`WrongState` for a shortfall or lease that is over.
    """

    def attempt(wait: bool) -> Lease:
        with durable():
            lease, shortfall = _lock(shortfall_id)
            allocation = shortfall.allocation
            start, end = max(shortfall.period.lower, now), shortfall.period.upper
            spare = None
            if wait:
                request = moving.equal_to(lease, start=start, end=end, instead_of=allocation)
                spare = picking.free(request, now=now)
            nodes = {*(spare or ()), *([allocation.node_id] if allocation else [])}
            lifecycle.lock_nodes(nodes)
            missing = [shortfall]
            if allocation is not None:
                kept = Period(min(allocation.occupied.lower, now), now, "[]")
                cause = Shortfall.Cause(shortfall.cause)
                missing = moving.lose_time(
                    lease, allocation, keep=kept, cause=cause, detail=shortfall.detail, now=now
                )
            for part in missing:
                if not fill(part, lease, locked=spare, actor=actor, now=now):
                    raise NotEnoughCapacity(
                        _("No equal server is free at the moment. The shortfall stays, and is not charged.")
                    )
            return lease

    return moving.until_decided(attempt, now=now)


def _lock(shortfall_id: int) -> tuple[Lease, Shortfall]:
    found = Shortfall.objects.filter(pk=shortfall_id).first()
    if found is None:
        raise NotFound(_("There is no such shortfall."))
    lease = lifecycle.lock_lease(found.lease_id)
    shortfall = (
        Shortfall.objects.filter(pk=shortfall_id, closed_at=None).select_related("allocation__node").first()
    )
    if shortfall is None or lease.state not in PROMISED:
        raise WrongState(_("This shortfall is over."))
    return lease, shortfall


def fill_missing(*, now: datetime) -> int:
    """Sweep: fill open shortfalls that have no node, where nothing more can be lost; return how many.

    That is before a lease starts, and once the shortfall has begun. Safe twice at once.
    """
    due = Shortfall.objects.filter(
        Q(lease__state=Lease.State.SCHEDULED) | Q(lease__state__in=RUNNING, period__startswith__lte=now),
        allocation=None,
        closed_at=None,
        period__endswith__gt=now,
    )
    filled = 0
    for pk, lease_pk in due.order_by("period", "pk").values_list("pk", F("lease_id")):
        filled += _fill_one(pk, lease_pk, now=now)
    return filled


def _fill_one(pk: int, lease_pk: int, *, now: datetime) -> bool:
    def attempt() -> bool:
        with durable():
            rows = Lease.objects.select_for_update(no_key=True, of=("self",), skip_locked=True)
            lease = rows.filter(pk=lease_pk, state__in=PROMISED).first()
            shortfall = Shortfall.objects.filter(pk=pk, allocation=None, closed_at=None).first()
            if lease is None or shortfall is None:
                return False
            return fill(shortfall, lease, locked=None, actor=None, now=now)

    try:
        return retry_conflicts(attempt)
    except ShortPick:  # nothing free, or locked right now: the next sweep looks again
        return False
