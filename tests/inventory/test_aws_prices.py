"""EC2's prices: which products of the Price List count, and what spot costs now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.stub import ANY, Stubber
from django.conf import settings as django_settings

from inventory.providers.aws import Ec2Provider, prices
from inventory.providers.base import Capability, PurchaseOption
from inventory.providers.errors import BadAnswer, ProviderError
from tests.inventory.conftest import KEYS

REGION = "us-east-1"
P5, P4 = "p5.48xlarge", "p4d.24xlarge"


def connect(**settings: Any) -> Ec2Provider:
    return Ec2Provider(credentials=KEYS, settings={"regions": [REGION], **settings})


def product(name: str = P5, price: Any = "55.0400000000", **changed: Any) -> str:
    """One item of PriceList, in the form of AWS's own example."""
    attributes = {
        **prices.WANTED,
        "regionCode": REGION,
        "instanceFamily": "GPU instance",
        "instanceType": name,
        "usagetype": f"BoxUsage:{name}",
    }
    term = {
        "effectiveDate": "2026-11-01T00:00:00Z",
        "priceDimensions": {"S.T.R": {"unit": "Hrs", "beginRange": "0", "pricePerUnit": {"USD": price}}},
    }
    document = {
        "product": {
            "productFamily": "Compute Instance",
            "attributes": {**attributes, **changed.pop("attributes", {})},
        },
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": changed.pop("terms", {"S.T": term})},
        "publicationDate": "2026-11-20T00:00:00Z",
    }
    assert not changed
    return json.dumps(document)


@contextmanager
def price_list(cloud: Ec2Provider, *pages: list[str], region: str = "us-east-1") -> Iterator[list[dict]]:
    """Answer GetProducts with these pages, one call each; yields the parameters of the calls."""
    client = cloud.session.client("pricing", region)
    stub, seen = Stubber(client), []
    client.meta.events.register(
        "provide-client-params.pricing.GetProducts", lambda params, **_: seen.append(params)
    )
    for page in pages:
        stub.add_response("get_products", {"FormatVersion": "aws_v1", "PriceList": page})
    with stub:
        yield seen
    stub.assert_no_pending_responses()


def read(*texts: str, names: tuple[str, ...] = (P5,), more: tuple[list[str], ...] = ()) -> dict[str, Any]:
    cloud = connect()
    with price_list(cloud, list(texts), *more):
        return prices.on_demand(cloud.session, REGION, names)


def test_the_price_of_a_linux_instance_is_asked_for():
    cloud = connect()
    with price_list(cloud, [product(), product(P4, "21.957642")]) as seen:
        found = prices.on_demand(cloud.session, REGION, [P5, P4])
    assert {name: price.amount for name, price in found.items()} == {
        P5: Decimal("55.04"),
        P4: Decimal("21.957642"),
    }
    [call] = seen
    assert call["ServiceCode"] == "AmazonEC2"
    assert {(item["Type"], item["Field"], item["Value"]) for item in call["Filters"]} == {
        ("TERM_MATCH", "operatingSystem", "Linux"),
        ("TERM_MATCH", "tenancy", "Shared"),
        ("TERM_MATCH", "preInstalledSw", "NA"),
        ("TERM_MATCH", "capacitystatus", "Used"),
        ("TERM_MATCH", "marketoption", "OnDemand"),
        ("TERM_MATCH", "regionCode", REGION),
        ("TERM_MATCH", "instanceFamily", "GPU instance"),
    }


def test_a_type_outside_the_gpu_family_is_asked_for_by_name():
    found = read(product(), names=(P5, P4), more=([product(P4, "20")],))
    assert found[P4].amount == Decimal(20)
    # And one that the list does not know by name either is not sold on demand.
    assert set(read(product(), names=(P5, P4), more=([],))) == {P5}


@pytest.mark.parametrize(
    "attributes",
    [
        {"operatingSystem": "Windows"},
        {"tenancy": "Dedicated"},
        {"capacitystatus": "UnusedCapacityReservation"},
        {"marketoption": "CapacityBlock"},
        {"preInstalledSw": "SQL Web"},
        {"regionCode": "eu-west-1"},
    ],
)
def test_an_endpoint_that_does_not_filter_is_not_believed(attributes: dict[str, str]):
    assert read(product(), product(price="1", attributes=attributes))[P5].amount == Decimal("55.04")


