"""Rules are matched from most to least specific; the arithmetic can be read a year later."""

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import pricing
from billing.models import PriceRule
from inventory.models import Offer
from leases.requests import CapacityRequest
from portal.common.errors import InvalidInput
from tests.billing.helpers import make_quote, make_rule
from tests.factories import (
    H100,
    NOW,
    make_fleet,
    make_gpu_model,
    make_instance_type,
    make_organization,
    make_region,
    make_request,
)

pytestmark = pytest.mark.django_db

YEAR = timedelta(days=365)


def price(organization, **wanted):
    more = {key: wanted.pop(key) for key in ("rate_override", "now") if key in wanted}
    request = make_request(**wanted).clean(NOW)
    return pricing.price(request, organization, more.pop("now", NOW), **more)


@pytest.fixture
def customer():
    make_fleet(nodes=2)
    return make_organization(segment="lab")


def test_the_most_specific_rule_wins(customer):
    scopes = [
        {},
        {"min_hours": 24},
        {"lease_kind": "fixed"},
        {"region": make_region()},
        {"gpu_model": make_gpu_model()},
        {"instance_type": make_instance_type()},
        {"segment": "lab"},
        {"organization": customer},
    ]
    for number, scope in enumerate(scopes, start=1):
        rule = make_rule(name=f"rule {number}", amount=str(number), **scope)
        priced = price(customer, region="aws/us-east-1")
        assert priced.rule == rule and priced.rate_per_gpu_hour == number
    # A contract beats any number of other matches.
    make_rule(
        name="narrow, but no contract",
        amount="99",
        segment="lab",
        gpu_model=make_gpu_model(),
        region=make_region(),
        min_hours=24,
    )
    assert price(customer, region="aws/us-east-1").rate_per_gpu_hour == len(scopes)


@pytest.mark.parametrize(
    "scope",
    [
        {"segment": "startup"},
        {"min_hours": 25},
        {"lease_kind": "periodic"},
        {"currency": "EUR"},
        {"until": NOW},
        {"since": NOW + timedelta(seconds=1)},
    ],
)
def test_rules_that_do_not_match_do_not_apply(customer, scope):
    make_rule(**scope)
    with pytest.raises(pricing.NoPrice) as refused:
        price(customer)
    assert (refused.value.status, refused.value.code) == (409, "no-price")


def test_another_customers_contract_model_region_or_type_does_not_apply(customer):
    make_rule(name="list", amount="1")
    make_rule(name="a", organization=make_organization())
    make_rule(name="b", gpu_model=make_gpu_model(slug="a100-sxm4-80gb"))
    make_rule(name="c", region=make_region(region="aws/eu-west-1"))
    make_rule(name="d", instance_type=make_instance_type(gpu_model="a100-sxm4-80gb"))
    assert price(customer).rate_per_gpu_hour == 1


def test_among_equals_the_latest_rule_wins(customer):
    make_rule(amount="1", since=NOW - 2 * YEAR)
    make_rule(amount="3", since=NOW - timedelta(days=1))
    make_rule(amount="2", since=NOW - YEAR)
    assert price(customer).rate_per_gpu_hour == 3
    assert price(customer, now=NOW - timedelta(days=2)).rate_per_gpu_hour == 2


def test_longer_leases_may_be_cheaper(customer):
    make_rule(amount="3")
    make_rule(amount="2", min_hours=168)
    assert price(customer, hours=167).rate_per_gpu_hour == 3
    assert price(customer, hours=168).rate_per_gpu_hour == 2


def test_the_total_is_exact(customer):
    make_rule(amount="1.23456789")
    request = CapacityRequest(
        gpu_model=H100,
        gpus_per_node=8,
        nodes=2,
        start=NOW + timedelta(days=1),
        end=NOW + timedelta(days=1, hours=7, minutes=1, seconds=1, microseconds=1),
    )
    priced = pricing.price(request, customer, NOW)
    assert priced.total == (Decimal("1.23456789") * 16 * Decimal("25261.000001") / 3600).quantize(
        Decimal("1e-8")
    )
    assert priced.arithmetic["seconds"] == "25261.000001"


