"""Supply as tests need it: the shipped catalog, an account at the EC2-compatible server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
def shipped(db: None) -> None:
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
