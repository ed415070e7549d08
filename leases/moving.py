"""When a node leaves a lease: an equal free node, or a shortfall that says what is missing.

Parts for :mod:`leases.capacity`. C3 holds after each: at every moment a promised
lease's nodes plus its shortfalls without a node are the quantity in its term.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from django.db import connection
from django.utils.translation import gettext as _

from inventory.models import Node
from leases import lifecycle, picking
from leases.errors import ShortPick
from leases.gaps import TICK
from leases.lifecycle import RUNNING
from leases.models import Allocation, Lease, Shortfall, Term
from leases.requests import CapacityRequest
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict
from portal.common.periods import Period
from portal.common.transactions import require_transaction, retry_conflicts

T = TypeVar("T")


class Changed(Exception):
    """What was read before the locks is no longer so: begin again."""


def equal_to(
    lease: Lease, *, start: datetime, end: datetime, instead_of: Allocation | None
) -> CapacityRequest:
    """Return the request for one node as good as the lease's: same GPUs and software, and where its others are."""
    term = Term.objects.select_related("gpu_model", "region__provider").filter(lease=lease)
    wanted = term.filter(period__contains=start).first() or term.latest("period")
    other = instead_of or lease.allocations.select_related("node__region__provider").last()
    region = other.node.region if other else wanted.region
    return CapacityRequest(
        gpu_model=wanted.gpu_model.slug,
        gpus_per_node=wanted.gpus_per_node,
        nodes=1,
        start=start,
        end=end,
        region=f"{region.provider.slug}/{region.code}" if region else None,
        stack=lease.stack.slug if lease.stack else None,
    )


def take_equal(
    lease: Lease,
    *,
    start: datetime,
    end: datetime,
    instead_of: Allocation | None,
    locked: list[int] | None,
    now: datetime,
) -> Node | None:
    """Part: give an equal free node to the locked lease from ``start`` to ``end``, or return ``None``.

    Without ``locked``, nodes that others hold are skipped, and coming short raises
    :class:`ShortPick`: the caller rolls back and comes again with the candidates locked.
    So it does for lapsed holds in the way: :func:`until_decided` does both.
    """
    require_transaction()
    request = equal_to(lease, start=start, end=end, instead_of=instead_of)
    choice = locked
    fabric = _fabric(lease, instead_of=instead_of)
    if fabric is not None:
        on_fabric = set(Node.objects.filter(fabric=fabric).values_list("pk", flat=True))
        choice = sorted(on_fabric if locked is None else on_fabric & set(locked))
    try:
        picked = picking.pick(request, now=now, among=choice)
        if picking.insert_allocations(request, lease_pk=lease.pk, node_pks=picked, now=now):
            return Node.objects.get(pk=picked[0])
    except ShortPick as short:
        if short.lapsed:
            raise
    if locked is None:
        raise ShortPick
    return None


def _fabric(lease: Lease, *, instead_of: Allocation | None) -> int | None:
    """Return the fabric that another node must be on (C4), or ``None`` where any will do."""
    if not lease.one_fabric:
        return None
    others = lease.allocations.exclude(pk=instead_of.pk) if instead_of else lease.allocations
    other = others.select_related("node").order_by("pk").last()
    return other.node.fabric_id if other else None


def candidates(allocations: list[Allocation], leases: dict[int, Lease], *, now: datetime) -> list[int]:
    """Return, unlocked, every node that looks free for what is left of one of the allocations."""
    found: set[int] = set()
    for allocation in allocations:
        lease = leases.get(allocation.lease_id or 0)
        if lease is not None and allocation.period.upper > now:
            start = max(allocation.period.lower, now)
            request = equal_to(lease, start=start, end=allocation.period.upper, instead_of=allocation)
            found.update(picking.free(request, now=now))
    return sorted(found)


def exchange(
    lease: Lease,
    allocation: Allocation,
    *,
    locked: list[int] | None,
    actor: User | None,
    now: datetime,
    message: str,
) -> bool:
    """Part: give the lease, which has not started, an equal free node instead of this one."""
    new = take_equal(
        lease,
        start=allocation.period.lower,
        end=allocation.period.upper,
        instead_of=allocation,
        locked=locked,
        now=now,
    )
    if new is None:
        return False
    remove(allocation)
    exchanged(lease, old=allocation.node_id, new=new, actor=actor, now=now, message=message)
    return True


def exchanged(
    lease: Lease, *, old: int | None, new: Node, actor: User | None, now: datetime, message: str
) -> None:
    """Part: record that an equal node took a place in the lease."""
    events.record(
        kind="lease.node_exchanged",
        subject_type="lease",
        subject_id=lease.uid,
        organization=lease.organization,
        actor=actor,
        now=now,
        before={"node": old},
        after={"node": new.pk},
        message=message,
    )


def remove(allocation: Allocation) -> None:
    """Part: delete an allocation for which nothing was launched; its shortfalls go with it."""
    require_transaction()
    Shortfall.objects.filter(allocation=allocation).delete()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM leases_allocation WHERE id = %s", [allocation.pk])


