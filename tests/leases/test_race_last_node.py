"""32 clients want the last free node. One gets it, and the other 31 are told so."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection

from leases import booking
from leases.audit import CHECKS
from leases.errors import NotEnoughCapacity
from leases.models import Allocation, Lease
from portal.common.transactions import durable
from tests.concurrency import race
from tests.factories import NOW, make_fleet, make_lease, make_organization, make_request

pytestmark = pytest.mark.django_db(transaction=True)
CLIENTS = 32
ROUNDS = 20


def request(number):
    return make_request(start=NOW + timedelta(days=1 + number), hours=20)


def test_one_of_32_clients_wins_the_last_node_each_round():
    make_fleet(nodes=1)
    organizations = [make_organization() for _client in range(CLIENTS)]
    together = threading.Barrier(CLIENTS)

    def client(organization):
        outcomes = []
        for number in range(ROUNDS):
            together.wait(60)
            try:
                lease = booking.hold(
                    request=request(number),
                    organization=organization,
                    name=f"round {number}",
                    actor=None,
                    now=NOW,
                    expires_at=NOW + timedelta(minutes=15),
                )
                outcomes.append(lease.pk)
            except NotEnoughCapacity:
                outcomes.append(None)
        return outcomes

    results = race([lambda organization=organization: client(organization) for organization in organizations])
    for number, outcomes in enumerate(zip(*results, strict=True)):
        assert sum(outcome is not None for outcome in outcomes) == 1, (number, outcomes)
    assert Lease.objects.count() == ROUNDS
    assert Allocation.objects.count() == ROUNDS
    for check in CHECKS:
        assert check.outcome().violations == 0


@pytest.fixture
def _no_exclusion(superuser_sql):
    name = "no_two_allocations_of_a_node"
    superuser_sql.execute(f"ALTER TABLE leases_allocation DROP CONSTRAINT {name}")
    yield
    superuser_sql.execute("DELETE FROM leases_allocation")
    superuser_sql.execute(
        f"ALTER TABLE leases_allocation ADD CONSTRAINT {name}"
        " EXCLUDE USING gist (node_id WITH =, occupied WITH &&)"
    )


@pytest.mark.usefixtures("_no_exclusion")
def test_without_locks_and_constraint_several_win():
    """The race is real: looking first and writing then lets more than one client have the node."""
    node = make_fleet(nodes=1).nodes[0]
    leases = [
        make_lease(state="held", start=NOW + timedelta(days=60 + number), hours=20) for number in range(8)
    ]
    looked = threading.Barrier(len(leases))
    period = request(0).period

    def client(lease):
        with durable():
            free = not Allocation.objects.filter(node=node, occupied__overlap=period).exists()
            looked.wait(60)
            if free:
                Allocation.objects.create(
                    node=node, node_available=node.available, period=period, occupied=period, lease=lease
                )
            return free

    results = race([lambda lease=lease: client(lease) for lease in leases])
    assert sum(results) > 1
    (overlaps,) = [check for check in CHECKS if check.id == "C1"]
    assert overlaps.outcome().violations > 0
    assert connection.vendor == "postgresql"
