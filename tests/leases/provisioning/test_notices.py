"""Notices before the end: four, once each, and none that is overtaken."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leases.models import EndNotice, Lease
from leases.provisioning import sweep
from portal.accounts.models import Event
from tests.concurrency import race
from tests.factories import Fleet
from tests.leases.provisioning.conftest import START, Cloud, book, run_until_active

pytestmark = pytest.mark.django_db(transaction=True)

LATER = START + timedelta(days=3)


@pytest.fixture
def active(cloud: Cloud, fleet: Fleet) -> Lease:
    return run_until_active(book(end=LATER))


def told(lease: Lease) -> list[int]:
    events = Event.objects.filter(
        kind="lease.ends_soon", subject_id=lease.uid, organization=lease.organization
    )
    return [event.after["minutes_before"] for event in events.order_by("pk")]


def test_each_notice_is_given_once(active: Lease) -> None:
    for minutes in (1441, 1440, 1439, 121, 120, 119, 31, 30, 29, 6, 5, 4, 0, -1):
        now = LATER - timedelta(minutes=minutes)
        race([lambda now=now: sweep.notify_due(now=now)] * 2)  # type: ignore[misc]
    assert told(active) == [1440, 120, 30, 5]
    assert EndNotice.objects.filter(lease=active, ends_at=LATER).count() == 4


def test_after_an_outage_only_the_nearest_is_given(active: Lease) -> None:
    assert sweep.notify_due(now=LATER - timedelta(minutes=20)) == 1
    assert sweep.notify_due(now=LATER - timedelta(minutes=19)) == 0
    assert told(active) == [30]
    event = Event.objects.get(kind="lease.ends_soon")
    assert event.message.startswith("The lease ends in 20 minutes.")


def test_a_short_lease_is_not_told_what_it_knew_when_it_was_booked(cloud: Cloud, fleet: Fleet) -> None:
    lease = run_until_active(book(end=START + timedelta(hours=3)))
    sweep.notify_due(now=START + timedelta(minutes=5))
    assert told(lease) == []
    sweep.notify_due(now=START + timedelta(minutes=61))
    assert told(lease) == [120]


def test_a_lease_that_ended_is_left_alone(active: Lease) -> None:
    sweep.end_due(now=LATER)
    sweep.turnover_due(now=LATER)
    assert sweep.notify_due(now=LATER - timedelta(minutes=1)) == 0
