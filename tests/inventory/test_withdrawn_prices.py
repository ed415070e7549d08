"""The price of an offer ends when a complete poll no longer lists it, and begins anew when one does."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from inventory.audit import CHECKS
from inventory.models import Offer, PricePoint, ProviderAccount
from inventory.prices import API, RATE_CARD, OfferRow, Teller, write_offers
from inventory.rate_cards import CardLine, store_card
from tests.factories import NOW, make_account, make_instance_type, make_region

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def say(*prices: str | None, at: Any = NOW, source: str = API, complete: bool = True) -> None:
    """Store what a poll or a card says: one offer at each price."""
    region, kind = make_region(), make_instance_type()
    rows = [
        OfferRow(kind.pk, region.pk, "on_demand", price=Decimal(price) if price else None) for price in prices
    ]
    teller = Teller(ProviderAccount.objects.get().pk, complete=complete) if source == API else None
    with transaction.atomic():
        write_offers(rows=rows, regions=[region.pk], source=source, now=at, teller=teller)


@pytest.fixture(autouse=True)
def _account(db: None) -> None:
    make_account()


def periods() -> list[tuple[Decimal, Any, Any]]:
    points = PricePoint.objects.order_by("period")
    return [(point.price, point.period.lower, point.period.upper) for point in points]


def check() -> None:
    assert [one.outcome().violations for one in CHECKS] == [0] * len(CHECKS)


def test_the_price_ends_and_begins_anew():
    say("24.00")
    say(at=NOW + HOUR)
    gone = Offer.objects.get()
    assert (gone.availability, gone.price, gone.price_source, gone.price_seen_at) == (
        "unavailable",
        None,
        "",
        None,
    )
    check()
    say(at=NOW + 2 * HOUR)  # unchanged: nothing is written
    assert Offer.objects.get().changed_at == NOW + HOUR
    say("24.00", at=NOW + 3 * HOUR)
    assert periods() == [
        (Decimal(24), NOW, NOW + HOUR),
        (Decimal(24), NOW + 3 * HOUR, None),
    ]
    assert Offer.objects.get().price == Decimal(24)
    check()


def test_a_poll_that_returns_half_ends_nothing():
    say("24.00")
    say(at=NOW + HOUR, complete=False)
    assert Offer.objects.get().price == Decimal(24)
    assert periods() == [(Decimal(24), NOW, None)]


def test_the_price_of_a_rate_card_stays():
    say("24.00", source=RATE_CARD)
    say(None, at=NOW + HOUR)
    say(at=NOW + 2 * HOUR)
    gone = Offer.objects.get()
    assert (gone.availability, gone.price, gone.price_source) == ("unavailable", Decimal(24), RATE_CARD)
    assert periods() == [(Decimal(24), NOW, None)]
    check()


def test_the_price_of_confidential_stock_stays_because_its_end_would_tell():
    ProviderAccount.objects.update(stock_confidential=True)
    say("24.00")
    for hours in (1, 2):
        say(at=NOW + hours * HOUR)
        gone = Offer.objects.get()
        assert (gone.availability, gone.price, gone.changed_at) == ("unavailable", Decimal(24), NOW + HOUR)
    assert periods() == [(Decimal(24), NOW, None)]
    check()


def test_an_offer_that_was_sold_out_before_ends_as_well():
    say("24.00")
    Offer.objects.update(availability="unavailable")
    say(at=NOW + HOUR)
    assert Offer.objects.get().price is None
    check()


def test_a_price_that_began_at_this_moment_never_held():
    say("24.00")
    say()
    assert periods() == []
    check()


def test_a_shipped_card_does_not_price_what_was_withdrawn():
    say("24.00")
    say(at=NOW + HOUR)
    region = make_region()
    with transaction.atomic():
        store_card(
            provider=region.provider,
            lines=[CardLine(region.code, make_instance_type().pk, Decimal(20))],
            now=NOW - HOUR,
            only_missing=True,
        )
    assert Offer.objects.get().price is None
