"""Turnovers: ending machines until the provider says that they ended, with the evidence (C7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, F, OuterRef
from django.utils.translation import gettext as _

from inventory.providers.base import Machine, MachineState
from inventory.providers.errors import ProviderError, RateLimited
from leases import lifecycle
from leases.models import Allocation, Instance, LaunchIntent, Lease, Turnover
from leases.provisioning import delivery, ending, networks, upstream
from leases.provisioning.claims import LISTING_LAG, Claimed, Clock, backoff, claim_next, release
from leases.provisioning.facts import LIVE_MACHINE, UNDER_WAY
from leases.provisioning.messages import DAILY, tell_staff
from portal.common.transactions import durable

log = logging.getLogger(__name__)

AGAIN, AGAIN_LONGEST = timedelta(seconds=15), timedelta(minutes=5)
TELL_AFTER = 5


def turnover_due(*, now: datetime) -> int:
    """End machines of turnovers, record those that ended, and close the leases that are through.

    Returns how many turnovers were completed. Safe twice at once; a terminate that fails
    is tried again until the provider says that the machine ended.
    """
    clock, providers, completed = Clock(now), upstream.Providers(), 0
    rows = (
        Turnover.objects.filter(completed_at=None, next_try_at__lte=now)
        .select_related("allocation__node__region", "allocation__lease")
        .order_by("next_try_at", "pk")
    )
    while claimed := claim_next(rows, clock=clock, prepare=lambda row: {"attempts": F("attempts") + 1}):
        completed += _work(claimed, providers, clock)
    for pk in _through(now):
        _finish(pk, clock())
    networks.remove_due(now=now)
    return completed


def _work(claimed: Claimed[Turnover], providers: upstream.Providers, clock: Clock) -> bool:
    allocation = claimed.row.allocation
    instances = list(
        Instance.objects.filter(allocation=allocation, state__in=LIVE_MACHINE)
        .select_related("account__provider")
        .order_by("pk")
    )
    region, seen = allocation.node.region.code, dict[int, Machine | None]()
    try:
        for instance in instances:
            with providers.of(instance.account) as provider:
                provider.reclaim(region=region, ids=[instance.provider_id])
            if not claimed.extend(clock):
                return False
            with providers.of(instance.account) as provider:
                found = provider.describe(region=region, ids=[instance.provider_id])
            seen[instance.pk] = next(iter(found), None)
    except ProviderError as error:
        _failed(claimed, error, clock)
        return False
    return _record(claimed, seen, clock)


def _record(claimed: Claimed[Turnover], seen: Mapping[int, Machine | None], clock: Clock) -> bool:
    """Write down which machines ended; complete the turnover when none can run any more."""
    now, lease_id = clock(), claimed.row.allocation.lease_id
    assert lease_id is not None, "machines run for leases"
    with durable():
        lifecycle.lock_lease(lease_id)
        lifecycle.lock_nodes([claimed.row.allocation.node_id])
        turnover = claimed.still_ours()
        if turnover is None:
            return False
        turnover.last_error = ""
        release(turnover)
        for instance in Instance.objects.filter(pk__in=seen, state__in=LIVE_MACHINE).order_by("pk"):
            machine = seen[instance.pk]
            # One that the provider does not mention has ended, once its listings cannot lag behind.
            unmentioned = machine is None and now - _asked(turnover, instance) >= LISTING_LAG
            if unmentioned or (machine and machine.state == MachineState.TERMINATED):
                _ended(turnover, instance, machine, now)
            elif instance.state != Instance.State.STOPPING:
                instance.state = Instance.State.STOPPING
                instance.save(update_fields=["state"])
        allocation = turnover.allocation
        if _may_run(allocation):
            turnover.next_try_at = now + backoff(turnover.attempts, base=AGAIN, longest=AGAIN_LONGEST)
            turnover.save()
            return False
        ended = allocation.instances.order_by("-ended_at").values_list("ended_at", flat=True).first()
        # The provider wipes local disks when a machine ends, before anybody else gets the server:
        # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-store-lifetime.html
        turnover.ended_at = turnover.wiped_at = ended or now
        turnover.completed_at = now
        turnover.save()
        delivery.close_delivered(allocation, at=turnover.ended_at)
        if allocation.period.upper > now:
            ending.free_rest(allocation, from_=now)
        return True


def _asked(turnover: Turnover, instance: Instance) -> datetime:
    return max(turnover.requested_at, instance.launched_at)


def _may_run(allocation: Allocation) -> bool:
    return (
        allocation.instances.filter(state__in=LIVE_MACHINE).exists()
        or allocation.intents.filter(state__in=UNDER_WAY).exists()
    )


def _ended(turnover: Turnover, instance: Instance, machine: Machine | None, now: datetime) -> None:
    reason = machine.reason if machine else _("The provider does not know it any more.")
    instance.state, instance.ended_at, instance.end_reason = Instance.State.TERMINATED, now, reason[:300]
    instance.save(update_fields=["state", "ended_at", "end_reason"])
    facts: dict[str, Any] = {
        "state": machine.raw_state if machine else "unknown",
        "reason": reason,
        "seen_at": now.isoformat(),
    }
    turnover.evidence = {**turnover.evidence, instance.provider_id: facts}


def _failed(claimed: Claimed[Turnover], error: ProviderError, clock: Clock) -> None:
    now = clock()
    with durable():
        turnover = claimed.still_ours()
        if turnover is None:
            return
        turnover.last_error = str(error)
        wait = backoff(turnover.attempts, base=AGAIN, longest=AGAIN_LONGEST)
        if isinstance(error, RateLimited):
            wait += timedelta(seconds=error.retry_after)
        turnover.next_try_at = now + wait
        release(turnover)
        turnover.save()
        if turnover.attempts >= TELL_AFTER or not error.retryable:
            tell_staff(
                kind="turnover.failing",
                subject_type="turnover",
                subject_id=str(turnover.pk),
                now=now,
                after={"allocation": turnover.allocation_id, "error": str(error)},
                message=_("A machine cannot be ended, and costs money: %(error)s") % {"error": error},
                quiet=DAILY,
            )


def _through(now: datetime) -> list[int]:
    open_ones = Turnover.objects.filter(allocation__lease=OuterRef("pk"), completed_at=None)
    under_way = LaunchIntent.objects.filter(allocation__lease=OuterRef("pk"), state__in=UNDER_WAY)
    leases = Lease.objects.filter(~Exists(open_ones), ~Exists(under_way), state=Lease.State.ENDING)
    return list(leases.order_by("pk").values_list("pk", flat=True))


def _finish(pk: int, now: datetime) -> None:
    with durable():
        rows = Lease.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
        lease = rows.filter(pk=pk, state=Lease.State.ENDING).first()
        if lease is None:
            return
        lifecycle.move(
            lease, Lease.State.ENDED, actor=None, now=now, message=_("All machines ended and were wiped.")
        )