def test_the_price_that_holds_today_counts():
    def term(day: str, price: str) -> dict[str, Any]:
        dimension = {"unit": "Hrs", "pricePerUnit": {"USD": price}}
        return {"effectiveDate": f"{day}T00:00:00Z", "priceDimensions": {"d": dimension}}

    terms = {"a": term("2030-01-01", "3"), "b": term("2025-01-01", "2"), "c": term("2020-01-01", "1")}
    assert read(product(terms=terms))[P5].amount == Decimal(2)


def test_another_currency_is_told():
    terms = {"a": {"priceDimensions": {"d": {"unit": "Hrs", "pricePerUnit": {"CNY": "400"}}}}}
    price = read(product(terms=terms))[P5]
    assert (price.amount, price.currency) == (Decimal(400), "CNY")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["<html>"], "no JSON"),
        (["[" * 100_000], "no JSON"),
        (["[]"], "product.attributes"),
        ([product(price="NaN")], "is no number"),
        ([product(price=None)], "USD"),
        ([product(terms=[])], "terms.OnDemand"),
        ([product(), product(price="1")], "two prices"),
    ],
)
def test_a_garbled_product_fails_the_whole_list(texts: list[str], words: str):
    with pytest.raises(BadAnswer, match=words):
        read(*texts)


def test_a_list_without_any_price_is_no_list():
    with pytest.raises(BadAnswer, match="no price for us-east-1"):
        read()


def test_a_second_page_that_fails_fails_the_list():
    cloud = connect()
    stub = Stubber(cloud.session.client("pricing", "us-east-1"))
    stub.add_response("get_products", {"PriceList": [product()], "NextToken": "more"})
    stub.add_client_error("get_products", "InternalErrorException", http_status_code=500)
    with stub, pytest.raises(ProviderError) as refusal:
        prices.on_demand(cloud.session, REGION, [P5])
    assert refusal.value.retryable


@pytest.mark.parametrize(
    ("region", "near"),
    [
        ("us-west-2", "us-east-1"),
        ("sa-east-1", "us-east-1"),
        ("eu-north-1", "eu-central-1"),
        ("me-central-1", "eu-central-1"),
        ("ap-northeast-1", "ap-south-1"),
    ],
)
def test_the_nearest_price_list_is_asked(region: str, near: str):
    cloud = connect()
    with price_list(cloud, [product(attributes={"regionCode": region})], region=near):
        assert prices.on_demand(cloud.session, region, [P5])[P5].amount == Decimal("55.04")


def spot_point(zone: str, price: Any, minutes: int, name: str = P5) -> dict[str, Any]:
    at = datetime(2026, 11, 22, 12, 0, tzinfo=UTC) + timedelta(minutes=minutes)
    return {"InstanceType": name, "AvailabilityZone": zone, "SpotPrice": price, "Timestamp": at}


def test_spot_is_the_newest_price_of_each_zone_and_the_lowest_of_them():
    cloud = connect()
    stub = Stubber(cloud.session.ec2(REGION))
    points = [
        spot_point("us-east-1a", "20.1", 5),
        spot_point("us-east-1a", "11.0", 0),  # older, whatever its place
        spot_point("us-east-1b", "18.5", 1),
        spot_point("us-east-1b", "30.0", -60),
    ]
    expected = {"InstanceTypes": [P4, P5], "ProductDescriptions": ["Linux/UNIX"], "StartTime": ANY}
    stub.add_response("describe_spot_price_history", {"SpotPriceHistory": points}, expected)
    with stub:
        found = prices.spot(cloud.session, REGION, [P5, P4])
    assert found == {
        P5: prices.SpotPrice(Decimal("18.5"), {"us-east-1a": Decimal("20.1"), "us-east-1b": Decimal("18.5")})
    }


@pytest.mark.parametrize("price", ["NaN", "soon", ""])
def test_a_garbled_spot_price_fails_the_history(price: str):
    cloud = connect()
    stub = Stubber(cloud.session.ec2(REGION))
    stub.add_response("describe_spot_price_history", {"SpotPriceHistory": [spot_point("a", price, 0)]})
    with stub, pytest.raises(BadAnswer, match="SpotPrice"):
        prices.spot(cloud.session, REGION, [P5])


