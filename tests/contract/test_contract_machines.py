"""Machines of every kind after their delivery: lost, ended, ended twice; and the lease's own network."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inventory.providers.base import Provider, ResourceKind
from leases.models import Access, Instance, Lease, LeaseNetwork, Shortfall, Turnover
from leases.provisioning import probe, sweep
from leases.provisioning.ending import end_early
from portal.accounts.models import Event
from tests.contract.counterpart import Counterpart
from tests.contract.stage import END, Stage, at
from tests.factories import make_user

pytestmark = pytest.mark.django_db(transaction=True)

OWN = {ResourceKind.NETWORK, ResourceKind.KEY}


@pytest.mark.needs(lambda counterpart: counterpart.vanishing)
def test_a_machine_that_vanishes_is_told_not_charged_and_replaced(
    stage: Stage, counterpart: Counterpart
) -> None:
    lease = stage.book()
    stage.activate(lease)
    [first] = stage.machines(lease)
    sweep.probe_due(now=at(10))
    first.refresh_from_db()
    seen = first.last_seen_at
    assert seen is not None and seen >= at(10)

    counterpart.vanish(first.provider_id)
    counterpart.finish_ending()
    sweep.probe_due(now=at(12))
    # One that is not listed any more is believed to be gone only after a while.
    sweep.probe_due(now=at(13) + probe.MISSING)
    first.refresh_from_db()
    assert first.state == Instance.State.LOST
    assert first.end_reason
    old = first.allocation
    old.refresh_from_db()
    assert old.delivered.upper < at(13) + probe.MISSING
    assert old.delivered.upper == first.last_seen_at
    assert not Access.objects.filter(lease=lease, revoked_at=None).exists()
    assert Event.objects.filter(kind="machine.lost", organization=None).count() == 1
    shortfall = Shortfall.objects.get(lease=lease)
    assert shortfall.cause == Shortfall.Cause.NODE_FAILED

    stage.run(lease, first=26, last=90)
    [second] = stage.machines(lease)
    assert second.provider_id in stage.running()
    shortfall.refresh_from_db()
    assert shortfall.closed_at is not None
    assert Access.objects.get(lease=lease, revoked_at=None).instance == second


def test_an_ended_lease_leaves_no_machine(stage: Stage) -> None:
    lease = stage.book(nodes=2)
    stage.activate(lease)
    assert stage.end() == 2
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert stage.running() == set()
    assert [item.delivered.upper for item in lease.allocations.all()] == [END, END]
    for turnover in Turnover.objects.all():
        assert turnover.evidence
    # The next tenant gets the same nodes.
    assert sweep.find_orphans(now=END + timedelta(hours=2)) == 0


def test_ending_twice_is_no_error_and_completes_once(
    stage: Stage, provider: Provider, counterpart: Counterpart
) -> None:
    lease = stage.book()
    stage.activate(lease)
    [machine] = stage.machines(lease)
    end_early(lease_uid=lease.uid, reason="The customer asked.", actor=make_user(), now=at(20))
    completed = sweep.turnover_due(now=at(20))
    provider.reclaim(region=counterpart.region, ids=[machine.provider_id])
    counterpart.finish_ending()
    for minutes in (30, 40, 50):
        completed += sweep.turnover_due(now=at(minutes))
    assert completed == 1
    provider.reclaim(region=counterpart.region, ids=[machine.provider_id])
    assert stage.running() == set()
    machine.refresh_from_db()
    assert machine.state == Instance.State.TERMINATED
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert Event.objects.filter(kind="lease.ended", subject_id=lease.uid).count() == 1


def test_a_machine_in_its_booting_can_be_ended(stage: Stage) -> None:
    lease = stage.book()
    stage.begin(lease)
    assert len(stage.running()) == 1
    end_early(lease_uid=lease.uid, reason="The customer asked.", actor=make_user(), now=at(2))
    for minutes in (2, 10, 20):
        sweep.turnover_due(now=at(minutes))
        stage.counterpart.finish_ending()
    assert stage.running() == set()
    assert Turnover.objects.get().completed_at is not None


@pytest.mark.needs(lambda counterpart: not counterpart.kinds.isdisjoint(OWN))
def test_the_end_of_a_lease_removes_its_firewall_and_key(stage: Stage, counterpart: Counterpart) -> None:
    def there() -> dict[ResourceKind, set[str]]:
        return {kind: set(counterpart.owned(kind)) for kind in counterpart.kinds & OWN}

    before = there()
    lease = stage.book()
    stage.activate(lease)
    during = there()
    network = LeaseNetwork.objects.get(lease=lease)
    made = {kind: during[kind] - before[kind] for kind in during}
    assert set().union(*made.values()) == {network.firewall_id, network.key_name} - {""}
    assert any(made.values())

    stage.end()
    assert there() == before
    network.refresh_from_db()
    assert network.removed_at is not None
