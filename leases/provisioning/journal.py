"""The launch journal: no call without a committed intent, no second call before a listing (P1).

``PENDING``: no call is under way. ``CALLING``: one may be, or its answer was lost; then the
provider is asked for our token before anything else. Idempotency at the provider is used
where it exists and never relied on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from inventory.providers import base, errors
from inventory.providers.errors import ProviderError
from leases import lifecycle
from leases.models import Allocation, Instance, LaunchIntent, Lease, LeaseNetwork, Shortfall
from leases.provisioning import images, networks, shortfalls, upstream
from leases.provisioning.claims import LISTING_LAG, Claimed, Clock, backoff, claim_next, release
from leases.provisioning.facts import RUNS, UNUSABLE, is_occupied
from leases.provisioning.messages import DAILY, tell_customer, tell_staff
from portal.accounts.models import Organization, User
from portal.common.errors import Conflict
from portal.common.transactions import durable, require_transaction

log = logging.getLogger(__name__)

RETRY, RETRY_LONGEST = timedelta(seconds=15), timedelta(minutes=10)
# A provider without capacity is asked again at this pace.
FULL, FULL_LONGEST = timedelta(minutes=1), timedelta(minutes=10)
TELL_AFTER = 5


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


def retry_launch(*, allocation_id: int, actor: User, now: datetime) -> None:
    """Launch again after staff have removed the cause of a permanent failure.

    Raises :class:`Conflict` unless the lease runs and the allocation's last launch failed.
    """
    with durable():
        allocation = Allocation.objects.select_related("node__account", "node__region").get(pk=allocation_id)
        if allocation.lease_id is None:
            raise Conflict(_("This allocation is not for a lease: there is nothing to launch."))
        lease = lifecycle.lock_lease(allocation.lease_id)
        allocation.refresh_from_db(fields=["period"])
        last = allocation.intents.order_by("-pk").first()
        if lease.state not in RUNS or now not in allocation.period:
            raise Conflict(_("The lease does not run now: nothing is launched for it."))
        if last is None or last.state != LaunchIntent.State.FAILED:
            raise Conflict(_("The last launch has not failed for good: it goes on by itself."))
        again(lease=lease, allocation=allocation, now=now)
        tell_customer(
            lease=lease,
            kind="lease.launch_retried",
            message=_("The launch is tried again."),
            now=now,
            actor=actor,
            after={"node": allocation.node_id},
        )


def launch_due(*, now: datetime) -> int:
    """Launch what is due and settle what is in doubt; return how many machines were recorded.

    Safe twice at once: an intent that somebody works on is skipped.
    """
    clock, providers, recorded = Clock(now), upstream.Providers(), 0
    rows = _due(now)
    while claimed := claim_next(
        rows,
        clock=clock,
        prepare=lambda row: {"state": LaunchIntent.State.CALLING, "attempts": F("attempts") + 1},
    ):
        recorded += _settle(claimed, providers, clock)
    return recorded


def _due(now: datetime) -> QuerySet[LaunchIntent]:
    prepared = LeaseNetwork.objects.filter(
        lease=OuterRef("allocation__lease"),
        account=OuterRef("account"),
        region=OuterRef("allocation__node__region"),
        prepared_at__isnull=False,
        removed_at=None,
    )
    wanted = (
        Q(
            Exists(prepared),
            state=LaunchIntent.State.PENDING,
            allocation__lease__state__in=RUNS,
            allocation__period__contains=now,
        )
        & ~Q(allocation__lease__organization__state=Organization.State.SUSPENDED)
        & ~Q(allocation__node__health__in=UNUSABLE)
    )
    return (
        LaunchIntent.objects.filter(wanted | Q(state=LaunchIntent.State.CALLING), next_try_at__lte=now)
        .select_related(
            "account__provider",
            "allocation__lease",
            "allocation__node__region",
            "allocation__node__zone",
            "allocation__node__instance_type",
            "allocation__node__commitment",
        )
        .order_by("next_try_at", "pk")
    )


def _settle(claimed: Claimed[LaunchIntent], providers: upstream.Providers, clock: Clock) -> bool:
    """Find the intent's machine or launch it; return whether one was recorded."""
    intent = claimed.row
    region = intent.allocation.node.region.code
    # The row is as it was before the claim: anything but a first try may have left a machine.
    if intent.state == LaunchIntent.State.CALLING or intent.attempts:
        try:
            with providers.of(intent.account) as provider:
                found = provider.find(region=region, tag=base.TAG_TOKEN, value=intent.token)
        except ProviderError as error:
            _still_in_doubt(claimed, error, clock)
            return False
        if found:
            return _adopt(claimed, found, clock)
    if not _is_wanted(intent, clock()):
        _set_aside(claimed, clock)
        return False
    try:
        with providers.of(intent.account) as provider:
            group = launch_group(intent, provider.capabilities)
        called_at = clock()
        asked = {"image": group.image, "login_user": group.login_user}
        if not claimed.extend(clock, called_at=called_at, **asked):
            return False
        with providers.of(intent.account) as provider:
            machine = provider.launch(group)[0]
    except ProviderError as error:
        _not_launched(claimed, error, clock)
        return False
    return _record(claimed, machine.id, launched_at=called_at, clock=clock)


