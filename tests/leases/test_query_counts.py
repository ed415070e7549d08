"""The number of SQL statements does not grow with the fleet, nor with the size of the lease."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from leases import booking, capacity, lifecycle
from leases.errors import NotEnoughCapacity
from portal.common.periods import period
from portal.common.transactions import durable
from tests.factories import NOW, make_fleet, make_lease, make_organization, make_request

pytestmark = pytest.mark.django_db

# What a booking costs; a change of one of these is a change worth reading in a review.
HOLD = 6  # two of them are savepoints, which stand for BEGIN and COMMIT in a test
REFUSED = 14
CONFIRM = 8


def count(call) -> int:
    with CaptureQueriesContext(connection) as captured:
        call()
    return len(captured)


def hold(**wanted):
    return booking.hold(
        request=make_request(**wanted),
        organization=hold.organization,
        name="training",
        actor=None,
        now=NOW,
        expires_at=NOW + timedelta(minutes=15),
    )


def refused(**wanted):
    with pytest.raises(NotEnoughCapacity):
        hold(**wanted)


@pytest.fixture(autouse=True)
def _organization():
    hold.organization = make_organization()


@pytest.mark.parametrize("fleet", [10, 1000])
@pytest.mark.parametrize("wanted", [1, 8])
def test_a_booking_costs_the_same(fleet, wanted):
    make_fleet(nodes=fleet, nodes_per_fabric=8)
    assert count(lambda: hold(nodes=wanted)) == HOLD


@pytest.mark.parametrize("fleet", [10, 1000])
def test_a_refusal_costs_the_same(fleet):
    make_fleet(nodes=fleet)
    assert count(lambda: refused(nodes=fleet + 1)) == REFUSED


@pytest.mark.parametrize("fleet", [10, 1000])
def test_accepting_costs_the_same(fleet):
    make_fleet(nodes=fleet)
    lease = make_lease(state="held", nodes=fleet)

    def accept():
        with durable():
            booking.confirm(lifecycle.lock_lease(lease.pk), to="scheduled", actor=None, now=NOW)

    assert count(accept) == CONFIRM


def test_shortening_a_node_costs_the_same_whatever_the_fleet():
    costs = []
    for number, size in enumerate((10, 1000)):
        fleet = make_fleet(nodes=size, gpu_model=f"gpu-{number}")
        lease = make_lease(gpu_model=f"gpu-{number}")
        node = lease.allocations.get().node
        until = period(fleet.nodes[0].available.lower, NOW + timedelta(days=1))
        costs.append(
            count(
                lambda node=node, until=until: capacity.shrink_node(
                    node_id=node.pk, available=until, actor=None, now=NOW
                )
            )
        )
    assert costs[0] == costs[1]
