"""Launches of every kind, and whatever goes wrong around one: in the end one machine for each (P1, P3)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inventory.providers import naming
from inventory.providers.base import (
    TAG_ALLOCATION,
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    Capability,
    Provider,
)
from leases.models import Access, Lease, Shortfall
from leases.provisioning import sweep, upstream
from portal.accounts.models import Event
from tests.contract.counterpart import Counterpart, Loss, Refusal
from tests.contract.stage import AFTER_LAG, Stage, at

pytestmark = pytest.mark.django_db(transaction=True)


def refuses(how: Refusal) -> pytest.MarkDecorator:
    return pytest.mark.needs(lambda counterpart: how in counterpart.refusals)


def test_a_launch_is_tagged_recorded_and_delivered(stage: Stage, counterpart: Counterpart) -> None:
    lease = stage.book()
    stage.begin(lease)
    [machine] = stage.machines(lease)
    [(found, tags)] = counterpart.running().items()
    assert found == machine.provider_id
    wanted = {
        TAG_SITE: upstream.site_id(),
        TAG_LEASE: lease.uid,
        TAG_TOKEN: machine.intent.token,
        TAG_ALLOCATION: str(machine.allocation_id),
    }
    # A name has no room for all of them; the site and the token are always there.
    for tag, value in wanted.items():
        if tag in (TAG_SITE, TAG_TOKEN) or tag in tags:
            assert naming.matches(tags, tag, value), tag

    stage.run(lease)
    assert counterpart.launch_calls() == 1
    [allocation] = lease.allocations.all()
    assert allocation.delivered is not None
    assert allocation.delivered.upper is None
    assert Access.objects.filter(lease=lease, revoked_at=None).count() == 1
    assert not Shortfall.objects.exists()


def calls_for_two(provider: Provider) -> int:
    return 1 if Capability.GROUP_LAUNCH in provider.capabilities else 2


def test_each_node_of_a_lease_gets_one_machine(
    stage: Stage, counterpart: Counterpart, provider: Provider
) -> None:
    lease = stage.book(nodes=2)
    stage.activate(lease)
    machines = stage.machines(lease)
    assert len(machines) == 2
    assert {machine.provider_id for machine in machines} == stage.running()
    assert len({machine.allocation_id for machine in machines}) == 2
    assert counterpart.launch_calls() == calls_for_two(provider)


@pytest.mark.needs(lambda counterpart: Loss.SILENT in counterpart.losses)
def test_two_nodes_whose_answers_are_lost_are_adopted(
    stage: Stage, counterpart: Counterpart, provider: Provider
) -> None:
    lease = stage.book(nodes=2)
    counterpart.lose_launch_answer(times=calls_for_two(provider))
    stage.begin(lease)
    assert stage.machines(lease) == []
    before = stage.running()
    assert len(before) == 2
    stage.run(lease, first=AFTER_LAG)
    assert stage.running() == before
    assert counterpart.launch_calls() == calls_for_two(provider)


def test_a_sweep_again_launches_nothing_more(stage: Stage, counterpart: Counterpart) -> None:
    lease = stage.book()
    stage.activate(lease)
    for minutes in (10, 20, 30):
        sweep.run_all(now=at(minutes))
    assert counterpart.launch_calls() == 1


@pytest.mark.each("losses")
def test_a_launch_whose_answer_is_lost_is_adopted(stage: Stage, counterpart: Counterpart, how: Loss) -> None:
    lease = stage.book()
    counterpart.lose_launch_answer(how)
    stage.begin(lease)
    assert stage.machines(lease) == []
    [machine] = stage.running()
    [error] = stage.launch_errors(lease)
    stage.readable(error)

    sweep.launch_due(now=at(2))  # the listing may lag behind
    assert counterpart.launch_calls() == 1
    sweep.launch_due(now=at(AFTER_LAG))
    assert [found.provider_id for found in stage.machines(lease)] == [machine]
    stage.run(lease, first=AFTER_LAG + 1)
    assert counterpart.launch_calls() == 1
    assert stage.running() == {machine}


@pytest.mark.needs(lambda counterpart: counterpart.lags and Loss.SILENT in counterpart.losses)
def test_a_listing_that_lags_behind_makes_no_second_machine(stage: Stage, counterpart: Counterpart) -> None:
    lease = stage.book()
    counterpart.lose_launch_answer()
    with counterpart.lagging():
        stage.begin(lease)
        sweep.launch_due(now=at(2))
    stage.run(lease, first=AFTER_LAG)
    assert counterpart.launch_calls() == 1
    assert len(stage.running()) == 1


@refuses(Refusal.INTERNAL)
def test_a_failure_before_any_effect_is_launched_again(stage: Stage, counterpart: Counterpart) -> None:
    lease = stage.book()
    counterpart.refuse_launches(Refusal.INTERNAL)
    stage.begin(lease)
    assert stage.machines(lease) == []
    [error] = stage.launch_errors(lease)
    stage.readable(error)
    sweep.launch_due(now=at(2))
    assert counterpart.launch_calls() == 1  # first a listing must show that nothing came of it
    stage.run(lease, first=AFTER_LAG)
    assert counterpart.launch_calls() == 2
    assert len(stage.running()) == 1


def without_room(stage: Stage, counterpart: Counterpart, refusal: Refusal) -> None:
    """Tell at once, and try until there is room."""
    lease = stage.book()
    counterpart.refuse_launches(refusal, times=2)
    stage.begin(lease)
    shortfall = Shortfall.objects.get(lease=lease)
    assert (shortfall.cause, shortfall.closed_at) == (Shortfall.Cause.NO_CAPACITY, None)
    [error] = stage.launch_errors(lease)
    stage.readable(error)
    assert stage.running() == set()
    assert counterpart.launch_calls() == 1

    stage.run(lease, first=4)
    shortfall.refresh_from_db()
    assert shortfall.closed_at is not None
    assert Shortfall.objects.count() == 1
    assert counterpart.launch_calls() == 3
    assert len(stage.running()) == 1


@refuses(Refusal.NO_CAPACITY)
def test_a_launch_without_capacity_is_told_and_tried_again(stage: Stage, counterpart: Counterpart) -> None:
    without_room(stage, counterpart, Refusal.NO_CAPACITY)


@refuses(Refusal.QUOTA)
def test_a_launch_above_the_quota_is_told_and_tried_again(stage: Stage, counterpart: Counterpart) -> None:
    without_room(stage, counterpart, Refusal.QUOTA)


@refuses(Refusal.THROTTLED)
def test_a_throttled_launch_waits_as_long_as_it_was_told(stage: Stage, counterpart: Counterpart) -> None:
    lease = stage.book()
    counterpart.refuse_launches(Refusal.THROTTLED)
    stage.begin(lease)
    assert counterpart.launch_calls() == 1
    assert stage.running() == set()
    pause = timedelta(seconds=counterpart.retry_after or 30)
    sweep.launch_due(now=at(1) + pause)  # and our own pause comes on top
    assert counterpart.launch_calls() == 1
    stage.run(lease, first=4)
    assert counterpart.launch_calls() == 2


@refuses(Refusal.CREDENTIALS)
def test_a_launch_that_is_not_allowed_calls_staff_and_waits_for_them(
    stage: Stage, counterpart: Counterpart
) -> None:
    lease = stage.book()
    counterpart.refuse_launches(Refusal.CREDENTIALS)
    stage.begin(lease)
    assert stage.running() == set()
    assert Shortfall.objects.get(lease=lease).cause == Shortfall.Cause.LAUNCH_FAILED
    told = Event.objects.get(kind="launch.failed", organization=None)
    stage.readable(told.message)
    sweep.launch_due(now=at(3))
    assert counterpart.launch_calls() == 1
    lease.refresh_from_db()
    assert lease.state == Lease.State.PROVISIONING
    stage.run(lease, first=40)  # the right was given meanwhile
    assert counterpart.launch_calls() == 2
