"""The market by API: offers with their age, comparisons with our price, and the price history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from inventory.prices import API
from tests.api.conftest import Customer
from tests.api.test_quotes import problem
from tests.factories import H100, make_account
from tests.inventory.test_market import A100, make_offer, polled

pytestmark = pytest.mark.django_db(transaction=True)


def instant(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z")


def test_a_polled_price_is_as_old_as_its_poll_and_a_card_as_the_card(customer: Customer) -> None:
    now = timezone.now()
    account = make_account()
    polled(account, "aws/us-east-1", now - timedelta(minutes=4))
    make_offer(
        "24.00", source=API, account=account, seen_at=now - timedelta(days=9), availability="available"
    )
    make_offer("10.00", purchase="spot", seen_at=now - timedelta(days=9))
    on_demand, spot = customer.call().get("offers", gpu_model=H100).json()["results"]
    assert on_demand["price_seen_at"] == instant(now - timedelta(minutes=4))
    assert on_demand["availability"] == "available"
    assert (spot["price_source"], spot["price_seen_at"]) == ("rate_card", instant(now - timedelta(days=9)))
    assert spot["first_seen_at"] == instant(now - timedelta(days=9))


def test_confidential_stock_is_not_told(customer: Customer) -> None:
    now = timezone.now()
    secret = make_account(stock_confidential=True)
    polled(secret, "aws/us-east-1", now)
    make_offer("24.00", account=secret, availability="unavailable")
    make_offer("10.00", purchase="spot", availability="available")
    for row in customer.call().get("offers").json()["results"]:
        assert (row["availability"], row["availability_seen_at"], row["zones"]) == ("undisclosed", None, [])
        assert row["price_per_hour"]
    compared = customer.call().get(f"gpu-models/{H100}").json()
    assert (compared["regions_polled"], compared["regions_available"]) == (0, 0)
    assert [low["sold_out"] for low in compared["lowest"]] == [False, False]


def test_a_model_is_compared_with_our_price(customer: Customer, fleet: None) -> None:
    make_offer("32.00")
    make_offer("20.00", region="nebius/eu-north1")
    body = customer.call().get(f"gpu-models/{H100}", hours=24).json()
    assert (body["clouds"], body["regions"]) == (2, 2)
    (low,) = body["lowest"]
    assert (low["provider"], low["price_per_gpu_hour"]) == ("nebius", {"amount": "2.5", "currency": "USD"})
    (ours,) = body["ours"]
    assert ours == {
        "region": "aws/us-east-1",
        "gpus_per_node": 8,
        "hours": 24,
        "price_per_gpu_hour": {"amount": "2.00", "currency": "USD"},
        "to_lowest_on_demand": "-0.2000",
        "gpus_free": 32,
    }


def test_prices_in_two_currencies_are_not_compared(customer: Customer, fleet: None) -> None:
    make_offer("20.00", currency="EUR")
    (ours,) = customer.call().get(f"gpu-models/{H100}").json()["ours"]
    assert ours["to_lowest_on_demand"] is None


@pytest.mark.parametrize("hours", ["0", "many", "99999999"])
def test_an_odd_duration_is_named(customer: Customer, fleet: None, hours: str) -> None:
    body = problem(customer.call().get(f"gpu-models/{H100}", hours=hours), 400, "invalid-input")
    assert [error["field"] for error in body["errors"]] == ["hours"]


def test_the_history_can_be_narrowed_and_comes_in_pages(customer: Customer) -> None:
    now = timezone.now().replace(microsecond=0)
    early, cut = now - timedelta(days=300), now - timedelta(days=100)
    offer = make_offer("55.04", seen_at=cut, before=(("98.32", early, cut),))
    make_offer("10.00", purchase="spot", region="aws/us-west-2", seen_at=now - timedelta(days=1))
    make_offer("8.00", gpu_model=A100)
    call = customer.call()
    path = f"gpu-models/{H100}/prices"

    rows = call.get(path).json()["results"]
    assert [row["price_per_hour"]["amount"] for row in rows] == ["98.32", "55.04", "10.00"]
    assert (rows[0]["start"], rows[0]["end"]) == (instant(early), instant(cut))
    assert (rows[0]["price_per_gpu_hour"]["amount"], rows[1]["end"]) == ("12.29", None)

    def amounts(**query: Any) -> list[str]:
        return [row["price_per_hour"]["amount"] for row in call.get(path, **query).json()["results"]]

    assert amounts(offer=offer.pk) == ["98.32", "55.04"]
    assert amounts(purchase="spot") == amounts(region="us-west-2") == ["10.00"]
    assert amounts(provider="nebius") == []
    assert amounts(since=instant(cut)) == ["55.04", "10.00"]
    assert amounts(until=instant(cut)) == ["98.32"]
    assert call.get(path, since="soon").status_code == 400
    assert call.get(path, purchase="barter").status_code == 400

    first = call.get(path, limit=2).json()
    second = call.client.get(first["next"]).json()
    assert [len(page["results"]) for page in (first, second)] == [2, 1]
    assert second["next"] is None


@pytest.mark.parametrize("path", ["gpu-models/voodoo-2", "gpu-models/voodoo-2/prices"])
def test_an_unknown_model_is_not_there(customer: Customer, path: str) -> None:
    problem(customer.call().get(path), 404, "not-found")
