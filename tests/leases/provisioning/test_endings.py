"""Ends: at the end of the term or early; terminates that fail; the next tenant waits (C7)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inventory.providers.errors import ProviderError, TimedOut
from leases import capacity
from leases.errors import WrongState
from leases.models import Access, Instance, LaunchIntent, Lease, LeaseNetwork, Shortfall, Turnover
from leases.provisioning import sweep
from leases.provisioning.claims import CLAIM
from leases.provisioning.ending import end_early
from leases.provisioning.timeline import timeline
from portal.accounts.models import Event
from portal.common.errors import InvalidInput, NotFound
from portal.common.periods import Period
from tests.concurrency import race
from tests.factories import Fleet, make_fleet, make_user
from tests.leases.provisioning.conftest import (
    END,
    START,
    Cloud,
    Faults,
    WorkerDied,
    at,
    book,
    problems,
    run_until_active,
    the_intent,
    the_machine,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]


def after_end(minutes: float) -> object:
    return END + timedelta(minutes=minutes)


def test_an_early_end_frees_the_node_and_closes_what_was_delivered(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    staff = make_user(is_staff=True)
    with pytest.raises(InvalidInput, match="why") as refused:
        end_early(lease_uid=lease.uid, reason="  ", actor=staff, now=at(20))
    assert refused.value.field == "reason"
    with pytest.raises(NotFound):
        end_early(lease_uid="lse_nothing", reason="asked", actor=staff, now=at(20))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE

    end_early(lease_uid=lease.uid, reason="The customer asked.", actor=staff, now=at(20))
    with pytest.raises(WrongState):
        end_early(lease_uid=lease.uid, reason="twice", actor=staff, now=at(20))
    allocation = lease.allocations.get()
    assert allocation.delivered.upper == at(20)
    assert allocation.occupied.upper == END + timedelta(minutes=30)  # the machine may still run
    sweep.turnover_due(now=at(21))
    allocation.refresh_from_db()
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert at(21) <= allocation.occupied.upper < at(22)
    event = Event.objects.get(kind="lease.ending", subject_id=lease.uid)
    assert (event.message, event.actor) == ("The customer asked.", staff)
    told = next(entry for entry in timeline(lease) if entry.state == "ending")
    assert (told.message, told.by) == ("The customer asked.", "our staff")


def test_an_early_end_before_any_launch_frees_the_node_at_once(cloud: Cloud, lease: Lease) -> None:
    sweep.start_due(now=at(1))
    end_early(lease_uid=lease.uid, reason="asked", actor=make_user(), now=at(2))
    assert the_intent(lease).state == LaunchIntent.State.ABANDONED
    assert lease.allocations.get().occupied.upper == at(2)
    assert sweep.launch_due(now=at(3)) == 0
    sweep.turnover_due(now=at(3))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED


def test_a_terminate_that_fails_goes_on_and_is_visible(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    run_until_active(lease)
    sweep.end_due(now=END)
    refused = ProviderError("termination is disabled", code="OperationNotPermitted")
    faults.before["reclaim"] = [refused, TimedOut("no answer in time")]
    assert sweep.turnover_due(now=END) == 0
    turnover = Turnover.objects.get()
    assert (turnover.completed_at, turnover.attempts) == (None, 1)
    assert "termination is disabled" in turnover.last_error
    assert Event.objects.filter(kind="turnover.failing", organization=None).count() == 1
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDING
    assert lease.allocations.get().delivered.upper == END  # nobody pays for our trouble

    assert sweep.turnover_due(now=END + timedelta(minutes=2)) == 0
    assert sweep.turnover_due(now=END + timedelta(minutes=10)) == 1
    turnover.refresh_from_db()
    assert turnover.last_error == ""
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_while_it_ends_a_machine_is_replaced(
    cloud: Cloud, lease: Lease, faults: Faults, when: str
) -> None:
    run_until_active(lease)
    sweep.end_due(now=END)
    getattr(faults, when)["reclaim"] = [WorkerDied()]
    with pytest.raises(WorkerDied):
        sweep.turnover_due(now=END)
    assert sweep.turnover_due(now=END + timedelta(minutes=1)) == 0
    assert sweep.turnover_due(now=END + CLAIM + timedelta(minutes=1)) == 1
    assert Turnover.objects.get().ended_at is not None
    assert cloud.machines() == []


def test_ending_twice_at_once_ends_once(cloud: Cloud, fleet: Fleet, faults: Faults) -> None:
    lease = book(nodes=2)
    run_until_active(lease)
    assert sum(race([lambda: sweep.end_due(now=END)] * 4)) == 1
    assert sum(race([lambda: sweep.turnover_due(now=END)] * 4)) == 2
    sweep.turnover_due(now=END + timedelta(minutes=1))
    assert faults.count("reclaim") == 2
    assert Event.objects.filter(kind="lease.ended", subject_id=lease.uid).count() == 1


def test_a_late_worker_does_not_complete_a_turnover_that_was_taken_from_it(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    run_until_active(lease)
    sweep.end_due(now=END)
    later = END + CLAIM + timedelta(minutes=1)
    completed: list[int] = []
    faults.after["describe"] = [lambda: completed.append(sweep.turnover_due(now=later))]
    assert sweep.turnover_due(now=END) == 0
    assert completed == [1]
    assert Turnover.objects.get().completed_at >= later  # type: ignore[operator]


def test_the_next_tenant_waits_and_is_shown_late(cloud: Cloud, faults: Faults) -> None:
    make_fleet(nodes=1, account=cloud.account, reservation_id="cr-1")
    first = book(end=START + timedelta(hours=2))
    second = book(start=START + timedelta(hours=3), end=END)
    run_until_active(first)
    sweep.end_due(now=START + timedelta(hours=2))
    faults.before["reclaim"] = [TimedOut("no answer in time")] * 2
    sweep.turnover_due(now=START + timedelta(hours=2))

    begin = START + timedelta(hours=3)
    sweep.start_due(now=begin)
    sweep.launch_due(now=begin)
    assert not LaunchIntent.objects.filter(allocation__lease=second).exists()
    late = Shortfall.objects.get(lease=second)
    assert (late.cause, late.period.lower) == (Shortfall.Cause.LATE, begin)
    assert late.told_at is not None
    told = Event.objects.filter(kind="lease.shortfall_opened", organization=second.organization)
    assert told.count() == 1
    second.refresh_from_db()
    assert second.state == Lease.State.PROVISIONING

    # The clock alone frees nothing.
    for minutes in (10, 90):
        sweep.start_due(now=begin + timedelta(minutes=minutes))
        assert sweep.launch_due(now=begin + timedelta(minutes=minutes)) == 0
    assert told.count() == 1
    faults.before["reclaim"] = []
    sweep.turnover_due(now=begin + timedelta(minutes=91))
    sweep.start_due(now=begin + timedelta(minutes=92))
    sweep.launch_due(now=begin + timedelta(minutes=92))
    sweep.probe_due(now=begin + timedelta(minutes=93))
    late.refresh_from_db()
    second.refresh_from_db()
    assert late.closed_at is not None
    assert second.state == Lease.State.ACTIVE
    assert problems() == []


def test_the_end_of_the_last_lease_that_nobody_swept_yet_is_waited_for(cloud: Cloud) -> None:
    """Its worker is behind: the machine runs although the term is over."""
    make_fleet(nodes=1, account=cloud.account, reservation_id="cr-1")
    first = book(end=START + timedelta(hours=2))
    second = book(start=START + timedelta(hours=3), end=END)
    run_until_active(first)
    sweep.start_due(now=START + timedelta(hours=3))
    assert not LaunchIntent.objects.filter(allocation__lease=second).exists()
    sweep.end_due(now=START + timedelta(hours=3))
    sweep.turnover_due(now=START + timedelta(hours=3))
    sweep.start_due(now=START + timedelta(hours=3, minutes=1))
    assert sweep.launch_due(now=START + timedelta(hours=3, minutes=1)) == 1
    assert first.allocations.get().delivered.upper == START + timedelta(hours=2)


def test_a_machine_that_takes_long_is_late_after_the_grace(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    sweep.start_due(now=at(1))
    faults.before["prepare_lease"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    sweep.start_due(now=at(9))
    assert not Shortfall.objects.exists()
    sweep.start_due(now=at(10))
    assert Shortfall.objects.get().cause == Shortfall.Cause.LATE
    sweep.launch_due(now=at(11))
    sweep.probe_due(now=at(12))
    assert Shortfall.objects.get().closed_at is not None


def test_a_lease_that_ends_while_it_is_provisioned_ends(cloud: Cloud, lease: Lease) -> None:
    sweep.start_due(now=at(1))
    sweep.launch_due(now=at(1))
    assert sweep.end_due(now=END) == 1
    # Its machine answers too late to be delivered.
    assert sweep.probe_due(now=END) == 0
    sweep.turnover_due(now=END)
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    assert lease.allocations.get().delivered is None
    assert not Access.objects.exists()


def test_the_network_goes_once_nothing_uses_it(cloud: Cloud, lease: Lease, faults: Faults) -> None:
    run_until_active(lease)
    sweep.end_due(now=END)
    in_use = ProviderError("it is in use", code="DependencyViolation", retryable=True)
    faults.before["remove_network"] = [in_use, in_use]
    for minutes in (0, 5):
        sweep.turnover_due(now=END + timedelta(minutes=minutes))
        network = LeaseNetwork.objects.get()
        assert network.removed_at is None
        assert "in use" in network.last_error
    sweep.turnover_due(now=END + timedelta(minutes=30))
    network.refresh_from_db()
    assert network.removed_at is not None
    assert (cloud.groups(), cloud.keys()) == ([], [])


def test_a_network_whose_answer_was_lost_is_found_by_its_tag_and_removed(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    sweep.start_due(now=at(1))
    faults.after["prepare_lease"] = [TimedOut("no answer in time")]
    sweep.launch_due(now=at(1))
    assert LeaseNetwork.objects.get().firewall_id == ""
    assert len(cloud.groups()) == 1
    end_early(lease_uid=lease.uid, reason="asked", actor=make_user(), now=at(2))
    sweep.turnover_due(now=at(30))
    assert LeaseNetwork.objects.get().removed_at is not None
    assert cloud.groups() == []


def test_a_node_that_a_lease_had_for_a_part_only_is_ended_by_itself(cloud: Cloud, fleet: Fleet) -> None:
    lease = book(nodes=2)
    run_until_active(lease)
    part = lease.allocations.select_related("node").order_by("pk").first()
    assert part is not None
    shorter = Period(part.node.available.lower, at(20) + part.node.turnaround, "[)")
    capacity.shrink_node(node_id=part.node_id, available=shorter, actor=None, now=at(5))
    sweep.end_due(now=at(20))
    sweep.turnover_due(now=at(21))
    part.refresh_from_db()
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE
    assert part.delivered.upper == at(20)
    assert Instance.objects.get(allocation=part).state == Instance.State.TERMINATED
    assert the_machine(lease).allocation_id != part.pk
