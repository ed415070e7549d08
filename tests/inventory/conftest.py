"""Supply as tests need it: the shipped catalog, an account at the EC2-compatible server."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import transaction

from inventory.catalog import load_facts
from inventory.models import Provider, ProviderAccount
from inventory.providers import registry
from inventory.rate_cards import read_card, store_card
from portal.common.crypto import encrypt
from tests.inventory.fake_cloud import FakeCloud, catalog, offer

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "an-example-secret"}


@pytest.fixture
def now() -> datetime:
    return NOW


CARDS = {
    "aws": """region,instance_type,usd_per_hour
us-east-1,p5.48xlarge,55.04
us-east-1,p4d.24xlarge,21.957642
us-gov-west-1,p4d.24xlarge,27.447
""",
    "nebius": """region,instance_type,usd_per_hour,usd_per_hour_spot
eu-north1,gpu-h100-sxm_8gpu-128vcpu-1600gb,23.60,10
eu-north1,gpu-l40s-a_1gpu-16vcpu-64gb,1.7468,
""",
}


@pytest.fixture
def supply(db: None) -> None:
    """All providers, GPU models and instance types that ship, and two short rate cards."""
    with transaction.atomic():
        load_facts()
        for slug, card in CARDS.items():
            provider = Provider.objects.get(slug=slug)
            lines = read_card(provider=provider, file=io.BytesIO(card.encode()))
            store_card(provider=provider, lines=lines, now=datetime(2026, 10, 1, tzinfo=UTC))


def make_account(kind: str = "aws", **fields: Any) -> ProviderAccount:
    """A provider account with example credentials; makes its provider where there is none."""
    provider, _created = Provider.objects.get_or_create(
        slug=fields.pop("slug", kind), defaults={"name": kind.upper(), "kind": kind}
    )
    return ProviderAccount.objects.create(
        provider=provider,
        name=fields.pop("name", f"{provider.slug} main"),
        credentials=fields.pop("credentials", encrypt(KEYS)),
        resale_allowed=fields.pop("resale_allowed", True),
        **fields,
    )


@pytest.fixture
def ec2_account(supply: None, moto_ec2: str) -> ProviderAccount:
    return make_account(options={"endpoint_url": moto_ec2, "regions": ["us-east-1"], "image": "ami-12c6146b"})


class _Page(BaseHTTPRequestHandler):
    """A proxy's error page, with a status that says all is well."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        page = b"<!doctype html><title>Sign in to the guest network</title>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def html_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> type[FakeCloud]:
    monkeypatch.setattr(
        registry, "BUILT_IN", {**registry.BUILT_IN, "fake": "tests.inventory.fake_cloud.FakeCloud"}
    )
    monkeypatch.setattr(FakeCloud, "answers", {"us-east-1": catalog(offer(), offer("p4d.24xlarge", "21.95"))})
    monkeypatch.setattr(FakeCloud, "listing", None)
    monkeypatch.setattr(FakeCloud, "during", None)
    return FakeCloud


@pytest.fixture
def account(supply: None, cloud: type[FakeCloud]) -> ProviderAccount:
    Provider.objects.filter(slug="aws").update(kind="fake")
    return make_account("fake", slug="aws")
