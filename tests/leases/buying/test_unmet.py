"""Searches without room are kept, once per wish and day, and never with who searched."""

from __future__ import annotations

from datetime import timedelta

import pytest

from billing import availability, checkout
from leases.buying import unmet
from leases.buying.demand import demand
from leases.errors import NotEnoughCapacity
from leases.models import UnmetSearch
from leases.requests import CapacityRequest
from tests.billing.helpers import make_customer
from tests.concurrency import race
from tests.factories import H100, NOW, make_fleet, make_lease, make_organization, make_request

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(minutes=1)


def search(nodes: int, *, now=NOW, organization=None, days: int = 1):
    request = CapacityRequest(
        gpu_model=H100,
        gpus_per_node=8,
        nodes=nodes,
        start=NOW + timedelta(days=1),
        end=NOW + timedelta(days=1 + days),
    )
    return availability.search(organization=organization or make_organization(), request=request, now=now)


def test_a_search_that_finds_something_is_not_kept():
    make_fleet(nodes=2)
    assert search(2).slots
    assert not UnmetSearch.objects.exists()


def test_a_search_that_finds_nothing_is_kept_without_who():
    make_fleet(nodes=2)
    assert not search(5).slots
    wish = UnmetSearch.objects.get()
    assert (wish.nodes, wish.gpus_per_node, wish.hours, wish.times) == (5, 8, 24, 1)
    assert wish.earliest == NOW + timedelta(days=1)
    names = {field.name for field in UnmetSearch._meta.get_fields()}
    assert names.isdisjoint({"user", "organization", "created_by", "asked_by", "session"})


def test_the_same_wish_of_a_day_is_one_row():
    make_fleet(nodes=2)
    for minute in range(3):
        search(5, now=NOW + timedelta(minutes=minute))
    search(6)
    search(5, now=NOW + timedelta(hours=20))  # the next day, UTC
    assert sorted(UnmetSearch.objects.values_list("nodes", "times")) == [(5, 1), (5, 3), (6, 1)]


def test_a_quote_that_comes_too_late_is_kept():
    make_fleet(nodes=1)
    request = make_request(nodes=3)
    with pytest.raises(NotEnoughCapacity):
        checkout.quote(organization=make_customer(), request=request, actor=None, now=NOW)
    assert UnmetSearch.objects.get().nodes == 3


@pytest.mark.django_db(transaction=True)
def test_two_at_once_are_both_counted():
    make_fleet(nodes=1)
    organization = make_organization()
    times = [NOW + timedelta(seconds=number) for number in range(4)]
    results = race([lambda now=now: search(4, now=now, organization=organization) for now in times])
    assert not [result for result in results if isinstance(result, Exception)]
    wish = UnmetSearch.objects.get()
    assert 1 <= wish.times <= 4


def test_old_wishes_are_forgotten():
    make_fleet(nodes=1)
    search(5)
    assert unmet.forget_old(now=NOW + timedelta(days=179)) == 0
    assert unmet.forget_old(now=NOW + timedelta(days=181)) == 1


def test_demand_counts_what_is_wanted_at_once_and_what_is_held():
    fleet = make_fleet(nodes=4)
    make_lease(nodes=2, start=NOW + timedelta(hours=1), end=NOW + timedelta(days=10))
    search(5, days=2)  # 40 GPUs from tomorrow for two days
    search(6, days=4)  # 48 more in the same days
    search(6, days=4, now=LATER)  # again, which wants nothing more
    (row,) = demand(now=NOW, ahead=timedelta(days=30))
    assert (row.slug, row.wishes, row.times, row.peak) == (H100, 2, 3, 88)
    assert row.gpu_hours == 40 * 48 + 48 * 96
    assert row.held == row.held_later == 8 * len(fleet.nodes)
    assert row.used == 0
    # 2 of 4 nodes for ten days less an hour, of thirty days
    assert row.booked == pytest.approx(0.5 * (240 - 1) / 720, rel=0.02)


def test_the_largest_wish_is_counted():
    make_fleet(nodes=1)
    search(10_000, days=1830)
    (row,) = demand(now=NOW, ahead=timedelta(days=30))
    assert row.gpu_hours == 10_000 * 8 * 1830 * 24


def test_a_wish_whose_time_is_over_is_no_demand():
    make_fleet(nodes=1)
    search(5)
    assert demand(now=NOW + timedelta(days=3), ahead=timedelta(days=30))[0].wishes == 0


def test_capacity_that_ends_is_shown():
    make_fleet(nodes=4)
    (row,) = demand(now=NOW, ahead=timedelta(days=365))
    assert (row.held, row.held_later, row.ending) == (32, 0, 32)
