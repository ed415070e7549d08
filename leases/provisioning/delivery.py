"""What a look at a machine means for its lease: seen, stopped, or delivered."""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext as _

from inventory.models import ProviderAccount
from inventory.providers.base import Machine, MachineState
from leases import lifecycle
from leases.models import Access, Allocation, Instance, Lease
from leases.provisioning import shortfalls
from leases.provisioning.facts import RUNS
from leases.provisioning.messages import DAILY, tell_customer, tell_staff
from portal.common.periods import Period
from portal.common.transactions import require_transaction

SSH_PORT = 22
STATES = {
    MachineState.PENDING: Instance.State.PENDING,
    MachineState.RUNNING: Instance.State.RUNNING,
    MachineState.STOPPING: Instance.State.STOPPING,
}


def see(*, lease: Lease, instance: Instance, machine: Machine, now: datetime) -> None:
    """Part: note how the provider sees a machine that it still has. Lease and instance are locked."""
    require_transaction()
    stopped = machine.state == MachineState.STOPPING and instance.state != Instance.State.STOPPING
    # A node of a cluster that is gone while the cluster stays; a machine that starts again does so soon.
    gone = machine.state == MachineState.UNKNOWN or (
        machine.state == MachineState.PENDING and instance.state == Instance.State.PENDING
    )
    instance.state = STATES.get(machine.state, Instance.State(instance.state))
    was = endpoint(instance)
    instance.public_ip = machine.public_ip or instance.public_ip
    instance.private_ip = machine.private_ip or instance.private_ip
    instance.ssh_port = machine.ssh_port or instance.ssh_port
    moved = bool(machine.public_ip) and endpoint(instance) != was
    instance.last_seen_at = now
    instance.save()
    if moved and instance.ready_at:
        _move_access(lease, instance, now)
    if gone and instance.ready_at and lease.state in RUNS:
        tell_staff(
            kind="machine.doubtful",
            subject_type="instance",
            subject_id=instance.uid,
            now=now,
            after={"lease": lease.uid, "machine": instance.provider_id, "state": machine.raw_state},
            message=_(
                "A machine of %(lease)s was delivered and is charged, but the provider does not say that it "
                "runs (%(state)s). Look at it there. %(reason)s"
            )
            % {"lease": lease.uid, "state": machine.raw_state or machine.state, "reason": machine.reason},
            quiet=DAILY,
        )
    if stopped and lease.state in RUNS:
        tell_customer(
            lease=lease,
            kind="lease.machine_stopped",
            message=_("A server was shut down. It stays yours until the lease ends."),
            now=now,
            after={"machine": instance.provider_id},
        )


def endpoint(instance: Instance) -> str:
    """Return ``host:port`` of the machine's SSH; IPv6 addresses in brackets."""
    host = str(instance.public_ip or instance.private_ip or "")
    port = ssh_port(instance.account, instance.ssh_port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ssh_port(account: ProviderAccount, mapped: int | None) -> int:
    """Return the port of a machine's SSH: the one the provider mapped, else the account's, else 22."""
    return mapped or int(account.options.get("ssh_port") or SSH_PORT)


def _move_access(lease: Lease, instance: Instance, now: datetime) -> None:
    open_ones = Access.objects.filter(instance=instance, revoked_at=None)
    if open_ones.exclude(endpoint=endpoint(instance)).update(revoked_at=now):
        _grant(lease, instance, now)


def _grant(lease: Lease, instance: Instance, now: datetime) -> None:
    Access.objects.create(
        instance=instance,
        lease=lease,
        endpoint=endpoint(instance),
        username=instance.intent.login_user or str(instance.account.options.get("user") or "ubuntu"),
        granted_at=now,
    )


def deliver(*, lease: Lease, instance: Instance, now: datetime) -> bool:
    """Part: the probe passed: from now on the node is delivered, open and charged.

    Lease and instance are locked. When the last missing node is delivered, the lease
    becomes active. Returns ``False`` when nothing is owed (any more).
    """
    require_transaction()
    allocation = instance.allocation
    if instance.ready_at or lease.state not in RUNS or now not in allocation.period:
        return False
    instance.ready_at = now
    instance.save(update_fields=["ready_at"])
    allocation.delivered = Period(now, None, "[)")
    allocation.save(update_fields=["delivered"])
    _grant(lease, instance, now)
    shortfalls.close_for(lease=lease, allocation=allocation, now=now)
    tell_customer(
        lease=lease,
        kind="lease.node_delivered",
        message=_("A server is ready: access was tested."),
        now=now,
        after={"node": allocation.node_id, "machine": instance.provider_id},
    )
    missing = lease.allocations.filter(delivered=None, period__contains=now).exists()
    if lease.state == Lease.State.PROVISIONING and not missing:
        lifecycle.move(lease, Lease.State.ACTIVE, actor=None, now=now)
    return True


def close_delivered(allocation: Allocation, *, at: datetime) -> None:
    """Part: end the delivered time at ``at`` or the end of the period, whichever is first.

    What was already closed earlier stays. Nothing delivered is no interval at all.
    """
    require_transaction()
    if allocation.delivered is None:
        return
    start, end = allocation.delivered.lower, min(at, allocation.period.upper)
    if allocation.delivered.upper is not None:
        end = min(end, allocation.delivered.upper)
    allocation.delivered = Period(start, end, "[)") if start < end else None
    allocation.save(update_fields=["delivered"])


def revoke_access(*, instance: Instance, now: datetime) -> None:
    """Part: the machine's accesses end now."""
    require_transaction()
    Access.objects.filter(instance=instance, revoked_at=None).update(revoked_at=now)