def launch_group(
    intent: LaunchIntent, capabilities: frozenset[base.Capability] = frozenset()
) -> base.LaunchGroup:
    """Return what to ask the provider for: one machine, on the commitment's reservation and nothing else.

    One SSH key goes in by the key pair, several by user data (the key pair holds one).
    Raises :class:`ProviderError` for a commitment without the reservation to target, and
    for software that has no image there any more.
    """
    allocation, lease = intent.allocation, intent.allocation.lease
    assert lease is not None, "allocations with an intent belong to a lease"
    node, commitment = allocation.node, allocation.node.commitment
    if commitment and not commitment.reservation_id and base.Capability.COMMITTED_CAPACITY in capabilities:
        raise ProviderError(
            _("Commitment %(uid)s has no reservation id: enter it, or the launch would be paid twice.")
            % {"uid": commitment.uid}
        )
    network = LeaseNetwork.objects.get(lease=lease, account=intent.account, region=node.region)
    keys = networks.public_keys(lease)
    image = images.image_for(lease=lease, node=node)
    return base.LaunchGroup(
        client_token=intent.token,
        count=1,
        instance_type=node.instance_type.name,
        region=node.region.code,
        zone=node.zone.code,
        image=image.reference,
        login_user=image.login_user,
        ssh_public_keys=() if len(keys) == 1 and network.key_name else keys,
        tags=upstream.machine_tags(lease, intent),
        reservation_id=(commitment.reservation_id or None) if commitment else None,
        firewall_id=network.firewall_id,
        key_name=network.key_name,
    )


def _is_wanted(intent: LaunchIntent, now: datetime) -> bool:
    allocations = Allocation.objects.filter(
        pk=intent.allocation_id, lease__state__in=RUNS, period__contains=now
    )
    return (
        allocations.exclude(lease__organization__state=Organization.State.SUSPENDED)
        .exclude(node__health__in=UNUSABLE)
        .exists()
    )


def _record(claimed: Claimed[LaunchIntent], provider_id: str, *, launched_at: datetime, clock: Clock) -> bool:
    """Write the machine down where the claim is still ours; a late worker writes nothing."""
    with durable():
        lease = _lock_lease(claimed)
        intent = claimed.still_ours()
        if intent is None or intent.state != LaunchIntent.State.CALLING:
            log.warning("launch_claim_lost", extra={"intent": claimed.row.token, "machine": provider_id})
            return False
        intent.state, intent.last_error = LaunchIntent.State.LAUNCHED, ""
        release(intent)
        intent.save()
        Instance.objects.create(
            intent=intent,
            allocation=intent.allocation,
            account=intent.account,
            provider_id=provider_id,
            launched_at=launched_at,
            last_seen_at=clock(),
            next_probe_at=clock(),
        )
        tell_customer(
            lease=lease,
            kind="lease.machine_launched",
            message=_("A server is starting."),
            now=clock(),
            after={"node": intent.allocation.node_id, "machine": provider_id},
        )
        return True


def _adopt(claimed: Claimed[LaunchIntent], found: Sequence[base.Machine], clock: Clock) -> bool:
    """Record the machine that an earlier call made; any further one is an orphan (P2)."""
    intent = claimed.row
    live = [machine for machine in found if machine.state != base.MachineState.TERMINATED]
    first = min(
        live or found, key=lambda machine: (machine.launched_at is None, machine.launched_at, machine.id)
    )
    launched_at = intent.called_at or intent.created_at
    if live:
        return _record(claimed, first.id, launched_at=launched_at, clock=clock)
    with durable():
        lease = _lock_lease(claimed)
        row = claimed.still_ours()
        if row is None:
            return False
        row.state = LaunchIntent.State.FAILED
        row.last_error = _("The machine ended before it was recorded: %(reason)s") % {"reason": first.reason}
        release(row)
        row.save()
        Instance.objects.create(
            intent=row,
            allocation=row.allocation,
            account=row.account,
            provider_id=first.id,
            state=Instance.State.TERMINATED,
            launched_at=launched_at,
            ended_at=clock(),
            end_reason=first.reason[:300],
        )
        if lease.state in RUNS:
            again(lease=lease, allocation=row.allocation, now=clock(), after=pause(row.allocation))
    return False


