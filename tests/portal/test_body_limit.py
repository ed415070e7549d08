"""A body that is too large is refused in words, before anything reads it."""

import io

import pytest

from portal.middleware import body_limit

MEGABYTE = 2**20


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/", 5 * MEGABYTE),
        ("/api/v1/quotes", 5 * MEGABYTE),
        ("/admin/billing/vendorbill/add/", 256 * MEGABYTE),
    ],
)
def test_limits_by_path(path, limit):
    assert body_limit(path) == limit


def test_a_form_of_20_mb_gets_413_with_a_sentence(client):
    answer = client.post("/accounts/login/", {"login": "x" * (20 * MEGABYTE)})
    assert answer.status_code == 413
    assert "5.0\xa0MB" in answer.content.decode()


def test_the_api_answers_with_a_problem_document(client):
    answer = client.generic("POST", "/api/v1/quotes", b"x" * (20 * MEGABYTE), content_type="application/json")
    assert answer.status_code == 413
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 413


def test_an_upload_is_limited_too(client):
    file = io.BytesIO(b"x" * (6 * MEGABYTE))
    file.name = "bill.csv"
    assert client.post("/accounts/login/", {"file": file}).status_code == 413
