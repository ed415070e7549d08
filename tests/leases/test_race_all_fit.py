"""32 clients, 200 requests, four nodes on which all 200 fit: nobody is refused."""

from __future__ import annotations

import random
from datetime import timedelta
from queue import Empty, SimpleQueue

import pytest

from leases import booking
from leases.audit import CHECKS
from leases.errors import NotEnoughCapacity
from leases.models import Allocation, Lease
from tests.concurrency import race
from tests.factories import NOW, make_fleet, make_organization, make_request

pytestmark = pytest.mark.django_db(transaction=True)
CLIENTS, NODES, DAYS = 32, 4, 50


def book_all():
    """Book every node for every day, all at once; return how many were refused."""
    make_fleet(nodes=NODES)
    organization = make_organization()
    days = [day for day in range(DAYS) for _node in range(NODES)]
    random.Random(20).shuffle(days)
    queue: SimpleQueue[int] = SimpleQueue()
    for day in days:
        queue.put(day)

    def client():
        refused = 0
        while True:
            try:
                day = queue.get_nowait()
            except Empty:
                return refused
            try:
                booking.hold(
                    request=make_request(start=NOW + timedelta(days=1 + day), hours=23),
                    organization=organization,
                    name=f"day {day}",
                    actor=None,
                    now=NOW,
                    expires_at=NOW + timedelta(minutes=15),
                )
            except NotEnoughCapacity:
                refused += 1

    results = race([client] * CLIENTS, timeout=120)
    assert all(isinstance(result, int) for result in results), results
    return sum(results)


def test_all_200_requests_that_fit_are_booked():
    assert book_all() == 0
    assert Lease.objects.count() == Allocation.objects.count() == NODES * DAYS
    for check in CHECKS:
        assert check.outcome().violations == 0


def test_taking_a_short_pick_for_an_answer_refuses_some(monkeypatch):
    """The race is real: nodes that others have locked for a moment look like no nodes at all."""
    monkeypatch.setattr(booking, "ROUNDS", 1)
    assert book_all() > 0
    assert Lease.objects.count() < NODES * DAYS
