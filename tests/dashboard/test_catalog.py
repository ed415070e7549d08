"""The catalog's pages: what they show, what can be chosen, and what they do not tell."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from billing.accounts import account_for
from billing.models import BillingAccount
from inventory.models import GpuModel, Offer
from inventory.price_history import ChartedOffer, PricePeriod
from inventory.prices import API
from portal.dashboard.market_charts import price_chart
from tests.dashboard.conftest import Customer
from tests.factories import H100, make_account, make_gpu_model
from tests.inventory.test_market import make_offer, polled

pytestmark = pytest.mark.django_db
A100 = "a100-sxm4-40gb"
LIST = "/catalog/"
H100_PAGE = f"/catalog/{H100}/"


def words(customer: Customer, path: str, *, status: int = 200, **headers: Any) -> str:
    """Return the page's text, without markup and with single spaces."""
    answer = customer.client.get(path, headers=headers)
    assert answer.status_code == status
    text = re.sub(r"<script.*?</script>|<[^>]+>", " ", answer.content.decode(), flags=re.S)
    return " ".join(text.replace("\u202f", " ").split())


def market(now: datetime) -> None:
    """Three clouds' prices: H100 at $3.00 and $2.50, spot at $1.25, and an A100 at $1.00."""
    make_offer("24.00", region="aws/us-east-1", seen_at=now - timedelta(days=3))
    make_offer("20.00", region="nebius/eu-north1", seen_at=now - timedelta(days=200))
    make_offer("10.00", region="nebius/eu-north1", purchase="spot", seen_at=now - timedelta(days=3))
    make_offer("8.00", region="lambda/us-1", gpu_model=A100, seen_at=now - timedelta(days=3))


def test_the_list_puts_our_price_beside_the_lowest_and_says_how_old_each_is(customer: Customer) -> None:
    market(customer.now)
    text = words(customer, LIST)
    assert "2 GPU models" in text
    row = text[text.index("H100 SXM 80 GB") : text.index("A100 SXM 40 GB")]
    assert "$2.50 NEBIUS eu-north1 rate card of" in row
    assert "stale" in row  # 200 days old
    assert "$1.25" in row
    assert "$2.00 −20 % to the lowest 48 GPUs free, as of" in row
    assert "2 clouds, 2 regions" in row
    assert "not held" in text[text.index("A100 SXM 40 GB") :]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("vendor=nvidia", {"H100", "A100"}),
        ("memory=80", {"H100"}),
        ("cloud=lambda", {"A100"}),
        ("purchase=spot", {"H100"}),
        ("q=hopper", {"H100"}),
        ("vendor=voodoo&memory=lots&sort=chaos&hours=-1", {"H100", "A100"}),
    ],
)
def test_the_list_is_narrowed_by_its_address(customer: Customer, query: str, shown: set[str]) -> None:
    market(customer.now)
    make_gpu_model(slug="h200-sxm5-141gb")
    answer = words(customer, f"{LIST}?{query}", **{"HX-Request": "true"})
    assert {name for name in ("H100", "A100") if f"{name} SXM" in answer} == shown
    assert "Catalog" not in answer  # htmx gets the list alone
    assert words(customer, f"{LIST}?{query}").count("Catalog") > 1


@pytest.mark.parametrize(
    ("sort", "first"),
    [("price", "A100"), ("held", "H100"), ("memory", "H100"), ("clouds", "H100"), ("name", "A100")],
)
def test_the_list_can_be_ordered(customer: Customer, sort: str, first: str) -> None:
    market(customer.now)
    text = words(customer, f"{LIST}?sort={sort}", **{"HX-Request": "true"})
    assert min(("H100", "A100"), key=lambda name: text.index(f"{name} SXM")) == first


def test_an_empty_catalog_and_an_empty_search_say_what_to_do(customer: Customer) -> None:
    assert "The catalog is empty" in words(customer, LIST)
    market(customer.now)
    text = words(customer, f"{LIST}?q=voodoo")
    assert "No GPU model fits these filters" in text and "Show everything" in text
    make_gpu_model(slug="h200-sxm5-141gb")
    assert "No cloud offers this GPU yet" in words(customer, "/catalog/h200-sxm5-141gb/")
    assert "No offer fits these filters" in words(customer, f"{H100_PAGE}?cloud=nebius&region=us-east-1")


