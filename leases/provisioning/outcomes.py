"""What the answer to a launch call, or the lack of one, means for the group's intents.

Each outcome is one transaction: the lease is locked, then all rows of the group where the
claim is still ours. A late worker writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.utils.translation import gettext as _

from inventory.providers import base, errors
from inventory.providers.errors import ProviderError
from leases import lifecycle
from leases.models import Instance, LaunchIntent, Lease, Shortfall
from leases.provisioning import intents, shortfalls, upstream
from leases.provisioning.claims import LISTING_LAG, Clock, backoff, release
from leases.provisioning.facts import RUNS
from leases.provisioning.groups import ClaimedGroup, regroup
from leases.provisioning.intents import FULL, FULL_LONGEST
from leases.provisioning.messages import DAILY, tell_customer, tell_staff
from portal.common.transactions import durable

log = logging.getLogger(__name__)

RETRY, RETRY_LONGEST = timedelta(seconds=15), timedelta(minutes=10)
# Credentials that are refused help nobody until a person has changed something.
REFUSED, REFUSED_LONGEST = timedelta(minutes=5), timedelta(minutes=30)
TELL_AFTER = 5

State = LaunchIntent.State


def record(
    claimed: ClaimedGroup,
    machines: Sequence[str],
    *,
    ended: Sequence[base.Machine] = (),
    launched_at: datetime,
    ends_together: bool = False,
    clock: Clock,
) -> int:
    """Write the group's machines down, in the order of its intents; return how many run.

    Intents beyond ``machines`` get one of ``ended`` (it ended before anybody recorded it,
    and another one is launched). What is still left stays in doubt until a further
    listing. ``ends_together``: the provider ends machines of one launch only at once.
    """
    with durable():
        lease = lifecycle.lock_lease(claimed.lease_id)
        rows = claimed.still_ours()
        if rows is None or any(row.state != State.CALLING for row in rows):
            log.warning("launch_claim_lost", extra={"group": claimed.group, "machines": list(machines)})
            return 0
        count = len(machines)
        siblings = LaunchIntent.objects.filter(group=claimed.group).count()
        for row, provider_id in zip(rows, machines, strict=False):
            row.ends_together = ends_together and siblings > 1
            _record_one(lease, row, provider_id, launched_at=launched_at, now=clock())
        for row, machine in zip(rows[count:], ended, strict=False):
            _record_ended(lease, row, machine, launched_at=launched_at, now=clock())
        for row in rows[count + len(ended) :]:
            # The listing may lag behind for these.
            row.next_try_at = clock() + LISTING_LAG
            row.last_error = _("The provider lists only a part of the launch so far.")
            release(row)
            row.save()
        return count


def _record_one(
    lease: Lease, intent: LaunchIntent, provider_id: str, *, launched_at: datetime, now: datetime
) -> None:
    intent.state, intent.last_error, intent.refused_with = State.LAUNCHED, "", ""
    release(intent)
    intent.save()
    Instance.objects.create(
        intent=intent,
        allocation=intent.allocation,
        account=intent.account,
        provider_id=provider_id,
        launched_at=launched_at,
        last_seen_at=now,
        next_probe_at=now,
    )
    tell_customer(
        lease=lease,
        kind="lease.machine_launched",
        message=_("A server is starting."),
        now=now,
        after={"node": intent.allocation.node_id, "machine": provider_id},
    )


def _record_ended(
    lease: Lease, intent: LaunchIntent, machine: base.Machine, *, launched_at: datetime, now: datetime
) -> None:
    intent.state = State.FAILED
    intent.last_error = _("The machine ended before it was recorded: %(reason)s") % {"reason": machine.reason}
    release(intent)
    intent.save()
    Instance.objects.create(
        intent=intent,
        allocation=intent.allocation,
        account=intent.account,
        provider_id=machine.id,
        state=Instance.State.TERMINATED,
        launched_at=launched_at,
        ended_at=now,
        end_reason=machine.reason[:300],
    )
    if lease.state in RUNS:
        allocation = intent.allocation
        intents.again(lease=lease, allocation=allocation, now=now, after=intents.pause(allocation))


def adopt(claimed: ClaimedGroup, found: Sequence[base.Machine], *, ends_together: bool, clock: Clock) -> int:
    """Record the machines that an earlier call made; any further one is an orphan (P2).

    ``found`` are machines with the group's token that are not recorded yet, at least one.
    """
    live = [machine for machine in found if machine.state != base.MachineState.TERMINATED]
    live.sort(key=lambda machine: (machine.launched_at is None, machine.launched_at, machine.id))
    ours = sorted(machine.id for machine in live[: len(claimed.rows)])
    ended = [machine for machine in found if machine.state == base.MachineState.TERMINATED]
    ended.sort(key=lambda machine: machine.id)
    return record(
        claimed,
        ours,
        ended=ended[: len(claimed.rows) - len(ours)],
        launched_at=claimed.first.called_at or claimed.first.created_at,
        ends_together=ends_together,
        clock=clock,
    )


def set_aside(claimed: ClaimedGroup, *, wanted: frozenset[int], clock: Clock) -> None:
    """Nothing was found, and not all is to be launched (``wanted`` are the pks of what is).

    What is not wanted now waits (suspended, out of order) or is given up; the rest is
    launched as a group of its own.
    """
    with durable():
        lease = lifecycle.lock_lease(claimed.lease_id)
        rows = claimed.still_ours()
        if rows is None:
            return
        rest = [row for row in rows if row.pk in wanted]
        others = [row for row in rows if row.pk not in wanted]
        if rest:
            # The token was for all of them: no call with it may ask for another number.
            regroup(rest)
            regroup(others)
        for row in others:
            waits = lease.state in RUNS and clock() in row.allocation.period
            row.state = State.PENDING if waits else State.ABANDONED
            row.next_try_at = clock() + RETRY_LONGEST if waits else row.next_try_at
        for row in rest:
            row.state, row.next_try_at = State.PENDING, clock.start
        for row in rows:
            release(row)
            row.save()


def still_in_doubt(claimed: ClaimedGroup, error: ProviderError, clock: Clock) -> None:
    """The provider did not say whether our machines exist: ask again, and launch nothing meanwhile."""
    with durable():
        rows = claimed.still_ours()
        if rows is None:
            return
        next_try_at = clock() + _wait(error, rows[0].attempts, in_doubt=True)
        for row in rows:
            row.last_error, row.next_try_at = str(error), next_try_at
            row.refused_with = _refused(claimed, error)
            release(row)
            row.save()
        if rows[0].attempts >= TELL_AFTER or not error.retryable:
            tell_staff(
                kind="launch.in_doubt",
                subject_type="launch_intent",
                subject_id=rows[0].token,
                now=clock(),
                after={"error": str(error), "machines": len(rows)},
                message=_("Whether a machine was launched cannot be found out: %(error)s") % {"error": error},
                quiet=DAILY,
            )


def not_launched(claimed: ClaimedGroup, error: ProviderError, *, ends_together: bool, clock: Clock) -> None:
    """Decide by the error: ask again after a doubt, try again, or fail for good and say so.

    ============================= ========== ==========================================
    no capacity, quota            pending    customer told; again after 1 to 10 minutes, in
                                             halves where one call need not bring all
    credentials refused           pending    customer and staff told; again once the
                                             account has other ones, else every half hour
    throttled, other retryable    pending    again after seconds, staff told after a few
    doubtful                      calling    listed by the token before anything else
    anything else                 failed     customer and staff told; staff launch again
    ============================= ========== ==========================================
    """
    full = isinstance(error, errors.NoCapacity | errors.QuotaExceeded)
    refused = isinstance(error, errors.AuthFailed)
    with durable():
        lease = lifecycle.lock_lease(claimed.lease_id)
        rows = claimed.still_ours()
        if rows is None:
            return
        wait = _wait(error, rows[0].attempts)
        if error.doubtful:
            # Give the listing time to show what the lost call may have made.
            wait = max(wait, LISTING_LAG)
        elif full and len(rows) > 1 and not ends_together and not lease.one_fabric:
            half = len(rows) // 2
            regroup(rows[:half])
            regroup(rows[half:])
        next_try_at = clock() + wait
        for row in rows:
            row.last_error, row.next_try_at = str(error), next_try_at
            row.refused_with = _refused(claimed, error)
            if not error.doubtful and (full or refused or error.retryable):
                # What nobody wants any more stays in doubt: a listing decides, and it is abandoned.
                wanted = lease.state in RUNS and clock() in row.allocation.period
                row.state = State.PENDING if wanted else State.CALLING
            elif not error.doubtful:
                row.state = State.FAILED
            release(row)
            row.save()
        stopped = refused or (not error.doubtful and rows[0].state == State.FAILED)
        if lease.state in RUNS and (full or stopped):
            for row in rows:
                _open_shortfall(lease, row, full=full, now=clock())
        if stopped or full or rows[0].attempts >= TELL_AFTER:
            tell_staff(
                kind="launch.failed" if stopped else "launch.failing",
                subject_type="launch_intent",
                subject_id=rows[0].token,
                now=clock(),
                after={
                    "lease": lease.uid,
                    "node": rows[0].allocation.node_id,
                    "machines": len(rows),
                    "error": str(error),
                },
                message=(
                    _("A launch for %(lease)s waits for other credentials: %(error)s")
                    if refused
                    else _("A launch for %(lease)s failed: %(error)s")
                )
                % {"lease": lease.uid, "error": error},
                quiet=DAILY,
            )


def _open_shortfall(lease: Lease, intent: LaunchIntent, *, full: bool, now: datetime) -> None:
    shortfalls.open_for(
        lease=lease,
        allocation=intent.allocation,
        cause=Shortfall.Cause.NO_CAPACITY if full else Shortfall.Cause.LAUNCH_FAILED,
        detail=_("The data centre has no free server yet; we keep trying.")
        if full
        else _("The server could not be started; our staff look into it."),
        now=now,
        since=intent.allocation.period.lower,
    )


def _refused(claimed: ClaimedGroup, error: ProviderError) -> str:
    return upstream.fingerprint(claimed.account) if isinstance(error, errors.AuthFailed) else ""


def _wait(error: ProviderError, attempts: int, *, in_doubt: bool = False) -> timedelta:
    if isinstance(error, errors.NoCapacity | errors.QuotaExceeded):
        return backoff(attempts, base=FULL, longest=FULL_LONGEST)
    if isinstance(error, errors.AuthFailed) and not in_doubt:
        return backoff(attempts, base=REFUSED, longest=REFUSED_LONGEST)
    wait = backoff(attempts, base=RETRY, longest=RETRY_LONGEST)
    if isinstance(error, errors.RateLimited):
        wait += timedelta(seconds=error.retry_after)
    return wait
