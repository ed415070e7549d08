"""How many SQL statements a page needs does not grow with what it shows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing import metering
from leases.models import Lease
from tests.billing.helpers import deliver, make_booking
from tests.dashboard.conftest import Customer
from tests.factories import make_project


def book(customer: Customer, *, nodes: int = 1, days_ahead: int = 2) -> Lease:
    start = (customer.now + timedelta(days=days_ahead)).replace(minute=0, second=0, microsecond=0)
    return make_booking(
        customer.organization,
        now=customer.now,
        start=start,
        hours=24,
        nodes=nodes,
        name=f"lease {days_ahead}",
        project=make_project(organization=customer.organization),
    )


def run(customer: Customer, *, days_ago: int) -> Lease:
    """Return a lease of one day that was delivered and charged."""
    start = (customer.now - timedelta(days=days_ago)).replace(minute=0, second=0, microsecond=0)
    lease = make_booking(
        customer.organization, now=start - timedelta(hours=1), start=start, hours=24, name=f"past {days_ago}"
    )
    deliver(lease, start, start + timedelta(hours=24))
    Lease.objects.filter(pk=lease.pk).update(state=Lease.State.ENDED)
    metering.meter_due(now=customer.now)
    return lease


def count(customer: Customer, path: str) -> int:
    customer.client.get(path)  # the first visit may fill caches
    with CaptureQueriesContext(connection) as captured:
        answer = customer.client.get(path)
    assert answer.status_code == 200
    return len(captured)


@pytest.mark.parametrize("path", ["/", "/leases/?show=all", "/usage/", "/reserve/"])
def test_the_number_of_leases_does_not_matter(customer: Customer, path: str) -> None:
    book(customer)
    run(customer, days_ago=3)
    few = count(customer, path)
    for ahead in range(4, 10):
        book(customer, days_ahead=ahead)
    for ago in (5, 7, 9):
        run(customer, days_ago=ago)
    assert count(customer, path) == few


def test_the_number_of_nodes_does_not_matter(customer: Customer) -> None:
    small, large = book(customer), book(customer, nodes=5, days_ahead=4)
    pages = [reverse("dashboard:lease", args=[lease.uid]) for lease in (small, large)]
    assert count(customer, pages[0]) == count(customer, pages[1])
