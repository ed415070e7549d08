"""Software over HTTP: what there is, where it fits, and leases that have it."""

from __future__ import annotations

from typing import Any

import pytest

from inventory.models import SoftwareStack, StackImage
from leases.models import Lease
from tests.api.conftest import Customer, at
from tests.api.test_quotes import nothing_kept, problem
from tests.factories import H100, make_stack

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_list_says_what_each_holds_and_where(customer: Customer, fleet: None) -> None:
    make_stack(name="PyTorch 2.7", summary="Ready.", is_default=True)
    make_stack(slug="not-here", images={"lambda": "family"})
    make_stack(slug="off", enabled=False)
    call = customer.call("read")
    [stack] = call.get("stacks").json()["results"]
    assert stack == {
        "slug": "pytorch",
        "name": "PyTorch 2.7",
        "summary": "Ready.",
        "operating_system": "Ubuntu 24.04",
        "contents": [{"name": "PyTorch", "version": "2.7"}, {"name": "CUDA", "version": "12.8"}],
        "gpu_models": ["H100 SXM 80 GB"],
        "regions": ["aws/us-east-1"],
        "default": True,
    }
    for asked, found in (
        ({"gpu_model": H100, "gpus_per_node": 8, "region": "aws/us-east-1"}, 1),
        ({"region": "us-east-1"}, 1),
        ({"region": "lambda/us-east-1"}, 0),
        ({"gpu_model": "b200"}, 0),
        ({"gpus_per_node": 4}, 0),
    ):
        assert len(call.get("stacks", **asked).json()["results"]) == found, asked
    assert problem(call.get("stacks", gpus_per_node="x"), 400, "invalid-input")["errors"]


def test_availability_and_quotes_respect_it(customer: Customer, fleet: None, wanted: dict[str, Any]) -> None:
    make_stack()
    call = customer.call()
    asked = {"gpu_model": H100, "from": at(1), "to": at(5), "hours": 24, "stack": "pytorch"}
    assert call.get("availability", **asked).json()["slots"]
    quote = call.post("quotes", {**wanted, "stack": "pytorch"})
    assert quote.status_code == 201, quote.content
    assert quote.json()["arithmetic"]
    lease = call.get(f"leases/{quote.json()['lease']}").json()
    assert lease["stack"] == "pytorch"
    assert {row["stack"] for row in call.get("leases").json()["results"]} == {"pytorch"}

    StackImage.objects.update(enabled=False)
    found = call.get("availability", **asked).json()
    assert (found["slots"], found["alternatives"]) == ([], [])
    assert call.get("availability", **{**asked, "stack": ""}).json()["slots"]
    problem(call.post("quotes", {**wanted, "stack": "pytorch"}), 409, "not-enough-capacity")
    assert Lease.objects.count() == 1


def test_a_lease_without_software_says_so(customer: Customer, fleet: None, wanted: dict[str, Any]) -> None:
    call = customer.call()
    quote = call.post("quotes", {**wanted, "stack": None}).json()
    assert call.get(f"leases/{quote['lease']}").json()["stack"] is None


def test_unknown_software_names_the_field(customer: Customer, fleet: None, wanted: dict[str, Any]) -> None:
    make_stack()
    SoftwareStack.objects.update(enabled=False)
    call = customer.call()
    for slug in ("unheard-of", "pytorch", "not a slug", 7, ["pytorch"]):
        body = problem(call.post("quotes", {**wanted, "stack": slug}), 400, "invalid-input")
        assert [error["field"] for error in body["errors"]] == ["stack"], slug
    asked = {"gpu_model": H100, "from": at(1), "to": at(5), "stack": "unheard-of"}
    body = problem(call.get("availability", **asked), 400, "invalid-input")
    assert [error["field"] for error in body["errors"]] == ["stack"]
    assert nothing_kept()


def test_the_same_key_with_other_software_is_another_request(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    make_stack()
    call = customer.call()
    key = {"Idempotency-Key": "once"}
    first = call.post("quotes", {**wanted, "stack": "pytorch"}, **key).json()
    assert call.post("quotes", {**wanted, "stack": "pytorch"}, **key).json()["id"] == first["id"]
    problem(call.post("quotes", wanted, **key), 409, "idempotency-key-reused")
