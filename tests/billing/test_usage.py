"""Spend and GPU-hours by day, and what a lease costs so far and to its end."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from billing import metering, usage
from leases.models import Lease
from tests.billing.helpers import deliver, make_booking, make_customer, make_quote, make_rule
from tests.factories import NOW, make_fleet, make_organization, make_project

pytestmark = pytest.mark.django_db

START = NOW + timedelta(days=1)  # 2026-12-02 09:00
HOUR = timedelta(hours=1)


@pytest.fixture
def customer():
    make_fleet(nodes=4)
    make_rule()
    return make_customer(funds="5000")


def test_a_charge_over_midnight_is_shared_out(customer):
    deliver(make_booking(customer), START)
    metering.meter_due(now=START + 24 * HOUR)
    days = usage.spend_by_day(organization=customer, start=date(2026, 12, 1), end=date(2026, 12, 4))
    assert [(day.day.day, day.value) for day in days] == [(1, 0), (2, 240), (3, 144), (4, 0)]
    hours = usage.gpu_hours_by_day(organization=customer, start=date(2026, 12, 2), end=date(2026, 12, 3))
    assert [day.value for day in hours] == [120, 72]
    assert sum(day.value for day in days) == 384


def test_spend_is_the_organizations_and_the_projects_own(customer):
    project = make_project(organization=customer)
    deliver(make_booking(customer, project=project), START)
    deliver(make_booking(customer), START)
    metering.meter_due(now=START + HOUR)
    day = {"start": date(2026, 12, 2), "end": date(2026, 12, 2)}
    assert usage.spend_by_day(organization=customer, **day)[0].value == 32
    assert usage.spend_by_day(organization=customer, project=project, **day)[0].value == 16
    assert usage.spend_by_day(organization=make_organization(), **day)[0].value == 0


def test_what_was_taken_back_lowers_its_own_day(customer):
    lease = make_booking(customer)
    deliver(lease, START)
    metering.meter_due(now=START + 4 * HOUR)
    deliver(lease, START, START + HOUR)
    metering.meter_due(now=START + 4 * HOUR)
    (day,) = usage.spend_by_day(organization=customer, start=date(2026, 12, 2), end=date(2026, 12, 2))
    assert day.value == 16


def test_what_a_lease_costs(customer):
    quote = make_quote(customer)
    cost = usage.lease_cost(quote.lease, now=NOW)
    assert (cost.charged, cost.to_come, cost.expected, cost.quoted) == (0, 384, 384, 384)
    lease = make_booking(customer, nodes=2)
    deliver(lease, START)
    metering.meter_due(now=START + 2 * HOUR)
    cost = usage.lease_cost(lease, now=START + 3 * HOUR)  # an hour is not metered yet
    assert (cost.charged, cost.expected, cost.currency) == (64, 768, "USD")


def test_undelivered_time_and_an_ended_lease_cost_nothing_more(customer):
    lease = make_booking(customer)
    assert usage.lease_cost(lease, now=START + 4 * HOUR).to_come == 20 * 16
    deliver(lease, START, START + 4 * HOUR)
    Lease.objects.filter(pk=lease.pk).update(state=Lease.State.ENDED)
    lease.refresh_from_db()
    assert usage.lease_cost(lease, now=START + 5 * HOUR).expected == Decimal(64)
    metering.meter_due(now=START + 5 * HOUR)
    cost = usage.lease_cost(lease, now=START + 5 * HOUR)
    assert (cost.charged, cost.to_come) == (64, 0)
