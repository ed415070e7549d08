"""The audit of supply holds after real polls and imports, and sees what breaks it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from inventory.audit import CHECKS
from inventory.catalog import load_shipped
from inventory.models import Offer, PollRun, PricePoint
from inventory.polling import poll_account
from tests.inventory.conftest import make_account

pytestmark = pytest.mark.django_db


def outcomes() -> dict[str, tuple[int, list[str]]]:
    return {check.id: (check.outcome().checked, check.outcome().examples) for check in CHECKS}


def test_it_holds_for_shipped_prices_and_a_failed_poll(now):
    load_shipped(now=now)
    poll_account(account_id=make_account(credentials=None).pk, now=now)
    found = outcomes()
    assert found["P4"] == (1, [])
    assert found["P5"][0] > 2000
    assert found["P5"][1] == []


def test_it_sees_a_failed_poll_that_wrote(supply, now):
    account = make_account()
    run = PollRun.objects.create(account=account, state="failed", finished_at=now, offers_written=1)
    odd = PollRun.objects.create(account=account, state="complete", finished_at=now)
    assert outcomes()["P4"] == (2, [f"poll run {run.pk} (failed)", f"poll run {odd.pk} (complete)"])


def test_it_sees_a_price_without_its_point_and_a_point_that_is_no_change(supply, now):
    first, second = Offer.objects.filter(price__isnull=False).order_by("pk")[:2]
    Offer.objects.filter(pk=first.pk).update(price=Decimal(1))
    point = PricePoint.objects.get(offer=second)
    period = point.period
    PricePoint.objects.filter(pk=point.pk).update(period=type(period)(period.lower, now, "[)"))
    same = PricePoint.objects.create(
        offer=second, price=point.price, currency="USD", source="api", period=type(period)(now, None, "[)")
    )
    checked, examples = outcomes()["P5"]
    assert checked > 2
    assert f"offer {second.pk}: price points {point.pk} and {same.pk} are equal" in examples
    assert any(text.startswith(f"offer {first.pk}: its price is 1.0") for text in examples)
