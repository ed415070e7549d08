"""Accepting a hold while it lapses: a lease with its nodes or none at all, never one without nodes."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from leases import booking, lifecycle
from leases.audit import CHECKS
from leases.errors import HoldLapsed
from leases.models import Allocation, Lease
from portal.common.transactions import durable
from tests.concurrency import race
from tests.factories import NOW, make_fleet, make_lease, make_organization, make_request

pytestmark = pytest.mark.django_db(transaction=True)
ROUNDS = 20
BEFORE, AFTER = NOW + timedelta(minutes=15) - timedelta(seconds=1), NOW + timedelta(minutes=16)


def accept(pk):
    with durable():
        return booking.confirm(lifecycle.lock_lease(pk), to="scheduled", actor=None, now=BEFORE).state


def test_an_accepted_hold_has_its_nodes_and_a_lapsed_one_has_none():
    make_fleet(nodes=2)
    organization = make_organization()
    outcomes = set()
    for number in range(ROUNDS):
        start = NOW + timedelta(days=1 + 2 * number)
        pk = make_lease(state="held", nodes=2, start=start, organization=organization).pk

        def book_over(start=start):
            """Another customer books the same nodes, and lapses the hold in the way."""
            return booking.hold(
                request=make_request(nodes=2, start=start),
                organization=organization,
                name="another",
                actor=None,
                now=AFTER,
                expires_at=AFTER + timedelta(hours=1),
            )

        lapse = book_over if number % 2 else lambda: lifecycle.lapse_holds(now=AFTER)
        accepted, _lapsed = race([lambda pk=pk: accept(pk), lapse])
        lease = Lease.objects.get(pk=pk)
        outcomes.add(lease.state)
        if lease.state == "scheduled":
            assert (accepted, lease.allocations.count()) == ("scheduled", 2)
        else:
            assert isinstance(accepted, HoldLapsed)
            assert (lease.state, lease.allocations.count()) == ("lapsed", 0)
    assert outcomes <= {"scheduled", "lapsed"}
    for check in CHECKS:
        if check.id != "C5":  # the wall clock is not ours
            assert check.outcome().violations == 0, check.outcome()


def test_without_the_lease_lock_a_lease_is_left_without_nodes():
    """The race is real: both look at the same hold, both find that they may."""
    make_fleet(nodes=1)
    pk = make_lease(state="held").pk
    looked = threading.Barrier(2)

    def naive_accept():
        lease = Lease.objects.get(pk=pk)
        may = lease.state == "held" and lease.deadline > BEFORE
        looked.wait(30)
        if may:
            Lease.objects.filter(pk=pk).update(state="scheduled")

    def naive_lapse():
        lease = Lease.objects.get(pk=pk)
        may = lease.state == "held" and lease.deadline <= AFTER
        looked.wait(30)
        if may:
            Allocation.objects.filter(lease=pk).delete()

    race([naive_accept, naive_lapse])
    lease = Lease.objects.get(pk=pk)
    assert (lease.state, lease.allocations.count()) == ("scheduled", 0)
    (quantities,) = [check for check in CHECKS if check.id == "C3"]
    assert quantities.outcome().violations == 1
