"""The check by Google's discovery documents finds what it is there for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.contract.discovery import Discovery
from tests.contract.fake_gcp import FakeGcp
from tests.contract.gcp import DOCUMENTS
from tests.contract.gcp_data import BASE, TOKEN
from tests.contract.prism import vendor_document

INSTANCES = f"{BASE}/zones/us-central1-a/instances"


@pytest.fixture
def google() -> Discovery:
    return Discovery(*(vendor_document(path) for path in DOCUMENTS))


@pytest.fixture
def fake(google: Discovery) -> Iterator[FakeGcp]:
    fake = FakeGcp()
    fake.documents = google
    yield fake
    fake.close()


@pytest.mark.parametrize(
    ("http", "path", "method"),
    [
        ("POST", INSTANCES, "compute.instances.insert"),
        ("GET", f"{INSTANCES}/one", "compute.instances.get"),
        ("GET", f"{BASE}/aggregated/machineTypes", "compute.machineTypes.aggregatedList"),
        ("PATCH", f"{BASE}/global/firewalls/one", "compute.firewalls.patch"),
        ("GET", "/v1/services/6F81-5844-456A/skus", "cloudbilling.services.skus.list"),
        ("PUT", f"{BASE}/global/firewalls", ""),
        ("GET", f"{BASE}/zones/us-central1-a/things", ""),
    ],
)
def test_methods_are_told_by_verb_and_path(google: Discovery, http: str, path: str, method: str) -> None:
    found = google.method(http, path)
    assert (found.id if found else "") == method


@pytest.mark.parametrize(
    ("query", "body", "problem"),
    [
        ({"requestId": ["x"]}, {"name": "one"}, ""),
        ({"request_id": ["x"]}, {"name": "one"}, "parameter request_id is not in the document"),
        ({"requestId": ["x", "y"]}, {"name": "one"}, "given twice"),
        ({}, None, "the body is missing"),
        ({}, {"machinetype": "x"}, "body.machinetype is not in the document"),
        ({}, {"name": 7}, "body.name is no string"),
        ({}, {"disks": {}}, "body.disks is no list"),
        ({}, {"disks": [{"initializeParams": {"diskSizeGb": 100}}]}, "no string: 100"),
        ({}, {"disks": [{"initializeParams": {"diskSizeGb": "much"}}]}, "is no int64"),
        ({}, {"scheduling": {"provisioningModel": "CHEAP"}}, "is none of"),
        ({}, {"scheduling": {"automaticRestart": "yes"}}, "is no boolean"),
        ({}, {"labels": {"a": 1}}, "body.labels.a is no string"),
        ({}, {"creationTimestamp": "now"}, "is Google’s to write"),
        ({}, {"metadata": []}, "body.metadata is no object"),
    ],
)
def test_a_request_that_does_not_fit_is_found(
    google: Discovery, query: dict[str, list[str]], body: Any, problem: str
) -> None:
    found = google.request("POST", INSTANCES, query, body)
    assert bool(found) == bool(problem)
    assert not found or problem in found[0]
    assert len(google.problems) == len(found)


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (200, {"name": "operation-1", "status": "DONE"}, ""),
        (200, {"name": "operation-1", "status": "FINISHED"}, "is none of"),
        (200, {"result": "ok"}, "answer.result is not in the document"),
        (200, [], "is no object"),
        (403, {"error": {"code": 403, "message": "No."}}, ""),
        (403, {"error": "No."}, "answer.error is no object"),
        (403, {"message": "No."}, "answer.error is missing"),
    ],
)
def test_an_answer_that_does_not_fit_is_found(
    google: Discovery, status: int, body: Any, problem: str
) -> None:
    found = google.answer("POST", INSTANCES, status, body)
    assert bool(found) == bool(problem)
    assert not found or problem in found[0]


def test_the_fake_refuses_what_google_does_not_describe(fake: FakeGcp) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = httpx.post(fake.url + INSTANCES, json={"name": "one", "gpus": 8}, headers=headers)
    assert answer.status_code == 400
    assert fake.instances == {}
    assert fake.documents is not None
    assert fake.documents.problems == ["request compute.instances.insert: body.gpus is not in the document"]


def test_what_was_left_out_of_the_copy_is_checked_too(google: Discovery) -> None:
    rule = {"name": "x", "allowed": [{"IPProtocol": "tcp", "port": "22"}]}
    assert "port is not in the document" in google.request("POST", f"{BASE}/global/firewalls", {}, rule)[0]
    disks = {"items": {"zones/us-central1-a": {"disks": [{"status": "FINE"}]}}}
    assert "is none of" in google.answer("GET", f"{BASE}/aggregated/disks", 200, disks)[0]
