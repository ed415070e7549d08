"""A poll of an account that has never been polled: every GPU that the adapter names is understood."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from inventory.catalog import load_facts
from inventory.models import InstanceType, Offer, PollRun
from inventory.polling import poll_account
from portal.common.crypto import encrypt
from portal.common.transactions import durable
from tests.contract import fake_crusoe, fake_lambda, fake_runpod, fake_together
from tests.contract.fake_api import FakeApi
from tests.factories import make_account

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)

pytestmark = pytest.mark.django_db(transaction=True)


def poll(fake: FakeApi, kind: str, key: str | dict[str, str], **options: Any) -> list[PollRun]:
    with durable():
        load_facts()
    account = make_account(
        provider=kind,
        credentials=encrypt({"api_key": key} if isinstance(key, str) else key),
        options={"endpoint_url": fake.url, "requests_per_second": 10_000, **options},
    )
    runs = poll_account(account_id=account.pk, now=NOW)
    assert [(run.state, run.error) for run in runs] == [(PollRun.State.COMPLETE, "")] * len(runs)
    return runs


def models(kind: str) -> dict[str, tuple[str, int]]:
    types = InstanceType.objects.filter(provider__slug=kind, offers__isnull=False).distinct()
    return {row.name: (row.gpu_model.slug, row.gpus_per_node) for row in types.select_related("gpu_model")}


@pytest.fixture
def lambda_cloud() -> Iterator[fake_lambda.FakeLambda]:
    with closing(fake_lambda.FakeLambda()) as fake:
        yield fake


@pytest.fixture
def together() -> Iterator[fake_together.FakeTogether]:
    with closing(fake_together.FakeTogether()) as fake:
        yield fake


@pytest.fixture
def runpod() -> Iterator[fake_runpod.FakeRunPod]:
    with closing(fake_runpod.FakeRunPod()) as fake:
        yield fake


@pytest.fixture
def crusoe() -> Iterator[fake_crusoe.FakeCrusoe]:
    with closing(fake_crusoe.FakeCrusoe()) as fake:
        yield fake


def test_lambda_in_all_regions_by_two_calls(lambda_cloud: fake_lambda.FakeLambda) -> None:
    runs = poll(lambda_cloud, "lambda", fake_lambda.KEY)
    assert {run.region.code for run in runs if run.region} == {"us-west-1", "us-east-1", "us-south-1"}
    assert [call.path for call in lambda_cloud.calls] == ["/api/v1/regions", "/api/v1/instance-types"]
    assert models("lambda") == {
        "gpu_8x_h100_sxm5": ("h100-sxm5-80gb", 8),
        "gpu_1x_a10": ("a10-24gb", 1),
    }
    offers = Offer.objects.filter(instance_type__name="gpu_8x_h100_sxm5", price=Decimal("23.92"))
    assert dict(offers.values_list("region__code", "availability")) == {
        "us-west-1": "available",
        "us-south-1": "available",
        "us-east-1": "unavailable",
    }


def test_together_without_prices(together: fake_together.FakeTogether) -> None:
    poll(together, "together", fake_together.KEY)
    assert models("together") == {
        "H100_SXM": ("h100-sxm5-80gb", 8),
        "H200_SXM": ("h200-sxm5-141gb", 8),
        "B200_SXM": ("b200-sxm6-180gb", 8),
    }
    prices = Offer.objects.filter(instance_type__provider__slug="together").values_list(
        "price", "availability"
    )
    assert set(prices) == {(None, "unknown")}


def test_runpod_in_every_size_that_is_sold(runpod: fake_runpod.FakeRunPod) -> None:
    runs = poll(runpod, "runpod", fake_runpod.KEY)
    assert {run.region.code for run in runs if run.region} == {"US-KS-2", "EU-RO-1"}
    assert len(runpod.calls) == 5  # the data centers, and the stock of each size
    h100, rtx4090 = "NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090"
    assert models("runpod") == {
        **{f"{h100} x{count}": ("h100-sxm5-80gb", count) for count in (1, 2, 4, 8)},
        **{f"{rtx4090} x{count}": ("rtx-4090-24gb", count) for count in (1, 2, 4)},
    }
    offers = Offer.objects.filter(instance_type__name=f"{rtx4090} x2", price=Decimal("1.38"))
    assert dict(offers.values_list("region__code", "availability")) == {
        "US-KS-2": "unavailable",
        "EU-RO-1": "available",
    }


def test_crusoe_with_its_locations_as_zones(crusoe: fake_crusoe.FakeCrusoe) -> None:
    keys = {"access_key_id": fake_crusoe.KEY_ID, "secret_key": fake_crusoe.SECRET}
    runs = poll(crusoe, "crusoe", keys, project_id=fake_crusoe.PROJECT)
    assert {run.region.code for run in runs if run.region} == {"us-east1", "us-northcentral1"}
    assert len(crusoe.calls) == 3
    assert models("crusoe") == {
        fake_crusoe.H100: ("h100-sxm5-80gb", 8),
        fake_crusoe.A40: ("a40-48gb", 1),
    }
    offers = Offer.objects.filter(instance_type__name=fake_crusoe.A40)
    assert set(offers.values_list("region__code", "availability")) == {
        ("us-east1", "unavailable"),
        ("us-northcentral1", "available"),
    }
