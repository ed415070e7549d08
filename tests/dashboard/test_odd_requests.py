"""What people, browsers and attackers send by mistake or on purpose: a clear answer, and nothing changed."""

from __future__ import annotations

import csv
from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse

from billing import metering
from billing.models import FundsHold, Quote
from leases.models import Allocation, Lease
from tests.billing.helpers import deliver, make_booking, make_quote
from tests.dashboard.conftest import Customer
from tests.factories import H100, make_organization, make_project, make_ssh_key

NUL = "\x00"


@pytest.fixture
def slot(customer: Customer) -> dict[str, str]:
    """What the page posts for a slot that it offered."""
    start = (customer.now + timedelta(days=2)).replace(minute=0, second=0, microsecond=0)
    return {
        "gpu_model": H100,
        "gpus_per_node": "8",
        "nodes": "1",
        "start": start.isoformat(),
        "end": (start + timedelta(hours=24)).isoformat(),
        "region": "",
        "one_fabric": "False",
    }


def nothing_kept() -> bool:
    return not (Quote.objects.exists() or Lease.objects.exists() or Allocation.objects.exists())


def messages(response: Any) -> str:
    return " ".join(str(message) for message in response.context["messages"])


def test_a_slot_as_it_was_offered_becomes_a_quote(customer: Customer, slot: dict[str, str]) -> None:
    response = customer.client.post(reverse("dashboard:quote-create"), slot)
    assert response.url == reverse("dashboard:quote", args=[Quote.objects.get().uid])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nodes": "-1"}, "nodes must be"),
        ({"nodes": "0"}, ""),
        ({"nodes": "1e3"}, "nodes must be"),
        ({"nodes": "٣"}, "nodes must be"),
        ({"nodes": "9" * 400}, "nodes must be"),
        ({"gpus_per_node": ""}, "gpus_per_node must be"),
        ({"gpus_per_node": "7"}, "GPUs per node"),
        ({"gpu_model": "voodoo-2"}, "voodoo-2"),
        ({"gpu_model": f"h100{NUL}"}, ""),
        ({"start": "tomorrow"}, "start must be"),
        ({"start": "2030-02-31T00:00:00Z"}, "start must be"),
        ({"start": "2030-01-01T00:00:00"}, "start must be"),
        ({"start": "0001-01-01T00:00:00+14:00"}, ""),
        ({"start": "2020-01-01T00:00:00Z"}, ""),
        ({"end": "9999-12-31T23:59:59-12:00"}, ""),
        ({"end": ""}, "end must be"),
        ({"region": "aws/atlantis-1"}, "atlantis"),
        ({"region": f"aws/{NUL}"}, ""),
    ],
)
def test_a_tampered_slot_is_explained_and_keeps_nothing(
    customer: Customer, slot: dict[str, str], change: dict[str, str], says: str
) -> None:
    response = customer.client.post(reverse("dashboard:quote-create"), {**slot, **change}, follow=True)
    assert response.status_code == 200
    assert says in messages(response)
    assert messages(response)
    assert nothing_kept()


@pytest.mark.parametrize(
    "query",
    [
        "gpu=nonsense",
        f"gpu={H100}:8&nodes=x&earliest=y&latest=z&duration=&unit=7",
        f"gpu={H100}:8&nodes=1&earliest=2030-13-01T00:00&latest=2030-01-01T00:00&duration=1&unit=24",
        f"gpu={H100}:8&nodes=1&earliest=2030-01-02T00:00&latest=2030-01-01T00:00&duration=1&unit=24",
        f"gpu={H100}:8&nodes=1&earliest=0001-01-01T00:00&latest=9999-12-31T23:59&duration=1&unit=24",
        f"gpu={H100}:8&nodes=1&earliest=2030-01-01T00:00&latest=2030-01-02T00:00&duration=99999&unit=168",
        f"gpu={H100}:8&nodes=1&earliest=2020-01-01T00:00&latest=2020-01-09T00:00&duration=1&unit=24",
        "gpu=%00&region=%00",
        f"gpu={H100}:8&gpu={H100}:8&nodes=1",
    ],
)
def test_an_odd_search_names_the_field(customer: Customer, query: str) -> None:
    response = customer.client.get(f"/reserve/?{query}")
    assert response.status_code == 200
    assert response.context["form"].errors
    assert not response.context["found"]


