"""Tasks call one function each, on beat, and running twice changes nothing."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from billing import accounts, checkout, ledger, tasks
from billing.models import AccountingPeriod, Invoice, UsageRecord
from leases.models import Lease
from portal.celery import BEAT_SCHEDULE, app
from portal.common.periods import period
from tests.billing.helpers import deliver, make_booking, make_customer, make_quote, make_rule, money_snapshot
from tests.factories import make_fleet

pytestmark = pytest.mark.django_db


@pytest.fixture
def now():
    moment = timezone.now()
    make_fleet(nodes=2, available=period(moment - timedelta(days=100), moment + timedelta(days=100)))
    make_rule(since=moment - timedelta(days=400))
    return moment


def twice(task):
    task()
    before = money_snapshot()
    task()
    assert money_snapshot() == before


def test_funds_that_arrived_schedule_a_lease(now):
    customer = make_customer()
    quote = make_quote(customer, now=now, start=now + timedelta(days=2))
    lapsed = make_quote(customer, now=now - timedelta(hours=1), start=now + timedelta(days=5))
    lease = checkout.accept(
        quote_uid=quote.uid, organization=customer, actor=None, now=now, wait_for_funds=True
    )
    accounts.top_up(organization=customer, amount=Decimal(500), reference="r", actor=None, now=now)
    twice(tasks.settle_awaiting)
    lease.refresh_from_db()
    lapsed.refresh_from_db()
    assert lease.state == Lease.State.SCHEDULED and lapsed.state == "lapsed"


def test_last_month_is_metered_drafted_and_closed(now):
    first = ledger.month_start(ledger.last_month(now))
    customer = make_customer(funds="1000")
    lease = make_booking(customer, now=first, start=first + timedelta(days=2))
    deliver(lease, first + timedelta(days=2))
    twice(tasks.meter)
    assert UsageRecord.objects.count() == 1
    tasks.draft_last_month()
    twice(tasks.draft_last_month)
    assert Invoice.objects.get().total == 384
    twice(tasks.close_last_month)
    assert AccountingPeriod.objects.get(month=first.date()).closed_at is not None


def test_every_beat_entry_names_a_task_and_expires():
    app.loader.import_default_modules()
    mine = {name: entry for name, entry in BEAT_SCHEDULE.items() if entry["task"].startswith("billing.")}
    assert {entry["task"] for entry in mine.values()} >= {
        "billing.tasks.meter",
        "billing.tasks.settle_awaiting",
        "billing.tasks.draft_last_month",
        "billing.tasks.close_last_month",
    }
    for entry in mine.values():
        assert entry["task"] in app.tasks
        assert entry["options"]["expires"] > 0
