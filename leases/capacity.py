"""What staff do to nodes that are promised: shorten them, set their health.

Promises come first. Whatever a node loses is moved to an equal free node or becomes a
shortfall, in the same transaction (C3). Leases that run are never moved silently: they
get a shortfall at once, and an equal node once the customer agrees
(:mod:`leases.replacing`) or the loss of their local data is certain (C6).
"""

from __future__ import annotations

from datetime import datetime

from django.db.models import Q
from django.utils.translation import gettext as _

from inventory.fleet import set_available
from inventory.models import Node
from leases import lifecycle, moving, replacing
from leases.gaps import TICK
from leases.lifecycle import PROMISED, RUNNING, WAITING
from leases.maintenance import allocate_maintenance, record_about, release_maintenance
from leases.models import Allocation, Lease, Shortfall
from leases.replacing import replace_missing
from portal.accounts.models import User
from portal.common.errors import InvalidInput, NotFound
from portal.common.periods import Period
from portal.common.periods import period as make_period
from portal.common.transactions import durable

__all__ = [
    "allocate_maintenance",
    "release_maintenance",
    "replace_missing",
    "set_health",
    "shrink_node",
]

Health = Node.Health
Cause = Shortfall.Cause


class _Locked:
    """What one attempt has locked, in order: leases by pk, then nodes by pk."""

    def __init__(self, node_pk: int, which: Q, *, wait: bool, now: datetime) -> None:
        seen = _allocations(node_pk, which)
        wanted = {row.lease_id for row in seen if row.lease_id is not None}
        self.leases = {lease.pk: lease for lease in lifecycle.lock_leases(wanted)}
        # None: skip nodes that others hold; else what was waited for.
        self.spare = moving.candidates(seen, self.leases, now=now) if wait else None
        found = [node for node in lifecycle.lock_nodes({node_pk, *(self.spare or ())}) if node.pk == node_pk]
        if not found:
            raise NotFound(_("There is no such node."))
        self.node = found[0]
        self.allocations = _allocations(node_pk, which)
        if any(row.lease_id is not None and row.lease_id not in self.leases for row in self.allocations):
            raise moving.Changed

    def lease_of(self, allocation: Allocation) -> Lease | None:
        return self.leases[allocation.lease_id] if allocation.lease_id is not None else None


def _allocations(node_pk: int, which: Q) -> list[Allocation]:
    rows = Allocation.objects.filter(which, node=node_pk).select_related("node__region__provider")
    return list(rows.order_by("pk"))


def shrink_node(*, node_id: int, available: Period, actor: User | None, now: datetime) -> Node:
    """Give a node another ``available`` (UTC), moving what no longer fits, and return it.

    Leases that have not started get an equal free node, else keep what fits and get a
    shortfall for the rest; holds without an equal node lapse; running leases keep their
    node until its new end less the turnaround and get a shortfall from then on.
    Maintenance is cut. Raises :class:`InvalidInput` (field ``available``) where the node
    was in use outside of it, and :class:`NotFound`.
    """
    available = make_period(available.lower, available.upper)

    def attempt(wait: bool) -> Node:
        with durable():
            held = _Locked(node_id, ~Q(occupied__contained_by=available), wait=wait, now=now)
            before = held.node.available
            for allocation in held.allocations:
                _withdraw(held, allocation, available, actor=actor, now=now)
            set_available(held.node, available)
            record_about(
                held.node,
                "node.available_changed",
                actor=actor,
                now=now,
                before={"from": before.lower.isoformat(), "until": before.upper.isoformat()},
                after={"from": available.lower.isoformat(), "until": available.upper.isoformat()},
            )
            return held.node

    return moving.until_decided(attempt, now=now)


