"""The market as customers may see it: lowest prices, comparisons, ages, and what stays undisclosed."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from inventory import market, price_history
from inventory.models import Offer, PollRun, PricePoint, ProviderAccount
from inventory.prices import API, RATE_CARD
from portal.common.periods import Period
from tests.factories import H100, NOW, make_account, make_instance_type, make_region

pytestmark = pytest.mark.django_db
A100 = "a100-sxm4-80gb"


def make_offer(
    price: str | None,
    *,
    region: str = "aws/us-east-1",
    gpu_model: str = H100,
    gpus_per_node: int = 8,
    purchase: str = "on_demand",
    currency: str = "USD",
    availability: str = "unknown",
    source: str = RATE_CARD,
    seen_at: datetime = NOW - timedelta(days=10),
    account: ProviderAccount | None = None,
    before: tuple[tuple[str, datetime, datetime], ...] = (),
) -> Offer:
    """Return an offer at this price per hour, with earlier prices as (price, from, until)."""
    place = make_region(region=region)
    offer = Offer.objects.create(
        instance_type=make_instance_type(
            gpu_model=gpu_model, gpus_per_node=gpus_per_node, provider=place.provider.slug
        ),
        region=place,
        purchase=purchase,
        price=price,
        currency=currency,
        price_source=source if price else "",
        price_seen_at=seen_at if price else None,
        availability=availability,
        account=account,
        first_seen_at=seen_at,
        changed_at=seen_at,
    )
    for amount, since, until in before:
        PricePoint.objects.create(
            offer=offer, price=amount, currency=currency, source=source, period=Period(since, until, "[)")
        )
    if price:
        PricePoint.objects.create(
            offer=offer, price=price, currency=currency, source=source, period=Period(seen_at, None, "[)")
        )
    return offer


def polled(account: ProviderAccount, region: str, at: datetime, state: str = "complete") -> None:
    PollRun.objects.create(
        account=account, region=make_region(region=region), state=state, started_at=at, finished_at=at
    )


def only(found: list[market.ModelSummary]) -> market.ModelSummary:
    (one,) = found
    return one


def test_the_lowest_price_is_per_gpu_and_says_whose_it_is_and_how_old():
    make_offer("24.00", region="aws/us-east-1")
    make_offer("2.90", region="nebius/eu-north1", gpus_per_node=1, seen_at=NOW - timedelta(days=100))
    make_offer("10.00", region="nebius/eu-north1", purchase="spot")

    found = only(market.model_summaries(now=NOW))

    assert (found.slug, found.clouds, found.regions) == (H100, 2, 2)
    low = found.lowest_of("on_demand", "USD")
    assert low is not None
    assert (low.provider, low.region, low.per_gpu_hour) == ("nebius", "eu-north1", Decimal("2.90"))
    assert (low.price_at, low.source) == (NOW - timedelta(days=100), RATE_CARD)
    spot = found.lowest_of("spot", "USD")
    assert spot is not None and spot.per_gpu_hour == Decimal("1.25")
    assert found.lowest_of("reserved", "USD") is None
    assert (found.newest, found.oldest) == (NOW - timedelta(days=10), NOW - timedelta(days=100))


def test_what_is_sold_out_is_lowest_only_where_nothing_else_is():
    account = make_account(provider="lambda")
    polled(account, "lambda/us-1", NOW)
    make_offer("8.00", region="lambda/us-1", availability="unavailable", account=account)
    assert only(market.model_summaries(now=NOW)).lowest[0].unavailable

    make_offer("16.00", region="aws/us-east-1")
    low = only(market.model_summaries(now=NOW)).lowest[0]
    assert (low.provider, low.unavailable) == ("aws", False)


def test_currencies_are_never_mixed():
    make_offer("24.00", region="aws/us-east-1")
    make_offer("16.00", region="nebius/eu-north1", currency="EUR")
    found = only(market.model_summaries(now=NOW))
    assert {low.currency: low.per_gpu_hour for low in found.lowest} == {"USD": Decimal(3), "EUR": Decimal(2)}
    assert found.lowest_of("on_demand", "USD").provider == "aws"  # type: ignore[union-attr]
    assert found.lowest_of("on_demand", "EUR").provider == "nebius"  # type: ignore[union-attr]
    for currency in ("USD", "EUR"):
        rows, _total = market.compare(gpu_model=H100, currency=currency)
        assert rows[0].currency == currency


@pytest.mark.parametrize(
    ("narrow", "slugs"),
    [
        ({}, {H100, A100}),
        ({"vendor": "nvidia"}, {H100, A100}),
        ({"vendor": "amd"}, set()),
        ({"memory_gib": 81}, set()),
        ({"provider": "nebius"}, {A100}),
        ({"purchase": "spot"}, {H100}),
        ({"text": " hopper "}, {H100}),
        ({"text": "100% _"}, set()),
        ({"slug": A100}, {A100}),
    ],
)
def test_the_list_can_be_narrowed(narrow: dict[str, Any], slugs: set[str]):
    make_offer("24.00")
    make_offer("10.00", purchase="spot")
    make_offer("8.00", region="nebius/eu-north1", gpu_model=A100)
    assert {row.slug for row in market.model_summaries(now=NOW, **narrow)} == slugs


def test_a_polled_price_is_as_old_as_the_last_complete_poll_and_a_card_as_the_card():
    account = make_account()
    region = "aws/us-east-1"
    polled(account, region, NOW - timedelta(hours=1))
    polled(account, region, NOW - timedelta(minutes=5), state="failed")
    polled(account, "aws/us-west-2", NOW)
    make_offer("24.00", source=API, account=account, availability="available")
    make_offer("10.00", purchase="spot")

    rows, total = market.compare(gpu_model=H100)

    assert total == 2
    ages = {row.purchase: (row.source, row.price_at, row.polled_at) for row in rows}
    assert ages["on_demand"] == (API, NOW - timedelta(hours=1), NOW - timedelta(hours=1))
    assert ages["spot"][:2] == (RATE_CARD, NOW - timedelta(days=10))
    summary = only(market.model_summaries(now=NOW))
    assert (summary.regions_available, summary.signal_at) == (1, NOW - timedelta(hours=1))
    assert (summary.newest_source, summary.oldest_source) == (API, RATE_CARD)
    # Two hours later the signal is too old to be called one.
    later = only(market.model_summaries(now=NOW + timedelta(hours=2)))
    assert (later.regions_available, later.regions_known) == (0, 0)


def test_confidential_stock_is_undisclosed_wherever_it_could_show():
    secret = make_account(provider="lambda", stock_confidential=True)
    shown = make_account(provider="lambda")
    for account in (secret, shown):
        polled(account, "lambda/us-1", NOW)
    make_offer("8.00", region="lambda/us-1", availability="unavailable", account=secret)
    make_offer("2.00", region="lambda/us-1", availability="available", account=shown, gpus_per_node=1)
    unclaimed = make_offer("4.00", region="lambda/us-1", availability="available", gpus_per_node=2)
    Offer.objects.filter(pk=unclaimed.pk).update(zones=["a"])

    rows, _total = market.compare(gpu_model=H100)
    assert {row.gpus_per_node: row.availability for row in rows} == {
        8: market.UNDISCLOSED,
        2: market.UNDISCLOSED,
        1: "available",
    }
    assert all(row.zones == () for row in rows)
    found = only(market.model_summaries(now=NOW))
    # Sold out at the secret account: its price is not told from one that can be had.
    assert (found.lowest[0].per_gpu_hour, found.lowest[0].unavailable) == (Decimal(1), False)
    Offer.objects.filter(account=shown).delete()
    found = only(market.model_summaries(now=NOW))
    assert (found.regions_known, found.regions_available, found.signal_at) == (0, 0, None)


def test_confidential_stock_decides_no_choice_of_the_chart():
    secret = make_account(provider="lambda", stock_confidential=True)
    make_offer("8.00", region="lambda/us-1", availability="unavailable", account=secret)
    make_offer("9.00", region="lambda/us-2", availability="available", account=secret)
    (best,) = price_history.cheapest_per_cloud(gpu_model=H100, purchase="on_demand", currency="USD")
    assert best.region == "us-1"


def test_the_last_change_is_the_difference_to_the_price_before():
    make_offer(
        "55.04",
        seen_at=NOW - timedelta(days=5),
        before=(
            ("120.00", NOW - timedelta(days=300), NOW - timedelta(days=200)),
            ("98.32", NOW - timedelta(days=200), NOW - timedelta(days=5)),
        ),
    )
    make_offer("16.00", purchase="spot")
    rows, _total = market.compare(gpu_model=H100, order="price")
    spot, changed = rows
    assert (spot.previous, spot.changed_at, spot.change) == (None, None, None)
    assert (changed.previous, changed.changed_at) == (Decimal("98.32"), NOW - timedelta(days=5))
    assert changed.change is not None and round(changed.change, 3) == Decimal("-0.440")


def test_a_comparison_comes_in_pages_with_one_order_over_all():
    for number in range(7):
        make_offer(f"{10 + number}.00", region=f"aws/r-{number}")
    make_offer(None, region="aws/r-9")
    seen: list[int] = []
    for offset in (0, 3, 6):
        rows, total = market.compare(gpu_model=H100, limit=3, offset=offset)
        assert total == 8
        seen += [row.id for row in rows]
    assert len(set(seen)) == 8
    assert Offer.objects.get(pk=seen[-1]).price is None  # without a price: last
    assert market.compare(gpu_model=H100, offset=100) == ([], 0)


@pytest.mark.parametrize("order", market.ORDERS)
def test_every_order_keeps_every_offer(order: str):
    make_offer("24.00")
    make_offer("8.00", region="nebius/eu-north1", currency="EUR")
    make_offer(None, purchase="spot")
    assert market.compare(gpu_model=H100, order=order)[1] == 3


def test_each_question_is_one_statement_however_many_offers():
    make_offer("24.00")
    counts = []
    for batch in range(2):
        with CaptureQueriesContext(
            connection,
        ) as asked:
            market.model_summaries(now=NOW)
            market.compare(gpu_model=H100)
            market.facets(gpu_model=H100)
            best = price_history.cheapest_per_cloud(gpu_model=H100, purchase="on_demand", currency="USD")
            price_history.history(offer_ids=[one.id for one in best], currency="USD")
        counts.append(len(asked))
        for number in range(5):
            make_offer("20.00", region=f"cloud{number}/r-{batch}")
    assert counts == [5, 5]


def test_the_history_has_gaps_where_there_was_no_price():
    gone = make_offer(
        "3.20",
        gpus_per_node=1,
        seen_at=NOW - timedelta(days=5),
        before=(("4.00", NOW - timedelta(days=40), NOW - timedelta(days=20)),),
    )
    found = price_history.history(offer_ids=[gone.pk], currency="USD")
    assert [(one.per_gpu_hour, one.since, one.until) for one in found] == [
        (Decimal("4.00"), NOW - timedelta(days=40), NOW - timedelta(days=20)),
        (Decimal("3.20"), NOW - timedelta(days=5), None),
    ]
    recent = price_history.history(offer_ids=[gone.pk], currency="USD", since=NOW - timedelta(days=10))
    assert [one.per_gpu_hour for one in recent] == [Decimal("3.20")]
    assert price_history.history(offer_ids=[gone.pk], currency="EUR") == []


def test_each_cloud_has_its_cheapest_offer_and_one_may_choose_others():
    make_offer("24.00")
    best = make_offer("20.00", region="aws/us-west-2")
    other = make_offer("23.60", region="nebius/eu-north1")
    make_offer("1.00", region="nebius/eu-north1", gpu_model=A100)
    found = price_history.cheapest_per_cloud(gpu_model=H100, purchase="on_demand", currency="USD")
    assert [one.id for one in found] == [best.pk, other.pk]
    chosen = price_history.chosen_offers(gpu_model=H100, ids=[other.pk, best.pk, 0], currency="USD")
    assert [one.id for one in chosen] == [other.pk, best.pk]
    assert price_history.chosen_offers(gpu_model=A100, ids=[other.pk], currency="USD") == []
