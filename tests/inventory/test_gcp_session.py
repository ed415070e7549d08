"""Google Cloud: the key, the sign-in, and what every refusal means."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from inventory.providers import registry
from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotFound,
    NotSupported,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)
from inventory.providers.gcp import GcpProvider, auth
from inventory.providers.gcp.errors import explain, of_operation
from tests.contract.fake_api import Reply
from tests.contract.fake_gcp import FakeGcp
from tests.contract.gcp_data import REFUSALS, REGION, TOKEN, key_file, keys, refused
from tests.inventory.test_gcp_prices import provider

GOOGLE = "https://oauth2.googleapis.com/token"


@pytest.fixture
def fake() -> Iterator[FakeGcp]:
    fake = FakeGcp()
    yield fake
    fake.close()


def key(**changed: Any) -> str:
    document = {**json.loads(key_file(keys()[0][0], GOOGLE)), **changed}
    return json.dumps({name: value for name, value in document.items() if value is not None})


def google(text: Any = None, **settings: Any) -> GcpProvider:
    text = key() if text is None else text
    return GcpProvider(credentials={"service_account_key": text}, settings=settings)


# --- the key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "whole JSON"),
        ("{", "whole JSON"),
        ("[]", "whole JSON"),
        (7, "whole JSON"),
        ("x" * 30_000, "whole JSON"),
        (key(type="external_account", credential_source={"executable": {"command": "/bin/sh"}}), "kind"),
        (key(type="authorized_user"), "kind"),
        (key(type="impersonated_service_account"), "kind"),
        (key(type=None), "kind"),
        (key(private_key=None), "private_key"),
        (key(project_id=""), "project_id"),
        (key(client_email=5), "client_email"),
        (key(token_uri="https://oauth2.googleapis.com.example/token"), "token_uri"),
        (key(token_uri="http://oauth2.googleapis.com/token"), "token_uri"),
        (key(token_uri="http://169.254.169.254/token"), "token_uri"),
        (key(token_uri="http://127.0.0.1:9/token"), "token_uri"),
        (key(token_uri="file:///etc/passwd"), "token_uri"),
        (key(universe_domain="example.com"), "public cloud"),
        (
            key(private_key="-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"),
            "cannot be read",
        ),
        (key(private_key="secret"), "cannot be read"),
    ],
)
def test_only_a_service_account_s_key_from_google_is_taken(text: Any, said: str) -> None:
    with pytest.raises(AuthFailed, match=said) as refused_:
        google(text)
    assert refused_.value.__cause__ is None
    assert "BEGIN" not in str(refused_.value)


def test_a_missing_credential_is_said() -> None:
    with pytest.raises(AuthFailed):
        GcpProvider(credentials={}, settings={})


def test_the_key_is_in_nothing_that_is_shown() -> None:
    adapter = google()
    for shown in (adapter, adapter.session, adapter.session.compute):
        assert "PRIVATE KEY" not in repr(shown)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"project": "P"}, "project"),
        ({"project": ["sublet-test"]}, "project"),
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"endpoint_url": "http://compute.example.com"}, "https"),
        ({"billing_url": "http://billing.example.com"}, "https"),
    ],
)
def test_settings_are_checked_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ProviderError, match=said):
        google(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"currency": "dollars"}, "currency"), ({"capacity_advice": "yes"}, "capacity_advice")],
)
def test_settings_of_the_catalog_are_checked_with_it(
    fake: FakeGcp, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ProviderError, match=said):
        provider(fake, **settings).offers(REGION)


def test_without_google_auth_staff_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("inventory.providers.gcp")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("google.auth", "google.oauth2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotSupported, match=r"pip install -r requirements-gcp\.txt"):
        registry.adapter("gcp")


# --- the sign-in


def test_one_token_serves_many_calls_until_it_is_refused(fake: FakeGcp) -> None:
    asked: list[str] = []
    sign_in = fake.sign_in
    fake.sign_in = lambda assertion: asked.append(assertion) or sign_in(assertion)  # type: ignore[func-returns-value, method-assign]
    adapter = provider(fake)
    for _turn in range(3):
        adapter.test_connection()
    assert len(asked) == 1
    fake.sign_in = lambda _assertion: Reply({"access_token": "ya29.another", "expires_in": 3599})  # type: ignore[method-assign]
    adapter = provider(fake)
    with pytest.raises(AuthFailed):
        adapter.test_connection()
    fake.sign_in = sign_in  # type: ignore[method-assign]
    adapter.test_connection()


def test_the_scopes_are_compute_and_reading_prices(fake: FakeGcp) -> None:
    assert {scope.rpartition("/")[2] for scope in auth.SCOPES} == {"compute", "cloud-billing.readonly"}


def answered(fake: FakeGcp, reply: Reply) -> GcpProvider:
    fake.sign_in = lambda _assertion: reply  # type: ignore[method-assign]
    return provider(fake)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400), AuthFailed),
        (Reply({"error": "invalid_client"}, 401), AuthFailed),
        (Reply({"error": {"code": 403}}, 403), AuthFailed),
        (Reply({"error": "rate_limit_exceeded"}, 429), RateLimited),
        (Reply({"error": "internal_failure"}, 500), BadAnswer),
        (Reply(["ya29"], 200), BadAnswer),
        (Reply("ya29", 200), BadAnswer),
        (Reply({"access_token": "ya29\nx", "expires_in": 1}, 200), BadAnswer),
        (Reply({"access_token": ["ya29"], "expires_in": 3599}, 200), BadAnswer),
        (Reply({"access_token": "ya29", "expires_in": "soon"}, 200), BadAnswer),
        (Reply({}, 302), ProviderError),
    ],
)
def test_a_sign_in_that_fails_is_never_a_doubt(
    fake: FakeGcp, reply: Reply, error: type[ProviderError]
) -> None:
    adapter = answered(fake, reply)
    with pytest.raises(error) as failed:
        adapter.session.write("POST", "zones/us-central1-a/instances", {}, action="Launching")
    assert not failed.value.doubtful
    assert not [call for call in fake.calls if call.path != "/token"]


def test_a_sign_in_without_an_answer_is_tried_again(fake: FakeGcp) -> None:
    text = key_file(keys()[0][0], "http://127.0.0.1:9/token")
    adapter = GcpProvider(
        credentials={"service_account_key": text},
        settings={"endpoint_url": fake.url, "billing_url": fake.url},
    )
    with pytest.raises(TimedOut) as silent:
        adapter.session.write("POST", "zones/us-central1-a/instances", {}, action="Launching")
    assert (silent.value.retryable, silent.value.doubtful) == (True, False)
    assert fake.calls == []


def test_the_token_is_sent_to_no_other_host(fake: FakeGcp) -> None:
    adapter = provider(fake)
    with pytest.raises(BadAnswer):
        adapter.session.compute.write("GET", "http://127.0.0.1:9/compute/v1/projects", action="Listing")
    assert TOKEN not in repr(adapter.session.compute)


# --- refusals


def document(status: int, reason: str, message: str = "Something.", word: str = "") -> Any:
    return refused(status, reason, message, word).document


def meaning(status: int, found: Any, **headers: str) -> ProviderError | None:
    return explain("Reading", status, found, httpx.Headers(headers))


@pytest.mark.parametrize(
    ("status", "reason", "message", "error", "retryable", "doubtful"),
    [
        (403, "rateLimitExceeded", "", RateLimited, True, False),
        (403, "userRateLimitExceeded", "", RateLimited, True, False),
        (429, "anything", "", RateLimited, True, False),
        (403, "quotaExceeded", "", QuotaExceeded, False, False),
        (403, "forbidden", "Quota 'A100' exceeded.", QuotaExceeded, False, False),
        (403, "accessNotConfigured", "", AuthFailed, False, False),
        (403, "forbidden", "", AuthFailed, False, False),
        (403, "insufficientPermissions", "", AuthFailed, False, False),
        (401, "authError", "", AuthFailed, False, False),
        (401, "required", "Login Required.", AuthFailed, False, False),
        (400, "required", "Required field 'x' not specified", ProviderError, False, False),
        (400, "invalid", "", ProviderError, False, False),
        (
            400,
            "invalid",
            "Specified reservation x does not have available resources",
            NoCapacity,
            True,
            False,
        ),
        (503, "backendError", "", ProviderError, True, True),
        (500, "internalError", "", ProviderError, True, True),
        (503, "other", "ZONE_RESOURCE_POOL_EXHAUSTED: The zone is full.", NoCapacity, True, False),
        (503, "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "", NoCapacity, True, False),
        (409, "alreadyExists", "", ProviderError, True, True),
        (409, "other", "", ProviderError, True, True),
        (412, "conditionNotMet", "", ProviderError, True, False),
        (400, "resourceNotReady", "", ProviderError, True, False),
        (400, "resourceInUseByAnotherResource", "", ProviderError, True, False),
        (404, "notFound", "Not Found", ProviderError, False, False),
    ],
)
def test_reasons_of_google(
    status: int, reason: str, message: str, error: type[ProviderError], retryable: bool, doubtful: bool
) -> None:
    found = meaning(status, document(status, reason, message))
    assert type(found) is error
    assert (found.retryable, found.doubtful, found.code != "") == (retryable, doubtful, True)


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("projects/p/zones/us-central1-a/instances/one", True),
        ("projects/p/regions/us-central1/addresses/one", True),
        ("projects/p/global/firewalls/one", True),
        ("projects/p/zones/us-central1-a/disks/one", True),
        ("projects/p", False),
        ("projects/p/zones/us-central1-q", False),
        ("projects/p/global/networks/none", False),
        ("projects/p/global/images/family/none", False),
    ],
)
def test_only_a_thing_that_is_named_is_gone(path: str, gone: bool) -> None:
    found = meaning(404, document(404, "notFound", f"The resource '{path}' was not found"))
    assert isinstance(found, NotFound) == gone
    assert found is not None and path in str(found)


def test_newer_error_documents_say_it_in_details() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}]
    error = {"code": 403, "message": "Cloud Billing API has not been used.", "status": "PERMISSION_DENIED"}
    found = meaning(403, {"error": {**error, "details": details}})
    assert isinstance(found, AuthFailed)
    assert "Cloud Billing API" in str(found)
    limited = meaning(403, {"error": {**error, "details": [{"reason": "RATE_LIMIT_EXCEEDED"}]}})
    assert isinstance(limited, RateLimited)


def test_a_pause_that_google_states_is_kept() -> None:
    found = meaning(429, document(429, "rateLimitExceeded"), **{"retry-after": "77"})
    assert isinstance(found, RateLimited)
    assert found.retry_after == 77


@pytest.mark.parametrize("found", [None, [], {"error": "text"}, {"error": None}, "x", {"error": []}])
def test_what_is_no_error_document_is_told_by_its_status(found: Any) -> None:
    assert meaning(500, found) is None


@pytest.mark.parametrize(
    "error",
    [
        {"code": 400, "message": None, "errors": "x", "details": 7, "status": []},
        {"errors": [None, {"reason": 5}, {}], "message": ["x"]},
        {},
    ],
)
def test_a_garbled_error_document_is_still_an_error(error: dict[str, Any]) -> None:
    found = meaning(400, {"error": error})
    assert type(found) is ProviderError


def test_refusals_of_the_fake_are_those_of_google() -> None:
    assert set(REFUSALS) == {"quota", "throttled", "forbidden", "unauthorized", "internal"}


@pytest.mark.parametrize(
    ("code", "message", "error", "retryable"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "full", NoCapacity, True),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "full", NoCapacity, True),
        ("QUOTA_EXCEEDED", "Quota 'GPUS_ALL_REGIONS' exceeded.", QuotaExceeded, False),
        ("PERMISSIONS_ERROR", "Required permission", AuthFailed, False),
        ("INTERNAL_ERROR", "Internal error.", ProviderError, True),
        ("RESOURCE_NOT_READY", "The resource is not ready", ProviderError, True),
        ("INVALID_USAGE", "Specified reservations [x] do not have available resources", NoCapacity, True),
        ("UNSUPPORTED_OPERATION", "Not supported", ProviderError, False),
        ("", "", ProviderError, False),
    ],
)
def test_an_operation_that_failed_is_over(
    code: str, message: str, error: type[ProviderError], retryable: bool
) -> None:
    operation = {"status": "DONE", "error": {"errors": [{"code": code, "message": message}]}}
    found = of_operation(operation, "Launching")
    assert type(found) is error
    assert (found.retryable, found.doubtful) == (retryable, False)


@pytest.mark.parametrize(
    "operation",
    [
        {"status": "DONE"},
        {"status": "RUNNING", "error": {"errors": [{"code": "QUOTA_EXCEEDED"}]}},
        {"status": "DONE", "error": {"errors": []}},
        {"status": "DONE", "error": "x"},
        {},
    ],
)
def test_an_operation_without_an_error_failed_not(operation: dict[str, Any]) -> None:
    assert of_operation(operation, "Launching") is None


def test_an_operation_may_fail_with_a_status_alone() -> None:
    found = of_operation(
        {"status": "DONE", "httpErrorStatusCode": 409, "httpErrorMessage": "CONFLICT"}, "Launching"
    )
    assert found is not None
    assert "CONFLICT" in str(found)