@pytest.mark.parametrize(
    "path",
    [
        "/leases/?page=x",
        "/leases/?page=999999",
        "/leases/?page=-1&show=<script>",
        "/leases/?page=%00",
        "/invoices/?page=abc",
        "/invoices/?page=99999999999999999999",
        "/usage/?days=abc",
        "/usage/?days=%C2%B2",
        "/usage/?days=99999999999999999999",
        "/usage/?days=%00",
        "/?utm=%00",
    ],
)
def test_garbage_in_the_address_is_a_page_all_the_same(customer: Customer, path: str) -> None:
    assert customer.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/leases/nope/",
        "/leases/?project=%00",
        "/leases/?project=nope",
        "/leases/%00/",
        "/quotes/%00/",
        "/invoices/x/",
        "/invoices/x/pdf/",
    ],
)
def test_an_unknown_id_is_not_found(customer: Customer, path: str) -> None:
    assert customer.client.get(path).status_code == 404


def test_a_20_mb_form_is_refused(customer: Customer, slot: dict[str, str]) -> None:
    response = customer.client.post(
        reverse("dashboard:quote-create"), {**slot, "gpu_model": "x" * (20 * 2**20)}
    )
    assert response.status_code in (400, 413)
    assert nothing_kept()


def test_the_settings_take_only_what_is_the_organizations_own(customer: Customer) -> None:
    other = make_organization()
    project, key = make_project(organization=other), make_ssh_key(organization=other)
    quote = make_quote(
        customer.organization, now=customer.now, start=customer.now + timedelta(days=2), name="mine"
    )
    page = reverse("dashboard:quote", args=[quote.uid])
    for foreign in ({"project": project.uid}, {"ssh_keys": [key.uid]}, {"ssh_keys": [f"k{NUL}"]}):
        response = customer.client.post(page, {"name": "mine", **foreign})
        assert response.status_code == 200
        assert set(response.context["form"].errors) == set(foreign)
    lease = Lease.objects.get()
    assert (lease.state, lease.project, list(lease.ssh_keys.all())) == ("held", None, [])
    assert not FundsHold.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"name": f"a{NUL}b"}, "name"),
        ({"allowed_addresses": "everywhere"}, "allowed_addresses"),
        ({"allowed_addresses": "203.0.113.0/99"}, "allowed_addresses"),
    ],
)
def test_a_bad_setting_is_named_and_nothing_is_accepted(
    customer: Customer, change: dict[str, str], field: str
) -> None:
    quote = make_quote(customer.organization, now=customer.now, start=customer.now + timedelta(days=2))
    response = customer.client.post(
        reverse("dashboard:quote", args=[quote.uid]), {"name": "mine", "allowed_addresses": "", **change}
    )
    assert field in response.context["form"].errors
    assert Lease.objects.get().state == Lease.State.HELD
    assert not FundsHold.objects.exists()


def test_another_tenants_quote_and_lease_are_not_found(customer: Customer) -> None:
    quote = make_quote(make_organization(), now=customer.now, start=customer.now + timedelta(days=2))
    for name, arguments in (
        ("dashboard:quote", [quote.uid]),
        ("dashboard:lease", [quote.lease.uid]),
        ("dashboard:lease-cancel", [quote.lease.uid, quote.uid]),
    ):
        assert customer.client.get(reverse(name, args=arguments)).status_code == 404
    assert customer.client.post(reverse("dashboard:quote-drop", args=[quote.uid])).status_code == 404
    assert Lease.objects.get().state == Lease.State.HELD


def test_a_cell_that_looks_like_a_formula_stays_text(customer: Customer) -> None:
    start = (customer.now - timedelta(days=3)).replace(minute=0, second=0, microsecond=0)
    project = make_project(organization=customer.organization, name="@SUM(1)")
    for name in ("=1+1", "+x", "-y", "plain"):
        lease = make_booking(
            customer.organization,
            now=start - timedelta(hours=1),
            start=start,
            hours=24,
            name=name,
            project=project,
        )
        deliver(lease, start, start + timedelta(hours=24))
    metering.meter_due(now=customer.now)
    response = customer.client.get(reverse("dashboard:usage-csv"))
    text = b"".join(response.streaming_content).decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert {row["lease_name"] for row in rows} == {"'=1+1", "'+x", "'-y", "plain"}
    assert {row["project"] for row in rows} == {"'@SUM(1)"}
    assert {row["amount"] for row in rows} == {"384.00000000"}
