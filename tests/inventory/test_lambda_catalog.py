"""Lambda: what it sells, as the catalog gets it, and answers that are none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from inventory.providers.base import Availability
from inventory.providers.errors import AuthFailed, BadAnswer, NotFound, ProviderError, RateLimited
from inventory.providers.lambda_cloud import LambdaProvider
from tests.contract.fake_api import Call, Reply
from tests.contract.fake_lambda import KEY, FakeLambda

FAST = {"requests_per_second": 10_000, "launches_per_minute": 100_000}


@pytest.fixture
def fake() -> Iterator[FakeLambda]:
    fake = FakeLambda()
    yield fake
    fake.close()


def provider(fake: FakeLambda, **settings: Any) -> LambdaProvider:
    return LambdaProvider(
        credentials={"api_key": KEY}, settings={"endpoint_url": fake.url, **FAST, **settings}
    )


def answer(fake: FakeLambda, path: str, document: Any, status: int = 200) -> None:
    """Answer every call to a path with this."""

    def authorize(call: Call) -> Reply | None:
        return Reply(document, status) if call.path == path else None

    fake.authorize = authorize  # type: ignore[method-assign]


def test_a_type_has_its_gpus_and_its_price_per_hour_of_the_whole_instance(fake: FakeLambda) -> None:
    catalog = provider(fake).offers("us-west-1")
    assert (catalog.region.code, catalog.region.name) == ("us-west-1", "California, USA")
    info = next(item for item in catalog.instance_types if item.name == "gpu_8x_h100_sxm5")
    assert (info.gpu_name, info.gpu_count, info.gpu_memory_mib) == ("H100 (80 GB SXM5)", 8, 80 * 1024)
    assert (info.vcpus, info.memory_mib, info.gpu_vendor) == (208, 1800 * 1024, "nvidia")
    offer = next(item for item in catalog.offers if item.instance_type == "gpu_8x_h100_sxm5")
    assert (offer.price, offer.currency) == (Decimal("23.92"), "USD")


def test_a_type_is_in_stock_where_lambda_says_so_and_nowhere_else(fake: FakeLambda) -> None:
    cloud = provider(fake)
    stock = {
        (region, offer.instance_type): offer.availability
        for region in ("us-west-1", "us-east-1")
        for offer in cloud.offers(region).offers
    }
    here, gone = Availability.AVAILABLE, Availability.UNAVAILABLE
    assert stock == {
        ("us-west-1", "gpu_8x_h100_sxm5"): here,
        ("us-west-1", "gpu_1x_a10"): gone,
        ("us-east-1", "gpu_8x_h100_sxm5"): gone,
        ("us-east-1", "gpu_1x_a10"): here,
    }  # and nothing without a GPU


def test_all_regions_of_a_poll_are_read_from_two_answers(fake: FakeLambda) -> None:
    cloud = provider(fake)
    codes = [region.code for region in cloud.regions()]
    assert codes == ["us-west-1", "us-east-1", "us-south-1"]
    threads = [threading.Thread(target=cloud.offers, args=(code,)) for code in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [call.path for call in fake.calls] == ["/api/v1/regions", "/api/v1/instance-types"]
    fake.types["gpu_1x_a10"]["price_cents_per_hour"] = 99
    later = provider(fake).offers("us-east-1").offers
    assert {offer.price for offer in later if offer.instance_type == "gpu_1x_a10"} == {Decimal("0.99")}


def test_a_failure_is_not_waited_for_again_in_each_region(fake: FakeLambda) -> None:
    answer(fake, "/api/v1/instance-types", {"error": {"code": "global/conflict", "message": "x"}}, 429)
    cloud = provider(fake)
    for region in cloud.regions():
        with pytest.raises(RateLimited):
            cloud.offers(region.code)
    assert len([call for call in fake.calls if call.path.endswith("/instance-types")]) == 1


def test_configured_regions_are_the_only_ones(fake: FakeLambda) -> None:
    cloud = provider(fake, regions=["us-east-1"])
    assert [(region.code, region.name) for region in cloud.regions()] == [("us-east-1", "Virginia, USA")]


def test_a_region_that_lambda_does_not_have_is_said(fake: FakeLambda) -> None:
    with pytest.raises(NotFound, match="moon-1"):
        provider(fake).offers("moon-1")


@pytest.mark.parametrize(
    "document",
    [
        {"data": []},
        {"data": None},
        {},
        [],
        {"data": {"a": None}},
        {"data": {"a": {"instance_type": {"name": "a"}, "regions_with_capacity_available": []}}},
    ],
)
def test_an_answer_that_is_no_catalog_is_refused(fake: FakeLambda, document: Any) -> None:
    answer(fake, "/api/v1/instance-types", document)
    with pytest.raises(BadAnswer):
        provider(fake).offers("us-west-1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price_cents_per_hour", None),
        ("price_cents_per_hour", "free"),
        ("price_cents_per_hour", float("nan")),
        ("price_cents_per_hour", True),
        ("gpu_description", 7),
        ("specs", {"vcpus": 4, "memory_gib": 16, "gpus": -1}),
        ("specs", {"vcpus": 4, "memory_gib": "16", "gpus": 1}),
        ("specs", None),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_refused(fake: FakeLambda, field: str, value: Any) -> None:
    fake.types["gpu_1x_a10"][field] = value
    with pytest.raises(BadAnswer):
        provider(fake).offers("us-west-1")


def test_a_price_below_zero_is_handed_on_for_the_poll_to_refuse(fake: FakeLambda) -> None:
    fake.types["gpu_1x_a10"]["price_cents_per_hour"] = -5
    prices = {offer.instance_type: offer.price for offer in provider(fake).offers("us-east-1").offers}
    assert prices["gpu_1x_a10"] == Decimal("-0.05")


def test_the_connection_names_the_account(fake: FakeLambda) -> None:
    account = provider(fake).test_connection().account
    assert account == "lrn:cloud:account:fedcba9876543210fedcba9876543210"


def test_wrong_credentials_are_named_without_the_key(fake: FakeLambda) -> None:
    cloud = LambdaProvider(
        credentials={"api_key": "secret_wrong"}, settings={"endpoint_url": fake.url, **FAST}
    )
    with pytest.raises(AuthFailed) as refusal:
        cloud.test_connection()
    assert refusal.value.code == "global/invalid-api-key"
    assert "secret_wrong" not in str(refusal.value) + repr(cloud) + repr(cloud.api) + repr(cloud.api.http)


@pytest.mark.parametrize("key", ["", "key\nwith-a-line", "schlüssel"])
def test_a_key_that_cannot_be_one_is_refused_before_any_call(key: str) -> None:
    with pytest.raises(AuthFailed):
        LambdaProvider(credentials={"api_key": key}, settings={})


@pytest.mark.parametrize(
    "settings",
    [
        {"requests_per_second": 0},
        {"requests_per_second": True},
        {"launches_per_minute": "many"},
        {"launches_per_minute": "NaN"},
        {"endpoint_url": "http://cloud.example.com"},
    ],
)
def test_a_setting_that_is_none_is_said_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        LambdaProvider(credentials={"api_key": KEY}, settings=settings)


@pytest.mark.parametrize("regions", ["us-west-1", [1], [""], {"us-west-1": True}])
def test_regions_must_be_a_list(fake: FakeLambda, regions: Any) -> None:
    with pytest.raises(ProviderError, match="regions"):
        provider(fake, regions=regions).regions()


def test_a_call_above_the_limit_is_not_made(fake: FakeLambda) -> None:
    cloud = provider(fake, requests_per_second="0.01")
    cloud.regions()
    with pytest.raises(RateLimited) as refusal:
        cloud.regions()
    assert 20 < refusal.value.retry_after <= 100
    assert len(fake.calls) == 1
