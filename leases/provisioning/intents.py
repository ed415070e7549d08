"""Committing to a launch: the intent is written before anything is called (P1)."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef
from django.utils.translation import gettext as _

from leases.models import Allocation, LaunchIntent, Lease, Shortfall
from leases.provisioning import networks, shortfalls
from leases.provisioning.claims import backoff
from leases.provisioning.facts import UNUSABLE, is_occupied
from portal.common.transactions import require_transaction

# A provider without capacity, or whose machines keep ending, is asked again at this pace.
FULL, FULL_LONGEST = timedelta(minutes=1), timedelta(minutes=10)


def write_intents(*, lease: Lease, now: datetime) -> int:
    """Part: commit to launch what the locked lease should have now; return how many.

    A node whose last machine has not ended waits, and its lease is shown late (C7).
    An allocation that had an intent gets another one only by :func:`again`.
    """
    require_transaction()
    written = 0
    allocations = (
        lease.allocations.filter(~Exists(LaunchIntent.objects.filter(allocation=OuterRef("pk"))))
        .filter(period__contains=now)
        .select_related("node__account", "node__region")
        .order_by("pk")
    )
    for allocation in allocations:
        if is_occupied(allocation):
            shortfalls.open_for(
                lease=lease,
                allocation=allocation,
                cause=Shortfall.Cause.LATE,
                detail=_("The server is still being cleared and wiped for you."),
                now=now,
                since=allocation.period.lower,
            )
        elif allocation.node.health in UNUSABLE:
            shortfalls.open_for(
                lease=lease,
                allocation=allocation,
                cause=Shortfall.Cause.NODE_FAILED,
                detail=_("The server is out of order."),
                now=now,
                since=allocation.period.lower,
            )
        else:
            again(lease=lease, allocation=allocation, now=now)
            written += 1
    return written


def again(*, lease: Lease, allocation: Allocation, now: datetime, after: timedelta = timedelta()) -> None:
    """Part: write a fresh intent for the allocation, to be called ``after`` a while. The lease is locked."""
    networks.ensure(lease=lease, allocation=allocation, now=now)
    LaunchIntent.objects.create(
        allocation=allocation, account=allocation.node.account, created_at=now, next_try_at=now + after
    )


def pause(allocation: Allocation) -> timedelta:
    """Return how long to wait before a further launch on a node where machines keep ending."""
    tries = LaunchIntent.objects.filter(
        allocation__lease=allocation.lease_id, allocation__node=allocation.node_id
    ).count()
    return timedelta() if tries <= 1 else backoff(tries - 1, base=FULL, longest=FULL_LONGEST)
