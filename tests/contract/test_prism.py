"""Prism stands between a fake and who asks it, and refuses what the document does not say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.fake_api import Call, FakeApi, Reply, route
from tests.contract.prism import BASE_DIR, PACKAGE, Documents, refusals, vendor_document

DOCUMENT = {
    "swagger": "2.0",
    "info": {"title": "Things", "version": "1"},
    "basePath": "/v1",
    "paths": {
        "/things": {
            "post": {
                "consumes": ["application/json"],
                "produces": ["application/json"],
                "parameters": [
                    {
                        "in": "body",
                        "name": "thing",
                        "required": True,
                        "schema": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {"name": {"type": "string"}},
                        },
                    }
                ],
                "responses": {
                    "200": {
                        "description": "made",
                        "schema": {
                            "type": "object",
                            "required": ["id"],
                            "properties": {"id": {"type": "integer"}},
                        },
                    },
                    "409": {"description": "there is one"},
                },
            }
        }
    },
}


class Things(FakeApi):
    answer: Reply = Reply({"id": 7})

    @route("POST", "/things")
    def make(self, call: Call) -> Reply:
        return self.answer


@pytest.fixture
def things() -> Iterator[Things]:
    fake = Things()
    yield fake
    fake.close()


@pytest.fixture
def url(things: Things, prism: Documents, tmp_path: Path) -> str:
    def without_base_path(document: dict[str, Any]) -> None:
        del document["basePath"]

    document = tmp_path / "things.json"
    document.write_text(json.dumps(DOCUMENT))
    return prism(document, things.url, rewrite=without_base_path)


def test_what_the_document_says_passes(things: Things, url: str) -> None:
    answer = httpx.post(f"{url}/things", json={"name": "a"})
    assert (answer.status_code, answer.json()) == (200, {"id": 7})
    assert [call.body for call in things.calls] == [{"name": "a"}]
    things.answer = Reply({"why": "there is one"}, 409)
    assert httpx.post(f"{url}/things", json={"name": "a"}).status_code == 409
    assert refusals(url) == []


def test_a_request_that_the_document_does_not_allow_never_arrives(things: Things, url: str) -> None:
    assert httpx.post(f"{url}/things", json={"name": 1}).status_code == 422
    assert httpx.get(f"{url}/nothing").status_code == 404
    assert things.calls == []
    first, second = refusals(url)
    assert "UNPROCESSABLE_ENTITY" in first and "must be string" in first
    assert "NO_PATH_MATCHED" in second
    assert refusals(url) == []


def test_an_answer_that_the_document_does_not_promise_is_refused(things: Things, url: str) -> None:
    things.answer = Reply({"id": "seven"})
    assert httpx.post(f"{url}/things", json={"name": "a"}).status_code == 500
    [reason] = refusals(url)
    assert "VIOLATIONS" in reason and "must be integer" in reason


def test_the_same_document_before_the_same_fake_is_started_once(
    things: Things, prism: Documents, tmp_path: Path
) -> None:
    document = tmp_path / "things.json"
    document.write_text(json.dumps({**DOCUMENT, "basePath": "/"}))
    assert prism(document, things.url) == prism(document, things.url)


def test_a_document_that_is_missing_from_a_folder_that_is_there_is_an_error() -> None:
    if not (BASE_DIR.parent / "shared" / "data").is_dir():
        pytest.skip("../shared/data is not here")
    with pytest.raises(FileNotFoundError, match="nobody/nothing"):
        vendor_document("nobody/nothing.json")


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((PACKAGE / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
