"""Vast.ai: what is asked of the market, how hosts become types, and what an answer may not say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from inventory.providers.base import Availability, OfferInfo, PurchaseOption
from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError, RateLimited
from inventory.providers.vast import VastProvider
from inventory.providers.vast.catalog import country, nominal_gb
from tests.contract.fake_vast import KEY, FakeVast, host
from tests.contract.faults import Answer, faulty
from tests.contract.prism import vendor_document
from tests.contract.vast import DOCUMENT, THROTTLED, is_search


@pytest.fixture
def fake() -> Iterator[FakeVast]:
    fake = FakeVast()
    yield fake
    fake.close()


def provider(fake: FakeVast, **settings: Any) -> VastProvider:
    fast = {"endpoint_url": fake.url, "calls_factor": 10_000}
    return VastProvider(credentials={"api_key": KEY}, settings={**fast, **settings})


def offers(cloud: VastProvider, region: str = "DE") -> dict[tuple[str, str], OfferInfo]:
    found = cloud.offers(region).offers
    return {(each.instance_type, str(each.purchase_option)): each for each in found}


def test_the_lowest_price_of_a_type_in_a_country_is_its_price(fake: FakeVast) -> None:
    fake.hosts[103].update(dph_total=18.123456789012345, min_bid=7.5)
    found = offers(provider(fake))
    h100 = found["8x H100 SXM 80GB", "on_demand"]
    assert (h100.price, h100.currency) == (Decimal("18.12345679"), "USD")
    assert h100.availability == Availability.AVAILABLE
    assert found["8x H100 SXM 80GB", "spot"].price == Decimal("7.5")
    assert found["4x RTX 4090 24GB", "on_demand"].price == Decimal("1.6")
    assert offers(provider(fake), "US")["8x H100 SXM 80GB", "on_demand"].price == Decimal("17.25")


def test_a_type_says_of_its_hosts_only_what_they_share(fake: FakeVast) -> None:
    [info] = [each for each in provider(fake).offers("DE").instance_types if "H100" in each.name]
    assert (info.gpu_name, info.gpu_count, info.gpu_memory_mib) == ("H100 SXM", 8, 80 * 1024)
    assert (info.vcpus, info.memory_mib, info.gpu_vendor) == (0, 0, "nvidia")


@pytest.mark.parametrize(
    ("name", "memory", "expected"),
    [
        ("A100 SXM4", 40960, "8x A100 SXM4 40GB"),
        ("A100 SXM4", 81251, "8x A100 SXM4 80GB"),
        ("A100_SXM4", 81920, "8x A100 SXM4 80GB"),
        ("L40S", 46068, "8x L40S 48GB"),
        ("H100 NVL", 95830, "8x H100 NVL 94GB"),
        ("H200", 143771, "8x H200 141GB"),
        ("B200", 183359, "8x B200 180GB"),
        ("RTX 2080 Ti", 22528, "8x RTX 2080 Ti 22GB"),
    ],
)
def test_memory_that_drivers_report_differently_is_one_type(
    fake: FakeVast, name: str, memory: int, expected: str
) -> None:
    fake.hosts = {1: host(1, gpu_name=name, gpu_ram=memory)}
    assert {key for key, _ in offers(provider(fake))} == {expected}


def test_a_memory_that_is_none_is_no_answer() -> None:
    with pytest.raises(BadAnswer):
        nominal_gb(Decimal(0))


@pytest.mark.parametrize(
    ("place", "code"),
    [("Atlantis, AT", "AT"), ("DE", "DE"), ("California, United States", ""), ("", ""), (", US", "US")],
)
def test_a_country_is_two_capital_letters_at_the_end(place: str, code: str) -> None:
    assert country(place) == code


def test_only_whole_verified_machines_with_ports_are_asked_for(fake: FakeVast) -> None:
    provider(fake).offers("DE")
    first = fake.calls[0].body
    assert (first["verified"], first["rentable"], first["rented"]) == (
        {"eq": True},
        {"eq": True},
        {"eq": False},
    )
    assert (first["gpu_frac"], first["direct_port_count"]) == ({"gte": 0.999}, {"gte": 1})
    assert (first["geolocation"], first["allocated_storage"]) == ({"in": ["DE"]}, 200)
    assert [call.body["type"] for call in fake.calls] == ["ondemand", "bid"]


def test_what_vast_lets_through_a_filter_is_left_out(fake: FakeVast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.contract.fake_vast._passes", lambda *_: True)
    fake.hosts = {
        1: host(1, gpu_frac=0.5, dph_total=1.0),
        2: host(2, verification="deverified", dph_total=2.0),
        3: host(3, geolocation="Oslo, NO", dph_total=3.0),
        4: host(4, rentable=False, dph_total=4.0),
        5: host(5, geolocation=None, dph_total=5.0),
        6: host(6, num_gpus=0, dph_total=6.0),
        7: host(7, dph_total=7.0),
    }
    assert offers(provider(fake))["8x H100 SXM 80GB", "on_demand"].price == 7


def test_the_account_may_ask_for_more_or_less(fake: FakeVast) -> None:
    cloud = provider(
        fake, parts_of_machines=True, datacenter_only=True, min_reliability=0.99, min_days="30", disk_gb=500
    )
    fake.hosts[201]["gpu_frac"] = 0.5
    assert ("4x RTX 4090 24GB", "on_demand") in offers(cloud)
    body = fake.calls[0].body
    assert "gpu_frac" not in body
    assert (body["datacenter"], body["reliability"]) == ({"eq": True}, {"gte": 0.99})
    assert (body["duration"], body["allocated_storage"]) == ({"gte": 2_592_000.0}, 500)


def test_where_all_is_rented_out_the_types_are_unavailable(fake: FakeVast) -> None:
    for item in fake.hosts.values():
        item["rentable"] = False
    found = offers(provider(fake))
    assert set(found) == {("8x H100 SXM 80GB", "on_demand"), ("4x RTX 4090 24GB", "on_demand")}
    assert {each.availability for each in found.values()} == {Availability.UNAVAILABLE}


def test_regions_are_the_countries_that_offer_something_or_the_accounts(fake: FakeVast) -> None:
    assert [each.code for each in provider(fake).regions()] == ["DE", "US"]
    assert [each.code for each in provider(fake, regions=["NO"]).regions()] == ["NO"]
    assert provider(fake).offers("NO").offers == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"regions": "DE"},
        {"regions": ["Germany"]},
        {"disk_gb": "much"},
        {"disk_gb": True},
        {"min_reliability": 99},
        {"max_usd_per_hour": -1},
        {"parts_of_machines": "yes"},
        {"calls_factor": 0},
        {"endpoint_url": "http://vast.example"},
    ],
)
def test_a_setting_that_is_wrong_is_named(fake: FakeVast, settings: dict[str, Any]) -> None:
    with pytest.raises(ProviderError) as refusal:
        cloud = provider(fake, **settings)
        cloud.regions()
        cloud.offers("DE")
        cloud.api.number("max_usd_per_hour", least=Decimal("0.001"), most=Decimal(100_000))
    assert next(iter(settings)) in str(refusal.value) or "https://" in str(refusal.value)
    assert not fake.instances


@pytest.mark.parametrize("key", ["", "schlüssel", "a\nb"])
def test_a_key_that_cannot_be_one_is_not_sent(fake: FakeVast, key: str) -> None:
    with pytest.raises(AuthFailed):
        VastProvider(credentials={"api_key": key}, settings={"endpoint_url": fake.url})


def test_wrong_keys_are_refused_in_vasts_two_ways(fake: FakeVast) -> None:
    cloud = VastProvider(
        credentials={"api_key": "wrong-key-1234"}, settings={"endpoint_url": fake.url, "calls_factor": 10_000}
    )
    for call in (cloud.test_connection, cloud.regions):  # 401, and 404 where offers are searched
        with pytest.raises(AuthFailed) as refusal:
            call()
        assert "wrong-key" not in str(refusal.value)
    assert provider(fake).test_connection().account == "4711"


@pytest.mark.parametrize(
    "item",
    [
        {"dph_total": None},
        {"dph_total": "NaN"},
        {"dph_total": "cheap"},
        {"dph_total": True},
        {"num_gpus": "8"},
        {"gpu_name": None},
        {"gpu_ram": -4},
        {"id": "x"},
        {"min_bid": None},
    ],
)
def test_an_offer_that_cannot_be_read_is_no_half_answer(fake: FakeVast, item: dict[str, Any]) -> None:
    # The counterpart sorts by price and filters by GPUs, so the answer is planted.
    with faulty(fake.url) as proxy:
        reply = Answer(200, json.dumps({"offers": [host(1, **item)]}).encode())
        proxy.plant(is_search, times=100, answer=reply)
        with pytest.raises(BadAnswer):
            provider(fake, endpoint_url=proxy.url).offers("DE")


@pytest.mark.parametrize("document", [b"[]", b'{"offers": {}}', b'{"offers": [7]}', b"null"])
def test_an_answer_of_another_shape_is_said(
    fake: FakeVast, document: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with faulty(fake.url) as proxy:
        proxy.plant(is_search, times=100, answer=Answer(200, document))
        with pytest.raises(BadAnswer):
            provider(fake, endpoint_url=proxy.url).offers("DE")


def test_as_many_offers_as_were_asked_for_are_half_an_answer(
    fake: FakeVast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inventory.providers.vast.catalog.MOST_OFFERS", 4)
    with pytest.raises(BadAnswer, match="more than 4"):
        provider(fake).offers("DE")


def test_vast_throttles_in_plain_text_without_saying_how_long(fake: FakeVast) -> None:
    with faulty(fake.url) as proxy:
        proxy.plant(is_search, answer=THROTTLED)
        with pytest.raises(RateLimited) as refusal:
            provider(fake, endpoint_url=proxy.url).offers("DE")
    assert refusal.value.retry_after == 30


def test_the_document_of_vast_allows_what_we_ask(fake: FakeVast, request: pytest.FixtureRequest) -> None:
    document = vendor_document(DOCUMENT)
    cloud = provider(
        fake,
        endpoint_url=request.getfixturevalue("prism")(document, fake.url),
        datacenter_only=True,
        min_reliability=0.9,
        min_days=3,
    )
    assert offers(cloud)
    assert PurchaseOption.SPOT in {each.purchase_option for each in cloud.offers("DE").offers}