def pause(allocation: Allocation) -> timedelta:
    """Return how long to wait before a further launch on a node where machines keep ending."""
    tries = LaunchIntent.objects.filter(
        allocation__lease=allocation.lease_id, allocation__node=allocation.node_id
    ).count()
    return timedelta() if tries <= 1 else backoff(tries - 1, base=FULL, longest=FULL_LONGEST)


def _set_aside(claimed: Claimed[LaunchIntent], clock: Clock) -> None:
    """Nothing was found and nothing is to be launched: wait (suspended, out of order), else give up."""
    with durable():
        lease = _lock_lease(claimed)
        intent = claimed.still_ours()
        if intent is None:
            return
        waits = lease.state in RUNS and clock() in intent.allocation.period
        intent.state = LaunchIntent.State.PENDING if waits else LaunchIntent.State.ABANDONED
        intent.next_try_at = clock() + RETRY_LONGEST if waits else intent.next_try_at
        release(intent)
        intent.save()


def _still_in_doubt(claimed: Claimed[LaunchIntent], error: ProviderError, clock: Clock) -> None:
    """The provider did not say whether our machine exists: ask again, and launch nothing meanwhile."""
    with durable():
        intent = claimed.still_ours()
        if intent is None:
            return
        intent.last_error = str(error)
        intent.next_try_at = clock() + _wait(error, intent.attempts)
        release(intent)
        intent.save()
        if intent.attempts >= TELL_AFTER or not error.retryable:
            tell_staff(
                kind="launch.in_doubt",
                subject_type="launch_intent",
                subject_id=intent.token,
                now=clock(),
                after={"error": str(error)},
                message=_("Whether a machine was launched cannot be found out: %(error)s") % {"error": error},
                quiet=DAILY,
            )


def _not_launched(claimed: Claimed[LaunchIntent], error: ProviderError, clock: Clock) -> None:
    """Decide by the error: ask again after a doubt, try again, or fail for good and say so."""
    full = isinstance(error, errors.NoCapacity | errors.QuotaExceeded)
    with durable():
        lease = _lock_lease(claimed)
        intent = claimed.still_ours()
        if intent is None:
            return
        intent.last_error = str(error)
        wait = _wait(error, intent.attempts)
        if error.doubtful:
            # Give the listing time to show what the lost call may have made.
            wait = max(wait, LISTING_LAG)
        elif full or error.retryable:
            # What nobody wants any more stays in doubt: a listing decides, and the intent is abandoned.
            wanted = lease.state in RUNS and clock() in intent.allocation.period
            intent.state = LaunchIntent.State.PENDING if wanted else LaunchIntent.State.CALLING
        else:
            intent.state = LaunchIntent.State.FAILED
        intent.next_try_at = clock() + wait
        release(intent)
        intent.save()
        failed = intent.state == LaunchIntent.State.FAILED
        if lease.state in RUNS and (full or failed):
            shortfalls.open_for(
                lease=lease,
                allocation=intent.allocation,
                cause=Shortfall.Cause.NO_CAPACITY if full else Shortfall.Cause.LAUNCH_FAILED,
                detail=_("The data centre has no free server yet; we keep trying.")
                if full
                else _("The server could not be started; our staff look into it."),
                now=clock(),
                since=intent.allocation.period.lower,
            )
        if failed or full or intent.attempts >= TELL_AFTER:
            tell_staff(
                kind="launch.failed" if failed else "launch.failing",
                subject_type="launch_intent",
                subject_id=intent.token,
                now=clock(),
                after={"lease": lease.uid, "node": intent.allocation.node_id, "error": str(error)},
                message=_("A launch for %(lease)s failed: %(error)s") % {"lease": lease.uid, "error": error},
                quiet=DAILY,
            )


def _wait(error: ProviderError, attempts: int) -> timedelta:
    if isinstance(error, errors.NoCapacity | errors.QuotaExceeded):
        return backoff(attempts, base=FULL, longest=FULL_LONGEST)
    wait = backoff(attempts, base=RETRY, longest=RETRY_LONGEST)
    if isinstance(error, errors.RateLimited):
        wait += timedelta(seconds=error.retry_after)
    return wait


def _lock_lease(claimed: Claimed[LaunchIntent]) -> Lease:
    lease_id = claimed.row.allocation.lease_id
    assert lease_id is not None, "allocations with an intent belong to a lease"
    return lifecycle.lock_lease(lease_id)
