"""C7: a node whose last machine may still be there is promised last."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leases.models import Allocation, Turnover
from portal.common.periods import period
from tests.factories import NOW, make_fleet, make_lease

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def nodes():
    """Two free nodes; the machine of the first one's last tenant has not been seen to end."""
    first, second = make_fleet(nodes=2).nodes
    lease = make_lease(start=NOW + HOUR, hours=24)
    past = period(NOW - 3 * HOUR, NOW - 2 * HOUR)
    earlier = Allocation.objects.create(
        node=first, node_available=first.available, period=past, occupied=past, lease=lease
    )
    lease.allocations.exclude(pk=earlier.pk).delete()
    turnover = Turnover.objects.create(allocation=earlier, requested_at=NOW - 2 * HOUR)
    return first, second, turnover


def node_of_new_lease(start):
    return make_lease(start=start, hours=4).allocations.get().node


def test_an_immediate_start_avoids_an_open_turnover(nodes):
    _waiting, clean, _turnover = nodes
    assert node_of_new_lease(NOW) == clean


def test_it_is_promised_when_there_is_no_other(nodes):
    waiting, clean, _turnover = nodes
    assert [node_of_new_lease(NOW), node_of_new_lease(NOW)] == [clean, waiting]


def test_a_completed_turnover_makes_no_difference(nodes):
    first, _second, turnover = nodes
    Turnover.objects.filter(pk=turnover.pk).update(completed_at=NOW - HOUR)
    assert node_of_new_lease(NOW) == first  # the shorter gap, then the lower number


def test_a_later_start_leaves_time_for_the_turnover(nodes):
    first, _second, _turnover = nodes
    assert node_of_new_lease(NOW + 48 * HOUR) == first
