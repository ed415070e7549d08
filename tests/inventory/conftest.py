"""Supply as tests need it: the shipped catalog, an account at the EC2-compatible server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from inventory.catalog import load_shipped
from inventory.models import Provider, ProviderAccount
from portal.common.crypto import encrypt

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "an-example-secret"}


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def shipped(transactional_db: None) -> None:
    """The catalog that ships with Sublet: providers, GPU models, types and list prices."""
    load_shipped(now=datetime(2026, 10, 1, tzinfo=UTC))


def make_account(kind: str = "aws", **fields: Any) -> ProviderAccount:
    """A provider account with example credentials; makes its provider where there is none."""
    provider, _created = Provider.objects.get_or_create(
        slug=fields.pop("slug", kind), defaults={"name": kind.upper(), "kind": kind}
    )
    return ProviderAccount.objects.create(
        provider=provider,
        name=fields.pop("name", f"{provider.slug} main"),
        credentials=fields.pop("credentials", encrypt(KEYS)),
        **fields,
    )


@pytest.fixture
def ec2_account(shipped: None, moto_ec2: str) -> ProviderAccount:
    return make_account(options={"endpoint_url": moto_ec2, "regions": ["us-east-1"], "image": "ami-12c6146b"})
