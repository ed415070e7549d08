"""Shipped prices are of their card's date, and older ones go before them."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.db import transaction

from inventory.audit import CHECKS
from inventory.catalog import load_shipped
from inventory.models import Offer, PricePoint, Provider
from inventory.shipped_prices import DATA, add_older_prices, card_date, older_prices

CUT = datetime(2025, 6, 1, tzinfo=UTC)
OLD = datetime(2025, 3, 2, tzinfo=UTC)
CARD = datetime(2026, 7, 20, tzinfo=UTC)


def on_demand(name: str, region: str = "us-east-1") -> Offer:
    return Offer.objects.get(instance_type__name=name, region__code=region, purchase="on_demand")


def periods(offer: Offer) -> list[tuple[Decimal, datetime, datetime | None]]:
    points = PricePoint.objects.filter(offer=offer).order_by("period")
    return [(point.price, point.period.lower, point.period.upper) for point in points]


def test_every_card_has_a_date():
    for card in DATA.glob("*.csv"):
        with card.open(encoding="utf-8", newline="") as file:
            if "usd_per_hour" in (csv.DictReader(file).fieldnames or []):
                assert card_date(card.stem) is not None, card.name


def test_older_prices_are_older_than_the_card_and_each_is_there_once():
    for path in (DATA / "history").glob("*.csv"):
        older = older_prices(path.stem)
        assert older
        assert len({(one.region, one.instance_type, one.since) for one in older}) == len(older)
        of = card_date(path.stem)
        assert of is not None
        assert all(one.price > 0 and one.since < (one.until or of) <= of for one in older)


@pytest.mark.django_db
def test_the_history_begins_before_the_card_with_a_gap_where_nothing_is_known(now):
    load_shipped(now=now)
    p5 = on_demand("p5.48xlarge")
    assert (p5.price_source, p5.price_seen_at, p5.first_seen_at) == ("rate_card", CARD, CARD)
    assert periods(p5) == [
        (Decimal("98.32"), OLD, CUT),
        (Decimal("55.04"), CARD, None),
    ]
    # The same price at both dates is one price.
    assert periods(on_demand("g4dn.xlarge")) == [(Decimal("0.526"), OLD, None)]
    assert [check.outcome().violations for check in CHECKS] == [0] * len(CHECKS)

    before = list(PricePoint.objects.order_by("pk").values())
    load_shipped(now=now)
    assert list(PricePoint.objects.order_by("pk").values()) == before


@pytest.mark.django_db
def test_what_a_poll_or_another_card_said_first_gets_no_older_prices(now):
    load_shipped(now=now)
    aws = Provider.objects.get(slug="aws")
    PricePoint.objects.filter(period__startswith__lt=CARD).delete()
    PricePoint.objects.filter(offer=on_demand("g5.xlarge")).delete()
    p5 = PricePoint.objects.get(offer=on_demand("p5.48xlarge"))
    for change in ({"source": "api"}, {"period": (CUT, None)}):
        before = {"source": p5.source, "period": p5.period}
        PricePoint.objects.filter(pk=p5.pk).update(**change)
        with transaction.atomic():
            add_older_prices(provider=aws)
        assert PricePoint.objects.filter(offer=p5.offer).count() == 1
        PricePoint.objects.filter(pk=p5.pk).update(**before)
