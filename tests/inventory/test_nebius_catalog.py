"""Nebius: platforms, prices and stock by its own messages, its credentials, and its SDK's threads."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

pytest.importorskip("nebius", reason="The SDK of Nebius is not installed: requirements-nebius.txt")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from inventory.providers import registry
from inventory.providers.base import Availability, OfferInfo, PurchaseOption
from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NotSupported,
    ProviderError,
    RateLimited,
    TimedOut,
)
from inventory.providers.nebius import NebiusProvider, session
from inventory.providers.nebius.catalog import FRESH, LEVELS, Told, advised
from tests.contract.fake_nebius import EXCHANGE, PROJECT, REGION, TENANT, TOKEN, FakeNebius

H100 = "gpu-h100-sxm_8gpu-128vcpu-1600gb"
Level = Told.AvailabilityLevel


@pytest.fixture(scope="module")
def server() -> Iterator[FakeNebius]:
    fake = FakeNebius()
    yield fake
    fake.close()


@pytest.fixture
def fake(server: FakeNebius, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNebius]:
    server.reset()
    monkeypatch.setattr("inventory.providers.nebius.session.PAUSE", 0.001)
    with server.connected():
        yield server


def provider(credentials: dict[str, str] | None = None, **settings: Any) -> NebiusProvider:
    usual = {"projects": {REGION: PROJECT}, "tenant_id": TENANT, "requests_per_second": 10_000}
    return NebiusProvider(credentials=credentials or {"token": TOKEN}, settings={**usual, **settings})


def offers(cloud: NebiusProvider) -> dict[tuple[str, str], OfferInfo]:
    return {(each.instance_type, str(each.purchase_option)): each for each in cloud.offers(REGION).offers}


def test_presets_with_gpus_are_types_and_nebius_prices_them(fake: FakeNebius) -> None:
    found = provider().offers(REGION)
    infos = {info.name: info for info in found.instance_types}
    assert set(infos) == {H100, "gpu-h100-sxm_1gpu-16vcpu-200gb", "gpu-l40s-d_1gpu-16vcpu-96gb"}
    info = infos[H100]
    assert (info.gpu_name, info.gpu_count, info.gpu_memory_mib) == ("gpu-h100-sxm", 8, 80 * 1024)
    assert (info.vcpus, info.memory_mib) == (128, 1600 * 1024)
    priced = offers(provider())
    assert priced[H100, "on_demand"].price == Decimal("23.600000001")
    assert priced[H100, "on_demand"].availability == Availability.AVAILABLE


def test_spot_costs_what_its_market_says_for_all_gpus(fake: FakeNebius) -> None:
    found = offers(provider())
    assert (found[H100, "spot"].price, found[H100, "spot"].currency) == (Decimal("10.00"), "USD")
    assert not any("l40s" in name and option == "spot" for name, option in found)
    fake.spot = {}
    assert not any(option == "spot" for _, option in offers(provider()))


def test_stock_is_the_best_advice_of_the_region(fake: FakeNebius) -> None:
    assert set(LEVELS) == set(Level)
    platform, _, preset = H100.partition("_")
    fake.advice = [
        fake.make_advice(platform, preset, 0),
        fake.make_advice(platform, preset, 3, level=Level.AVAILABILITY_LEVEL_LOW),
        fake.make_advice("gpu-l40s-d", "1gpu-16vcpu-96gb", 5, region="us-central1"),
    ]
    found = offers(provider())
    assert found[H100, "on_demand"].availability == Availability.AVAILABLE
    assert found["gpu-l40s-d_1gpu-16vcpu-96gb", "on_demand"].availability == Availability.UNKNOWN


@pytest.mark.parametrize(
    ("level", "available", "expected"),
    [
        (Level.AVAILABILITY_LEVEL_HIGH, 8, Availability.AVAILABLE),
        (Level.AVAILABILITY_LEVEL_MEDIUM, 1, Availability.AVAILABLE),
        (Level.AVAILABILITY_LEVEL_LOW, 1, Availability.AVAILABLE),
        (Level.AVAILABILITY_LEVEL_HIGH, 0, Availability.UNAVAILABLE),
        (Level.AVAILABILITY_LEVEL_LIMIT_REACHED, 0, Availability.UNAVAILABLE),
        (Level.AVAILABILITY_LEVEL_UNKNOWN, 4, Availability.UNKNOWN),
        (Level.AVAILABILITY_LEVEL_UNSPECIFIED, 4, Availability.UNKNOWN),
        (Level(99), 4, Availability.UNKNOWN),
    ],
)
def test_every_level_of_an_advice_is_mapped(level: Any, available: int, expected: Availability) -> None:
    told = Told(data_state=FRESH, availability_level=level, available=available)
    assert advised(told) == expected


@pytest.mark.parametrize("state", [state for state in Told.DataState if state != FRESH])
def test_an_advice_that_is_not_fresh_says_nothing(state: Any) -> None:
    told = Told(data_state=state, availability_level=Level.AVAILABILITY_LEVEL_HIGH, available=8)
    assert advised(told) == Availability.UNKNOWN


def test_without_a_tenant_nobody_says_what_is_in_stock(fake: FakeNebius) -> None:
    found = offers(provider(tenant_id=""))
    assert {each.availability for each in found.values()} == {Availability.UNKNOWN}
    assert fake.count("ResourceAdviceService/List") == 0


@pytest.mark.parametrize("price", ["", "NaN", "Infinity", "cheap", "1,5"])
def test_a_price_that_is_no_number_is_no_answer(fake: FakeNebius, price: str) -> None:
    platform, _, preset = H100.partition("_")
    fake.prices[platform, preset] = price
    with pytest.raises(BadAnswer, match="no number"):
        provider().offers(REGION)


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"<html>", b"\x0a\x05abc"])
def test_an_answer_that_is_no_message_is_said(fake: FakeNebius, payload: bytes) -> None:
    fake.plant("PlatformService/List", times=9, payload=payload)
    with pytest.raises(BadAnswer):
        provider().offers(REGION)


def test_a_page_that_repeats_is_no_list(fake: FakeNebius) -> None:
    fake.repeats = True
    with pytest.raises(BadAnswer, match="twice"):
        provider().offers(REGION)


def test_a_read_is_tried_again_and_a_throttled_one_is_not(fake: FakeNebius) -> None:
    fake.plant("PlatformService/List", times=2, refuse="silent")
    assert offers(provider())
    fake.calls.clear()
    fake.plant("PlatformService/List", times=9, refuse="throttled")
    with pytest.raises(RateLimited):
        provider().offers(REGION)
    assert fake.count("PlatformService/List") == 1


def test_the_account_is_the_tenant_of_its_project(fake: FakeNebius) -> None:
    identity = provider().test_connection()
    assert (identity.account, identity.principal) == (TENANT, "resale")


@pytest.mark.parametrize(
    "settings",
    [
        {"projects": {}},
        {"projects": "project-1"},
        {"projects": {REGION: 7}},
        {"projects": {"us-central1": "project-1"}},
        {"subnets": ["vpcsubnet-1"]},
        {"tenant_id": 7},
        {"requests_per_second": "often"},
        {"domain": 7},
    ],
)
def test_a_setting_that_is_wrong_is_named(fake: FakeNebius, settings: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match=next(iter(settings))):
        cloud = provider(**settings)
        cloud.offers(REGION)
        cloud.session.by_region("subnets")


@pytest.mark.parametrize(
    "credentials",
    [
        {"token": ""},
        {"token": "schlüssel"},
        {"service_account": "{"},
        {"service_account": "[]"},
        {"service_account": '{"subject-credentials": {"alg": "RS256"}}'},
        {
            "service_account": json.dumps(
                {
                    "subject-credentials": {
                        "alg": "RS256", "private-key": "secret-not-pem", "kid": "k", "iss": "s", "sub": "s"
                    }
                }
            )
        },
    ],
)  # fmt: skip
def test_credentials_that_cannot_be_any_are_refused_without_being_quoted(credentials: dict[str, str]) -> None:
    with pytest.raises(AuthFailed) as refusal:
        provider(credentials)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def authorized_key() -> tuple[dict[str, str], Any]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    subject = {"type": "JWT", "alg": "RS256", "private-key": pem, "kid": "publickey-1"}
    account = {"iss": "serviceaccount-1", "sub": "serviceaccount-1"}
    return {
        "service_account": json.dumps({"subject-credentials": {**subject, **account}})
    }, private.public_key()


def test_a_service_account_signs_for_a_token_once(fake: FakeNebius) -> None:
    credentials, fake.key = authorized_key()
    cloud = provider(credentials)
    cloud.offers(REGION)
    provider(credentials).test_connection()
    assert fake.count(EXCHANGE) == 1
    private = json.loads(credentials["service_account"])["subject-credentials"]["private-key"]
    assert private.splitlines()[1] not in repr(vars(cloud.session))


def test_adapters_of_one_account_share_one_sdk_and_leave_no_thread(fake: FakeNebius) -> None:
    clouds = [provider() for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda cloud: cloud.test_connection().account, clouds))
    assert found == [TENANT] * 20
    assert len({id(cloud.session.sdk()) for cloud in clouds}) == 1
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("nebius-sdk")]
    assert 1 <= len(ours) <= 3
    clouds.clear()
    end = time.monotonic() + 20
    while any(thread.is_alive() for thread in ours) and time.monotonic() < end:
        gc.collect()  # what a call left behind goes when its thread does
        time.sleep(0.05)
    assert not session._shared
    assert not any(thread.is_alive() for thread in ours)


def test_it_works_where_an_event_loop_runs(fake: FakeNebius) -> None:
    async def inside() -> str:
        return provider().test_connection().account

    assert asyncio.run(inside()) == TENANT


def test_an_sdk_that_says_nothing_is_given_up_and_made_anew(
    fake: FakeNebius, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = provider()
    first = cloud.session.sdk()
    monkeypatch.setattr(session, "LONGEST_CALL", 0.1)
    silence = threading.Event()

    class Call:
        def wait(self) -> None:
            silence.wait(30)

    with pytest.raises(TimedOut) as failure:
        cloud.session.once(lambda request, **named: Call(), None, action="create instance")
    assert failure.value.doubtful
    silence.set()
    monkeypatch.setattr(session, "LONGEST_CALL", 50.0)
    assert cloud.test_connection().account == TENANT
    assert cloud.session.sdk() is not first


def test_a_fork_makes_an_sdk_of_its_own(fake: FakeNebius, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = provider()
    first = cloud.session.sdk()
    monkeypatch.setattr("inventory.providers.nebius.session.os.getpid", lambda: -1)
    assert cloud.session.sdk() is not first


def test_without_the_sdk_its_requirements_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> Any:
        raise ModuleNotFoundError("No module named 'nebius'", name="nebius")

    monkeypatch.setattr(registry, "import_string", missing)
    with pytest.raises(NotSupported, match=r"pip install -r requirements-nebius\.txt"):
        registry.adapter("nebius")


def test_spot_is_an_option_of_what_is_listed(fake: FakeNebius) -> None:
    options = {each.purchase_option for each in provider().offers(REGION).offers}
    assert options == {PurchaseOption.ON_DEMAND, PurchaseOption.SPOT}


def test_a_key_that_nebius_does_not_know_is_refused(fake: FakeNebius) -> None:
    credentials, _theirs = authorized_key()
    _ours, fake.key = authorized_key()
    with pytest.raises(AuthFailed) as refusal:
        provider(credentials).test_connection()
    assert "PRIVATE" not in str(refusal.value)
