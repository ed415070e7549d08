"""A credential shows up nowhere, whatever fails: not in a run, an event, a log or a report."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest
import sentry_sdk
import structlog
from django.utils import timezone

from inventory import accounts
from inventory.models import PollRun
from inventory.polling import poll_account
from inventory.providers.base import InstanceTypeInfo
from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError, RateLimited
from inventory.providers.http import JsonApi
from portal.accounts.models import Event
from portal.common import secrecy
from portal.common.crypto import encrypt
from portal.logs import logging_config
from portal.reports import sentry_options
from tests.inventory.fake_cloud import H100, FakeCloud, catalog, offer

pytestmark = pytest.mark.django_db

SECRET = 'sk-Canary/77+"nobody may\\read=this'
PEM_LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCanary"
KEY_FILE = json.dumps(
    {
        "type": "service_account",
        "project_id": "a-project",
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{PEM_LINE}\n-----END PRIVATE KEY-----\n",
    }
)
SPELLINGS = {
    "plain": SECRET,
    "in a URL": quote(SECRET, safe=""),
    "in a form": quote_plus(SECRET),
    "in JSON": json.dumps({"key": SECRET}),
    "as Python": repr({"key": SECRET}),
    "as basic auth": "Basic " + base64.b64encode(f"{SECRET}:".encode()).decode(),
    "of a key file": KEY_FILE,
    "of a key file, opened": json.loads(KEY_FILE)["private_key"],
}
PARTS = (
    "Canary",
    base64.b64encode(SECRET.encode()).decode()[:24],
)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Begin without what other tests opened."""
    monkeypatch.setattr(secrecy, "_known", {})
    monkeypatch.setattr(secrecy, "_longest_first", ())


@pytest.fixture
def canary(account):
    account.credentials = encrypt({"access_key_id": KEY_FILE, "secret_access_key": SECRET})
    account.save()
    return account


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything that is logged from here on, as production and as one machine write it."""
    out = io.StringIO()
    handlers = []
    for as_json in (True, False):
        config = logging_config(json=as_json, level="DEBUG")["formatters"]["default"]
        handler = logging.StreamHandler(out)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                processors=config["processors"], foreign_pre_chain=config["foreign_pre_chain"]
            )
        )
        handlers.append(handler)
        logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    yield out
    logging.getLogger().setLevel(level)
    for handler in handlers:
        logging.getLogger().removeHandler(handler)


class Kept(sentry_sdk.transport.Transport):
    """What would have gone to Sentry."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.sent: list[str] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.sent.append(envelope.serialize().decode(errors="replace"))


@pytest.fixture
def reported() -> Iterator[Kept]:
    kept = Kept()
    client = sentry_sdk.Client(dsn="https://key@sentry.example.com/1", transport=kept, **sentry_options())
    scope = sentry_sdk.get_global_scope()
    before = scope.client
    scope.set_client(client)
    yield kept
    client.flush()
    scope.set_client(before)


class _Echo(BaseHTTPRequestHandler):
    """Answer with the request, as a proxy's debug page does."""

    def do_GET(self) -> None:
        page = f"<h1>Bad gateway</h1>{self.path}\n{self.headers}".encode()
        self.send_response(502)
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def everything_kept() -> str:
    runs = [f"{run.error}\n{run.unknown_types}" for run in PollRun.objects.all()]
    events = [f"{event.message} {event.before} {event.after}" for event in Event.objects.all()]
    return "\n".join(runs + events)


def assert_nowhere(*texts: str) -> None:
    for text in texts:
        for part in PARTS:
            assert part not in text


def fails(error: Exception):
    def raise_it(region: str) -> None:
        logging.getLogger("some.sdk").warning("failed: %s", error)
        raise error

    return raise_it


ERRORS = (RuntimeError, KeyError, ProviderError, AuthFailed, BadAnswer, RateLimited)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_that_holds_the_secret(canary, cloud, now, kind, written, reported):
    for number, text in enumerate(SPELLINGS.values()):
        cloud.answers["us-east-1"] = fails(kind(f"cannot use {text} here"))
        poll_account(account_id=canary.pk, now=now + number * timezone.timedelta(days=2))
    logging.getLogger("inventory").error("with a traceback", exc_info=ValueError(SECRET))
    assert PollRun.objects.count() == len(SPELLINGS)
    assert "some.sdk" in written.getvalue()
    assert "[secret]" in written.getvalue()
    assert reported.sent
    assert_nowhere(everything_kept(), written.getvalue(), *reported.sent)


