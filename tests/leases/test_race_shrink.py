"""Staff shorten a node while customers book it: no promise outside of the node's time, none lost."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from inventory.models import Node
from leases import booking, capacity
from leases.audit import CHECKS
from leases.errors import NotEnoughCapacity
from leases.models import Allocation, Lease
from portal.common.periods import period
from portal.common.transactions import durable
from tests.concurrency import race
from tests.factories import NOW, make_fleet, make_lease, make_organization, make_request

pytestmark = pytest.mark.django_db(transaction=True)
ROUNDS = 10
DAY = timedelta(days=1)


def test_shortening_against_booking_keeps_every_promise():
    organization = make_organization()
    for number in range(ROUNDS):
        fleet = make_fleet(nodes=2, gpu_model=f"gpu-{number}")
        node = fleet.nodes[0]
        cut = NOW + 5 * DAY

        def book(number=number):
            return booking.hold(
                request=make_request(gpu_model=f"gpu-{number}", start=NOW + 4 * DAY, hours=48),
                organization=organization,
                name="training",
                actor=None,
                now=NOW,
                expires_at=NOW + timedelta(minutes=15),
            )

        def shorten(node=node, cut=cut):
            return capacity.shrink_node(
                node_id=node.pk, available=period(node.available.lower, cut), actor=None, now=NOW
            )

        *booked, shortened = race([book, book, book, shorten])
        assert isinstance(shortened, Node), shortened
        assert all(isinstance(result, (Lease, NotEnoughCapacity)) for result in booked), booked
        held = [
            row for row in booked if isinstance(row, Lease) and Lease.objects.get(pk=row.pk).state == "held"
        ]
        assert 1 <= len(held) <= 2
        assert all(row.allocations.count() == 1 for row in held)
        assert (
            not Allocation.objects.filter(node=node).exclude(occupied__contained_by=period(NOW, cut)).exists()
        )
    for check in CHECKS:
        assert check.outcome().violations == 0, check.outcome()


@pytest.fixture
def _no_key(superuser_sql):
    superuser_sql.execute("ALTER TABLE leases_allocation DROP CONSTRAINT allocation_node_available")
    yield
    superuser_sql.execute("DELETE FROM leases_allocation")
    superuser_sql.execute(
        "ALTER TABLE leases_allocation ADD CONSTRAINT allocation_node_available FOREIGN KEY"
        " (node_id, node_available) REFERENCES inventory_node (id, available) ON UPDATE CASCADE"
    )


@pytest.mark.usefixtures("_no_key")
def test_without_lock_and_key_a_promise_outlives_its_node():
    """The race is real: the booking sees the old end, the shortening sees no booking."""
    node = make_fleet(nodes=1).nodes[0]
    lease = make_lease(state="held", start=NOW + 60 * DAY)
    looked = threading.Barrier(2)
    wanted, cut = make_request(start=NOW + 4 * DAY, hours=48).period, NOW + 5 * DAY

    def naive_book():
        with durable():
            seen = Node.objects.get(pk=node.pk)
            looked.wait(30)
            assert wanted.upper <= seen.available.upper
            Allocation.objects.create(
                node=seen, node_available=seen.available, period=wanted, occupied=wanted, lease=lease
            )

    def naive_shorten():
        with durable():
            free = not Allocation.objects.filter(
                node=node, occupied__overlap=period(cut, cut + 40 * DAY)
            ).exists()
            looked.wait(30)
            assert free
            Node.objects.filter(pk=node.pk).update(available=period(NOW, cut))

    results = race([naive_book, naive_shorten])
    assert results == [None, None]
    (inside,) = [check for check in CHECKS if check.id == "C2"]
    assert inside.outcome().violations >= 1
