"""Sweeping lapsed holds: in batches, and safe twice at once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leases import booking, lifecycle
from leases.models import Allocation, Lease
from portal.accounts.models import Event
from portal.accounts.organizations import NotApproved
from portal.common.errors import Conflict
from portal.common.transactions import durable
from tests.concurrency import race
from tests.factories import NOW, make_fleet, make_lease, make_organization

LATER = NOW + timedelta(hours=1)


@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_lapse_each_hold_once():
    make_fleet(nodes=6)
    organization = make_organization()
    for _number in range(6):
        make_lease(state="held", organization=organization)
    counts = race([lambda: lifecycle.lapse_holds(now=LATER)] * 4)
    assert sum(counts) == 6
    assert not Allocation.objects.exists()
    assert Event.objects.filter(kind="lease.lapsed").count() == 6


@pytest.mark.django_db
def test_a_sweep_goes_on_after_a_full_batch(monkeypatch):
    monkeypatch.setattr(lifecycle, "LAPSE_BATCH", 2)
    make_fleet(nodes=5)
    for _number in range(5):
        make_lease(state="held")
    assert lifecycle.lapse_holds(now=LATER) == 5
    assert set(Lease.objects.values_list("state", flat=True)) == {"lapsed"}


@pytest.mark.django_db
def test_all_nodes_of_a_lapsed_hold_are_freed_though_one_is_wanted():
    make_fleet(nodes=3)
    old = make_lease(state="held", nodes=3)
    make_lease(nodes=1, now=LATER, start=LATER)
    assert old.allocations.count() == 0
    assert Allocation.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["pending", "restricted", "suspended"])
def test_an_organization_that_may_not_book_accepts_nothing(state):
    make_fleet(nodes=1)
    organization = make_organization()
    lease = make_lease(state="held", organization=organization)
    organization.state = state
    organization.save()
    with durable():
        locked = lifecycle.lock_lease(lease.pk)
        with pytest.raises(NotApproved) as refused:
            booking.confirm(locked, to="scheduled", actor=None, now=NOW)
    assert refused.value.status == 403
    lease.refresh_from_db()
    assert lease.state == "held"


@pytest.mark.django_db
def test_a_lease_that_runs_cannot_be_cancelled():
    make_fleet(nodes=1)
    lease = make_lease()
    with durable():
        locked = lifecycle.lock_lease(lease.pk)
        lifecycle.move(locked, "provisioning", actor=None, now=NOW)
        with pytest.raises(Conflict, match="not started"):
            lifecycle.cancel(locked, actor=None, now=NOW)
    assert lease.allocations.count() == 1
