"""A lease ends: access is revoked, delivered time closed, and each machine handed to its turnover."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext as _

from leases import lifecycle
from leases.errors import WrongState
from leases.models import Allocation, Instance, LaunchIntent, Lease, Term, Turnover
from leases.provisioning import delivery, shortfalls
from leases.provisioning.facts import LIVE_MACHINE, RUNS, lease_end
from portal.accounts.models import User
from portal.common.errors import InvalidInput, NotFound
from portal.common.nudge import nudge
from portal.common.periods import Period
from portal.common.transactions import durable, require_transaction

State = LaunchIntent.State


def end_due(*, now: datetime) -> int:
    """End the leases whose term is over, and nodes that a lease had for a shorter time.

    Returns how many leases began to end. Safe twice at once. A lease that could not be
    started before its end (its organization was suspended) has failed.
    """
    goes_on = Term.objects.filter(lease=OuterRef("pk"), period__endswith__gt=now)
    over = Lease.objects.filter(~Exists(goes_on), Exists(Term.objects.filter(lease=OuterRef("pk"))))
    due = over.filter(state__in=(*RUNS, Lease.State.SCHEDULED))
    ended = sum(_end(pk, now) for pk in due.order_by("pk").values_list("pk", flat=True))
    for pk in _with_a_node_past_its_period(now):
        _end_nodes(pk, now)
    return ended


def _take(pk: int, *states: Lease.State) -> Lease | None:
    rows = Lease.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
    return rows.filter(pk=pk, state__in=states).first()


def _end(pk: int, now: datetime) -> bool:
    with durable():
        lease = _take(pk, *RUNS, Lease.State.SCHEDULED)
        if lease is None or lease_end(lease) > now:
            return False
        if lease.state == Lease.State.SCHEDULED:
            shortfalls.close_all(lease=lease, at=lease_end(lease))
            lifecycle.move(
                lease, Lease.State.FAILED, actor=None, now=now, message=_("It could not be started in time.")
            )
            return False
        end_lease(lease, at=lease_end(lease), actor=None, now=now)
        return True


def end_early(*, lease_uid: str, reason: str, actor: User, now: datetime) -> Lease:
    """End a running lease now: machines are ended, what was delivered until now stays charged.

    Raises :class:`InvalidInput` without a reason, :class:`NotFound`, and
    :class:`~leases.errors.WrongState` unless the lease is provisioning or active.
    """
    if not reason.strip():
        raise InvalidInput(_("Say why the lease ends early: the customer reads it."), field="reason")
    with durable():
        lease = _lock(lease_uid)
        if lease.state not in RUNS:
            raise WrongState(
                _("This lease is %(state)s: only one that runs can be ended.")
                % {"state": lease.get_state_display().lower()},
                state=str(lease.state),
            )
        end_lease(lease, at=now, actor=actor, now=now, message=reason.strip(), early=True)
        return lease


def cancel(*, lease_uid: str, reason: str, actor: User, now: datetime) -> Lease:
    """Cancel a lease that has not started, for staff: without a quote and without a fee.

    Its funds are released by the next metering. Raises :class:`InvalidInput` without a
    reason, :class:`NotFound`, and :class:`~leases.errors.WrongState` once it has started.
    """
    if not reason.strip():
        raise InvalidInput(_("Say why the lease is cancelled: the customer reads it."), field="reason")
    with durable():
        lease = _lock(lease_uid)
        return lifecycle.cancel(lease, actor=actor, now=now, message=reason.strip())


def _lock(lease_uid: str) -> Lease:
    pk = Lease.objects.filter(uid=lease_uid).values_list("pk", flat=True).first()
    if pk is None:
        raise NotFound(_("There is no such lease."))
    return lifecycle.lock_lease(pk)


def end_lease(
    lease: Lease, *, at: datetime, actor: User | None, now: datetime, message: str = "", early: bool = False
) -> None:
    """Part: begin the end of a locked, running lease: nothing is delivered after ``at`` (UTC)."""
    require_transaction()
    allocations = list(lease.allocations.select_related("node").order_by("pk"))
    lifecycle.lock_nodes(allocation.node_id for allocation in allocations)
    for allocation in allocations:
        end_allocation(lease, allocation, at=at, now=now)
    shortfalls.close_all(lease=lease, at=at)
    lifecycle.move(
        lease,
        Lease.State.ENDING,
        actor=actor,
        now=now,
        message=message,
        usable_until=at.isoformat(),
        early=early,
    )
    nudge("leases.tasks.turnover_due")


def end_allocation(lease: Lease, allocation: Allocation, *, at: datetime, now: datetime) -> None:
    """Part: revoke access, close the delivered time, and hand what may run to a turnover.

    Lease and node are locked. A launch that was not called yet is abandoned; one that may
    be under way is found by its token and ended. Where there never was a machine the node
    is free at once.
    """
    require_transaction()
    for instance in Instance.objects.filter(allocation=allocation):
        delivery.revoke_access(instance=instance, now=now)
    delivery.close_delivered(allocation, at=at)
    intents = LaunchIntent.objects.filter(allocation=allocation)
    # Nobody has called for these: the row's lock decides between this and a claim.
    intents.filter(state=State.PENDING, attempts=0).update(state=State.ABANDONED)
    # These were called before, so a listing must show first that nothing came of it.
    intents.filter(state=State.PENDING).update(state=State.CALLING, next_try_at=now)
    if intents.filter(Q(state=State.CALLING) | Q(instance__isnull=False)).exists():
        Turnover.objects.get_or_create(
            allocation=allocation, defaults={"requested_at": now, "next_try_at": now}
        )
        # Those that waited for this machine, because they end with it.
        waiting = Turnover.objects.filter(allocation__lease=lease, completed_at=None).exclude(waits_for="")
        waiting.update(next_try_at=now)
    else:
        free_rest(allocation, from_=now)


def free_rest(allocation: Allocation, *, from_: datetime) -> None:
    """Part: give the unused rest of a lease's node back, from a moment on. The node is locked."""
    require_transaction()
    if not allocation.occupied.lower < from_ < allocation.occupied.upper:
        return
    allocation.period = Period(allocation.period.lower, min(from_, allocation.period.upper), "[)")
    allocation.occupied = Period(allocation.occupied.lower, from_, "[)")
    allocation.save(update_fields=["period", "occupied"])


def _past_its_period(now: datetime) -> Q:
    may_run = Q(intents__state__in=(State.PENDING, State.CALLING)) | Q(instances__state__in=LIVE_MACHINE)
    return may_run & Q(period__endswith__lte=now, turnover=None)


def _with_a_node_past_its_period(now: datetime) -> list[int]:
    """Return the running leases with a machine on a node that they had for a part of the term only."""
    allocations = Allocation.objects.filter(_past_its_period(now), lease__state__in=RUNS)
    return list(allocations.order_by("lease").values_list("lease", flat=True).distinct())


def _end_nodes(pk: int, now: datetime) -> None:
    with durable():
        lease = _take(pk, *RUNS)
        if lease is None:
            return
        over = lease.allocations.filter(_past_its_period(now)).distinct().order_by("pk")
        lifecycle.lock_nodes(over.values_list("node_id", flat=True))
        for allocation in list(over):
            end_allocation(lease, allocation, at=allocation.period.upper, now=now)
        nudge("leases.tasks.turnover_due")
