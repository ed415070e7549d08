"""Starts: only for organizations that may launch, once, and told where they cannot."""

from __future__ import annotations

import pytest

from leases.models import LaunchIntent, Lease, Shortfall
from leases.provisioning import sweep
from portal.accounts.models import Event, Organization
from tests.concurrency import race
from tests.factories import Fleet
from tests.leases.provisioning.conftest import END, Cloud, Faults, at, book, problems

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sound_at_the_end")]


def suspend(lease: Lease, state: str = Organization.State.SUSPENDED) -> None:
    Organization.objects.filter(pk=lease.organization_id).update(state=state)


def test_nothing_is_launched_for_a_suspended_organization(cloud: Cloud, lease: Lease) -> None:
    suspend(lease)
    for minutes in (1, 5, 30):
        assert sweep.start_due(now=at(minutes)) == 0
    lease.refresh_from_db()
    assert lease.state == Lease.State.SCHEDULED
    assert not LaunchIntent.objects.exists()
    assert not Shortfall.objects.exists()  # we owe nothing: they may not launch
    told = Event.objects.filter(kind="lease.launch_refused", subject_id=lease.uid)
    assert told.filter(organization=None).count() == told.count() == 1
    assert problems() == []

    suspend(lease, Organization.State.RESTRICTED)  # keeps what was booked
    assert sweep.start_due(now=at(40)) == 1
    sweep.launch_due(now=at(40))


def test_an_organization_that_is_suspended_between_start_and_launch_gets_no_machine(
    cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    sweep.start_due(now=at(1))
    suspend(lease)
    sweep.launch_due(now=at(1))
    sweep.start_due(now=at(30))
    assert faults.count("launch") == 0
    assert not Shortfall.objects.exists()
    suspend(lease, Organization.State.APPROVED)
    assert sweep.launch_due(now=at(31)) == 1


def test_a_lease_that_never_could_start_has_failed(cloud: Cloud, lease: Lease) -> None:
    suspend(lease)
    sweep.start_due(now=at(1))
    sweep.end_due(now=END)
    lease.refresh_from_db()
    assert lease.state == Lease.State.FAILED


def test_two_workers_start_a_lease_once(cloud: Cloud, fleet: Fleet) -> None:
    lease = book(nodes=2)
    assert sum(race([lambda: sweep.start_due(now=at(1))] * 6)) == 1
    assert LaunchIntent.objects.filter(allocation__lease=lease).count() == 2
    assert Event.objects.filter(kind="lease.provisioning", subject_id=lease.uid).count() == 1
    sweep.launch_due(now=at(2))