def test_a_model_that_does_not_exist_is_a_404(customer: Customer) -> None:
    assert customer.client.get("/catalog/voodoo-2/").status_code == 404


def test_the_comparison_shows_every_offer_beside_ours(customer: Customer) -> None:
    market(customer.now)
    make_offer(
        "30.00",
        region="lambda/us-2",
        seen_at=customer.now - timedelta(days=5),
        before=(("40.00", customer.now - timedelta(days=90), customer.now - timedelta(days=5)),),
    )
    text = words(customer, H100_PAGE)
    assert "3 offers" in text  # on demand
    assert "$3.0000 rate card of" in text
    assert "−33 % $2.00 , same machine" in text  # we hold p5.48xlarge in us-east-1
    assert "−25 %" in text  # $40 to $30
    assert "4 offers" in words(customer, f"{H100_PAGE}?purchase=any")
    assert "1 offer" in words(customer, f"{H100_PAGE}?purchase=spot&cloud=nebius&sort=size&page=7&range=30d")


def test_reserve_leads_to_a_search_that_finds_it(customer: Customer) -> None:
    market(customer.now)
    page = customer.client.get(H100_PAGE).content.decode()
    url = next(url for url in re.findall(r'href="([^"]+)"', page) if "/reserve/?" in url).replace(
        "&amp;", "&"
    )
    asked = parse_qs(urlsplit(url).query)
    assert (asked["gpu"], asked["duration"]) == ([f"{H100}:8"], ["7"])
    assert "What fits" in words(customer, url)


def test_a_longer_lease_may_have_another_price(customer: Customer) -> None:
    from tests.billing.helpers import make_rule

    market(customer.now)
    make_rule(name="long", amount="1.50", min_hours=24 * 30, since=customer.now - timedelta(days=1))
    assert "$2.0000 per GPU-hour" in words(customer, H100_PAGE)
    assert "$1.5000 per GPU-hour" in words(customer, f"{H100_PAGE}?hours=720")


def test_prices_in_another_currency_are_shown_and_not_compared(customer: Customer) -> None:
    make_offer("24.00", currency="EUR")
    text = words(customer, H100_PAGE)
    assert "another currency: not compared" in text
    assert "not compared $2.00" in text
    make_offer("24.00", region="nebius/eu-north1")
    assert "Prices are in EUR, USD" in words(customer, H100_PAGE)
    assert "Prices are in EUR, USD" in words(customer, LIST)
    BillingAccount.objects.filter(pk=account_for(customer.organization).pk).update(currency="GBP")
    assert "With us" in words(customer, LIST)


def test_confidential_stock_shows_nowhere(customer: Customer) -> None:
    secret = make_account(provider="lambda", stock_confidential=True)
    polled(secret, "lambda/us-1", customer.now)
    offer = make_offer("24.00", region="lambda/us-1", source=API, account=secret, availability="unavailable")
    seen = [words(customer, path) for path in (LIST, f"{LIST}?sort=price", H100_PAGE)]
    assert "not disclosed" in seen[2]
    Offer.objects.filter(pk=offer.pk).update(availability="available")
    again = [words(customer, path) for path in (LIST, f"{LIST}?sort=price", H100_PAGE)]
    assert [_timeless(text) for text in seen] == [_timeless(text) for text in again]


def _timeless(text: str) -> str:
    return re.sub(r"\d+ min|as of [\d:]+", "", text)


def test_availability_has_the_age_of_its_poll(customer: Customer) -> None:
    account = make_account(provider="lambda")
    polled(account, "lambda/us-1", timezone.now() - timedelta(minutes=4))
    make_offer("24.00", region="lambda/us-1", source=API, account=account, availability="available")
    text = words(customer, H100_PAGE)
    assert "$3.0000 polled 4 min ago" in text
    assert "Available polled 4 min ago" in text
    assert "in stock in 1 of 1" in words(customer, LIST)


