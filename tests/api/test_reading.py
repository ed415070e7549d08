"""Lists, pages, availability, and the schema."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.api.conftest import Customer, at
from tests.api.test_quotes import problem
from tests.factories import H100

pytestmark = pytest.mark.django_db(transaction=True)


def test_availability_finds_slots_with_prices(customer: Customer, fleet: None) -> None:
    response = customer.call().get(
        "availability", **{"gpu_model": H100, "nodes": 4, "from": at(1), "to": at(15), "hours": 48}
    )
    assert response.status_code == 200, response.content
    slot = response.json()["slots"][0]
    assert slot["region"] == "aws/us-east-1"
    assert slot["nodes_free"] == 4
    assert slot["rate_per_gpu_hour"] == {"amount": "2.00", "currency": "USD"}
    assert slot["total"] == {"amount": "3072.00", "currency": "USD"}  # 32 GPUs × 48 h × $2


def test_availability_without_room_says_what_is_near(customer: Customer, fleet: None) -> None:
    found = (
        customer.call()
        .get("availability", **{"gpu_model": H100, "nodes": 9, "from": at(1), "to": at(3)})
        .json()
    )
    assert found["slots"] == []
    assert found["alternatives"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"from": "2030-01-01T00:00:00"}, "from"),
        ({"to": ""}, "to"),
        ({"hours": "0"}, "hours"),
        ({"hours": "9999"}, "hours"),
        ({"nodes": "0"}, "nodes"),
        ({"gpu_model": "voodoo-2"}, "gpu_model"),
    ],
)
def test_bad_searches_name_the_field(
    customer: Customer, fleet: None, change: dict[str, Any], field: str
) -> None:
    asked = {"gpu_model": H100, "from": at(1), "to": at(3), **change}
    body = problem(customer.call().get("availability", **asked), 400, "invalid-input")
    assert any(error["field"] == field for error in body["errors"]), body


def test_lists_come_in_pages_that_follow_next(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    call = customer.call()
    for _ in range(2):
        call.post(f"quotes/{call.post('quotes', wanted).json()['id']}/accept")
    first = call.get("leases", limit=1).json()
    assert len(first["results"]) == 1
    second = call.client.get(first["next"]).json()
    assert len(second["results"]) == 1
    assert second["next"] is None
    assert first["results"][0]["id"] != second["results"][0]["id"]


def test_usage_and_invoices_begin_empty(customer: Customer) -> None:
    call = customer.call()
    assert call.get("usage").json()["results"] == []
    assert call.get("invoices").json()["results"] == []


def test_times_without_a_zone_are_refused_and_not_guessed(customer: Customer, fleet: None) -> None:
    call = customer.call()
    assert (
        call.get("usage", since="2026-11-01T00:00:00Z", until="2026-12-01T00:00:00+01:00").status_code == 200
    )
    for text in ("2026-11-01T00:00:00", "2026-11-01", "soon"):
        answer = call.get("usage", since=text)
        assert answer.status_code == 400
        assert [error["field"] for error in answer.json()["errors"]] == ["since"]


def test_offers_can_be_narrowed(customer: Customer, fleet: None) -> None:
    call = customer.call()
    assert call.get("offers", gpu_model=H100).status_code == 200
    assert [row["slug"] for row in call.get("gpu-models").json()["results"]] == [H100]


def test_the_schema_describes_every_address() -> None:
    response = Client().get("/api/v1/schema/", headers={"accept": "application/vnd.oai.openapi+json"})
    paths = response.json()["paths"]
    assert {"/api/v1/quotes", "/api/v1/leases/{uid}/cancel", "/api/v1/usage"} <= set(paths)
    key = [parameter["name"] for parameter in paths["/api/v1/quotes"]["post"]["parameters"]]
    assert "Idempotency-Key" in key


def test_the_reference_page_shows_the_schema() -> None:
    response = Client().get("/api/v1/")
    assert response.status_code == 200
    assert b"search_availability" in response.content