def region_of(cloud: Ec2Provider, *spot: dict[str, Any]) -> Stubber:
    """Answer the listings of one region: P5 is sold in every way, P4 on demand; both in two zones."""

    def item(name: str) -> dict[str, Any]:
        gpu = {"Name": "H100", "Manufacturer": "NVIDIA", "Count": 8, "MemoryInfo": {"SizeInMiB": 81920}}
        return {
            "InstanceType": name,
            "SupportedUsageClasses": ["on-demand", "spot", "capacity-block"] if name == P5 else ["on-demand"],
            "VCpuInfo": {"DefaultVCpus": 192},
            "MemoryInfo": {"SizeInMiB": 2097152},
            "GpuInfo": {"Gpus": [gpu]},
        }

    stub = Stubber(cloud.session.ec2(REGION))
    stub.add_response("describe_instance_types", {"InstanceTypes": [item(P5), item(P4)]})
    zones = [{"InstanceType": name, "Location": f"us-east-1{letter}"} for name in (P5, P4) for letter in "ab"]
    stub.add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": zones})
    stub.add_response("describe_spot_price_history", {"SpotPriceHistory": list(spot)})
    stub.add_response(
        "describe_availability_zones",
        {"AvailabilityZones": [{"ZoneName": "us-east-1a"}, {"ZoneName": "us-east-1b"}]},
    )
    return stub


def test_the_catalog_carries_prices_and_leaves_out_what_is_not_sold():
    """P4 is listed, and the price list does not know it."""
    cloud = connect()
    with region_of(cloud, spot_point("us-east-1b", "18.5", 0)), price_list(cloud, [product()], []):
        catalog = cloud.offers(REGION)
    both = ("us-east-1a", "us-east-1b")
    assert [
        (offer.instance_type, offer.purchase_option, offer.price, offer.zones) for offer in catalog.offers
    ] == [
        (P5, PurchaseOption.ON_DEMAND, Decimal("55.04"), both),
        (P5, PurchaseOption.SPOT, Decimal("18.5"), ("us-east-1b",)),
        (P5, PurchaseOption.RESERVED, None, both),
    ]
    assert [info.name for info in catalog.instance_types] == [P5, P4]


def test_a_region_without_any_spot_price_withdraws_no_spot_offer():
    """The offer stays without a price, which the poll calls a problem: half an answer withdraws nothing."""
    cloud = connect()
    with region_of(cloud), price_list(cloud, [product(), product(P4, "20")]):
        catalog = cloud.offers(REGION)
    [offer] = [offer for offer in catalog.offers if offer.purchase_option == PurchaseOption.SPOT]
    assert (offer.instance_type, offer.price) == (P5, None)


@pytest.mark.parametrize(
    ("settings", "priced", "sells"),
    [
        ({}, True, True),
        ({"prices": "rate_card"}, False, True),
        ({"buying": "none"}, True, False),
        ({"endpoint_url": "http://127.0.0.1:1"}, False, False),
        ({"endpoint_url": "http://127.0.0.1:1", "prices": "api", "buying": "api"}, True, True),
        ({"regions": ["us-gov-west-1"]}, False, True),
        ({"regions": ["cn-north-1"]}, False, True),
    ],
)
def test_an_account_says_what_it_can_do(settings: dict[str, Any], priced: bool, sells: bool):
    capabilities = connect(**settings).capabilities
    assert (Capability.PRICES in capabilities) == priced
    assert (Capability.BUYABLE_CAPACITY in capabilities) == sells


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prices": "guess"}, "“prices” must be one of: api, rate_card"),
        ({"buying": True}, "“buying” must be one of"),
        ({"regions": "us-east-1"}, "list of region codes"),
    ],
)
def test_a_setting_that_cannot_be_is_said(settings: dict[str, Any], words: str):
    with pytest.raises(ProviderError, match=words):
        connect(**settings)


def test_aws_own_example_is_read():
    path = django_settings.BASE_DIR.parent / "shared/data/specs/aws/pricing-examples-botocore.json"
    if not path.parent.parent.parent.exists():
        pytest.skip(f"{path} is not here")
    [example] = json.loads(path.read_text())["examples"]["GetProducts"]
    # It is a volume, priced by the month: read, and no instance.
    text = example["output"]["PriceList"][0]
    with pytest.raises(BadAnswer, match="instanceType"):
        list(prices._product(text, {}))
    assert list(prices._product(text, {"volumeType": "General Purpose"})) == []
