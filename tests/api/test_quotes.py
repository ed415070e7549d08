"""Quote, accept, cancel: over HTTP, as a program does it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone

from billing.models import BillingAccount, FundsHold, Quote
from leases.models import Allocation, Lease
from tests.api.conftest import Customer, MakeCustomer, at
from tests.billing.helpers import make_rule

pytestmark = pytest.mark.django_db(transaction=True)


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Return the problem document after checking that it is one."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["detail"]
    return dict(body)


def nothing_kept() -> bool:
    """Tell whether no capacity and no funds are spoken for."""
    return not Allocation.objects.exists() and not FundsHold.objects.exists()


def test_quote_holds_capacity_and_accept_makes_a_lease(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    call = customer.call()
    response = call.post("quotes", wanted)
    assert response.status_code == 201, response.content
    quote = response.json()
    assert quote["total"] == {"amount": "768.00", "currency": "USD"}  # 16 GPUs × 24 h × $2
    assert quote["state"] == "open"
    assert response["Location"].endswith(quote["id"])
    assert Allocation.objects.count() == 2

    response = call.post(f"quotes/{quote['id']}/accept")
    assert response.status_code == 201, response.content
    lease = response.json()
    assert lease["state"] == "scheduled"
    assert lease["terms"][0]["gpus"] == 16
    assert BillingAccount.objects.get().reserved == 768
    assert call.get(f"leases/{lease['id']}").json()["ssh"] == []


def test_what_capacity_costs_us_stays_ours(customer: Customer, fleet: None, wanted: dict[str, Any]) -> None:
    make_rule(
        kind="markup",
        amount="0.31",
        name="Ours alone",
        since=timezone.now(),
        organization=customer.organization,
    )
    call = customer.call()
    quote = call.post("quotes", wanted).json()
    stored = Quote.objects.get().arithmetic
    assert stored["cost"]["per_node_hour"] and stored["rule"]["name"] == "Ours alone"
    assert quote["arithmetic"]["formula"] and quote["arithmetic"]["gpus"] == 16
    for answer in (quote, call.get(f"quotes/{quote['id']}").json()):
        text = json.dumps(answer)
        assert not {"cost", "rule", "list_rate_per_gpu_hour", "override_reason"} & set(answer["arithmetic"])
        assert stored["cost"]["commitments"][0]["uid"] not in text
        assert "Ours alone" not in text and "markup" not in text


def test_too_many_nodes_answers_with_alternatives_and_keeps_nothing(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    body = problem(customer.call().post("quotes", {**wanted, "nodes": 5}), 409, "not-enough-capacity")
    assert {near["kind"] for near in body["alternatives"]} & {"fewer", "longer"}
    assert nothing_kept()


def test_accept_without_funds_is_402_and_reserves_nothing(
    make_customer: MakeCustomer, fleet: None, wanted: dict[str, Any]
) -> None:
    call = make_customer(funds="100").call()
    quote = call.post("quotes", wanted).json()
    body = problem(call.post(f"quotes/{quote['id']}/accept"), 402, "insufficient-funds")
    assert body["missing"]["currency"] == "USD"
    assert Lease.objects.get().state == "held"
    assert not FundsHold.objects.exists()


def test_waiting_for_funds_keeps_the_nodes_until_a_deadline(
    make_customer: MakeCustomer, fleet: None, wanted: dict[str, Any]
) -> None:
    call = make_customer(funds="100").call()
    quote = call.post("quotes", wanted).json()
    lease = call.post(f"quotes/{quote['id']}/accept", {"wait_for_funds": True}).json()
    assert lease["state"] == "awaiting"
    assert lease["deadline"]


def test_expired_quote_is_409(customer: Customer, fleet: None, wanted: dict[str, Any]) -> None:
    call = customer.call()
    quote = call.post("quotes", wanted).json()
    Quote.objects.update(expires_at=at(-1))
    Lease.objects.update(deadline=at(-1))
    problem(call.post(f"quotes/{quote['id']}/accept"), 409, "quote-expired")
    assert not FundsHold.objects.exists()


def test_cancel_shows_its_price_before_it_happens(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    call = customer.call()
    quote = call.post("quotes", wanted).json()
    lease = call.post(f"quotes/{quote['id']}/accept").json()
    asked = call.post(f"leases/{lease['id']}/cancel")
    assert asked.status_code == 200, asked.content
    terms = asked.json()["quote"]
    assert terms["kind"] == "cancellation"
    assert Lease.objects.get().state == "scheduled"

    done = call.post(f"leases/{lease['id']}/cancel", {"quote": terms["id"]})
    assert done.status_code == 200, done.content
    assert done.json()["lease"]["state"] == "cancelled"
    assert not Allocation.objects.exists()
    assert BillingAccount.objects.get().reserved == 0


def test_the_same_key_and_body_answer_the_same(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    call = customer.call()
    first = call.post("quotes", wanted, **{"Idempotency-Key": "a-1"}).json()
    again = call.post("quotes", wanted, **{"Idempotency-Key": "a-1"}).json()
    assert again["id"] == first["id"]
    assert Quote.objects.count() == 1


def test_the_same_key_with_another_body_is_a_conflict(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    call = customer.call()
    call.post("quotes", wanted, **{"Idempotency-Key": "a-1"})
    problem(
        call.post("quotes", {**wanted, "nodes": 1}, **{"Idempotency-Key": "a-1"}),
        409,
        "idempotency-key-reused",
    )
    assert Quote.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"start": "2020-01-01T00:00:00Z"}, "start"),
        ({"start": "2030-01-01T00:00:00"}, "start"),
        ({"start": "tomorrow"}, "start"),
        ({"start": 5}, "start"),
        ({"start": "0001-01-01T00:00:00+14:00"}, "start"),
        ({"end": "9999-12-31T23:59:59-12:00"}, "end"),
        ({"end": "2020-01-01T00:00:00Z"}, "end"),
        ({"nodes": 0}, "nodes"),
        ({"nodes": -1}, "nodes"),
        ({"nodes": 10**9}, "nodes"),
        ({"nodes": "two"}, "nodes"),
        ({"gpu_model": "voodoo-2"}, "gpu_model"),
        ({"gpu_model": None}, "gpu_model"),
        ({"gpus_per_node": 3}, "gpus_per_node"),
        ({"region": "aws/atlantis-1"}, "region"),
        ({"allowed_addresses": ["everywhere"]}, "allowed_addresses"),
        ({"ssh_keys": "key_1"}, "ssh_keys"),
    ],
)
def test_bad_input_names_the_field_and_keeps_nothing(
    customer: Customer, fleet: None, wanted: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    body = problem(customer.call().post("quotes", {**wanted, **change}), 400, "invalid-input")
    assert any(error["field"].startswith(field) for error in body["errors"]), body
    assert nothing_kept()


def test_broken_json_is_a_problem_document(customer: Customer, fleet: None) -> None:
    response = customer.call().client.post("/api/v1/quotes", "{nodes:", content_type="application/json")
    problem(response, 400, "parse-error")


def test_a_20_mb_body_is_refused(customer: Customer, fleet: None) -> None:
    response = customer.call().client.post(
        "/api/v1/quotes", b"x" * (20 * 2**20), content_type="application/json"
    )
    assert response.status_code == 413
    assert nothing_kept()


def test_an_organization_that_is_not_approved_books_nothing(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    customer.organization.state = "pending"
    customer.organization.save()
    problem(customer.call().post("quotes", wanted), 403, "organization-not-approved")
    assert nothing_kept()
