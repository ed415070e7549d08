"""Time on a node that is ours: for repairs, upgrades and tests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Q
from django.utils.translation import gettext as _

from inventory.models import Node
from leases import lifecycle, moving
from leases.models import Allocation, Lease
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict, InvalidInput, NotFound
from portal.common.periods import Period
from portal.common.periods import period as make_period
from portal.common.transactions import durable, retry_conflicts


def record_about(node: Node, kind: str, *, actor: User | None, now: datetime, **facts: Any) -> None:
    """Part: append an event about a node; its subject is the node's primary key."""
    events.record(kind=kind, subject_type="node", subject_id=str(node.pk), actor=actor, now=now, **facts)


def _lock(node_id: int) -> Node:
    found = lifecycle.lock_nodes([node_id])
    if not found:
        raise NotFound(_("There is no such node."))
    return found[0]


def allocate_maintenance(
    *,
    node_id: int,
    period: Period,
    note: str,
    actor: User | None,
    now: datetime,
    purpose: Allocation.Purpose | str = Allocation.Purpose.MAINTENANCE,
) -> Allocation:
    """Keep a node for ourselves during ``period`` (UTC), whatever its health; return the allocation.

    Raises :class:`InvalidInput` for a period outside of the node's ``available``, and
    :class:`Conflict` when the node is promised then: move that first.
    """
    period = make_period(period.lower, period.upper)
    if period.upper <= now:
        raise InvalidInput(_("The period is over."), field="period")
    if Allocation.Purpose(purpose) == Allocation.Purpose.LEASE:
        raise InvalidInput(_("Nodes are given to leases by booking."), field="purpose")
    in_the_way = Lease.objects.filter(
        lifecycle.lapsed_holds(now), allocations__node=node_id, allocations__occupied__overlap=period
    )
    lifecycle.lapse_these(lease_pks=in_the_way.values_list("pk", flat=True).distinct(), now=now)

    def attempt() -> Allocation:
        with durable():
            node = _lock(node_id)
            if period.lower < node.available.lower or period.upper > node.available.upper:
                raise InvalidInput(
                    _("The node is ours from %(start)s until %(end)s UTC only.")
                    % {
                        "start": f"{node.available.lower:%Y-%m-%d %H:%M}",
                        "end": f"{node.available.upper:%Y-%m-%d %H:%M}",
                    },
                    field="period",
                )
            taken = Allocation.objects.filter(node=node, occupied__overlap=period).select_related("lease")
            first = taken.order_by("occupied").first()
            if first is not None:
                raise Conflict(
                    _("The node is taken by %(what)s from %(start)s until %(end)s UTC.")
                    % {
                        "what": first.lease.uid if first.lease else first.get_purpose_display().lower(),
                        "start": f"{first.occupied.lower:%Y-%m-%d %H:%M}",
                        "end": f"{first.occupied.upper:%Y-%m-%d %H:%M}",
                    }
                )
            allocation = Allocation.objects.create(
                node=node,
                node_available=node.available,
                period=period,
                occupied=period,
                purpose=purpose,
                note=note[:200],
                created_at=now,
            )
            record_about(
                node,
                "node.maintenance_planned",
                actor=actor,
                now=now,
                after={"from": period.lower.isoformat(), "until": period.upper.isoformat()},
                message=note,
            )
            return allocation

    return retry_conflicts(attempt)


def release_maintenance(*, allocation_id: int, actor: User | None, now: datetime) -> None:
    """End maintenance now: what is past stays on record, the rest is free.

    Raises :class:`NotFound` for anything that is not maintenance or a test, and
    :class:`Conflict` when it is over.
    """
    with durable():
        ours = Allocation.objects.filter(~Q(purpose=Allocation.Purpose.LEASE), pk=allocation_id)
        node_id = ours.values_list("node_id", flat=True).first()
        if node_id is None:
            raise NotFound(_("There is no such maintenance."))
        node = _lock(node_id)
        allocation = ours.get()
        start, end = allocation.period.lower, allocation.period.upper
        if end <= now:
            raise Conflict(_("This maintenance is over."))
        if start < now:
            past = Period(start, now, "[)")
            moving.cut(allocation, period=past, occupied=past, now=now)
        else:
            moving.remove(allocation)
        record_about(
            node,
            "node.maintenance_ended",
            actor=actor,
            now=now,
            before={"from": start.isoformat(), "until": end.isoformat()},
        )