def test_the_chart_takes_the_offers_that_one_chooses(customer: Customer) -> None:
    market(customer.now)
    ids = {offer.region.code: offer.pk for offer in Offer.objects.filter(purchase="on_demand")}
    assert "each cloud’s cheapest" in words(customer, H100_PAGE)
    chosen = words(customer, f"{H100_PAGE}?chart={ids['us-east-1']}&chart=0&chart=x&chart={'9' * 5000}")
    assert "the offers that you chose" in chosen
    assert "Show each cloud’s cheapest instead" in chosen
    # Another model's offer is not drawn.
    assert "each cloud’s cheapest" in words(customer, f"{H100_PAGE}?chart={ids['us-1']}")


def test_the_pages_need_the_same_statements_whatever_they_show(customer: Customer) -> None:
    market(customer.now)
    counts: list[list[int]] = []
    for batch in (1, 2):
        sizes = []
        for path in (LIST, H100_PAGE):
            customer.client.get(path)
            with CaptureQueriesContext(connection) as asked:
                assert customer.client.get(path).status_code == 200
            sizes.append(len(asked))
        counts.append(sizes)
        for number in range(60):
            make_offer("24.00", region=f"cloud-{number % 7}/r-{batch}-{number}", seen_at=customer.now)
        make_offer("8.00", gpu_model="h200-sxm5-141gb", region=f"aws/r-{batch}")
    assert counts[0] == counts[1]
    assert GpuModel.objects.count() == 3
    assert "Page 1 of 3" in words(customer, H100_PAGE)
    assert "Page 2 of 3" in words(customer, f"{H100_PAGE}?page=2")


NOW = datetime.fromisoformat("2026-11-01T00:00:00+00:00")


def charted(pk: int, cloud: str = "AWS") -> ChartedOffer:
    return ChartedOffer(pk, cloud.lower(), cloud, "r", "t", 8, "USD", Decimal(3))


def held(pk: int, price: str, since: int, until: int | None) -> PricePeriod:
    """A price from so many days ago until so many days ago."""
    return PricePeriod(
        pk,
        Decimal(price),
        "USD",
        API,
        NOW - timedelta(days=since),
        None if until is None else NOW - timedelta(days=until),
    )


def test_a_withdrawn_offer_is_a_gap_that_begins_when_it_ended() -> None:
    chart = price_chart(
        offers=[charted(1), charted(2, "Nebius")],
        periods=[held(1, "4", 100, 60), held(1, "3", 20, None), held(2, "2", 50, None)],
        since=None,
        now=NOW,
        currency="USD",
    )
    assert chart is not None
    first, second = chart.lines
    assert first.line.count("M") == 2
    # From day 100 to day 60 of 100: the step holds until the offer was withdrawn, at 40 %.
    assert first.line.startswith("M0 ") and "H40V" in first.line
    assert second.line.startswith("M50 ") and "H100V" in second.line
    by_day = {(NOW - row.at).days: row.texts for row in chart.rows}
    assert by_day == {
        100: ["$4.00", "–"],
        60: ["–", "–"],
        50: ["–", "$2.00"],
        20: ["$3.00", "$2.00"],
        0: ["$3.00", "$2.00"],
    }
    assert [label.text for label in chart.labels] == ["AWS", "Nebius"]


def test_a_range_begins_with_the_price_that_held_then() -> None:
    chart = price_chart(
        offers=[charted(1)],
        periods=[held(1, "4", 100, 20), held(1, "3", 20, None)],
        since=NOW - timedelta(days=30),
        now=NOW,
        currency="USD",
    )
    assert chart is not None
    assert [row.texts for row in chart.rows] == [["$4.00"], ["$3.00"], ["$3.00"]]
    assert chart.rows[0].at == NOW - timedelta(days=30)
    assert price_chart(offers=[charted(1)], periods=[], since=None, now=NOW, currency="USD") is None


def test_offers_of_one_cloud_are_told_apart() -> None:
    chart = price_chart(
        offers=[charted(1), charted(2)],
        periods=[held(1, "4", 9, None), held(2, "3", 9, None)],
        since=None,
        now=NOW,
        currency="USD",
    )
    assert chart is not None
    assert [line.label for line in chart.lines] == ["AWS r t", "AWS r t"]


def test_the_navigation_marks_the_catalog(customer: Customer) -> None:
    for path in (LIST, reverse("dashboard:catalog-model", args=[make_gpu_model().slug])):
        page = customer.client.get(path).content.decode()
        assert re.search(r'href="/catalog/" aria-current="page"', page)
