"""A lease of four nodes is one launch: four machines in the end, whatever happens around the call (P1, P2)."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from inventory.models import Node, ProviderAccount
from inventory.providers.base import TAG_ALLOCATION, TAG_TOKEN, Capability, LaunchedInstance, Machine
from inventory.providers.errors import NoCapacity, ProviderError, QuotaExceeded, RateLimited, TimedOut
from leases.models import Instance, LaunchIntent, Lease, LeaseNetwork, Orphan, Shortfall
from leases.provisioning import groups, journal, losses, sweep
from leases.provisioning.claims import CLAIM, LISTING_LAG, Clock
from leases.provisioning.ending import end_early
from leases.provisioning.upstream import site_id
from portal.accounts.models import Event
from tests.concurrency import race
from tests.factories import make_fleet, make_user
from tests.leases.provisioning.conftest import (
    REGION,
    Cloud,
    Faults,
    WorkerDied,
    at,
    book,
    problems,
    run_until_active,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]

State = LaunchIntent.State
LAG = LISTING_LAG.total_seconds() / 60 + 1
AFTER_LAG = 1 + LAG
AFTER_CLAIM = 1 + CLAIM.total_seconds() / 60 + 1


@pytest.fixture
def four(cloud: Cloud) -> Lease:
    """A lease of four nodes that has begun, and whose launch is committed and not called."""
    make_fleet(nodes=4, account=cloud.account, reservation_id="cr-0123456789abcdef0")
    lease = book(nodes=4)
    sweep.start_due(now=at(1))
    return lease


def intents(lease: Lease, *states: str) -> list[LaunchIntent]:
    found = LaunchIntent.objects.filter(allocation__lease=lease, state__in=states or State.values)
    return list(found.order_by("pk"))


def recorded(lease: Lease) -> list[str]:
    """Return the ids of the machines that run, in the order of the nodes' intents."""
    live = Instance.objects.filter(
        allocation__lease=lease, state__in=("pending", "running", "stopping"), intent__state=State.LAUNCHED
    )
    return list(live.order_by("intent__pk").values_list("provider_id", flat=True))


def tags(machine: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in machine["Tags"]}


def tokens(cloud: Cloud) -> set[str]:
    return {tags(machine)[TAG_TOKEN] for machine in cloud.machines()}


def listed(cloud: Cloud, count: int) -> list[Machine]:
    """Return what a listing says that has heard of so many machines only."""
    ids = sorted(machine["InstanceId"] for machine in cloud.machines())[:count]
    with journal.upstream.Providers().of(cloud.account) as provider:
        return list(provider.describe(region=REGION, ids=ids))


def test_four_nodes_are_launched_in_one_call(cloud: Cloud, four: Lease, faults: Faults) -> None:
    assert sweep.launch_due(now=at(1)) == 4
    assert faults.count("launch") == 1
    [token] = tokens(cloud)
    assert {intent.group for intent in intents(four)} == {token}
    assert token not in {intent.token for intent in intents(four)}
    assert all(TAG_ALLOCATION not in tags(machine) for machine in cloud.machines())
    assert recorded(four) == sorted(machine["InstanceId"] for machine in cloud.machines())
    assert Event.objects.filter(kind="lease.machine_launched").count() == 4
    run_until_active(four, minutes=2)
    assert sweep.find_orphans(now=at(60)) == 0


def test_without_the_journal_the_same_launch_called_twice_makes_eight(cloud: Cloud, four: Lease) -> None:
    """The race without our guard: the server ignores the client token."""
    sweep.launch_due(now=at(1))
    kept = recorded(four)
    rows = intents(four)
    with journal.upstream.Providers().of(cloud.account) as provider:
        again = provider.launch(journal.launch_group(rows, group=rows[0].group))
    assert len(cloud.machines()) == 8
    assert recorded(four) == kept
    cloud.ec2.terminate_instances(InstanceIds=[machine.id for machine in again])


