"""The audit finds each broken invariant, and nothing in sound data."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from inventory.models import Node
from leases.models import Allocation, Instance, LaunchIntent, Lease, Orphan, Turnover
from leases.provisioning import sweep
from leases.provisioning.audit import CHECKS
from portal.common.periods import Period
from tests.factories import Fleet, make_organization, make_stack
from tests.leases.provisioning.conftest import START, Cloud, at, book, problems, run_until_active, the_machine

pytestmark = pytest.mark.django_db(transaction=True)


def test_sound_data_passes_and_is_counted(cloud: Cloud, lease: Lease) -> None:
    assert {check.id: check.run()[0] for check in CHECKS} == {"P1": 0, "P2": 0, "P3": 1, "C7": 0, "C8": 0}
    run_until_active(lease)
    assert problems() == []
    assert {check.id: check.run()[0] for check in CHECKS} == {"P1": 2, "P2": 1, "P3": 1, "C7": 0, "C8": 0}


def test_c8_a_machine_of_a_lease_with_software_that_was_launched_without_its_image(
    cloud: Cloud, fleet: Fleet
) -> None:
    make_stack(images={"aws": "ami-12c6146b"})
    run_until_active(book(stack="pytorch"))
    assert problems() == []
    LaunchIntent.objects.update(image="")
    assert [found for found in problems() if found.startswith("C8: intent") and "without an image" in found]


def test_p1_an_intent_without_its_machine(cloud: Cloud, lease: Lease) -> None:
    sweep.start_due(now=at(1))
    LaunchIntent.objects.update(state=LaunchIntent.State.LAUNCHED)
    assert any(found.startswith("P1: intent") and "no machine" in found for found in problems())


def test_p1_a_machine_older_than_its_intent(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    Instance.objects.update(launched_at=START - timedelta(days=1))
    assert [found for found in problems() if "before its intent" in found]


def test_p1_a_doubt_that_nobody_settles(cloud: Cloud, lease: Lease) -> None:
    sweep.start_due(now=at(1))
    long_ago = START - timedelta(hours=5)
    LaunchIntent.objects.update(
        state=LaunchIntent.State.CALLING, attempts=1, next_try_at=long_ago, claim_expires_at=long_ago
    )
    assert [found for found in problems() if "in doubt" in found]


def test_p2_a_machine_whose_lease_is_over(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    Lease.objects.update(state=Lease.State.ENDED)
    assert [found for found in problems() if found.startswith("P2: machine") and "ended" in found]
    Lease.objects.update(state=Lease.State.ENDING)
    assert [found for found in problems() if "no turnover ends it" in found]


def test_p2_an_orphan_past_its_grace(cloud: Cloud) -> None:
    old = START - timedelta(hours=3)
    orphan = Orphan.objects.create(
        account=cloud.account,
        kind="instance",
        resource_id="i-1",
        region_code="us-east-1",
        first_seen_at=old,
        last_seen_at=START,
    )
    assert [found for found in problems() if found.startswith("P2: instance i-1: an orphan since")]
    orphan.state = Orphan.State.EXPLAINED
    orphan.save()
    assert problems() == []


def test_p3_an_allocation_without_machine_or_shortfall(cloud: Cloud, lease: Lease) -> None:
    assert [
        found for found in problems() if found.startswith("P3: allocation")
    ]  # it began, and nobody started it
    run_until_active(lease)
    assert problems() == []
    Instance.objects.update(state=Instance.State.LOST)
    assert [found for found in problems() if found.startswith("P3: allocation")]


def test_c7_a_launch_before_the_turnover(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    allocation = lease.allocations.get()
    machine = the_machine(lease)
    node = Node.objects.get(pk=allocation.node_id)
    over = Lease.objects.create(organization=make_organization(), name="before", state=Lease.State.ENDED)
    before = Allocation.objects.create(
        node=node,
        node_available=node.available,
        period=Period(START - timedelta(hours=5), START - timedelta(hours=4), "[)"),
        occupied=Period(START - timedelta(hours=5), START - timedelta(hours=3), "[)"),
        lease=over,
    )
    intent = LaunchIntent.objects.create(
        allocation=before,
        account=cloud.account,
        state=LaunchIntent.State.FAILED,
        created_at=START - timedelta(days=1),
    )
    earlier = Instance.objects.create(
        intent=intent,
        allocation=before,
        account=cloud.account,
        provider_id="i-earlier",
        state=Instance.State.TERMINATED,
        launched_at=START - timedelta(hours=5),
        ended_at=START,
    )
    assert [found for found in problems() if found.startswith(f"C7: machine {machine.provider_id}")]
    done = START - timedelta(hours=3)
    turnover = Turnover.objects.create(
        allocation=before, requested_at=done, ended_at=done, wiped_at=done, completed_at=done
    )
    assert problems() == []
    turnover.wiped_at = None
    turnover.save()
    assert [found for found in problems() if "without the machine's end" in found]
    turnover.completed_at = None
    turnover.save()
    earlier.refresh_from_db()
    assert [found for found in problems() if found.startswith("C7: machine")]


def test_the_checks_see_through_the_application_role(
    cloud: Cloud, lease: Lease, superuser_sql: psycopg.Connection[tuple[object, ...]]
) -> None:
    """They run as sublet_app: what they may not read would count as sound."""
    run_until_active(lease)
    row = superuser_sql.execute("SELECT count(*) FROM leases_instance").fetchone()
    assert row == (Instance.objects.count(),)
