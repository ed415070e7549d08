"""Each check finds what breaks its invariant. The database refuses most of it, so a superuser breaks it."""

from __future__ import annotations

import pytest

from leases import audit
from leases.models import Lease
from tests.factories import make_fleet, make_lease

pytestmark = pytest.mark.django_db(transaction=True)


def outcome(number):
    (check,) = [check for check in audit.CHECKS if check.id == number]
    return check.outcome()


@pytest.fixture
def lease():
    make_fleet(nodes=6, nodes_per_fabric=3)
    return make_lease(nodes=3, one_fabric=True)


def test_all_is_well(lease):
    for check in audit.CHECKS:
        found = check.outcome()
        assert found.violations == 0, found
    assert outcome("C1").checked == 3
    assert outcome("C3").checked == 1


def test_ids_are_those_of_the_design():
    assert [check.id for check in audit.CHECKS] == ["C1", "C2", "C3", "C4", "C5", "C6"]


# Run one by one under ``session_replication_role = replica``, which fires no trigger of a foreign key.
BREAK = {
    "C1": [
        "ALTER TABLE leases_allocation DROP CONSTRAINT no_two_allocations_of_a_node",
        "UPDATE leases_allocation SET node_id = (SELECT min(node_id) FROM leases_allocation)",
    ],
    "C2": [
        """UPDATE inventory_node SET available = tstzrange('2026-01-01', '2026-01-02')
        WHERE id = (SELECT min(node_id) FROM leases_allocation)"""
    ],
    "C3": ["DELETE FROM leases_allocation WHERE id = (SELECT min(id) FROM leases_allocation)"],
    "C4": [
        """UPDATE inventory_node SET fabric_id = NULL
        WHERE id = (SELECT min(node_id) FROM leases_allocation)"""
    ],
    "C5": ["UPDATE leases_lease SET state = 'lapsed'"],
    "C6": [
        """UPDATE inventory_node SET health = 'retired'
        WHERE id = (SELECT min(node_id) FROM leases_allocation)"""
    ],
}
RESTORE = {
    "C1": [
        "DELETE FROM leases_allocation",
        """ALTER TABLE leases_allocation ADD CONSTRAINT no_two_allocations_of_a_node
        EXCLUDE USING gist (node_id WITH =, occupied WITH &&)""",
    ]
}


@pytest.mark.parametrize("number", BREAK)
def test_a_broken_invariant_is_found(lease, superuser_sql, number):
    superuser_sql.execute("SET session_replication_role = replica")
    try:
        for statement in BREAK[number]:
            superuser_sql.execute(statement)
        found = outcome(number)
        assert found.violations >= 1
        assert found.examples
    finally:
        for statement in RESTORE.get(number, []):
            superuser_sql.execute(statement)


def test_too_many_nodes_are_found_too(lease, superuser_sql):
    superuser_sql.execute("UPDATE leases_term SET nodes = 2")
    assert "too many" in outcome("C3").examples[0]


def test_a_hold_that_nobody_swept_is_found(lease, superuser_sql):
    superuser_sql.execute("UPDATE leases_lease SET state = 'held', deadline = now() - interval '2 hours'")
    assert Lease.objects.get().uid in outcome("C5").examples[0]