def test_a_provider_that_launches_one_by_one_gets_one_call_for_each(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.less = frozenset({Capability.GROUP_LAUNCH})
    assert sweep.launch_due(now=at(1)) == 4
    assert faults.count("launch") == 4
    assert tokens(cloud) == {intent.token for intent in intents(four)}
    for machine in cloud.machines():
        intent = LaunchIntent.objects.get(instance__provider_id=machine["InstanceId"])
        assert tags(machine)[TAG_ALLOCATION] == str(intent.allocation_id)
        assert intent.group == intent.token


def test_a_group_stays_one_while_its_account_cannot_be_called(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    credentials = cloud.account.credentials
    ProviderAccount.objects.update(credentials=None)
    networks = sweep.networks.prepare_due(now=at(1))
    LeaseNetwork.objects.update(prepared_at=at(1), firewall_id="", key_name="")
    assert (networks, sweep.launch_due(now=at(1))) == (0, 0)
    assert len({intent.group for intent in intents(four, State.PENDING)}) == 1
    assert "no credentials" in intents(four)[0].last_error
    ProviderAccount.objects.update(credentials=credentials)
    assert sweep.launch_due(now=at(2)) == 4
    assert faults.count("launch") == 1


def test_only_what_differs_in_the_node_alone_goes_into_one_call(cloud: Cloud, faults: Faults) -> None:
    """Two reservations, and two leases: the first lease needs a call for each reservation."""
    for number in range(2):
        make_fleet(nodes=2, account=cloud.account, reservation_id=f"cr-{number}")
    book(nodes=3)
    book(nodes=1)
    sweep.start_due(now=at(1))
    assert sweep.launch_due(now=at(1)) == 4
    assert faults.count("launch") == 3


def test_an_answer_that_is_lost_is_looked_for_and_all_four_are_found(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.after["launch"] = [TimedOut("no answer in time")]
    assert sweep.launch_due(now=at(1)) == 0
    assert {intent.state for intent in intents(four)} == {State.CALLING}
    assert sweep.launch_due(now=at(2)) == 0
    assert sweep.launch_due(now=at(AFTER_LAG)) == 4
    assert faults.count("launch") == 1
    assert faults.count("find") == 1
    assert recorded(four) == sorted(machine["InstanceId"] for machine in cloud.machines())


def test_a_call_that_never_arrived_is_made_again_with_the_same_token(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.before["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    [token] = {intent.group for intent in intents(four)}
    assert sweep.launch_due(now=at(AFTER_LAG)) == 4
    assert tokens(cloud) == {token}
    assert len(cloud.machines()) == 4


@pytest.mark.parametrize(("when", "launches"), [("before", 2), ("after", 1)])
def test_a_worker_that_dies_around_the_call_is_replaced(
    cloud: Cloud, four: Lease, faults: Faults, when: str, launches: int
) -> None:
    getattr(faults, when)["launch"] = [WorkerDied()]
    with pytest.raises(WorkerDied):
        sweep.launch_due(now=at(1))
    assert sweep.launch_due(now=at(3)) == 0  # its claim stands, on all four
    assert sweep.launch_due(now=at(AFTER_CLAIM)) == 4
    assert faults.count("launch") == launches
    assert len(cloud.machines()) == 4


def test_workers_at_once_make_one_call(cloud: Cloud, four: Lease, faults: Faults) -> None:
    assert sum(race([lambda: sweep.launch_due(now=at(1))] * 4)) == 4
    assert faults.count("launch") == 1
    assert len(cloud.machines()) == 4


def test_workers_at_once_settle_one_doubt(cloud: Cloud, four: Lease, faults: Faults) -> None:
    faults.before["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    assert sum(race([lambda: sweep.launch_due(now=at(AFTER_LAG))] * 4)) == 4
    assert faults.count("launch") == 2
    assert len(cloud.machines()) == 4


def test_a_part_of_a_group_is_never_claimed(cloud: Cloud, four: Lease, faults: Faults) -> None:
    faults.after["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    one = intents(four)[2]
    LaunchIntent.objects.filter(pk=one.pk).update(claim_expires_at=at(60))
    due = LaunchIntent.objects.filter(state=State.CALLING).select_related(*groups.SELECTED).order_by("pk")
    assert groups.claim_next_group(due, clock=Clock(at(30)), together=lambda account: True) is None
    assert not LaunchIntent.objects.exclude(claim_token=None).exists()
    claimed = groups.claim_next_group(due, clock=Clock(at(61)), together=lambda account: True)
    assert claimed is not None
    assert [row.pk for row in claimed.rows] == [intent.pk for intent in intents(four)]
    LaunchIntent.objects.filter(pk=one.pk).update(claim_token=None)
    assert not claimed.extend(Clock(at(61)))
    LaunchIntent.objects.update(claim_token=None, claim_expires_at=None)
    assert sweep.launch_due(now=at(62)) == 4


def test_a_worker_waits_for_nobody_who_holds_the_lease(cloud: Cloud, four: Lease, faults: Faults) -> None:
    from leases import lifecycle

    def launch_meanwhile() -> int:
        with transaction.atomic():
            lifecycle.lock_lease(four.pk)
            return int(race([lambda: sweep.launch_due(now=at(1))])[0])

    assert launch_meanwhile() == 0
    assert faults.count("launch") == 0
    assert sweep.launch_due(now=at(1)) == 4


def test_a_listing_that_lags_behind_is_asked_again_before_the_rest_is_launched(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.after["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    faults.answers["find"] = [listed(cloud, 3)]
    assert sweep.launch_due(now=at(AFTER_LAG)) == 3
    [rest] = intents(four, State.CALLING)
    assert "only a part" in rest.last_error
    assert sweep.launch_due(now=at(AFTER_LAG + 1)) == 0
    assert sweep.find_orphans(now=at(AFTER_LAG + 1)) == 0  # the journal still looks for it
    assert sweep.launch_due(now=at(AFTER_LAG + LAG)) == 1
    assert faults.count("launch") == 1
    assert len(cloud.machines()) == 4


def test_the_rest_of_a_launch_that_came_in_part_is_a_group_of_its_own(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    def two_of_four() -> None:
        [token] = {intent.group for intent in intents(four)}
        for _number in range(2):
            cloud.run(sublet_site=site_id(), sublet_token=token, sublet_lease=four.uid)
        raise TimedOut("no answer in time")

    faults.before["launch"] = [two_of_four]
    sweep.launch_due(now=at(1))
    assert sweep.launch_due(now=at(AFTER_LAG)) == 2
    [first] = tokens(cloud)
    assert sweep.launch_due(now=at(AFTER_LAG + LAG)) == 2
    assert faults.count("launch") == 2
    assert len(cloud.machines()) == 4
    by_token = [tags(machine)[TAG_TOKEN] for machine in cloud.machines()]
    assert by_token.count(first) == 2
    assert len(set(by_token)) == 2
    run_until_active(four, minutes=20)


def test_machines_that_ended_unrecorded_are_replaced_and_the_others_kept(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.after["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    gone = sorted(machine["InstanceId"] for machine in cloud.machines())[:2]
    cloud.ec2.terminate_instances(InstanceIds=gone)
    assert sweep.launch_due(now=at(AFTER_LAG)) == 2
    assert set(Instance.objects.filter(state="terminated").values_list("provider_id", flat=True)) == set(gone)
    assert sweep.launch_due(now=at(AFTER_LAG + 5)) == 2
    assert faults.count("launch") == 2
    assert len(cloud.machines()) == 4


def test_a_machine_more_than_the_group_is_an_orphan(cloud: Cloud, four: Lease, faults: Faults) -> None:
    faults.after["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    [token] = tokens(cloud)
    surplus = cloud.run(sublet_site=site_id(), sublet_token=token, sublet_lease=four.uid)
    assert sweep.launch_due(now=at(AFTER_LAG)) == 4
    kept = set(recorded(four))
    [orphan] = {machine["InstanceId"] for machine in cloud.machines()} - kept
    sweep.find_orphans(now=at(10))
    found = Orphan.objects.get(kind="instance")
    assert (found.resource_id, found.reason) == (orphan, "One machine more than its launch was for.")
    sweep.find_orphans(now=at(60))
    assert {machine["InstanceId"] for machine in cloud.machines()} == kept
    assert surplus


def steal(minutes: float, count: int) -> Any:
    def run() -> None:
        assert sweep.launch_due(now=at(minutes)) == count

    return run


def test_a_late_worker_whose_group_was_taken_records_nothing(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.after["launch"] = [steal(AFTER_CLAIM, 4)]
    assert sweep.launch_due(now=at(1)) == 0
    assert faults.count("launch") == 1
    assert Instance.objects.count() == 4


def test_a_worker_frozen_before_the_call_makes_four_orphans_that_go(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.before["launch"] = [steal(AFTER_CLAIM, 4)]
    assert sweep.launch_due(now=at(1)) == 0
    assert len(cloud.machines()) == 8
    kept = set(recorded(four))
    assert sweep.find_orphans(now=at(20)) == 4
    sweep.find_orphans(now=at(55))
    assert {machine["InstanceId"] for machine in cloud.machines()} == kept


def test_a_node_that_fails_during_the_doubt_is_left_out_under_a_new_token(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.before["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    broken = intents(four)[0]
    before = broken.group
    Node.objects.filter(allocations=broken.allocation).update(health=Node.Health.UNHEALTHY)
    assert sweep.launch_due(now=at(AFTER_LAG)) == 3
    assert faults.count("launch") == 2
    assert before not in tokens(cloud)
    broken.refresh_from_db()
    assert broken.state == State.PENDING
    Node.objects.update(health=Node.Health.HEALTHY)
    assert sweep.launch_due(now=at(AFTER_LAG + 20)) == 1
    assert len(cloud.machines()) == 4
    assert len(tokens(cloud)) == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lease_that_ends_during_a_doubt_leaves_nothing(
    cloud: Cloud, four: Lease, faults: Faults, when: str
) -> None:
    getattr(faults, when)["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    end_early(lease_uid=four.uid, reason="not needed", actor=make_user(), now=at(2))
    sweep.turnover_due(now=at(2))
    sweep.launch_due(now=at(AFTER_LAG))
    assert faults.count("launch") == 1
    sweep.turnover_due(now=at(AFTER_LAG + 10))
    four.refresh_from_db()
    assert four.state == Lease.State.ENDED
    assert cloud.machines() == []


@pytest.mark.parametrize("error", [NoCapacity("none left"), QuotaExceeded("limit reached")])
def test_without_room_for_four_two_and_then_one_are_asked_for(
    cloud: Cloud, four: Lease, faults: Faults, error: ProviderError
) -> None:
    """One reserved server that is broken must not keep the customer from the other three."""
    faults.before["launch"] = [error, None, error, None, error]
    assert sweep.launch_due(now=at(1)) == 0
    assert Shortfall.objects.filter(cause=Shortfall.Cause.NO_CAPACITY, closed_at=None).count() == 4
    assert Event.objects.filter(kind="launch.failing", organization=None).count() == 1
    assert sweep.launch_due(now=at(3)) == 2
    assert sweep.launch_due(now=at(6)) == 1
    assert sweep.launch_due(now=at(12)) == 1
    assert faults.count("launch") == 6
    assert len(cloud.machines()) == 4


def test_a_lease_on_one_fabric_gets_all_or_none(cloud: Cloud, faults: Faults) -> None:
    make_fleet(nodes=4, nodes_per_fabric=4, account=cloud.account, reservation_id="cr-0123456789abcdef0")
    lease = book(nodes=4, one_fabric=True)
    sweep.start_due(now=at(1))
    faults.before["launch"] = [NoCapacity("none left")] * 3
    for minutes in (1, 3, 8, 30):
        sweep.launch_due(now=at(minutes))
        assert len(intents(lease, State.PENDING)) in (0, 4)
    assert faults.count("launch") == 4
    assert len(tokens(cloud)) == 1
    assert len(cloud.machines()) == 4


def test_throttling_keeps_the_group(cloud: Cloud, four: Lease, faults: Faults) -> None:
    faults.before["launch"] = [RateLimited("slow down", retry_after=60)]
    sweep.launch_due(now=at(1))
    assert {intent.state for intent in intents(four)} == {State.PENDING}
    assert sweep.launch_due(now=at(3)) == 4
    assert faults.count("launch") == 2


def test_a_failure_for_good_is_told_once_and_launched_again_as_one(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    faults.before["launch"] = [ProviderError("the image is gone")]
    sweep.launch_due(now=at(1))
    assert {intent.state for intent in intents(four)} == {State.FAILED}
    assert Event.objects.filter(kind="launch.failed", organization=None).count() == 1
    one = intents(four)[1]
    assert losses.retry_launch(allocation_id=one.allocation_id, actor=make_user(), now=at(20)) == 4
    assert sweep.launch_due(now=at(20)) == 4
    assert faults.count("launch") == 2


def test_a_machine_lost_later_is_launched_alone(cloud: Cloud, four: Lease, faults: Faults) -> None:
    sweep.launch_due(now=at(1))
    run_until_active(four, minutes=2)
    lost = recorded(four)[1]
    cloud.ec2.terminate_instances(InstanceIds=[lost])
    sweep.probe_due(now=at(5))
    assert sweep.launch_due(now=at(6)) == 1
    sweep.probe_due(now=at(7))
    new = LaunchIntent.objects.order_by("-pk")[0]
    assert new.group == new.token
    assert len(tokens(cloud)) == 2
    assert Shortfall.objects.filter(closed_at=None).count() == 0


def test_an_answer_with_another_number_or_a_known_machine_is_a_doubt(
    cloud: Cloud, four: Lease, faults: Faults
) -> None:
    make_fleet(nodes=1, account=cloud.account, reservation_id="cr-other")
    other = book(nodes=1)
    run_until_active(other, minutes=1)  # launches the four as well
    [theirs] = recorded(other)
    assert len(cloud.machines()) == 5

    third = make_fleet(nodes=2, account=cloud.account, reservation_id="cr-third")
    lease = book(nodes=2)
    assert third.nodes
    sweep.start_due(now=at(3))
    faults.answers["launch"] = [
        [LaunchedInstance("i-1")],
        [LaunchedInstance("i-1"), LaunchedInstance(theirs)],
        [LaunchedInstance("i-1"), LaunchedInstance("i-1")],
    ]
    for minutes in (3, 8, 13):
        assert sweep.launch_due(now=at(minutes)) == 0
        assert {intent.state for intent in intents(lease)} == {State.CALLING}
    assert "1 machines in the answer to a launch of 2" in intents(lease)[0].last_error
    assert sweep.launch_due(now=at(40)) == 2
    assert recorded(other) == [theirs]


def test_postgresql_refuses_two_intents_with_one_machine(cloud: Cloud, four: Lease) -> None:
    sweep.launch_due(now=at(1))
    first, second = Instance.objects.order_by("pk")[:2]
    with pytest.raises(IntegrityError, match="instance_recorded_once"), transaction.atomic():
        Instance.objects.filter(pk=second.pk).update(provider_id=first.provider_id)
    with pytest.raises(IntegrityError, match="intent"), transaction.atomic():
        Instance.objects.filter(pk=second.pk).update(intent=first.intent)
    with pytest.raises(IntegrityError, match="launch_intent_has_a_group"), transaction.atomic():
        LaunchIntent.objects.filter(pk=first.intent_id).update(group="")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_there_are_four_in_the_end(
    cloud: Cloud, four: Lease, faults: Faults, seed: int
) -> None:
    """Faults in random order, before and after calls; then an hour of quiet."""
    chance = random.Random(seed)
    for strikes, call in ((4, "launch"), (2, "find"), (1, "describe")):
        for faults_of in (faults.before, faults.after):
            faults_of[call] = [
                chance.choice(
                    [None, TimedOut("no answer"), WorkerDied(), NoCapacity("none"), RateLimited("slow")]
                )
                for _number in range(strikes)
            ]
    # After the call a machine exists: only an answer that may be lost says the truth about it.
    faults.after["launch"] = [
        error if isinstance(error, TimedOut | WorkerDied) else None for error in faults.after["launch"]
    ]
    minutes = 1.0
    for _round in range(24):
        try:
            sweep.launch_due(now=at(minutes))
            sweep.probe_due(now=at(minutes))
        except WorkerDied:
            pass
        minutes += chance.choice([0.5, 3, 7])
    for _round in range(6):
        minutes += 10
        sweep.launch_due(now=at(minutes))
        sweep.probe_due(now=at(minutes + 1))
    four.refresh_from_db()
    assert four.state == Lease.State.ACTIVE
    assert len(recorded(four)) == 4
    sweep.find_orphans(now=at(minutes))
    sweep.find_orphans(now=at(minutes) + timedelta(hours=1))
    assert len(cloud.machines()) == 4
    assert problems() == []
