"""Machines that end only at once, and machines that are wiped instead of ended (C7)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from inventory.providers.base import TAG_TOKEN, Capability, Machine, MachineState
from inventory.providers.errors import ProviderError, TimedOut
from leases import capacity
from leases.models import Allocation, Instance, LaunchIntent, Lease, Orphan, Shortfall, Turnover
from leases.provisioning import losses, sweep, turnover, upstream
from leases.provisioning.claims import CLAIM, LISTING_LAG
from leases.provisioning.facts import is_occupied
from leases.provisioning.upstream import site_id
from portal.accounts.models import Event
from portal.common.errors import Conflict, InvalidInput
from portal.common.periods import Period
from tests.concurrency import race
from tests.factories import make_fleet, make_user
from tests.leases.provisioning.conftest import (
    END,
    REGION,
    Cloud,
    Faults,
    FaultyProvider,
    WorkerDied,
    at,
    book,
    problems,
    run_until_active,
    the_machine,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]

LATER = END + timedelta(minutes=10)


class ClusterProvider(FaultyProvider):
    """EC2 as a vendor of clusters would have it: one machine of a launch cannot be ended alone."""

    asked: list[list[str]] = []

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        self.asked.append(list(ids))
        for machine in self._real.describe(region=region, ids=ids):
            token = machine.tags[TAG_TOKEN]
            for other in self._real.find(region=region, tag=TAG_TOKEN, value=token):
                if other.state != MachineState.TERMINATED and other.id not in ids:
                    raise ProviderError("a node of a cluster cannot be ended alone")
        self.__getattr__("reclaim")(region=region, ids=ids)


@pytest.fixture
def asked(cloud: Cloud, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Make the cloud one of clusters; return the ids of each call that ends machines."""
    faulty = upstream.registry.provider_for
    ClusterProvider.asked = []
    faults.more = frozenset({Capability.ENDS_TOGETHER})
    monkeypatch.setattr(
        upstream.registry,
        "provider_for",
        lambda account: ClusterProvider(faulty(account)._real, faults),  # type: ignore[attr-defined]
    )
    return ClusterProvider.asked


@pytest.fixture
def cluster(asked: list[list[str]], cloud: Cloud) -> Lease:
    """A lease that runs on four machines of one cluster."""
    make_fleet(nodes=4, account=cloud.account, reservation_id="cr-0123456789abcdef0")
    return run_until_active(book(nodes=4))


def ids(lease: Lease) -> list[str]:
    found = Instance.objects.filter(allocation__lease=lease)
    return sorted(found.values_list("provider_id", flat=True))


def shorten(lease: Lease, minutes: float) -> Allocation:
    """Let the lease have its first node for so many minutes only."""
    part = lease.allocations.select_related("node").order_by("pk").first()
    assert part is not None
    until = Period(part.node.available.lower, at(minutes) + part.node.turnaround, "[)")
    capacity.shrink_node(node_id=part.node_id, available=until, actor=None, now=at(minutes - 1))
    part.refresh_from_db()
    return part


def test_one_machine_waits_readably_until_all_are_to_be_ended(
    cloud: Cloud, cluster: Lease, asked: list[list[str]]
) -> None:
    part = shorten(cluster, 20)
    sweep.end_due(now=at(20))
    for minutes in (21, 60, 500):
        assert sweep.turnover_due(now=at(minutes)) == 0
    waits = Turnover.objects.get()
    assert waits.waits_for.startswith("The provider ends the machines of this launch only at once, and 3 of")
    assert (waits.last_error, waits.completed_at) == ("", None)
    assert asked == []
    assert len(cloud.machines()) == 4

    part.refresh_from_db()
    assert part.delivered.upper == at(20)  # the customer does not pay for the wait
    next_tenant = Allocation(node=part.node, period=Period(at(90), END, "[)"))
    assert is_occupied(next_tenant)
    Turnover.objects.update(requested_at=at(20) - timedelta(hours=9))
    assert problems() == []

    sweep.end_due(now=END)
    assert sweep.turnover_due(now=END) == 4
    assert all(call == ids(cluster) for call in asked)
    cluster.refresh_from_db()
    assert cluster.state == Lease.State.ENDED
    assert cloud.machines() == []


def test_two_workers_at_once_end_all_of_them(cloud: Cloud, cluster: Lease, asked: list[list[str]]) -> None:
    sweep.end_due(now=END)
    race([lambda: sweep.turnover_due(now=END)] * 4)
    sweep.turnover_due(now=LATER)
    assert Turnover.objects.exclude(completed_at=None).count() == 4
    assert {len(call) for call in asked} == {4}
    assert cloud.machines() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_while_it_ends_them_is_replaced(
    cloud: Cloud, cluster: Lease, faults: Faults, when: str
) -> None:
    sweep.end_due(now=END)
    getattr(faults, when)["reclaim"] = [WorkerDied()]
    with pytest.raises(WorkerDied):
        sweep.turnover_due(now=END)
    sweep.turnover_due(now=END + CLAIM + timedelta(minutes=1))
    assert Turnover.objects.exclude(completed_at=None).count() == 4


