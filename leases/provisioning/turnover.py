"""Turnovers: ending machines until the provider says that they ended, with the evidence (C7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils.translation import gettext as _

from inventory.providers.base import Capability, Machine, MachineState
from inventory.providers.errors import ProviderError, RateLimited
from leases import lifecycle
from leases.models import Allocation, Instance, LaunchIntent, Lease, Turnover
from leases.provisioning import delivery, ending, networks, upstream
from leases.provisioning.claims import LISTING_LAG, Claimed, Clock, backoff, claim_next, release
from leases.provisioning.facts import LIVE_MACHINE, UNDER_WAY
from leases.provisioning.messages import DAILY, tell_staff
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict, InvalidInput
from portal.common.nudge import nudge
from portal.common.transactions import durable

log = logging.getLogger(__name__)

AGAIN, AGAIN_LONGEST = timedelta(seconds=15), timedelta(minutes=5)
TELL_AFTER = 5


def turnover_due(*, now: datetime) -> int:
    """End machines of turnovers, record those that ended, and close the leases that are through.

    Returns how many turnovers were completed. Safe twice at once; a terminate that fails
    is tried again until the provider says that the machine ended.
    """
    clock, completed = Clock(now), 0
    providers = upstream.Providers(clock)
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


@dataclass(frozen=True)
class Seen:
    """A machine as the provider sees it after it was asked to end it; ``None``: it does not mention it.

    ``unproven`` says why not being mentioned is no proof of its end, or "" where it is.
    """

    machine: Machine | None
    unproven: str = ""


def _work(claimed: Claimed[Turnover], providers: upstream.Providers, clock: Clock) -> bool:
    allocation = claimed.row.allocation
    instances = list(
        Instance.objects.filter(allocation=allocation, state__in=LIVE_MACHINE)
        .select_related("account__provider", "intent")
        .order_by("pk")
    )
    region, seen = allocation.node.region.code, dict[int, Seen]()
    try:
        for instance in instances:
            if sentence := _used_with(instance):
                _wait(claimed, sentence, clock)
                return False
            with providers.of(instance.account) as provider:
                provider.reclaim(region=region, ids=_ends_with(instance))
            if not claimed.extend(clock):
                return False
            with providers.of(instance.account) as provider:
                found = provider.describe(region=region, ids=[instance.provider_id])
                keeps = Capability.REIMAGE in provider.capabilities
            machine = next(iter(found), None)
            seen[instance.pk] = Seen(machine, "" if machine else _unproven(instance, providers, keeps))
    except ProviderError as error:
        _failed(claimed, error, clock)
        return False
    return _record(claimed, seen, clock)


def _group(instance: Instance) -> QuerySet[Instance]:
    return Instance.objects.filter(account=instance.account_id, intent__group=instance.intent.group)


def _used_with(instance: Instance) -> str:
    """Return why the machine cannot be ended yet: others of its group go on, and all end only at once.

    Nobody joins a group later and no turnover is taken back, so "" stays true.
    """
    if not instance.intent.ends_together:
        return ""
    used = _group(instance).filter(state__in=LIVE_MACHINE, allocation__turnover=None).count()
    doubtful = LaunchIntent.objects.filter(
        group=instance.intent.group, account=instance.account_id, state__in=UNDER_WAY
    ).count()
    if not used + doubtful:
        return ""
    return _(
        "The provider ends the machines of this launch only at once, and %(count)s of them are still "
        "used. The node is free after they have ended too."
    ) % {"count": used + doubtful}


def _ends_with(instance: Instance) -> list[str]:
    """Return the ids to end: where a group ends at once, all that it ever had, with what counts as lost."""
    if not instance.intent.ends_together:
        return [instance.provider_id]
    return list(_group(instance).order_by("provider_id").values_list("provider_id", flat=True))


def _unproven(instance: Instance, providers: upstream.Providers, keeps: bool) -> str:
    """Return why a machine that the provider does not mention may still be there; "" where it has ended."""
    if keeps:
        return _(
            "The provider does not mention %(id)s, which it was to wipe: nothing proves that it did."
        ) % {"id": instance.provider_id}
    if now_as := providers.stranger(instance.account, instance.intent):
        return _(
            "%(id)s was launched with credentials of %(before)s, and these are of %(now)s, which does not know "
            "it. Enter the former ones, or end it there and say so here."
        ) % {"id": instance.provider_id, "before": instance.intent.upstream_account, "now": now_as}
    return ""


def _wait(claimed: Claimed[Turnover], sentence: str, clock: Clock) -> None:
    with durable():
        turnover = claimed.still_ours()
        if turnover is None:
            return
        turnover.waits_for, turnover.last_error = sentence, ""
        turnover.next_try_at = clock() + AGAIN_LONGEST
        release(turnover)
        turnover.save()


def _record(claimed: Claimed[Turnover], seen: Mapping[int, Seen], clock: Clock) -> bool:
    """Write down which machines ended; complete the turnover when none can run any more."""
    now, lease_id = clock(), claimed.row.allocation.lease_id
    assert lease_id is not None, "machines run for leases"
    with durable():
        lifecycle.lock_lease(lease_id)
        lifecycle.lock_nodes([claimed.row.allocation.node_id])
        turnover = claimed.still_ours()
        if turnover is None:
            return False
        turnover.last_error = turnover.waits_for = ""
        release(turnover)
        for instance in Instance.objects.filter(pk__in=seen, state__in=LIVE_MACHINE).order_by("pk"):
            machine, unproven = seen[instance.pk].machine, seen[instance.pk].unproven
            # One that the provider does not mention has ended, once its listings cannot lag behind.
            late = machine is None and now - _asked(turnover, instance) >= LISTING_LAG
            if (late and not unproven) or (machine and machine.state == MachineState.TERMINATED):
                _ended(turnover, instance, machine, now)
                continue
            if late:
                turnover.waits_for = unproven[:300]
                _tell_unproven(turnover, unproven, now)
            if instance.state != Instance.State.STOPPING:
                instance.state = Instance.State.STOPPING
                instance.save(update_fields=["state"])
        allocation = turnover.allocation
        if _may_run(allocation):
            turnover.next_try_at = now + backoff(turnover.attempts, base=AGAIN, longest=AGAIN_LONGEST)
            turnover.save()
            return False
        ended = allocation.instances.order_by("-ended_at").values_list("ended_at", flat=True).first()
        turnover.ended_at = ended or now
        # A provider that keeps the machine says when it was wiped. The others wipe local disks when a
        # machine ends, before anybody else gets the server:
        # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-store-lifetime.html
        turnover.wiped_at = _wiped_at(turnover.evidence, now) or turnover.ended_at
        turnover.completed_at = now
        turnover.save()
        delivery.close_delivered(allocation, at=turnover.ended_at)
        if allocation.period.upper > now:
            ending.free_rest(allocation, from_=now)
        return True


def _wiped_at(evidence: Mapping[str, Any], now: datetime) -> datetime | None:
    """Return the latest wipe that a provider told of, not later than ``now``; ``None`` where none did."""
    told = []
    for facts in evidence.values():
        try:
            moment = datetime.fromisoformat(facts.get("wiped_at", ""))
        except (ValueError, TypeError):
            continue
        if moment.tzinfo is not None:
            told.append(min(moment, now))
    return max(told, default=None)


def _tell_unproven(turnover: Turnover, sentence: str, now: datetime) -> None:
    tell_staff(
        kind="turnover.failing",
        subject_type="turnover",
        subject_id=str(turnover.pk),
        now=now,
        after={"allocation": turnover.allocation_id},
        message=_("A node stays closed: %(reason)s") % {"reason": sentence},
        quiet=DAILY,
    )


def settle(*, turnover_id: int, note: str, actor: User, now: datetime) -> Turnover:
    """State for a provider that cannot that the machines of a turnover ended and were wiped.

    For machines at an account that is closed, or metal that is gone. The note and its
    author become the evidence, and the next sweep completes the turnover. Raises
    :class:`InvalidInput` without a note, and :class:`Conflict` where nothing waits.
    """
    if not note.strip():
        raise InvalidInput(_("Say how you know that the machine ended and was wiped."), field="note")
    with durable():
        found = Turnover.objects.select_related("allocation").get(pk=turnover_id)
        if found.allocation.lease_id is not None:
            lifecycle.lock_lease(found.allocation.lease_id)
        turnover = Turnover.objects.select_for_update(no_key=True, of=("self",)).get(pk=turnover_id)
        if turnover.completed_at or not (turnover.waits_for or turnover.last_error):
            raise Conflict(_("This turnover goes on by itself: there is nothing to state."))
        facts = {
            "state": "stated by staff",
            "by": actor.email,
            "note": note.strip(),
            "seen_at": now.isoformat(),
        }
        live = Instance.objects.filter(allocation=turnover.allocation_id, state__in=LIVE_MACHINE)
        for instance in live.order_by("pk"):
            instance.state, instance.ended_at = Instance.State.TERMINATED, now
            instance.end_reason = note.strip()[:300]
            instance.save(update_fields=["state", "ended_at", "end_reason"])
            turnover.evidence = {**turnover.evidence, instance.provider_id: facts}
        # Whoever works on it now looks again: its claim is gone.
        release(turnover)
        turnover.next_try_at, turnover.waits_for, turnover.last_error = now, "", ""
        turnover.save()
        events.record(
            kind="turnover.settled",
            subject_type="turnover",
            subject_id=str(turnover.pk),
            now=now,
            actor=actor,
            after={"allocation": turnover.allocation_id},
            message=note.strip(),
        )
        nudge("leases.tasks.turnover_due")
        return turnover


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
    if machine:
        facts.update((str(key), str(value)) for key, value in machine.evidence.items() if key not in facts)
    turnover.evidence = {**turnover.evidence, instance.provider_id: facts}


def _failed(claimed: Claimed[Turnover], error: ProviderError, clock: Clock) -> None:
    now = clock()
    with durable():
        turnover = claimed.still_ours()
        if turnover is None:
            return
        turnover.last_error, turnover.waits_for = str(error), ""
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
