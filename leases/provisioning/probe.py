"""Looking at machines: one call per account and region, then the test that access works."""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from inventory.models import ProviderAccount
from inventory.providers.base import Capability, Machine, MachineState
from inventory.providers.errors import ProviderError
from leases import lifecycle
from leases.models import Instance
from leases.provisioning import delivery, losses, upstream
from leases.provisioning.claims import CLAIM, LISTING_LAG, SWEEP_TIME, Claimed, Clock, release, unclaimed
from leases.provisioning.facts import LIVE_MACHINE, RUNS
from leases.provisioning.messages import DAILY, tell_staff
from portal.common.transactions import durable

log = logging.getLogger(__name__)

# How often a machine is looked at: while it starts, and while it runs.
STARTING, RUNNING = timedelta(seconds=10), timedelta(seconds=45)
BATCH = 500
SSH_TIMEOUT = 5.0  # seconds, to connect and to say who it is
SSH_AT_ONCE = 16
# A machine that the provider does not mention any more is lost after so long; where a region
# seems to have lost all of several at once, the answer is doubted for longer.
MISSING = timedelta(minutes=10)
ALL_MISSING = timedelta(hours=1)


def probe_due(*, now: datetime) -> int:
    """Look at every machine that is due; return how many nodes were delivered.

    Safe twice at once: machines that somebody looks at are skipped.
    """
    clock, delivered = Clock(now), 0
    providers = upstream.Providers(clock)
    due = Instance.objects.filter(state__in=LIVE_MACHINE, next_probe_at__lte=now, allocation__turnover=None)
    groups = due.order_by().values_list("account", "allocation__node__region").distinct()
    for account_id, region_id in sorted(groups):
        rows = due.filter(account__pk=account_id, allocation__node__region__pk=region_id)
        while clock.elapsed() < SWEEP_TIME and (batch := _claim_batch(rows, clock)):
            delivered += _look(batch, providers, clock)
    return delivered


@dataclass(frozen=True)
class Batch:
    """Claimed machines of one account and region."""

    account: ProviderAccount
    region: str
    claimed: list[Claimed[Instance]]


def _claim_batch(rows: QuerySet[Instance], clock: Clock) -> Batch | None:
    with durable():
        found = list(
            rows.filter(unclaimed(clock()))
            .select_related("account__provider", "allocation__node__region", "allocation__lease", "intent")
            .select_for_update(no_key=True, skip_locked=True, of=("self",))
            .order_by("next_probe_at", "pk")[:BATCH]
        )
        if not found:
            return None
        token = uuid.uuid4()
        Instance.objects.filter(pk__in=[row.pk for row in found]).update(
            claim_token=token, claim_expires_at=clock() + CLAIM, next_probe_at=clock() + RUNNING
        )
        first = found[0]
        return Batch(first.account, first.allocation.node.region.code, [Claimed(row, token) for row in found])


def _look(batch: Batch, providers: upstream.Providers, clock: Clock) -> int:
    ids = [claimed.row.provider_id for claimed in batch.claimed]
    asked_at = clock()
    try:
        with providers.of(batch.account) as provider:
            machines = {machine.id: machine for machine in provider.describe(region=batch.region, ids=ids)}
            has_status = Capability.MACHINE_STATUS in provider.capabilities
        elsewhere = _elsewhere(batch, machines, providers)
    except ProviderError as error:
        log.warning("describe_failed", extra={"account": batch.account.name, "error": str(error)})
        _hand_back(batch)
        return 0
    passed = _passed(batch, machines, has_status)
    grace = missing_grace(recorded=len(ids), seen=len(machines))
    if grace == ALL_MISSING or elsewhere:
        _doubt(batch, clock())
    return sum(
        _note(
            claimed,
            machines.get(claimed.row.provider_id),
            claimed.row.pk in passed,
            asked_at,
            timedelta.max if claimed.row.pk in elsewhere else grace,
            clock,
        )
        for claimed in batch.claimed
    )


def _elsewhere(
    batch: Batch, machines: Mapping[str, Machine], providers: upstream.Providers
) -> Collection[int]:
    """Return the pks of missing machines that were launched with another account's credentials.

    That these credentials do not know them says nothing. Raises :class:`ProviderError`.
    """
    missing = [claimed.row for claimed in batch.claimed if claimed.row.provider_id not in machines]
    return {row.pk for row in missing if providers.stranger(batch.account, row.intent)}