def cut(allocation: Allocation, *, period: Period, occupied: Period, now: datetime) -> None:
    """Part: shorten an allocation; its open shortfall ends no later than it."""
    require_transaction()
    allocation.period, allocation.occupied = period, occupied
    allocation.save(update_fields=["period", "occupied"])
    for shortfall in Shortfall.objects.filter(allocation=allocation, closed_at=None):
        if shortfall.period.lower >= period.upper:
            shortfall.delete()
        elif shortfall.period.upper > period.upper:
            shortfall.period = Period(shortfall.period.lower, period.upper, "[)")
            shortfall.closed_at = now if period.upper <= now else None
            shortfall.save(update_fields=["period", "closed_at"])


def has_begun(lease: Lease, allocation: Allocation, *, now: datetime) -> bool:
    """Return whether something may have been launched for the allocation."""
    return allocation.intents.exists() or (lease.state in RUNNING and allocation.period.lower < now)


def lose_time(
    lease: Lease,
    allocation: Allocation,
    *,
    keep: Period,
    cause: Shortfall.Cause,
    detail: str,
    now: datetime,
) -> list[Shortfall]:
    """Part: keep of an allocation what lies in ``keep``, turnaround included; the rest is missing.

    What has begun is kept until ``now`` at least, and ``keep`` covers it. Returns the
    shortfalls that it opened.
    """
    node, whole, turnaround = allocation.node, allocation.period, allocation.node.turnaround
    begun = has_begun(lease, allocation, now=now)
    start, end = max(whole.lower, keep.lower), min(whole.upper, keep.upper - turnaround)
    if begun:
        start, end = whole.lower, min(whole.upper, max(end, now, whole.lower + TICK))
    if start >= end:
        remove(allocation)
        missing = [whole]
    else:
        occupied = Period(start, max(end, min(end + turnaround, keep.upper)), "[)")
        cut(allocation, period=Period(start, end, "[)"), occupied=occupied, now=now)
        missing = [
            Period(lower, upper, "[)")
            for lower, upper in ((whole.lower, start), (end, whole.upper))
            if lower < upper
        ]
    return [
        open_shortfall(lease, part, cause=cause, detail=detail, now=now, node_pk=node.pk) for part in missing
    ]


def open_shortfall(
    lease: Lease,
    period: Period,
    *,
    cause: Shortfall.Cause,
    detail: str,
    now: datetime,
    node_pk: int,
    allocation: Allocation | None = None,
) -> Shortfall:
    """Part: open a shortfall, by default for a node that the lease has no longer, and tell the customer.

    ``detail`` is a sentence that the customer may read. With ``allocation``, one that is
    open already is kept and only its cause changes.
    """
    require_transaction()
    shortfall = None
    if allocation is not None:
        shortfall = Shortfall.objects.filter(allocation=allocation, closed_at=None).first()
    before = {"cause": shortfall.cause} if shortfall else {}
    if shortfall is None:
        shortfall = Shortfall(lease=lease, allocation=allocation, period=period, created_at=now)
    shortfall.cause, shortfall.detail, shortfall.told_at = cause, detail[:300], now
    shortfall.save()
    events.record(
        kind="lease.shortfall_changed" if before else "lease.shortfall_opened",
        subject_type="lease",
        subject_id=lease.uid,
        organization=lease.organization,
        now=now,
        before=before,
        after={
            "cause": str(cause),
            "since": shortfall.period.lower.isoformat(),
            "until": shortfall.period.upper.isoformat(),
            "node": node_pk,
        },
        message=detail,
    )
    return shortfall


def close_shortfall(shortfall: Shortfall, lease: Lease, *, now: datetime, message: str) -> None:
    """Part: end a shortfall: its period ends now, and one that had not begun never was."""
    require_transaction()
    facts = {"since": shortfall.period.lower.isoformat(), "cause": shortfall.cause}
    Shortfall.objects.filter(pk=shortfall.pk).close(at=now)
    events.record(
        kind="lease.shortfall_closed",
        subject_type="lease",
        subject_id=lease.uid,
        organization=lease.organization,
        now=now,
        before=facts,
        message=message,
    )


def until_decided(attempt: Callable[[bool], T], *, now: datetime, tries: int = 5) -> T:
    """Run ``attempt(wait)``, a whole transaction, again after it came short.

    First it skips nodes that others hold, then it waits for them; lapsed holds in the way
    are lapsed in between, in a transaction of their own (C5). Conflicts are retried.
    """
    wait = False
    for _number in range(tries):
        try:
            return retry_conflicts(lambda wait=wait: attempt(wait))  # type: ignore[misc]
        except ShortPick as short:
            if not lifecycle.lapse_these(lease_pks=short.lapsed, now=now):
                wait = True
        except Changed:
            continue
    raise Conflict(_("These nodes are being booked right now. Try again in a moment."))