def test_a_mark_up_starts_from_what_we_hold(customer):
    make_fleet(nodes=6, cost_per_node_hour="20.00")  # with the two at 16.00: 19.00 a node
    make_rule(kind="markup", amount="0.25")
    priced = price(customer)
    assert priced.rate_per_gpu_hour == Decimal("2.96875")  # 19 / 8 × 1.25
    cost = priced.arithmetic["cost"]
    assert (cost["source"], cost["per_node_hour"], cost["per_gpu_hour"]) == ("commitments", "19", "2.375")
    assert sorted(each["nodes"] for each in cost["commitments"]) == [2, 6]


def test_a_mark_up_takes_the_region_into_account(customer):
    make_fleet(nodes=1, region="aws/eu-west-1", cost_per_node_hour="32.00")
    make_rule(kind="markup", amount="0")
    assert price(customer, region="aws/us-east-1").rate_per_gpu_hour == 2
    assert price(customer, region="aws/eu-west-1").rate_per_gpu_hour == 4


def test_where_we_hold_nothing_a_mark_up_starts_from_the_cheapest_offer():
    customer = make_organization()
    for region, cost, state in [
        ("aws/us-east-1", "98.32", "available"),
        ("aws/us-west-2", "90", "unknown"),
        ("aws/eu-west-1", "10", "unavailable"),
    ]:
        Offer.objects.create(
            instance_type=make_instance_type(),
            region=make_region(region=region),
            purchase="on_demand",
            price=Decimal(cost),
            availability=state,
            first_seen_at=NOW,
            changed_at=NOW,
        )
    make_rule(kind="markup", amount="0.1")
    priced = price(customer)
    assert priced.rate_per_gpu_hour == Decimal("12.375")
    assert priced.arithmetic["cost"]["source"] == "offer"
    assert price(customer, region="aws/us-east-1").rate_per_gpu_hour == Decimal("13.519")


def test_a_mark_up_without_a_cost_is_no_price():
    make_rule(kind="markup", amount="0.1")
    make_instance_type()
    with pytest.raises(pricing.NoPrice):
        price(make_organization())


def test_a_quote_can_be_explained_when_everything_has_changed(customer):
    rule = make_rule(name="Autumn list", kind="markup", amount="0.5", segment="lab")
    quote = make_quote(customer, nodes=2, hours=48)
    PriceRule.objects.filter(pk=rule.pk).update(name="gone", amount=9)
    quote.refresh_from_db()
    told = quote.arithmetic
    assert told["rule"]["name"] == "Autumn list" and told["rule"]["amount"] == "0.5"
    assert told["rule"]["scope"]["segment"] == "lab"
    assert told["cost"]["per_gpu_hour"] == "2"
    assert (told["rate_per_gpu_hour"], told["gpus"], told["seconds"], told["gpu_hours"]) == (
        "3",
        16,
        "172800",
        "768",
    )
    total = Decimal(told["rate_per_gpu_hour"]) * told["gpus"] * Decimal(told["seconds"]) / 3600
    assert Decimal(told["total"]) == total == quote.total == 2304

    def no_floats(value):
        if isinstance(value, dict):
            return all(no_floats(each) for each in value.values())
        if isinstance(value, list):
            return all(no_floats(each) for each in value)
        return not isinstance(value, float)

    assert no_floats(told)


def test_an_override_keeps_the_list_price_beside_it(customer):
    make_rule(amount="2")
    priced = price(customer, rate_override=Decimal("1.1"))
    assert (priced.rule, priced.rate_per_gpu_hour) == (None, Decimal("1.1"))
    assert priced.arithmetic["list_rate_per_gpu_hour"] == "2"
    assert priced.arithmetic["rule"]["name"] == "List price"


def test_the_price_is_found_before_and_after_the_pick_alike(customer):
    make_rule(amount="2", instance_type=make_instance_type(), region=make_region())
    assert make_quote(customer, region="aws/us-east-1").rate_per_gpu_hour == 2
    assert price(customer, region="aws/us-east-1").rate_per_gpu_hour == 2
    assert make_quote(customer).rate_per_gpu_hour == 2  # any region: the one that was picked


def test_an_absurd_total_is_refused(customer):
    make_rule(amount="900000")
    with pytest.raises(InvalidInput):
        price(customer, nodes=10_000, hours=24 * 365)


def test_without_a_price_nothing_is_held(customer):
    from leases.models import Lease

    with pytest.raises(pricing.NoPrice):
        make_quote(customer)
    assert not Lease.objects.exists()