def _withdraw(
    held: _Locked, allocation: Allocation, available: Period, *, actor: User | None, now: datetime
) -> None:
    lease, period = held.lease_of(allocation), allocation.period
    if lease is None:
        start, end = max(period.lower, available.lower), min(period.upper, available.upper)
        if start < end:
            stays = Period(start, end, "[)")
            moving.cut(allocation, period=stays, occupied=stays, now=now)
        else:
            moving.remove(allocation)
        return
    if lease.state not in (*WAITING, *PROMISED):
        _check_covers(available, lease, allocation.occupied.lower, period.upper)
        occupied = Period(allocation.occupied.lower, min(allocation.occupied.upper, available.upper), "[)")
        moving.cut(allocation, period=period, occupied=occupied, now=now)
        return
    detail = _("A server is withdrawn by its provider.")
    if moving.has_begun(lease, allocation, now=now):
        used_until = max(min(period.upper, now), period.lower + TICK)
        _check_covers(available, lease, allocation.occupied.lower, used_until)
    elif lease.state not in RUNNING:  # of one that runs, the customer decides about the next node
        if moving.exchange(lease, allocation, locked=held.spare, actor=actor, now=now, message=detail):
            return
        if lease.state in WAITING:
            lifecycle.lapse([lease], now=now, message=_("A node is no longer available."))
            return
    moving.lose_time(lease, allocation, keep=available, cause=Cause.NODE_WITHDRAWN, detail=detail, now=now)


def _check_covers(available: Period, lease: Lease, start: datetime, end: datetime) -> None:
    if available.lower > start or available.upper < end:
        raise InvalidInput(
            _("%(lease)s uses this node from %(start)s until %(end)s UTC: its period must cover that.")
            % {"lease": lease.uid, "start": f"{start:%Y-%m-%d %H:%M}", "end": f"{end:%Y-%m-%d %H:%M}"},
            field="available",
        )


def set_health(
    *, node_id: int, health: Node.Health | str, actor: User | None, now: datetime, note: str = ""
) -> Node:
    """Set a node's health and do what that means for its leases (C6); return the node.

    *Draining*: nothing new, what is promised stays. *Unhealthy*: leases that have not
    started get an equal free node, else a shortfall; running ones a shortfall at once.
    *Retired*: as unhealthy, and since local data is lost for certain, running leases
    get an equal free node at once, where there is one. *Healthy* closes the shortfalls
    of machines that still run. Holds without an equal node lapse.
    """
    target = Health(health)

    def attempt(wait: bool) -> Node:
        with durable():
            held = _Locked(node_id, Q(period__endswith__gt=now), wait=wait, now=now)
            node, before = held.node, Health(held.node.health)
            node.health, node.health_note = target, note[:200]
            node.save(update_fields=["health", "health_note"])
            if target == before:
                return node
            for allocation in held.allocations:
                lease = held.lease_of(allocation)
                if lease is None or lease.state not in (*WAITING, *PROMISED):
                    continue
                if target == Health.HEALTHY:
                    _recovered(lease, allocation, now=now)
                elif target != Health.DRAINING:
                    _failed(held, lease, allocation, actor=actor, now=now)
            record_about(
                node,
                "node.health_changed",
                actor=actor,
                now=now,
                before={"health": before.value},
                after={"health": target.value, "note": node.health_note},
            )
            return node

    return moving.until_decided(attempt, now=now)


def _failed(
    held: _Locked, lease: Lease, allocation: Allocation, *, actor: User | None, now: datetime
) -> None:
    retired = held.node.health == Health.RETIRED
    detail = _("A server failed.")
    if lease.state not in RUNNING:
        message = _("A server was exchanged for an equal one before the start.")
        if moving.exchange(lease, allocation, locked=held.spare, actor=actor, now=now, message=message):
            return
        if lease.state in WAITING:
            lifecycle.lapse([lease], now=now, message=_("A node is no longer available."))
            return
    if not retired:  # it may come back, with the customer's data
        missing = Period(max(allocation.period.lower, now), allocation.period.upper, "[)")
        moving.open_shortfall(
            lease,
            missing,
            cause=Cause.NODE_FAILED,
            detail=detail,
            now=now,
            node_pk=held.node.pk,
            allocation=allocation,
        )
        return
    gone = Period(min(allocation.occupied.lower, now), now, "[]")
    for shortfall in moving.lose_time(
        lease, allocation, keep=gone, cause=Cause.NODE_FAILED, detail=detail, now=now
    ):
        if lease.state in RUNNING:
            replacing.fill(shortfall, lease, locked=held.spare, actor=actor, now=now)


def _recovered(lease: Lease, allocation: Allocation, *, now: datetime) -> None:
    """Part: the shortfall ends, unless the machine is gone: then its relaunch ends it."""
    begun = lease.state in RUNNING and allocation.period.lower <= now
    if begun and (allocation.delivered is None or allocation.delivered.upper is not None):
        return
    for shortfall in Shortfall.objects.filter(allocation=allocation, closed_at=None):
        moving.close_shortfall(shortfall, lease, now=now, message=_("The server works again."))
