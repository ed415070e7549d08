"""The OpenAPI schema says what the API really sends: every address's answer is compared with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from jsonschema import Draft202012Validator

from billing import invoicing, metering
from billing.drafting import draft_month
from inventory.models import Offer, PricePoint
from leases.models import Lease
from portal.common.periods import Period
from tests.api.conftest import Customer, MakeCustomer, at
from tests.billing.helpers import deliver
from tests.factories import H100, make_instance_type, make_region, make_stack

PREFIX = "/api/v1/"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The schema as a caller gets it."""
    answer = Client().get("/api/v1/schema/", headers={"accept": "application/vnd.oai.openapi+json"})
    assert answer.status_code == 200
    return dict(answer.json())


def strict(node: Any) -> Any:
    """Turn OpenAPI 3.0 into JSON Schema that also refuses what is not described."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: strict(value) for key, value in node.items() if key != "nullable"}
    if "properties" in made and "additionalProperties" not in made:
        made["additionalProperties"] = False
    if node.get("nullable"):
        return {"anyOf": [made, {"type": "null"}]}
    return made


class Checked:
    """A client whose every answer must be as its operation describes it."""

    def __init__(self, customer: Customer, schema: dict[str, Any]) -> None:
        self.call, self.schema = customer.call(), schema
        self.seen: set[str] = set()

    def _check(self, method: str, path: str, answer: Any) -> Any:
        full = PREFIX + path
        matches = [
            (template, item[method])
            for template, item in self.schema["paths"].items()
            if method in item and _fits(template, full)
        ]
        [(template, operation)] = matches
        described = operation["responses"].get(str(answer.status_code))
        assert described, f"{method} {template} answered {answer.status_code}: {answer.content!r}"
        [(kind, content)] = described["content"].items()
        assert answer["Content-Type"].split(";")[0] == kind
        body = answer.json()
        validator = Draft202012Validator(
            {**strict(content["schema"]), "components": strict(self.schema["components"])},
            format_checker=Draft202012Validator.FORMAT_CHECKER,
        )
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]
        assert errors == [], f"{method} {template} {answer.status_code}"
        self.seen.add(f"{method} {template} {answer.status_code}")
        return body

    def get(self, path: str, **query: Any) -> Any:
        return self._check("get", path, self.call.get(path, **query))

    def post(self, path: str, body: Any = None) -> Any:
        return self._check("post", path, self.call.post(path, body))


def _fits(template: str, path: str) -> bool:
    ours, theirs = template.split("/"), path.split("/")
    return len(ours) == len(theirs) and all(
        a == b or a.startswith("{") for a, b in zip(ours, theirs, strict=True)
    )


def refs(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema in a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from refs(value)


def test_every_answer_is_as_described(
    customer: Customer, make_customer: MakeCustomer, fleet: None, wanted: dict[str, Any], schema: Any
) -> None:
    now = timezone.now()
    offer = Offer.objects.create(
        instance_type=make_instance_type(),
        region=make_region(),
        purchase=Offer.Purchase.ON_DEMAND,
        price="98.32",
        currency="USD",
        price_source="list",
        zones=["us-east-1a"],
        first_seen_at=now,
        changed_at=now,
    )
    Offer.objects.create(
        instance_type=offer.instance_type,
        region=offer.region,
        purchase=Offer.Purchase.SPOT,
        currency="USD",
        first_seen_at=now,
        changed_at=now,
    )
    api = Checked(customer, schema)
    assert len(api.get("offers")["results"]) == 2
    assert api.get("gpu-models")["results"]
    make_stack()
    assert api.get("stacks")["results"]
    PricePoint.objects.create(
        offer=offer, price="98.32", currency="USD", source="rate_card", period=Period(now, None, "[)")
    )
    compared = api.get(f"gpu-models/{H100}")
    assert compared["lowest"] and compared["ours"]
    assert api.get(f"gpu-models/{H100}/prices")["results"]
    api.get("gpu-models/voodoo-2")
    api.get("gpu-models/voodoo-2/prices")
    asked = {"gpu_model": H100, "nodes": 1, "from": at(1), "to": at(5)}
    assert api.get("availability", **asked, hours=24)["slots"]
    assert api.get("availability", **{**asked, "nodes": 9})["alternatives"]
    api.get("availability", **{**asked, "nodes": "many"})

    quote = api.post("quotes", {**wanted, "stack": "pytorch"})
    api.get(f"quotes/{quote['id']}")
    booked = api.post(f"quotes/{quote['id']}/accept")
    api.get(f"leases/{booked['id']}")
    api.get("leases")
    asked_price = api.post(f"leases/{booked['id']}/cancel")
    api.post(f"leases/{booked['id']}/cancel", {"quote": asked_price["quote"]["id"]})

    second = api.post("quotes", {**wanted, "nodes": 1})
    used = api.post(f"quotes/{second['id']}/accept")
    lease = Lease.objects.get(uid=used["id"])
    term = lease.terms.get().period
    deliver(lease, term.lower, term.upper)
    later = term.upper + timedelta(days=62)
    metering.meter_due(now=later)
    month = term.upper.date().replace(day=1)
    draft_month(month=month, now=later)
    invoicing.finalize_month(month=month, actor=None, now=later)
    assert api.get("usage")["results"]
    assert api.get("invoices")["results"][0]["lines"]

    # Refusals.
    assert api.post("quotes", {**wanted, "nodes": 5})["alternatives"]
    assert api.post("quotes", {**wanted, "nodes": 0})["errors"]
    api.get("quotes/quo_0000000000000000")
    api.get("leases/lse_0000000000000000")
    poor = Checked(make_customer(funds="10"), schema)
    unpaid = poor.post("quotes", {**wanted, "nodes": 1})
    assert poor.post(f"quotes/{unpaid['id']}/accept")["missing"]
    from billing.models import Quote

    Quote.objects.filter(uid=unpaid["id"]).update(expires_at=timezone.now() - timedelta(minutes=1))
    assert poor.post(f"quotes/{unpaid['id']}/accept")["code"] == "quote-expired"

    described = {
        f"{method} {path} {status}"
        for path, item in schema["paths"].items()
        for method, operation in item.items()
        for status in operation["responses"]
        if status.startswith("2") and not path.endswith("/pdf")
    }
    assert described <= api.seen


def test_no_answer_is_just_an_object(schema: Any) -> None:
    for path, item in schema["paths"].items():
        for operation in item.values():
            for answer in operation["responses"].values():
                for content in answer["content"].values():
                    node = content["schema"]
                    assert "$ref" in node or node.get("format") == "binary", path


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("offers", {"gpu_model", "provider", "region"}),
        ("gpu-models", set()),
        ("gpu-models/{slug}/prices", {"offer", "provider", "region", "purchase", "since", "until"}),
        ("leases", {"state", "project"}),
        ("invoices", set()),
        ("usage", {"lease", "project", "since", "until"}),
    ],
)
def test_a_list_names_its_filters_and_its_cursor(schema: Any, path: str, wanted: set[str]) -> None:
    named = {parameter["name"] for parameter in schema["paths"][PREFIX + path]["get"]["parameters"]}
    assert named >= wanted | {"cursor", "limit"}


def test_the_customer_is_not_told_what_we_pay(
    customer: Customer, fleet: None, wanted: dict[str, Any]
) -> None:
    answer = customer.call().post("quotes", wanted)
    told = answer.json()["arithmetic"]
    assert told["gpu_hours"]
    assert not {"cost", "rule", "override_reason", "list_rate_per_gpu_hour"} & set(told)
    assert b"per_node_hour" not in answer.content
