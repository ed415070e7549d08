"""Who gets in, with which scope, and that another tenant's objects do not exist."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.api.conftest import Call, Customer, MakeCustomer
from tests.api.test_quotes import problem
from tests.factories import make_membership

pytestmark = pytest.mark.django_db(transaction=True)

READS = ["offers", "gpu-models", "leases", "invoices", "usage"]


@pytest.mark.parametrize("path", READS)
def test_nobody_gets_in_without_a_token(path: str) -> None:
    response = Client().get(f"/api/v1/{path}")
    problem(response, 401, "not-authenticated")
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("secret", ["sublet_wrong", "sublet_" + "a" * 300, "\x00"])
def test_a_wrong_token_is_refused(secret: str) -> None:
    problem(Call(secret).get("leases"), 401, "authentication-failed")


def test_a_token_does_what_its_scopes_say(customer: Customer, fleet: None, wanted: dict[str, Any]) -> None:
    read = customer.call("read")
    assert read.get("leases").status_code == 200
    problem(read.get("usage"), 403, "permission-denied")
    problem(read.post("quotes", wanted), 403, "permission-denied")
    assert customer.call("billing").get("invoices").status_code == 200
    lease = customer.call("lease")
    assert lease.post("quotes", wanted).status_code == 201
    assert lease.get("leases").status_code == 200
    problem(lease.get("usage"), 403, "permission-denied")


def test_a_token_is_no_stronger_than_its_creator(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    call = customer.call()
    membership = customer.organization.memberships.get()
    make_membership(organization=customer.organization, role="owner")
    membership.role = "viewer"
    membership.save()
    problem(call.post("quotes", wanted), 403, "forbidden")
    problem(call.get("invoices"), 403, "forbidden")


def test_another_tenants_objects_do_not_exist(
    make_customer: MakeCustomer, fleet: None, wanted: dict[str, Any]
) -> None:
    mine, theirs = make_customer().call(), make_customer().call()
    quote = mine.post("quotes", wanted).json()
    lease = mine.post(f"quotes/{quote['id']}/accept").json()
    problem(theirs.get(f"quotes/{quote['id']}"), 404, "not-found")
    problem(theirs.post(f"quotes/{quote['id']}/accept"), 404, "not-found")
    problem(theirs.get(f"leases/{lease['id']}"), 404, "not-found")
    problem(theirs.post(f"leases/{lease['id']}/cancel"), 404, "not-found")
    assert theirs.get("leases").json()["results"] == []


def test_a_session_needs_csrf_to_write(customer: Customer, fleet: None, wanted: dict[str, Any]) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(customer.user)
    assert browser.get("/api/v1/leases").status_code == 200
    response = browser.post("/api/v1/quotes", wanted, content_type="application/json")
    problem(response, 403, "permission-denied")


def test_too_many_requests_say_when_to_come_back(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    from portal.api.throttles import Reads

    monkeypatch.setattr(Reads, "get_rate", lambda self: "2/min")
    call = customer.call()
    assert [call.get("gpu-models").status_code for _ in range(2)] == [200, 200]
    response = call.get("gpu-models")
    body = problem(response, 429, "throttled")
    assert 0 < body["retry_after"] <= 61
    assert response["Retry-After"]


def test_an_unknown_address_is_a_problem_document(customer: Customer) -> None:
    problem(customer.call().get("unicorns"), 404, "not-found")


def test_json_that_is_nested_too_deeply_is_refused(customer: Customer) -> None:
    answer = customer.call().post("quotes", "[" * 100_000, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json()["code"] == "parse-error"
