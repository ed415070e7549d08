"""Crusoe: what its errors mean, and that its document is in force."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from inventory.providers.crusoe.api import explain
from inventory.providers.errors import (
    AuthFailed,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)
from tests.contract.crusoe import DOCUMENT, without_base_path
from tests.contract.fake_crusoe import PROJECT, FakeCrusoe
from tests.contract.prism import Documents, refusals, vendor_document

INSTANCES = f"/projects/{PROJECT}/compute/vms/instances"


@pytest.fixture
def fake() -> Iterator[FakeCrusoe]:
    fake = FakeCrusoe()
    yield fake
    fake.close()


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "retryable", "doubtful"),
    [
        (400, "out_of_stock", "a100.8x is not there", NoCapacity, True, False),
        (400, "bad_request", "Insufficient capacity in us-east1-a.", NoCapacity, True, False),
        (400, "bad_request", "rpc error: code = X desc = VM type is out of stock", NoCapacity, True, False),
        (400, "quota_exceeded", "Limit reached.", QuotaExceeded, False, False),
        (403, "forbidden", "This exceeds the quota of the project.", QuotaExceeded, False, False),
        (400, "bad_request", "no such image", ProviderError, False, False),
        (401, "bad_credential", "no such key", AuthFailed, False, False),
        (403, "unauthorized", "not your project", AuthFailed, False, False),
        (404, "not_found", "no such network", NotFound, False, False),
        (429, "too_many_requests", "slow down", RateLimited, True, False),
        (500, "internal_error", "out of stock", ProviderError, True, True),
        (503, "", "down", ProviderError, True, True),
    ],
)
def test_an_error_is_told_by_its_words_and_its_status(
    status: int, code: str, message: str, kind: type[ProviderError], retryable: bool, doubtful: bool
) -> None:
    error = explain("create VM", status, {"code": code, "message": message, "error_id": "e-1"}, {})  # type: ignore[arg-type]
    assert error is not None
    assert type(error) is kind
    assert (error.retryable, error.doubtful, error.code) == (retryable, doubtful, code)
    if status == 401:  # it is signed with the time
        assert "clock" in error.message and message not in error.message
    else:
        assert message.rpartition(" desc = ")[2] in error.message
    assert "rpc error" not in error.message


@pytest.mark.parametrize("document", [None, [], {}, {"message": None}, {"error": "text"}])
def test_an_answer_without_a_message_is_told_by_its_status(document: Any) -> None:
    assert explain("create VM", 400, document, {}) is None  # type: ignore[arg-type]


def test_the_document_is_in_force(fake: FakeCrusoe, prism: Documents) -> None:
    """It is Swagger 2, and says its base path apart: a path that it did not know would let all through."""
    url = prism(vendor_document(DOCUMENT), fake.url, rewrite=without_base_path)
    body = b'{"name": "x", "type": "a40.1x", "location": "us-east1-a"}'  # and no SSH key
    request = urllib.request.Request(f"{url}{INSTANCES}", body, {"content-type": "application/json"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=30)
    [refusal] = refusals(url)
    assert "ssh_public_key" in refusal
