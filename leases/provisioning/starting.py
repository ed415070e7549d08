"""A lease's term begins: from scheduled to provisioning, each launch committed before any call."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext as _

from leases import lifecycle
from leases.models import Allocation, LaunchIntent, Lease, Shortfall, Term
from leases.provisioning import intents, losses, shortfalls
from leases.provisioning.facts import RUNS
from leases.provisioning.messages import DAILY, tell_staff
from portal.accounts.models import Organization
from portal.accounts.organizations import check_may_launch
from portal.common.errors import Forbidden
from portal.common.nudge import nudge
from portal.common.transactions import durable


def start_due(*, now: datetime) -> int:
    """Start the leases whose term has begun, and give nodes that waited their launch.

    Returns how many leases started. Safe twice at once: a lease that somebody else
    works on is skipped and found again by its state.
    """
    running = Term.objects.filter(lease=OuterRef("pk"), period__contains=now)
    due = Lease.objects.filter(Exists(running), state=Lease.State.SCHEDULED)
    started = sum(_start(pk, now) for pk in due.order_by("pk").values_list("pk", flat=True))
    for pk in _without_intent(now):
        _give_launches(pk, now)
    losses.relaunch_due(now=now)
    for pk in _late(now):
        _call_late(pk, now)
    return started


def _take(pk: int, *states: Lease.State) -> Lease | None:
    rows = Lease.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
    return rows.filter(pk=pk, state__in=states).select_related("organization").first()


def _start(pk: int, now: datetime) -> bool:
    with durable():
        lease = _take(pk, Lease.State.SCHEDULED)
        if lease is None:
            return False
        try:
            check_may_launch(lease.organization)
        except Forbidden as refusal:
            tell_staff(
                kind="lease.launch_refused",
                subject_type="lease",
                subject_id=lease.uid,
                now=now,
                after={"organization": lease.organization.uid},
                message=_("Not started: %(reason)s") % {"reason": refusal},
                quiet=DAILY,
            )
            return False
        lifecycle.move(lease, Lease.State.PROVISIONING, actor=None, now=now)
        intents.write_intents(lease=lease, now=now)
        nudge("leases.tasks.launch_due")
        return True


def _without_intent(now: datetime) -> list[int]:
    """Return the running leases with a node that no launch was committed for: it waited, or came later."""
    allocations = Allocation.objects.filter(
        ~Exists(LaunchIntent.objects.filter(allocation=OuterRef("pk"))),
        lease__state__in=RUNS,
        period__contains=now,
    )
    return list(allocations.order_by("lease").values_list("lease", flat=True).distinct())


def _give_launches(pk: int, now: datetime) -> None:
    with durable():
        lease = _take(pk, *RUNS)
        if lease is not None and intents.write_intents(lease=lease, now=now):
            nudge("leases.tasks.launch_due")


def late_after() -> timedelta:
    """Return how long after its start a node may be missing before it is late."""
    return timedelta(minutes=settings.SUBLET_LATE_GRACE_MINUTES)


def _late(now: datetime) -> list[int]:
    return list(_late_allocations(now).order_by("lease").values_list("lease", flat=True).distinct())


def _late_allocations(now: datetime) -> QuerySet[Allocation]:
    open_ones = Shortfall.objects.filter(allocation=OuterRef("pk"), closed_at=None)
    return Allocation.objects.filter(
        ~Exists(open_ones),
        lease__state__in=RUNS,
        delivered=None,
        period__contains=now,
        period__startswith__lte=now - late_after(),
    ).exclude(lease__organization__state=Organization.State.SUSPENDED)


def _call_late(pk: int, now: datetime) -> None:
    """Open a shortfall for every node of the lease that is past its start and the grace (C7)."""
    with durable():
        lease = _take(pk, *RUNS)
        if lease is None:
            return
        for allocation in _late_allocations(now).filter(lease=lease).order_by("pk"):
            shortfalls.open_for(
                lease=lease,
                allocation=allocation,
                cause=Shortfall.Cause.LATE,
                detail=_("The server takes longer to start than planned."),
                now=now,
                since=allocation.period.lower,
            )
