"""A machine that goes without our asking: noticed, never charged further, told, and replaced (P3)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from inventory.models import Node
from inventory.providers.aws import Ec2Provider
from inventory.providers.base import Machine, MachineState
from leases import capacity
from leases.models import Access, Allocation, Instance, Lease, Shortfall, Turnover
from leases.provisioning import probe, sweep
from leases.provisioning.claims import LISTING_LAG
from portal.accounts.models import Event
from tests.concurrency import race
from tests.factories import Fleet
from tests.leases.provisioning.conftest import (
    END,
    START,
    Cloud,
    Faults,
    at,
    book,
    run_until_active,
    the_machine,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]


def test_a_machine_that_vanishes_is_replaced(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    run_until_active(lease)
    first = the_machine(lease)
    sweep.probe_due(now=at(10))
    seen = Instance.objects.get(pk=first.pk).last_seen_at
    assert seen is not None and seen >= at(10)
    cloud.ec2.terminate_instances(InstanceIds=[first.provider_id])

    sweep.probe_due(now=at(20))
    first.refresh_from_db()
    assert first.state == Instance.State.LOST
    old, new = lease.allocations.order_by("pk")
    assert old.delivered.upper == seen
    assert not Access.objects.filter(lease=lease, revoked_at=None).exists()
    shortfall = Shortfall.objects.get(lease=lease)
    assert (shortfall.cause, shortfall.allocation_id) == (Shortfall.Cause.NODE_FAILED, new.pk)
    assert (shortfall.period.lower, shortfall.period.upper) == (seen, END)
    # The lease has a node at every moment, and the node one allocation at a time.
    assert (old.period.lower, old.period.upper) == (START, new.period.lower)
    assert (new.period.upper, new.occupied.upper) == (END, END + timedelta(minutes=30))
    assert old.turnover.completed_at is not None
    assert Event.objects.filter(kind="machine.lost", organization=None).count() == 1

    sweep.launch_due(now=at(30))
    sweep.probe_due(now=at(31))
    second = the_machine(lease)
    assert second.provider_id != first.provider_id
    new.refresh_from_db()
    shortfall.refresh_from_db()
    lease.refresh_from_db()
    assert new.delivered.lower >= at(31)
    assert shortfall.closed_at is not None
    assert lease.state == Lease.State.ACTIVE
    assert Access.objects.get(lease=lease, revoked_at=None).instance == second

    sweep.end_due(now=END)
    sweep.turnover_due(now=END)
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert cloud.machines() == []


def test_a_machine_that_vanishes_before_its_delivery_is_replaced(cloud: Cloud, lease: Lease) -> None:
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    first = the_machine(lease)
    cloud.ec2.terminate_instances(InstanceIds=[first.provider_id])
    sweep.probe_due(now=at(2))
    assert Allocation.objects.filter(lease=lease).count() == 1
    assert Shortfall.objects.get(lease=lease).cause == Shortfall.Cause.NODE_FAILED
    sweep.launch_due(now=at(20))
    sweep.probe_due(now=at(21))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE


def test_silence_is_believed_only_after_a_while(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    run_until_active(lease)
    machine = the_machine(lease)
    faults.answers["describe"] = [[], [], []]
    for minutes in (5, 11):
        sweep.probe_due(now=at(minutes))
        machine.refresh_from_db()
        assert machine.state == Instance.State.RUNNING
    cloud.ec2.terminate_instances(InstanceIds=[machine.provider_id])
    sweep.probe_due(now=at(2) + probe.MISSING + LISTING_LAG + timedelta(minutes=1))
    machine.refresh_from_db()
    assert machine.state == Instance.State.LOST
    sweep.launch_due(now=at(60))


def test_an_account_that_mentions_nothing_is_doubted_and_staff_are_told(
    cloud: Cloud, fleet: Fleet, faults: Faults
) -> None:
    lease = book(nodes=2)
    run_until_active(lease)
    faults.answers["describe"] = [[]]
    sweep.probe_due(now=at(25))
    assert Instance.objects.filter(state=Instance.State.RUNNING).count() == 2
    assert Event.objects.filter(kind="account.machines_missing").count() == 1
    sweep.probe_due(now=at(28))
    assert Instance.objects.filter(state=Instance.State.RUNNING).count() == 2


def test_a_listing_that_fails_loses_nothing(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    from inventory.providers.errors import TimedOut

    run_until_active(lease)
    faults.before["describe"] = [TimedOut("no answer in time")] * 3
    for minutes in (30, 60, 90):
        sweep.probe_due(now=at(minutes))
    assert the_machine(lease).state == Instance.State.RUNNING
    assert not Shortfall.objects.exists()


def test_two_probes_at_once_lose_a_machine_once(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    sweep.probe_due(now=at(10))
    cloud.ec2.terminate_instances(InstanceIds=[the_machine(lease).provider_id])
    race([lambda: sweep.probe_due(now=at(20))] * 4)
    assert Shortfall.objects.count() == 1
    assert lease.allocations.count() == 2
    sweep.launch_due(now=at(60))


def test_nothing_is_launched_on_a_node_that_is_out_of_order(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    node = lease.allocations.get().node
    capacity.set_health(node_id=node.pk, health=Node.Health.UNHEALTHY, actor=None, now=at(15))
    cloud.ec2.terminate_instances(InstanceIds=[the_machine(lease).provider_id])
    sweep.probe_due(now=at(20))
    for minutes in (25, 60):
        sweep.start_due(now=at(minutes))
        assert sweep.launch_due(now=at(minutes)) == 0
    assert Shortfall.objects.get(lease=lease, closed_at=None).cause == Shortfall.Cause.NODE_FAILED

    capacity.set_health(node_id=node.pk, health=Node.Health.HEALTHY, actor=None, now=at(60))
    sweep.start_due(now=at(61))
    sweep.launch_due(now=at(70))
    sweep.probe_due(now=at(71))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE
    assert not Shortfall.objects.filter(closed_at=None).exists()


@pytest.mark.parametrize(("state", "told"), [("unknown", [1, 1, 2]), ("pending", [0, 1, 2])])
def test_a_delivered_machine_that_is_there_and_does_not_run_is_told(
    cloud: Cloud, lease: Lease, monkeypatch: pytest.MonkeyPatch, state: str, told: list[int]
) -> None:
    """A node of a cluster that is gone while the cluster stays reads like this."""
    run_until_active(lease)
    describe = Ec2Provider.describe

    def doubtful(self: Ec2Provider, **question: Any) -> list[Machine]:
        return [replace(found, state=MachineState(state)) for found in describe(self, **question)]

    monkeypatch.setattr(Ec2Provider, "describe", doubtful)
    for minutes, count in zip((10, 20, 26 * 60), told, strict=True):
        sweep.probe_due(now=at(minutes))
        events = Event.objects.filter(kind="machine.doubtful", organization=None)
        assert events.count() == count
    the_machine(lease)
    monkeypatch.undo()


def test_a_machine_that_its_tenant_shuts_down_stays_theirs(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    machine = the_machine(lease)
    cloud.ec2.stop_instances(InstanceIds=[machine.provider_id])
    for minutes in (10, 20):
        sweep.probe_due(now=at(minutes))
    machine.refresh_from_db()
    assert machine.state == Instance.State.STOPPING
    assert Event.objects.filter(kind="lease.machine_stopped", organization=lease.organization).count() == 1
    assert lease.allocations.get().delivered.upper is None
    sweep.end_due(now=END)
    sweep.turnover_due(now=END)
    assert Turnover.objects.get().completed_at is not None


def test_a_lost_machine_that_comes_back_is_kept_while_its_lease_runs(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    """Its local disks hold the tenant's data: reported, and not removed before the lease is over."""
    run_until_active(lease)
    lost = the_machine(lease)
    faults.answers["describe"] = [[]]
    sweep.probe_due(now=at(60))
    lost.refresh_from_db()
    assert lost.state == Instance.State.LOST
    sweep.launch_due(now=at(70))
    sweep.probe_due(now=at(71))
    assert sweep.find_orphans(now=at(72)) == 2  # the machine and its disk
    sweep.find_orphans(now=at(200))
    assert len(cloud.machines()) == 2

    sweep.end_due(now=END)
    sweep.turnover_due(now=END)
    sweep.find_orphans(now=END + timedelta(hours=1))
    assert cloud.machines() == []


def test_a_retired_node_is_cleared_and_its_lease_goes_on_elsewhere(cloud: Cloud, fleet: Fleet) -> None:
    lease = book()
    run_until_active(lease)
    old = the_machine(lease)
    capacity.set_health(node_id=old.allocation.node_id, health=Node.Health.RETIRED, actor=None, now=at(10))
    assert lease.allocations.count() == 2
    for minutes in (11, 12, 13, 14):
        sweep.run_all(now=at(minutes))
    old.refresh_from_db()
    lease.refresh_from_db()
    assert old.state == Instance.State.TERMINATED
    assert lease.state == Lease.State.ACTIVE
    assert the_machine(lease).allocation.node_id != old.allocation.node_id
    assert old.allocation.turnover.completed_at is not None
    assert not Shortfall.objects.filter(closed_at=None).exists()
