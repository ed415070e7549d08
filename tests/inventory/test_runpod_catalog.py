"""RunPod: what it sells, as the catalog gets it, and answers that are none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from inventory.providers.base import Availability
from inventory.providers.errors import AuthFailed, BadAnswer, NotFound, ProviderError, RateLimited
from inventory.providers.runpod import RunPodProvider
from inventory.providers.runpod.catalog import LEVELS, parse_type, type_name
from tests.contract.fake_api import Call, Reply
from tests.contract.fake_runpod import H100, KEY, REFUSALS, RTX4090, FakeRunPod, refused
from tests.contract.prism import vendor_document
from tests.contract.runpod import DOCUMENT

HERE, GONE = Availability.AVAILABLE, Availability.UNAVAILABLE


@pytest.fixture
def fake() -> Iterator[FakeRunPod]:
    fake = FakeRunPod()
    yield fake
    fake.close()


def provider(fake: FakeRunPod, **settings: Any) -> RunPodProvider:
    fast = {"endpoint_url": fake.url, "requests_per_second": 10_000}
    return RunPodProvider(credentials={"api_key": KEY}, settings={**fast, **settings})


def answer(fake: FakeRunPod, path: str, reply: Reply) -> None:
    """Answer every call to a path with this."""

    def authorize(call: Call) -> Reply | None:
        return reply if call.path == path else None

    fake.authorize = authorize  # type: ignore[method-assign]


def test_a_type_is_a_number_of_gpus_and_its_price_that_of_all_of_them(fake: FakeRunPod) -> None:
    catalog = provider(fake).offers("US-KS-2")
    assert (catalog.region.code, catalog.region.name) == ("US-KS-2", "US Kansas 2")
    info = next(item for item in catalog.instance_types if item.name == f"{H100} x8")
    assert (info.gpu_name, info.gpu_count, info.gpu_memory_mib) == (H100, 8, 80 * 1024)
    assert (info.vcpus, info.memory_mib, info.gpu_vendor) == (0, 0, "nvidia")
    prices = {offer.instance_type: offer.price for offer in catalog.offers}
    assert prices[f"{H100} x8"] == Decimal("23.92")
    assert prices[f"{H100} x1"] == Decimal("2.99")


def test_stock_is_told_by_size_and_data_center(fake: FakeRunPod) -> None:
    """Eight free GPUs may be on eight machines: each size is asked for."""
    fake.stock[H100] = {"US-KS-2": 2}
    cloud = provider(fake)
    stock = {
        (region, offer.instance_type): offer.availability
        for region in ("US-KS-2", "EU-RO-1")
        for offer in cloud.offers(region).offers
    }
    assert stock == {
        ("US-KS-2", f"{H100} x1"): HERE,
        ("US-KS-2", f"{H100} x2"): HERE,
        ("US-KS-2", f"{H100} x4"): GONE,
        ("US-KS-2", f"{H100} x8"): GONE,
        ("US-KS-2", f"{RTX4090} x1"): HERE,
        ("US-KS-2", f"{RTX4090} x2"): GONE,
        ("US-KS-2", f"{RTX4090} x4"): GONE,  # and no machine has eight
        ("EU-RO-1", f"{RTX4090} x1"): HERE,
        ("EU-RO-1", f"{RTX4090} x2"): HERE,
        ("EU-RO-1", f"{RTX4090} x4"): HERE,
    }


def test_every_level_of_the_document_has_a_meaning() -> None:
    import json

    document = json.loads(vendor_document(DOCUMENT).read_text())
    assert set(document["components"]["schemas"]["AvailabilityLevel"]["enum"]) == set(LEVELS)


def test_a_level_that_nobody_knows_is_unknown(fake: FakeRunPod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "level", lambda *_: "PLENTY")
    offers = provider(fake, gpus_per_pod=[8]).offers("US-KS-2").offers
    assert {offer.availability for offer in offers} == {Availability.UNKNOWN}


def test_the_community_cloud_has_its_own_prices_and_sizes(fake: FakeRunPod) -> None:
    offers = provider(fake, cloud="COMMUNITY").offers("EU-RO-1").offers
    assert {offer.instance_type: offer.price for offer in offers} == {
        f"{RTX4090} x1": Decimal("0.34"),
        f"{RTX4090} x2": Decimal("0.68"),
        f"{RTX4090} x4": Decimal("1.36"),
    }
    assert {call.query["cloud"][0] for call in fake.calls if call.path.endswith("/gpus")} == {"COMMUNITY"}


def test_all_data_centers_of_a_poll_are_read_from_the_same_answers(fake: FakeRunPod) -> None:
    cloud = provider(fake)
    codes = [region.code for region in cloud.regions()]
    assert codes == ["US-KS-2", "EU-RO-1"]
    threads = [threading.Thread(target=cloud.offers, args=(code,)) for code in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = [(call.path, call.query.get("count")) for call in fake.calls]
    assert asked[0] == ("/v2/catalog/datacenters", None)
    assert sorted(asked[1:]) == [("/v2/catalog/gpus", [str(count)]) for count in (1, 2, 4, 8)]


def test_a_failure_is_not_waited_for_again_in_each_data_center(fake: FakeRunPod) -> None:
    answer(fake, "/v2/catalog/gpus", refused(*REFUSALS["throttled"]))
    cloud = provider(fake)
    for region in cloud.regions():
        with pytest.raises(RateLimited) as refusal:
            cloud.offers(region.code)
        assert refusal.value.retry_after == 45
    assert len([call for call in fake.calls if call.path.endswith("/gpus")]) == 1


def test_configured_data_centers_are_the_only_ones(fake: FakeRunPod) -> None:
    cloud = provider(fake, regions=["EU-RO-1"])
    assert [(region.code, region.name) for region in cloud.regions()] == [("EU-RO-1", "EU Romania 1")]
    with pytest.raises(NotFound, match="moon-1"):
        cloud.offers("moon-1")


@pytest.mark.parametrize(
    "document", [None, [], {}, {"gpus": {}}, {"gpus": [None]}, {"gpus": [7]}, {"gpus": [{"id": "a"}]}]
)
def test_an_answer_that_is_no_catalog_is_refused(fake: FakeRunPod, document: Any) -> None:
    answer(fake, "/v2/catalog/gpus", Reply(document))
    with pytest.raises(BadAnswer):
        provider(fake).offers("US-KS-2")


@pytest.mark.parametrize("price", [None, "much", True])
def test_a_price_that_is_none_is_refused(fake: FakeRunPod, price: Any) -> None:
    fake.gpus[H100]["price"]["secure"] = price
    with pytest.raises(BadAnswer):
        provider(fake).offers("US-KS-2")


def test_names_of_types_are_read_back() -> None:
    assert parse_type(type_name(H100, 8)) == (H100, 8)
    for name in (H100, "x8", f"{H100} x", f"{H100} x0", f"{H100} x800", ""):
        with pytest.raises(ProviderError, match="x8"):
            parse_type(name)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"cloud": "ANY"}, "cloud"),
        ({"gpus_per_pod": 8}, "gpus_per_pod"),
        ({"gpus_per_pod": [0]}, "gpus_per_pod"),
        ({"gpus_per_pod": ["8"]}, "gpus_per_pod"),
    ],
)
def test_a_setting_that_cannot_be_is_named(fake: FakeRunPod, settings: Any, named: str) -> None:
    with pytest.raises(ProviderError, match=named):
        provider(fake, **settings).offers("US-KS-2")


def test_credentials_are_asked_for_and_never_shown(fake: FakeRunPod) -> None:
    for key in ("", "with\nline", "ключ"):
        with pytest.raises(AuthFailed):
            RunPodProvider(credentials={"api_key": key}, settings={})
    with pytest.raises(AuthFailed) as refusal:
        RunPodProvider(
            credentials={"api_key": "rpa_SOMEBODYELSES"}, settings={"endpoint_url": fake.url}
        ).test_connection()
    assert "rpa_" not in str(refusal.value)
    identity = provider(fake).test_connection()
    assert (identity.account, identity.principal) == ("", "RunPod")