def missing_grace(*, recorded: int, seen: int) -> timedelta:
    """Return how long a machine may be unmentioned before it is lost."""
    return ALL_MISSING if recorded > 1 and not seen else MISSING


def _doubt(batch: Batch, now: datetime) -> None:
    with durable():
        tell_staff(
            kind="account.machines_missing",
            subject_type="provider_account",
            subject_id=str(batch.account.pk),
            now=now,
            after={"region": batch.region, "machines": len(batch.claimed)},
            message=_("%(account)s mentions none of our machines in %(region)s. Check its credentials.")
            % {"account": batch.account, "region": batch.region},
            quiet=DAILY,
        )


def _hand_back(batch: Batch) -> None:
    Instance.objects.filter(
        pk__in=[claimed.row.pk for claimed in batch.claimed], claim_token=batch.claimed[0].token
    ).update(claim_token=None, claim_expires_at=None)


def _passed(batch: Batch, machines: Mapping[str, Machine], has_status: bool) -> Collection[int]:
    """Return the pks of the machines whose probe passed just now."""
    waiting = {
        claimed.row.pk: machines[claimed.row.provider_id]
        for claimed in batch.claimed
        if claimed.row.ready_at is None
        and claimed.row.provider_id in machines
        and machines[claimed.row.provider_id].state == MachineState.RUNNING
    }
    if batch.account.delivery_probe == ProviderAccount.Probe.PROVIDER_STATUS:
        return {pk for pk, machine in waiting.items() if machine.status_ok is (True if has_status else None)}
    doors = {
        pk: (machine.public_ip or machine.private_ip, delivery.ssh_port(batch.account, machine.ssh_port))
        for pk, machine in waiting.items()
    }
    with ThreadPoolExecutor(max_workers=SSH_AT_ONCE) as pool:
        answers = pool.map(lambda door: bool(door[0]) and ssh_answers(*door), doors.values())
        return {pk for pk, answered in zip(doors, answers, strict=True) if answered}


def ssh_answers(host: str, port: int = delivery.SSH_PORT, timeout: float = SSH_TIMEOUT) -> bool:
    """Tell whether an SSH server says who it is within ``timeout`` seconds (RFC 4253, section 4.2).

    An open port is not enough: a proxy or a machine that still boots may hold it.
    """
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.settimeout(timeout)
            # The server may send other lines first; a banner of 255 bytes ends the first segment.
            return any(line.startswith(b"SSH-") for line in connection.recv(1024).splitlines())
    except OSError:
        return False


def _note(
    claimed: Claimed[Instance],
    machine: Machine | None,
    passed: bool,
    asked_at: datetime,
    grace: timedelta,
    clock: Clock,
) -> bool:
    """Record what was seen of one machine; return whether it was delivered now."""
    lease_id = claimed.row.allocation.lease_id
    assert lease_id is not None, "machines run for leases"
    with durable():
        lease = lifecycle.lock_lease(lease_id)
        now, instance = clock(), claimed.still_ours()
        if instance is None or instance.state not in LIVE_MACHINE:
            return False
        release(instance)
        starting = instance.ready_at is None and not passed
        instance.next_probe_at = now + (STARTING if starting else RUNNING)
        instance.save()
        if hasattr(instance.allocation, "turnover"):
            return False  # its end is asked for: the turnover records it, with evidence
        if machine is None:
            known = max(instance.launched_at + LISTING_LAG, instance.last_seen_at or instance.launched_at)
            if asked_at - known >= grace:
                reason = _("The provider does not know it any more.")
                losses.lose(lease=lease, instance=instance, reason=reason, now=now)
            return False
        if machine.state == MachineState.TERMINATED:
            reason = machine.reason or _("The provider ended it.")
            losses.lose(lease=lease, instance=instance, reason=reason, now=now)
            return False
        delivery.see(lease=lease, instance=instance, machine=machine, now=now)
        if not passed or lease.state not in RUNS:
            return False
        return delivery.deliver(lease=lease, instance=instance, now=now)
