"""Together: what it sells, what a cluster is asked for with, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from inventory.providers import naming
from inventory.providers.base import (
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    Availability,
    LaunchGroup,
    LeaseNetwork,
    LeaseNetworkRequest,
    PurchaseOption,
)
from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotFound,
    NotSupported,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)
from inventory.providers.together import TogetherProvider
from inventory.providers.together.api import explain
from tests.contract.fake_api import Call, Reply
from tests.contract.fake_together import KEY, FakeTogether

REGION = "us-central-8"
TOKEN = "lau_fedcba9876543210"
TAGS = {TAG_SITE: "site-one", TAG_LEASE: "lse_0123456789abcdef"}
GROUP = LaunchGroup(TOKEN, 1, "H100_SXM", REGION, tags=TAGS)


@pytest.fixture
def fake() -> Iterator[FakeTogether]:
    fake = FakeTogether()
    yield fake
    fake.close()


def provider(fake: FakeTogether, **settings: Any) -> TogetherProvider:
    fast = {"endpoint_url": fake.url, "requests_per_second": 10_000}
    return TogetherProvider(credentials={"api_key": KEY}, settings={**fast, **settings})


def answer(fake: FakeTogether, path: str, document: Any, status: int = 200) -> None:
    """Answer every call to a path with this."""

    def authorize(call: Call) -> Reply | None:
        return Reply(document, status) if call.path == path else None

    fake.authorize = authorize  # type: ignore[method-assign]


def sent(fake: FakeTogether) -> dict[str, Any]:
    [call] = [call for call in fake.calls if call.method == "POST"]
    body: dict[str, Any] = call.body
    return body


# --- the catalog


def test_a_region_sells_nodes_of_eight_gpus_without_price_or_stock(fake: FakeTogether) -> None:
    cloud = provider(fake)
    assert [region.code for region in cloud.regions()] == ["us-central-8", "us-central-4"]
    catalog = cloud.offers(REGION)
    assert [(info.name, info.gpu_name, info.gpu_count) for info in catalog.instance_types] == [
        ("H100_SXM", "H100_SXM", 8),
        ("H200_SXM", "H200_SXM", 8),
        ("B200_SXM", "B200_SXM", 8),
    ]
    assert {(offer.price, offer.availability) for offer in catalog.offers} == {(None, Availability.UNKNOWN)}
    with pytest.raises(NotFound, match="moon-1"):
        cloud.offers("moon-1")


def test_configured_regions_need_no_call(fake: FakeTogether) -> None:
    assert [region.code for region in provider(fake, regions=["us-central-4"]).regions()] == ["us-central-4"]
    assert fake.calls == []
    with pytest.raises(ProviderError, match="regions"):
        provider(fake, regions="us-central-4").regions()


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"regions": None},
        {"regions": [{}]},
        {"regions": [{"name": REGION}]},
        {"regions": [{"name": REGION, "supported_instance_types": ["H100_SXM", 7]}]},
        {"regions": [{"name": REGION, "supported_instance_types": [""]}]},
    ],
)
def test_an_answer_that_is_no_catalog_is_refused(fake: FakeTogether, document: Any) -> None:
    answer(fake, "/compute/regions", document)
    with pytest.raises(BadAnswer):
        provider(fake).offers(REGION)


# --- launches


def test_one_call_makes_the_cluster_of_all_nodes(fake: FakeTogether) -> None:
    launched = provider(fake).launch(replace(GROUP, count=3))
    body = sent(fake)
    [cluster] = fake.clusters
    assert [item.id for item in launched] == [f"{cluster}/0", f"{cluster}/1", f"{cluster}/2"]
    assert naming.matches(naming.tags_of(body["cluster_name"]), TAG_TOKEN, TOKEN)
    del body["cluster_name"]
    assert body == {
        "cluster_type": "KUBERNETES",
        "region": REGION,
        "gpu_type": "H100_SXM",
        "num_gpus": 24,
        "cuda_version": "12.10",  # the newest that the region lists
        "nvidia_driver_version": "575",
        "billing_type": "ON_DEMAND",
    }


def test_a_reservation_is_a_capacity_pool(fake: FakeTogether) -> None:
    provider(fake).launch(replace(GROUP, reservation_id="pool-7"))
    assert sent(fake)["capacity_pool_id"] == "pool-7"


@pytest.mark.parametrize(
    ("image", "setting", "asked"),
    [
        ("12.6/560", None, ("12.6", "560")),
        ("", "12.5/555", ("12.5", "555")),
        ("", {REGION: "12.5/555"}, ("12.5", "555")),
        ("12.6/560", "12.5/555", ("12.6", "560")),
    ],
)
def test_an_image_is_a_cuda_and_a_driver_version(
    fake: FakeTogether, image: str, setting: Any, asked: tuple[str, str]
) -> None:
    provider(fake, image=setting).launch(replace(GROUP, image=image))
    body = sent(fake)
    assert (body["cuda_version"], body["nvidia_driver_version"]) == asked
    assert len(fake.calls) == 1  # nothing had to be looked up


def test_a_slurm_cluster_with_a_volume(fake: FakeTogether) -> None:
    slurm = {
        "cluster_type": "SLURM",
        "slurm_shm_size_gib": 64,
        "slurm_image": "ours:1",
        "shared_volume_tib": 2,
    }
    cloud = provider(fake, **slurm)
    cloud.launch(GROUP)
    body = sent(fake)
    assert (body["cluster_type"], body["slurm_shm_size_gib"], body["slurm_image"]) == ("SLURM", 64, "ours:1")
    volume = body["shared_volume"]
    assert (volume["size_tib"], volume["region"]) == (2, REGION)
    [owned] = [item for item in cloud.list_owned(region=REGION) if item.kind == "volume"]
    assert naming.matches(owned.tags, TAG_TOKEN, TOKEN)


@pytest.mark.parametrize(
    ("group", "settings", "says"),
    [
        (replace(GROUP, purchase_option=PurchaseOption.SPOT), {}, "spot"),
        (replace(GROUP, image="ubuntu-24-04"), {}, "ubuntu-24-04"),
        (GROUP, {"cluster_type": "NOMAD"}, "cluster_type"),
        (GROUP, {"cluster_type": "SLURM"}, "slurm_shm_size_gib"),
        (GROUP, {"shared_volume_tib": -1}, "shared_volume_tib"),
        (GROUP, {"shared_volume_tib": "2"}, "shared_volume_tib"),
        (GROUP, {"image": 7}, "image"),
        (replace(GROUP, region="moon-1"), {}, "moon-1"),
    ],
)
def test_what_cannot_be_launched_is_said_and_not_called(
    fake: FakeTogether, group: LaunchGroup, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ProviderError, match=says):
        provider(fake, **settings).launch(group)
    assert [call for call in fake.calls if call.method == "POST"] == []
    assert fake.clusters == {}


def test_a_region_without_drivers_asks_for_an_image(fake: FakeTogether) -> None:
    fake.regions[REGION]["driver_versions"] = []
    with pytest.raises(ProviderError, match="image"):
        provider(fake).launch(GROUP)


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"cluster_id": "c-1"},
        {"cluster_id": "c-1", "num_gpus": 16},
        {"cluster_id": "", "num_gpus": 8},
    ],
)
def test_an_answer_that_is_another_cluster_is_in_doubt(fake: FakeTogether, document: Any) -> None:
    answer(fake, "/compute/clusters", document)
    with pytest.raises(BadAnswer) as refusal:
        provider(fake).launch(GROUP)
    assert refusal.value.doubtful


def test_leases_have_no_network_of_their_own(fake: FakeTogether) -> None:
    cloud = provider(fake)
    network = cloud.prepare_lease(
        LeaseNetworkRequest(TAGS[TAG_LEASE], REGION, ("192.0.2.0/24",), ("ssh-rsa A",))
    )
    assert network == LeaseNetwork(REGION, "", "")
    cloud.remove_network(network)
    assert fake.calls == []


# --- errors and settings


@pytest.mark.parametrize(
    ("status", "message", "kind", "retryable", "doubtful"),
    [
        (400, "Insufficient capacity for H100_SXM in us-central-8.", NoCapacity, True, False),
        (409, "There are not enough GPUs in this region.", NoCapacity, True, False),
        (429, "No capacity available: resource exhausted.", NoCapacity, True, False),
        (422, "H200_SXM is out of stock.", NoCapacity, True, False),
        (400, "This request exceeds the GPU quota of your project.", QuotaExceeded, False, False),
        (402, "Your account has reached its spending limit.", QuotaExceeded, False, False),
        (401, "Invalid API key provided.", AuthFailed, False, False),
        (403, "Members cannot create clusters.", AuthFailed, False, False),
        (404, "Capacity pool not found.", NotFound, False, False),
        (429, "Rate limit exceeded, please slow down.", RateLimited, True, False),
        (400, "num_gpus must be a multiple of 8.", ProviderError, False, False),
        (409, "The volume is attached to a cluster.", ProviderError, True, False),
        (500, "Internal server error.", ProviderError, True, True),
        (503, "Engine overloaded: insufficient capacity.", ProviderError, True, True),
    ],
)
@pytest.mark.parametrize("form", ["error", "gateway", "text"])
def test_a_refusal_is_understood(
    status: int, message: str, kind: type[ProviderError], retryable: bool, doubtful: bool, form: str
) -> None:
    document: Any = {
        "error": {"error": {"message": message, "type": "x", "param": None, "code": None}},
        "gateway": {"code": 8, "message": message, "details": []},
        "text": {"error": message},
    }[form]
    error = explain("create GPU cluster", status, document, {"retry-after": "45"})  # type: ignore[arg-type]
    assert error is not None
    assert type(error) is kind
    assert (error.retryable, error.doubtful) == (retryable, doubtful)
    if isinstance(error, RateLimited):
        assert error.retry_after == 45


@pytest.mark.parametrize(
    "document", [None, [], {}, {"error": None}, {"error": {}}, {"message": 7}, {"error": ""}]
)
def test_an_answer_without_a_sentence_is_told_by_its_status(document: Any) -> None:
    assert explain("create GPU cluster", 400, document, {}) is None  # type: ignore[arg-type]


def test_wrong_credentials_are_named_without_the_key(fake: FakeTogether) -> None:
    wrong = {"endpoint_url": fake.url, "requests_per_second": 10_000}
    cloud = TogetherProvider(credentials={"api_key": "tgp_v1_wrong"}, settings=wrong)
    with pytest.raises(AuthFailed) as refusal:
        cloud.test_connection()
    assert "tgp_v1_wrong" not in str(refusal.value) + repr(cloud) + repr(cloud.api)
    assert (provider(fake).test_connection().account, provider(fake).test_connection().principal) == (
        "",
        "Together",
    )
    for key in ("", "a\nb", "schlüssel"):
        with pytest.raises(AuthFailed):
            TogetherProvider(credentials={"api_key": key}, settings={})


@pytest.mark.parametrize("rate", [0, -1, True, "many", "NaN", 10**400])
def test_a_rate_must_be_a_number(rate: Any) -> None:
    with pytest.raises(ProviderError, match="requests_per_second"):
        TogetherProvider(credentials={"api_key": KEY}, settings={"requests_per_second": rate})


def test_spot_is_not_supported(fake: FakeTogether) -> None:
    with pytest.raises(NotSupported):
        provider(fake).launch(replace(GROUP, purchase_option=PurchaseOption.SPOT))
