"""Crusoe: how requests are signed, what it sells, and answers that are none."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from inventory.providers.base import Availability
from inventory.providers.crusoe import CrusoeProvider
from inventory.providers.crusoe.catalog import region_of
from inventory.providers.crusoe.signing import CrusoeAuth
from inventory.providers.errors import AuthFailed, BadAnswer, NotFound, ProviderError, RateLimited
from tests.contract.fake_api import Call, Reply
from tests.contract.fake_crusoe import A40, H100, KEY_ID, ORGANIZATION, PROJECT, SECRET, FakeCrusoe

HERE, GONE = Availability.AVAILABLE, Availability.UNAVAILABLE


@pytest.fixture
def fake() -> Iterator[FakeCrusoe]:
    fake = FakeCrusoe()
    yield fake
    fake.close()


def provider(fake: FakeCrusoe, **settings: Any) -> CrusoeProvider:
    usual = {"endpoint_url": fake.url, "requests_per_second": 10_000, "project_id": PROJECT}
    return CrusoeProvider(
        credentials={"access_key_id": KEY_ID, "secret_key": SECRET}, settings={**usual, **settings}
    )


def answer(fake: FakeCrusoe, path: str, reply: Reply) -> None:
    """Answer every call to a path with this."""

    def authorize(call: Call) -> Reply | None:
        return reply if call.path == path else None

    fake.authorize = authorize  # type: ignore[method-assign]


# --- the signature


def test_a_request_is_signed_as_crusoe_documents_it() -> None:
    request = httpx.Request("GET", "https://api.cloud.crusoe.ai/v1/capacities?location=us east&a=1&b=2&a=0")
    signed = next(CrusoeAuth(KEY_ID, SECRET).auth_flow(request))
    timestamp = signed.headers["x-crusoe-timestamp"]
    message = f"/v1/capacities\na=1&a=0&b=2&location=us+east\nGET\n{timestamp}\n"
    secret = base64.urlsafe_b64decode(SECRET + "=" * (-len(SECRET) % 4))
    digest = base64.urlsafe_b64encode(hmac.new(secret, message.encode(), hashlib.sha256).digest())
    assert signed.headers["authorization"] == f"Bearer 1.0:{KEY_ID}:{digest.decode().rstrip('=')}"
    assert timestamp.endswith("Z")


def test_a_known_signature() -> None:
    """Made with openssl: printf '/v1/locations\\n\\nGET\\n2026-11-01T10:00:00Z\\n' | openssl dgst -sha256 -hmac secret."""
    auth = CrusoeAuth("key", base64.urlsafe_b64encode(b"secret").decode().rstrip("="))
    found = auth.signature("GET", "/v1/locations", "", "2026-11-01T10:00:00Z")
    assert base64.urlsafe_b64decode(found + "=").hex() == KNOWN


KNOWN = "d47dd1cef423ba7f7547976e7b7416984a92e091fe75990fd5ed5f2fb6a3080e"


def test_the_secret_is_in_no_error_and_no_repr(fake: FakeCrusoe) -> None:
    for key, secret in (
        ("", SECRET),
        (KEY_ID, ""),
        ("ключ", SECRET),
        (KEY_ID, "not base64!"),
        (KEY_ID, "===="),
    ):
        with pytest.raises(AuthFailed) as refusal:
            CrusoeProvider(credentials={"access_key_id": key, "secret_key": secret}, settings={})
        assert not secret or secret not in str(refusal.value)
    other = CrusoeProvider(
        credentials={"access_key_id": KEY_ID, "secret_key": "b3RoZXI"},
        settings={"endpoint_url": fake.url, "project_id": PROJECT},
    )
    with pytest.raises(AuthFailed) as refusal:
        other.test_connection()
    assert "b3RoZXI" not in f"{refusal.value} {other!r} {vars(other.api)}"


def test_the_connection_names_the_project(fake: FakeCrusoe) -> None:
    identity = provider(fake).test_connection()
    assert (identity.account, identity.principal) == (f"{ORGANIZATION}/{PROJECT}", "resale")
    with pytest.raises(ProviderError, match="project_id"):
        provider(fake, project_id="").test_connection()


# --- the catalog


def test_locations_are_the_zones_of_regions_that_have_a_price(fake: FakeCrusoe) -> None:
    found = {region.code: [zone.code for zone in region.zones] for region in provider(fake).regions()}
    assert found == {
        "us-east1": ["us-east1-a"],
        "us-northcentral1": ["us-northcentral1-a", "us-northcentral1-b"],
    }
    assert [region.code for region in provider(fake, regions=["us-east1"]).regions()] == ["us-east1"]
    assert region_of("eu-iceland1-a") == "eu-iceland1"
    assert region_of("us-east") == "us-east"
    with pytest.raises(NotFound, match="moon-1"):
        provider(fake).offers("moon-1")


def test_a_type_has_its_gpus_and_no_price(fake: FakeCrusoe) -> None:
    catalog = provider(fake).offers("us-east1")
    info = {item.name: item for item in catalog.instance_types}
    assert set(info) == {H100, A40}  # and nothing without a GPU
    assert (info[H100].gpu_name, info[H100].gpu_count) == ("H100-SXM-80GB", 8)
    assert (info[H100].gpu_memory_mib, info[H100].vcpus) == (80 * 1024, 176)
    assert (info[H100].network, info[A40].network) == ("InfiniBand", "")
    assert (info[A40].gpu_vendor, info[A40].memory_mib) == ("nvidia", 60 * 1024)
    assert {offer.price for offer in catalog.offers} == {None}


def test_what_is_free_somewhere_in_a_region_is_available_there(fake: FakeCrusoe) -> None:
    fake.free[A40, "us-northcentral1-a"] = 0
    cloud = provider(fake)
    stock = {
        (region, offer.instance_type): (offer.availability, offer.zones)
        for region in ("us-east1", "us-northcentral1")
        for offer in cloud.offers(region).offers
    }
    assert stock == {
        ("us-east1", H100): (HERE, ("us-east1-a",)),
        ("us-east1", A40): (GONE, ()),
        ("us-northcentral1", H100): (GONE, ()),
        ("us-northcentral1", A40): (HERE, ("us-northcentral1-a", "us-northcentral1-b")),
    }
    assert len(fake.calls) == 3  # for both regions


def test_a_failure_is_not_waited_for_again_in_each_region(fake: FakeCrusoe) -> None:
    answer(fake, "/capacities", Reply({"code": "429", "message": "too_many_requests"}, 429))
    cloud = provider(fake)
    for region in cloud.regions():
        with pytest.raises(RateLimited):
            cloud.offers(region.code)
    assert len([call for call in fake.calls if call.path == "/capacities"]) == 1


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/locations", {"items": [7]}),
        ("/locations", {"items": None}),
        ("/locations", []),
        ("/capacities", {}),
        ("/capacities", {"items": [{"location": "us-east1-a"}]}),
        ("/capacities", {"items": [{"location": "us-east1-a", "type": H100, "quantity": "many"}]}),
        (f"/projects/{PROJECT}/compute/vms/types", {"items": [None]}),
        (f"/projects/{PROJECT}/compute/vms/types", {"items": [{"product_name": "a"}]}),
        (
            f"/projects/{PROJECT}/compute/vms/types",
            {"items": [{"product_name": "a", "num_gpu": -8, "cpu_cores": 1, "memory_gb": 1}]},
        ),
    ],
)
def test_an_answer_that_is_no_catalog_is_refused(fake: FakeCrusoe, path: str, document: Any) -> None:
    answer(fake, path, Reply(document))
    with pytest.raises(BadAnswer):
        provider(fake).offers("us-east1")