def test_what_may_still_be_launched_is_waited_for(
    cloud: Cloud, asked: list[list[str]], faults: Faults
) -> None:
    make_fleet(nodes=2, account=cloud.account, reservation_id="cr-0123456789abcdef0")
    lease = book(nodes=2)
    sweep.start_due(now=at(1))
    faults.after["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    with upstream.Providers().of(cloud.account) as provider:
        [first, _second] = provider.find(
            region=REGION, tag=TAG_TOKEN, value=LaunchIntent.objects.order_by("pk")[0].group
        )
    faults.answers["find"] = [[first]]
    lag = LISTING_LAG.total_seconds() / 60 + 1
    assert sweep.launch_due(now=at(1 + lag)) == 1
    sweep.end_due(now=END)
    sweep.turnover_due(now=END)
    assert asked == []
    assert sweep.launch_due(now=END) == 1
    sweep.turnover_due(now=LATER)
    assert sorted(asked[0]) == ids(lease)
    assert cloud.machines() == []


def test_a_lost_machine_is_not_launched_alone_before_staff_have_decided(
    cloud: Cloud, cluster: Lease, faults: Faults, asked: list[list[str]]
) -> None:
    sweep.probe_due(now=at(5))
    lost = Instance.objects.order_by("pk")[0]
    cloud.ec2.terminate_instances(InstanceIds=[lost.provider_id])
    sweep.probe_due(now=at(10))
    lost.refresh_from_db()
    assert lost.state == Instance.State.LOST
    told = Event.objects.get(kind="machine.lost", organization=None)
    assert "Launch again" in told.message
    shortfall = Shortfall.objects.get(lease=cluster, closed_at=None)
    assert shortfall.cause == Shortfall.Cause.NODE_FAILED
    for minutes in (20, 60):
        sweep.start_due(now=at(minutes))
        assert sweep.launch_due(now=at(minutes)) == 0
    assert faults.count("launch") == 1
    assert Event.objects.filter(kind="machine.lost").count() == 1

    assert losses.retry_launch(allocation_id=lost.allocation_id, actor=make_user(), now=at(61)) == 1
    with pytest.raises(Conflict):
        losses.retry_launch(allocation_id=lost.allocation_id, actor=make_user(), now=at(62))
    assert sweep.launch_due(now=at(62)) == 1
    sweep.probe_due(now=at(63))
    shortfall.refresh_from_db()
    assert shortfall.closed_at is not None
    before, after = Allocation.objects.filter(lease=cluster, node=lost.allocation.node).order_by("pk")
    assert before.delivered.upper <= at(10)
    assert after.delivered.lower >= at(63)

    sweep.end_due(now=END)
    sweep.turnover_due(now=END)
    sweep.turnover_due(now=LATER)
    assert {len(call) for call in asked} == {4, 1}  # the cluster with the lost one, and the one beside it
    assert cloud.machines() == []


def test_a_launch_of_one_ends_and_is_replaced_alone(
    cloud: Cloud, asked: list[list[str]], faults: Faults
) -> None:
    make_fleet(nodes=1, account=cloud.account, reservation_id="cr-0123456789abcdef0")
    lease = run_until_active(book(nodes=1))
    cloud.ec2.terminate_instances(InstanceIds=[the_machine(lease).provider_id])
    sweep.probe_due(now=at(10))
    assert sweep.launch_due(now=at(20)) == 1
    sweep.probe_due(now=at(21))
    sweep.end_due(now=END)
    sweep.turnover_due(now=END)
    assert [len(call) for call in asked] == [1]
    assert cloud.machines() == []


def test_a_machine_too_many_is_not_removed_while_its_cluster_runs(cloud: Cloud, cluster: Lease) -> None:
    group = LaunchIntent.objects.order_by("pk")[0].group
    cloud.run(sublet_site=site_id(), sublet_token=group, sublet_lease=cluster.uid)
    for minutes in (5, 60, 120):
        sweep.find_orphans(now=at(minutes))
    assert Orphan.objects.get(kind="instance").state == Orphan.State.SEEN
    assert len(cloud.machines()) == 5
    Orphan.objects.all().delete()
    cloud.ec2.terminate_instances(
        InstanceIds=[m["InstanceId"] for m in cloud.machines() if m["InstanceId"] not in ids(cluster)]
    )


# -- wiped instead of ended ---------------------------------------------------------------------


def metal(machine_id: str, now: MachineState, **evidence: str) -> list[Machine]:
    return [Machine(id=machine_id, region=REGION, state=now, raw_state=f"metal {now}", evidence=evidence)]


@pytest.fixture
def ending(cloud: Cloud, lease: Lease, faults: Faults) -> Instance:
    """A machine whose metal stays, at the end of its lease."""
    faults.more = frozenset({Capability.REIMAGE})
    run_until_active(lease)
    sweep.end_due(now=END)
    return the_machine(lease)


def test_the_node_waits_for_the_wipe_and_keeps_what_the_provider_said_of_it(
    ending: Instance, faults: Faults
) -> None:
    wiped = (END + timedelta(minutes=30)).isoformat()
    faults.answers["describe"] = [
        metal(ending.provider_id, MachineState.STOPPING),
        metal(
            ending.provider_id, MachineState.TERMINATED, wiped_at=wiped, method="nvme format", state="mine"
        ),
    ]
    assert sweep.turnover_due(now=END) == 0
    assert sweep.turnover_due(now=END + timedelta(minutes=40)) == 1
    done = Turnover.objects.get()
    assert done.wiped_at == END + timedelta(minutes=30)
    assert done.ended_at is not None and done.ended_at >= END + timedelta(minutes=40)
    facts = done.evidence[ending.provider_id]
    assert (facts["wiped_at"], facts["method"]) == (wiped, "nvme format")
    assert facts["state"] == "metal terminated"  # what we saw is never overwritten


@pytest.mark.parametrize("told", ["", "yesterday", "2026-11-22T10:00:00", "2099-01-01T00:00:00+00:00"])
def test_a_moment_of_the_wipe_that_cannot_be_is_that_of_the_end(
    ending: Instance, faults: Faults, told: str
) -> None:
    faults.answers["describe"] = [metal(ending.provider_id, MachineState.TERMINATED, wiped_at=told)]
    assert sweep.turnover_due(now=LATER) == 1
    done = Turnover.objects.get()
    assert done.wiped_at == done.ended_at


def test_metal_that_is_not_mentioned_counts_as_wiped_only_by_a_persons_word(
    ending: Instance, faults: Faults, lease: Lease
) -> None:
    faults.answers["describe"] = [[], [], []]
    for minutes in (0, 20, 60):
        assert sweep.turnover_due(now=END + timedelta(minutes=minutes)) == 0
    waits = Turnover.objects.get()
    assert "nothing proves" in waits.waits_for
    assert Event.objects.filter(kind="turnover.failing", organization=None).count() == 1

    staff = make_user(is_staff=True)
    with pytest.raises(InvalidInput) as refused:
        turnover.settle(turnover_id=waits.pk, note=" ", actor=staff, now=LATER)
    assert refused.value.field == "note"
    ending.refresh_from_db()
    assert ending.state == Instance.State.STOPPING

    turnover.settle(turnover_id=waits.pk, note="Sold, disks shredded.", actor=staff, now=LATER)
    with pytest.raises(Conflict):
        turnover.settle(turnover_id=waits.pk, note="twice", actor=staff, now=LATER)
    assert sweep.turnover_due(now=LATER) == 1
    waits.refresh_from_db()
    assert waits.evidence[ending.provider_id]["note"] == "Sold, disks shredded."
    assert waits.evidence[ending.provider_id]["by"] == staff.email
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert Event.objects.filter(kind="turnover.settled", actor=staff).count() == 1


def test_a_worker_that_was_at_it_does_not_undo_what_staff_stated(ending: Instance, faults: Faults) -> None:
    def settle_meanwhile() -> None:
        Turnover.objects.update(last_error="termination is disabled")
        turnover.settle(
            turnover_id=Turnover.objects.get().pk, note="Cancelled.", actor=make_user(), now=LATER
        )

    faults.answers["describe"] = [metal(ending.provider_id, MachineState.STOPPING)]
    faults.before["describe"] = [settle_meanwhile]
    assert sweep.turnover_due(now=LATER) in (0, 1)
    sweep.turnover_due(now=LATER + timedelta(minutes=1))
    ending.refresh_from_db()
    assert ending.state == Instance.State.TERMINATED
    assert Turnover.objects.get().completed_at is not None


def test_a_turnover_that_goes_on_by_itself_is_not_settled(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    sweep.end_due(now=END)
    found: Any = Turnover.objects.get()
    with pytest.raises(Conflict):
        turnover.settle(turnover_id=found.pk, note="done", actor=make_user(), now=END)
    assert the_machine(lease).state == Instance.State.RUNNING
    sweep.turnover_due(now=END)
