"""Our price beside buying direct is the price that a quote would have."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing import market
from billing.accounts import account_for
from billing.models import BillingAccount
from billing.pricing import NoPrice, price
from inventory.models import Offer
from leases.requests import CapacityRequest
from portal.common.periods import period
from tests.billing.helpers import make_booking, make_customer, make_rule
from tests.factories import (
    H100,
    NOW,
    make_account,
    make_fleet,
    make_gpu_model,
    make_instance_type,
    make_region,
)
from tests.inventory.test_market import A100, make_offer

pytestmark = pytest.mark.django_db
WEST = "aws/us-west-2"


def quoted(organization, offer: market.OurOffer) -> Decimal | None:
    """Return the rate that one node of this kind would be quoted at now."""
    request = CapacityRequest(
        gpu_model=offer.gpu_model,
        gpus_per_node=offer.gpus_per_node,
        nodes=1,
        start=NOW,
        end=NOW + timedelta(hours=offer.hours),
        region=offer.region,
    )
    try:
        return price(request, organization, NOW).rate_per_gpu_hour
    except NoPrice:
        return None


def make_stock() -> None:
    """Fleets of several kinds and costs, one of them of a mixed type."""
    make_fleet(nodes=3, cost_per_node_hour="16.00")
    make_fleet(nodes=1, cost_per_node_hour="20.00")
    make_fleet(nodes=2, region=WEST, cost_per_node_hour="12.00")
    make_fleet(nodes=2, gpu_model=A100, cost_per_node_hour="7.20")
    other = make_instance_type(gpu_model=A100, name="p4de.other")
    make_fleet(nodes=1, gpu_model=A100, instance_type=other, cost_per_node_hour="8.00")
    make_fleet(nodes=1, gpu_model=A100, region=WEST, health="retired")


@pytest.mark.parametrize("hours", [24, 168, 24 * 365])
def test_every_price_is_the_one_that_a_quote_would_have(hours):
    make_stock()
    customer = make_customer(segment="lab")
    h100, a100 = make_gpu_model(), make_gpu_model(slug=A100)
    make_rule(name="everything", kind="markup", amount="0.30")
    make_rule(name="h100", amount="2.79", gpu_model=h100)
    make_rule(name="long", amount="2.49", gpu_model=h100, min_hours=24 * 14)
    make_rule(name="west", amount="2.59", region=make_region(region=WEST))
    make_rule(name="type", amount="1.11", instance_type=make_instance_type(gpu_model=A100))
    make_rule(name="labs", kind="markup", amount="0.10", gpu_model=a100, segment="lab")
    make_rule(name="others'", amount="0.01", organization=make_customer())
    make_rule(name="euros", amount="0.02", currency="EUR")

    ours = market.our_offers(organization=customer, hours=hours, now=NOW)

    found = [offer for model in ours.values() for offer in model.offers]
    assert {(offer.gpu_model, offer.region) for offer in found} == {
        (H100, "aws/us-east-1"),
        (H100, WEST),
        (A100, "aws/us-east-1"),
    }
    for offer in found:
        assert offer.per_gpu_hour is not None
        assert offer.per_gpu_hour == quoted(customer, offer), offer


def test_where_our_cost_is_in_another_currency_the_cheapest_offer_counts_as_in_a_quote():
    make_fleet(nodes=2)
    customer = make_customer()
    BillingAccount.objects.filter(pk=account_for(customer).pk).update(currency="EUR")
    make_rule(kind="markup", amount="0.25", currency="EUR")
    (kind,) = market.our_offers(organization=customer, now=NOW)[H100].offers
    assert kind.per_gpu_hour is None and quoted(customer, kind) is None

    make_offer("40.00", currency="EUR", region="aws/us-east-1")
    make_offer("8.00", currency="EUR", region=WEST)
    (kind,) = market.our_offers(organization=customer, now=NOW)[H100].offers
    assert (kind.per_gpu_hour, kind.currency) == (Decimal("6.25"), "EUR")
    assert kind.per_gpu_hour == quoted(customer, kind)


def test_free_is_what_could_start_now_and_stay():
    make_fleet(nodes=3, available=period(NOW - timedelta(days=1), NOW + timedelta(days=365)))
    make_fleet(nodes=1, available=period(NOW - timedelta(days=1), NOW + timedelta(days=2)))
    make_fleet(nodes=1, available=period(NOW - timedelta(days=9), NOW - timedelta(days=2)))
    customer = make_customer(funds="10000")
    make_rule()
    make_booking(customer, start=NOW + timedelta(days=3), hours=24, nodes=1)

    def kind(hours: int) -> tuple[int, int]:
        model = market.our_offers(organization=customer, hours=hours, now=NOW)[H100]
        return model.gpus_free, model.offers[0].nodes_held

    assert kind(24) == (32, 4)
    assert kind(7 * 24) == (16, 4)


def test_confidential_stock_is_not_ours_to_show():
    make_fleet(nodes=2, account=make_account(stock_confidential=True))
    assert market.our_offers(organization=make_customer(), now=NOW) == {}


def test_without_a_rule_there_is_no_price_and_what_has_one_comes_first():
    make_fleet(nodes=2, region=WEST)
    make_fleet(nodes=2)
    make_rule(amount="2.00", region=make_region(region=WEST))
    model = market.our_offers(organization=make_customer(), now=NOW)[H100]
    assert [offer.per_gpu_hour for offer in model.offers] == [Decimal("2.00"), None]
    assert model.lowest == model.offers[0]
    assert model.gpus_free == 32


def test_the_difference_is_a_share_of_buying_direct():
    assert market.difference(Decimal("1.50"), Decimal("2.00")) == Decimal("-0.25")
    assert market.difference(Decimal("3.00"), Decimal("2.00")) == Decimal("0.5")


def test_the_number_of_statements_does_not_depend_on_what_we_hold():
    make_fleet(nodes=1)
    customer = make_customer()
    account_for(customer)
    make_rule(kind="markup", amount="0.3")
    counts = []
    for number in range(3):
        with CaptureQueriesContext(connection) as asked:
            market.our_offers(organization=customer, now=NOW)
        counts.append(len(asked))
        make_fleet(nodes=2, region=f"aws/r-{number}")
        make_fleet(nodes=2, gpu_model=A100, region=f"aws/r-{number}")
        make_rule(name=f"rule {number}", region=make_region(region=f"aws/r-{number}"))
    assert len(set(counts)) == 1
    assert Offer.objects.count() == 0