def test_an_adapter_that_fails_while_it_is_made(canary, cloud, now, monkeypatch, written, reported):
    def broken(self, *, credentials, settings):
        raise ValueError(f"unexpected credentials {credentials!r}")

    monkeypatch.setattr(FakeCloud, "__init__", broken)
    (run,) = poll_account(account_id=canary.pk, now=now)
    assert run.state == "failed"
    assert "unexpected credentials" in written.getvalue()
    assert_nowhere(everything_kept(), written.getvalue(), *reported.sent)


def test_a_key_in_the_address_and_in_headers(canary, cloud, now, echo, written, reported):
    def ask(region: str) -> None:
        secret = "sk-Canary/77"
        headers = {"authorization": "Bearer " + SECRET.replace('"', "")}
        httpx.get(f"{echo}/v1", params={"api_key": SECRET}, headers=headers).raise_for_status()
        raise AssertionError(secret)

    cloud.answers["us-east-1"] = ask
    (run,) = poll_account(account_id=canary.pk, now=now)
    assert "HTTPStatusError" in run.error
    assert "api_key=[secret]" in written.getvalue()
    assert_nowhere(everything_kept(), written.getvalue(), *reported.sent)


def test_the_shared_client_never_shows_what_it_sent(canary, cloud, now, echo, written):
    def ask(region: str) -> None:
        api = JsonApi(base_url=echo, headers={"authorization": f"Bearer {PEM_LINE}"})
        api.read("/v1", action="Listing", params={"api_key": SECRET})

    cloud.answers["us-east-1"] = ask
    (run,) = poll_account(account_id=canary.pk, now=now)
    assert run.error.startswith("Listing: HTTP 502")
    assert_nowhere(everything_kept(), written.getvalue())


def test_a_catalog_that_echoes_the_secret(canary, cloud, now, written):
    odd = InstanceTypeInfo(f"for {SECRET}", 8, 1024, SECRET, SECRET, 8, 1024)
    cloud.answers["us-east-1"] = catalog(
        offer(), offer(currency=SECRET), offer(region=SECRET), offer(SECRET), types=(H100, odd)
    )
    (run,) = poll_account(account_id=canary.pk, now=now)
    assert run.state == "partial"
    assert "[secret]" in run.error
    assert_nowhere(everything_kept(), written.getvalue())


def test_the_staff_s_test_of_a_connection(canary, cloud, monkeypatch, written):
    def refused(self):
        raise AuthFailed(f"The key {SECRET} is not known.")

    monkeypatch.setattr(FakeCloud, "test_connection", refused)
    with pytest.raises(AuthFailed) as caught:
        accounts.test_connection(account_id=canary.pk)
    assert str(caught.value) == "The key [secret] is not known."
    assert_nowhere(written.getvalue())


@pytest.mark.parametrize(
    "line", ["    token: {}", '    "token": "{}"', "user: {{token: {}}}", "    client-key-data: '{}'"]
)
def test_a_token_inside_of_a_kubeconfig_is_a_secret_alone(line):
    token = "CanaryToken0123456789.of-a-cluster"
    secrecy.keep_secret({"kubeconfig": "apiVersion: v1\nusers:\n" + line.format(token) + "\n"})
    assert "Canary" not in secrecy.without_secrets(f"Authorization: Bearer {token}")


def test_ordinary_words_stay_as_they_are():
    secrecy.keep_secret({"zone": "east", "key": SECRET, "nothing": None, "number": 12345678})
    text = "The east region has 12345678 machines of a-project."
    assert secrecy.without_secrets(text) == text
    assert secrecy.without_secrets(f"a {SECRET} b") == "a [secret] b"


def test_old_secrets_make_room_for_new_ones(monkeypatch):
    monkeypatch.setattr(secrecy, "MOST", 20)
    for number in range(50):
        secrecy.keep_secret({"key": f"secret-number-{number}"})
    assert secrecy.without_secrets("secret-number-49") == "[secret]"
    assert len(secrecy._known) <= 20
