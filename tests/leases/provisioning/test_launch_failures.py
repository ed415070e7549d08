"""Whatever happens around a launch: one machine upstream in the end, and the records agree (P1, P2)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from inventory.providers.errors import (
    AuthFailed,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)
from leases.models import Instance, LaunchIntent, Lease, Shortfall
from leases.provisioning import journal, losses, sweep
from leases.provisioning.claims import CLAIM, LISTING_LAG
from leases.provisioning.ending import end_early
from portal.accounts.models import Event
from portal.common.errors import Conflict
from tests.concurrency import race
from tests.factories import Fleet, make_user
from tests.leases.provisioning.conftest import (
    END,
    Cloud,
    Faults,
    WorkerDied,
    at,
    book,
    the_intent,
    the_machine,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]

AFTER_LAG = 1 + LISTING_LAG.total_seconds() / 60 + 1
AFTER_CLAIM = 1 + CLAIM.total_seconds() / 60 + 1


def test_the_server_itself_ignores_the_client_token(cloud: Cloud, lease: Lease) -> None:
    """The race without our journal: the same launch called twice makes two machines."""
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    intent = the_intent(lease)
    group = journal.launch_group([intent], group=intent.token)
    with journal.upstream.Providers().of(cloud.account) as provider:
        again = provider.launch(group)[0].id
    assert {again, the_machine(lease).provider_id} == {m["InstanceId"] for m in cloud.machines()}
    assert again != the_machine(lease).provider_id
    cloud.ec2.terminate_instances(InstanceIds=[again])


def test_an_answer_that_is_lost_is_looked_for(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.after["launch"] = [TimedOut("no answer in time")]
    assert sweep.launch_due(now=at(1)) == 0
    intent = the_intent(lease)
    assert intent.state == LaunchIntent.State.CALLING
    assert intent.last_error == "no answer in time"
    assert not Instance.objects.exists()

    # The listing may lag behind: nothing is asked, and nothing launched, before it cannot.
    assert sweep.launch_due(now=at(2)) == 0
    assert faults.count("find") == 0
    assert sweep.launch_due(now=at(AFTER_LAG)) == 1
    [machine] = cloud.machines()
    assert the_machine(lease).provider_id == machine["InstanceId"]
    assert faults.count("launch") == 1


def test_a_call_that_never_arrived_is_made_again(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.before["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    assert sweep.launch_due(now=at(AFTER_LAG)) == 1
    assert faults.calls.index("find") < len(faults.calls) - faults.calls[::-1].index("launch")
    assert len(cloud.machines()) == 1


@pytest.mark.parametrize(("when", "launches"), [("before", 2), ("after", 1)])
def test_a_worker_that_dies_around_the_call_is_replaced(
    cloud: Cloud, lease: Lease, faults: Faults, when: str, launches: int
) -> None:
    sweep.start_due(now=at(1))
    getattr(faults, when)["launch"] = [WorkerDied()]
    with pytest.raises(WorkerDied):
        sweep.launch_due(now=at(1))
    assert the_intent(lease).state == LaunchIntent.State.CALLING

    assert sweep.launch_due(now=at(3)) == 0  # its claim stands
    assert faults.count("launch") == 1
    assert sweep.launch_due(now=at(AFTER_CLAIM)) == 1
    assert faults.count("launch") == launches
    assert len(cloud.machines()) == 1


def test_a_worker_that_dies_while_making_the_network_is_replaced(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    sweep.start_due(now=at(1))
    faults.after["prepare_lease"] = [WorkerDied()]
    with pytest.raises(WorkerDied):
        sweep.launch_due(now=at(1))
    assert sweep.launch_due(now=at(2)) == 0
    assert faults.count("launch") == 0
    assert sweep.launch_due(now=at(AFTER_CLAIM)) == 1
    assert len(cloud.groups()) == 1


def test_a_doubt_that_cannot_be_settled_launches_nothing(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.after["launch"] = [TimedOut("no answer in time")]
    faults.before["find"] = [AuthFailed("refused"), TimedOut("again nothing")]
    sweep.launch_due(now=at(1))
    for minutes in (AFTER_LAG, AFTER_LAG + 20):
        assert sweep.launch_due(now=at(minutes)) == 0
        assert the_intent(lease).state == LaunchIntent.State.CALLING
    assert Event.objects.filter(kind="launch.in_doubt", organization=None).count() == 1
    assert sweep.launch_due(now=at(AFTER_LAG + 40)) == 1
    assert faults.count("launch") == 1


def test_what_an_adapter_did_not_foresee_is_a_doubt(
    cloud: Cloud, lease: Lease, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.start_due(now=at(1))
    faults.after["launch"] = [KeyError("InstanceId")]
    sweep.launch_due(now=at(1))
    intent = the_intent(lease)
    assert intent.state == LaunchIntent.State.CALLING
    assert "KeyError" in intent.last_error
    assert sweep.launch_due(now=at(AFTER_LAG)) == 1
    assert faults.count("launch") == 1


def test_throttling_is_waited_out(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.before["launch"] = [RateLimited("slow down", retry_after=90)]
    sweep.launch_due(now=at(1))
    intent = the_intent(lease)
    assert intent.state == LaunchIntent.State.PENDING
    assert at(1) + timedelta(seconds=90) < intent.next_try_at < at(1) + timedelta(seconds=110)
    assert sweep.launch_due(now=at(2)) == 0
    assert faults.count("launch") == 1
    assert sweep.launch_due(now=at(3)) == 1


@pytest.mark.parametrize("error", [NoCapacity("none left"), QuotaExceeded("limit reached")])
def test_without_capacity_the_customer_is_told_at_once_and_we_go_on(
    cloud: Cloud, lease: Lease, faults: Faults, error: ProviderError
) -> None:
    sweep.start_due(now=at(1))
    faults.before["launch"] = [error, error]
    sweep.launch_due(now=at(1))
    shortfall = Shortfall.objects.get(lease=lease)
    assert (shortfall.cause, shortfall.closed_at) == (Shortfall.Cause.NO_CAPACITY, None)
    assert shortfall.told_at is not None
    assert shortfall.period.upper == END
    told = Event.objects.filter(kind="lease.shortfall_opened", organization=lease.organization)
    assert told.count() == 1
    assert "limit" not in told.get().message  # no provider's words

    sweep.launch_due(now=at(3))
    assert told.count() == 1
    assert sweep.launch_due(now=at(20)) == 1
    sweep.probe_due(now=at(21))
    shortfall.refresh_from_db()
    lease.refresh_from_db()
    assert shortfall.closed_at is not None
    assert lease.state == Lease.State.ACTIVE


def test_a_permanent_failure_stops_and_calls_staff(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    sweep.start_due(now=at(1))
    faults.before["launch"] = [ProviderError("the image is gone")]
    sweep.launch_due(now=at(1))
    intent = the_intent(lease)
    assert intent.state == LaunchIntent.State.FAILED
    assert Shortfall.objects.get(lease=lease, closed_at=None).cause == Shortfall.Cause.LAUNCH_FAILED
    assert Event.objects.filter(kind="launch.failed", organization=None, subject_id=intent.token).exists()
    assert sweep.launch_due(now=at(60)) == 0
    assert faults.count("launch") == 1

    staff = make_user(is_staff=True)
    losses.retry_launch(allocation_id=intent.allocation_id, actor=staff, now=at(61))
    with pytest.raises(Conflict):
        losses.retry_launch(allocation_id=intent.allocation_id, actor=staff, now=at(61))
    assert LaunchIntent.objects.count() == 2
    assert sweep.launch_due(now=at(61)) == 1
    sweep.probe_due(now=at(62))
    assert not Shortfall.objects.filter(closed_at=None).exists()


def test_a_commitment_without_its_reservation_is_never_launched_on_demand(
    cloud: Cloud, fleet: Fleet, faults: Faults
) -> None:
    fleet.commitment.reservation_id = ""
    fleet.commitment.save()
    lease = book()
    sweep.start_due(now=at(1))
    assert sweep.launch_due(now=at(1)) == 0
    assert faults.count("launch") == 0
    assert "reservation id" in the_intent(lease).last_error


def test_workers_at_once_launch_one_machine(cloud: Cloud, fleet: Fleet, faults: Faults) -> None:
    leases = [book(), book()]
    race([lambda: sweep.start_due(now=at(1))] * 4)
    recorded = race([lambda: sweep.launch_due(now=at(1))] * 4)
    assert sum(recorded) == 2
    assert faults.count("launch") == 2
    assert len({the_machine(lease).provider_id for lease in leases}) == 2
    assert sum(race([lambda: sweep.probe_due(now=at(2))] * 4)) == 2


def steal(minutes: float) -> Callable[[], None]:
    return lambda: assert_recorded(sweep.launch_due(now=at(minutes)))


def assert_recorded(count: int) -> None:
    assert count == 1


def test_a_late_worker_whose_claim_was_stolen_records_nothing(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    """It is slow after the call: the second worker finds its machine by the token."""
    sweep.start_due(now=at(1))
    faults.after["launch"] = [steal(AFTER_CLAIM)]
    assert sweep.launch_due(now=at(1)) == 0
    assert faults.count("launch") == 1
    assert Instance.objects.count() == 1


def test_a_second_machine_of_a_stolen_claim_is_an_orphan_and_goes(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    """It was frozen just before the call, which nothing can prevent: one machine too many, and found."""
    sweep.start_due(now=at(1))
    faults.before["launch"] = [steal(AFTER_CLAIM)]
    assert sweep.launch_due(now=at(1)) == 0
    assert len(cloud.machines()) == 2
    recorded = the_machine(lease).provider_id

    assert sweep.find_orphans(now=at(20)) == 1
    assert len(cloud.machines()) == 2  # within the grace
    assert sweep.find_orphans(now=at(55)) == 0
    assert [machine["InstanceId"] for machine in cloud.machines()] == [recorded]


def test_a_worker_that_lost_its_claim_before_the_call_makes_none(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    """It was slow while it listed; extending the claim before the launch shows that it is not ours."""
    sweep.start_due(now=at(1))
    faults.before["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    faults.after["find"] = [steal(AFTER_LAG + AFTER_CLAIM)]
    assert sweep.launch_due(now=at(AFTER_LAG)) == 0
    assert faults.count("launch") == 2  # the lost one, and the thief's
    assert len(cloud.machines()) == 1


def test_a_machine_that_ended_before_it_was_recorded_is_replaced(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    sweep.start_due(now=at(1))
    faults.after["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    [gone] = [machine["InstanceId"] for machine in cloud.machines()]
    cloud.ec2.terminate_instances(InstanceIds=[gone])
    sweep.launch_due(now=at(AFTER_LAG))
    assert Instance.objects.get(provider_id=gone).state == Instance.State.TERMINATED
    assert sweep.launch_due(now=at(AFTER_LAG + 5)) == 1
    assert the_machine(lease).provider_id != gone


def test_a_lease_that_ends_during_a_call_that_is_refused_ends(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    """The refusal must not leave an intent that waits for its next try, and with it the lease in its end."""

    def end_and_refuse() -> None:
        end_early(lease_uid=lease.uid, reason="not needed", actor=make_user(), now=at(1.5))
        raise NoCapacity("none left")

    sweep.start_due(now=at(1))
    faults.before["launch"] = [end_and_refuse]
    sweep.launch_due(now=at(1))
    for minutes in (10, 20):
        sweep.launch_due(now=at(minutes))
        sweep.turnover_due(now=at(minutes))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert the_intent(lease).state == LaunchIntent.State.ABANDONED
    assert faults.count("launch") == 1
    assert not Shortfall.objects.exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lease_that_ends_during_a_doubt_leaves_nothing(
    cloud: Cloud, lease: Lease, faults: Faults, when: str
) -> None:
    sweep.start_due(now=at(1))
    getattr(faults, when)["launch"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    end_early(lease_uid=lease.uid, reason="not needed", actor=make_user(), now=at(2))
    assert sweep.turnover_due(now=at(2)) == 0  # whether there is a machine is not known yet
    sweep.launch_due(now=at(AFTER_LAG))
    assert faults.count("launch") == 1
    sweep.turnover_due(now=at(AFTER_LAG + 10))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert cloud.machines() == []
    assert cloud.groups() == []
