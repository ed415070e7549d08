"""Which states mean what, and the questions that several sweeps ask."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Exists, OuterRef, Q

from inventory.models import Node
from leases.models import Allocation, Instance, LaunchIntent, Lease, Turnover

# A machine that the provider has, as far as we know.
LIVE_MACHINE = (Instance.State.PENDING, Instance.State.RUNNING, Instance.State.STOPPING)
# An intent that may still make a machine, or has made one that nobody recorded.
UNDER_WAY = (LaunchIntent.State.PENDING, LaunchIntent.State.CALLING)
# Leases that want machines now.
RUNS = (Lease.State.PROVISIONING, Lease.State.ACTIVE)
# Nodes on which nothing is launched.
UNUSABLE = (Node.Health.UNHEALTHY, Node.Health.RETIRED)
OVER = (Lease.State.ENDED, Lease.State.CANCELLED, Lease.State.LAPSED, Lease.State.FAILED)


def lease_end(lease: Lease) -> datetime:
    """Return when the lease's last term ends (UTC)."""
    ends: list[datetime] = [term.period.upper for term in lease.terms.all()]
    return max(ends)


def is_occupied(allocation: Allocation) -> bool:
    """Tell whether an earlier tenant's machine may still be on the allocation's node (C7).

    Its turnover row must say that it ended; the clock alone frees nothing.
    """
    earlier = Allocation.objects.filter(
        node=allocation.node_id, period__startswith__lt=allocation.period.lower
    ).exclude(pk=allocation.pk)
    may_run = (
        Q(Exists(Instance.objects.filter(allocation=OuterRef("pk"), state__in=LIVE_MACHINE)))
        | Q(Exists(LaunchIntent.objects.filter(allocation=OuterRef("pk"), state__in=UNDER_WAY)))
        | Q(Exists(Turnover.objects.filter(allocation=OuterRef("pk"), completed_at=None)))
    )
    return earlier.filter(may_run).exists()
