"""Staff pages of promises: they open, act through public functions, and refuse with a reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.sites import site
from django.contrib.auth.models import Permission
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from inventory.models import Node
from leases.models import Allocation, LaunchIntent, Lease, Orphan, Shortfall
from leases.provisioning import sweep
from tests.factories import Fleet, make_user
from tests.leases.provisioning.conftest import END, Cloud, Faults, at, book, run_until_active

pytestmark = pytest.mark.django_db(transaction=True)

# What staff buy has pages of its own (tests/leases/buying).
MODELS = [
    model
    for model in site._registry
    if model._meta.app_label == "leases" and model.__module__ != "leases.models.buying"
]


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(make_user(is_staff=True, is_superuser=True))
    return client


def page(row: Any, name: str, app: str = "leases") -> str:
    return reverse(f"admin:{app}_{row._meta.model_name}_{name}", args=[row.pk])


def said(response: Any) -> str:
    return " ".join(str(message) for message in response.context["messages"])


def test_every_list_and_row_opens_and_nothing_can_be_typed_over(
    client: Client, cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    from inventory.providers.errors import NoCapacity

    faults.before["launch"] = [NoCapacity("none left")]
    sweep.start_due(now=at(1))
    for minutes in (1, 10):
        sweep.launch_due(now=at(minutes))
    sweep.probe_due(now=at(11))
    cloud.run(sublet_site="nobody", sublet_token="x")
    Orphan.objects.create(
        account=cloud.account,
        kind="instance",
        resource_id="i-1",
        region_code="us-east-1",
        first_seen_at=at(1),
        last_seen_at=at(2),
    )
    sweep.end_due(now=END)
    sweep.turnover_due(now=END)
    for model in MODELS:
        listing = client.get(reverse(f"admin:leases_{model._meta.model_name}_changelist"), {"q": "e"})
        assert listing.status_code == 200, model
        row = model._default_manager.first()
        assert row is not None, model
        opened = client.get(page(row, "change"))
        assert opened.status_code == 200, model
        assert b'name="_save"' not in opened.content, model
        assert client.post(page(row, "change"), {}).status_code == 403, model
        assert client.post(page(row, "delete"), {"post": "yes"}).status_code == 403, model


def test_the_page_of_a_lease_shows_all_that_belongs_to_it(client: Client, cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    text = client.get(page(lease, "change")).content.decode()
    machine = LaunchIntent.objects.get().instance
    for shown in (machine.provider_id, machine.intent.token, "lease.node_delivered", "End early"):
        assert shown in text


def test_lists_ask_as_often_for_many_as_for_one(client: Client, cloud: Cloud, fleet: Fleet) -> None:
    from django.db import connection

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            client.get(reverse("admin:leases_lease_changelist"))
        return len(captured)

    book()
    queries()
    one = queries()
    book()
    assert queries() == one


def test_staff_end_a_lease_early_with_a_reason(client: Client, cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    refused = client.post(page(lease, "end"), {"reason": ""})
    assert refused.status_code == 400
    assert "Say why" in refused.content.decode()
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE
    done = client.post(page(lease, "end"), {"reason": "They asked."}, follow=True)
    assert "is ending" in said(done)
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDING
    again = client.post(page(lease, "end"), {"reason": "Twice."})
    assert "only one that runs" in again.content.decode()


def test_staff_cancel_a_lease_before_its_start(client: Client, cloud: Cloud, fleet: Fleet) -> None:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    lease = book(start=start, end=start + timedelta(days=1))
    assert client.post(page(lease, "cancel"), {"reason": ""}).status_code == 400
    client.post(page(lease, "cancel"), {"reason": "Sanctions."})
    lease.refresh_from_db()
    assert lease.state == Lease.State.CANCELLED
    assert not lease.allocations.exists()


def test_only_those_with_the_permission_act(cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    viewer = make_user(is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_lease"))
    client = Client()
    client.force_login(viewer)
    assert client.get(page(lease, "change")).status_code == 200
    assert client.get(page(lease, "end")).status_code == 403
    assert client.post(page(lease, "end"), {"reason": "No right."}).status_code == 403
    lease.refresh_from_db()
    assert lease.state == Lease.State.ACTIVE


def test_staff_launch_again_after_a_permanent_failure(
    client: Client, cloud: Cloud, lease: Lease, faults: Faults
) -> None:
    from inventory.providers.errors import ProviderError

    sweep.start_due(now=at(1))
    faults.before["launch"] = [ProviderError("the image is gone")]
    sweep.launch_due(now=at(1))
    intent = LaunchIntent.objects.get()
    assert "Launch again" in client.get(page(intent, "change")).content.decode()
    client.post(page(intent, "retry"))
    assert LaunchIntent.objects.filter(state=LaunchIntent.State.PENDING).count() == 1
    refused = client.post(page(intent, "retry"))
    assert "goes on by itself" in refused.content.decode()
    assert LaunchIntent.objects.count() == 2


def test_staff_explain_an_orphan(client: Client, cloud: Cloud) -> None:
    orphan = Orphan.objects.create(
        account=cloud.account,
        kind="instance",
        resource_id="i-1",
        region_code="us-east-1",
        first_seen_at=at(1),
        last_seen_at=at(1),
    )
    assert client.post(page(orphan, "explain"), {"note": ""}).status_code == 400
    client.post(page(orphan, "explain"), {"note": "Benchmark."})
    orphan.refresh_from_db()
    assert (orphan.state, orphan.note) == (Orphan.State.EXPLAINED, "Benchmark.")


def test_staff_set_a_nodes_health(client: Client, cloud: Cloud, lease: Lease) -> None:
    run_until_active(lease)
    node = lease.allocations.get().node
    assert client.get(page(node, "health", "inventory")).status_code == 200
    assert client.post(page(node, "health", "inventory"), {"health": "broken"}).status_code == 400
    client.post(page(node, "health", "inventory"), {"health": "unhealthy", "note": "XID 79"})
    node.refresh_from_db()
    assert (node.health, node.health_note) == (Node.Health.UNHEALTHY, "XID 79")
    shortfall = Shortfall.objects.get(lease=lease)
    assert shortfall.closed_at is None

    assert client.post(page(shortfall, "replace"), {}).status_code == 400
    client.post(page(shortfall, "replace"), {"agreed": "on"})
    assert lease.allocations.count() == 2


def when(name: str, moment: datetime) -> dict[str, str]:
    return {name: f"{moment:%Y-%m-%dT%H:%M}"}


def test_staff_plan_and_end_maintenance_and_shorten_a_node(
    client: Client, cloud: Cloud, fleet: Fleet
) -> None:
    node = fleet.nodes[0]
    soon = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=1)
    later = soon + timedelta(hours=4)
    for bad in ({}, {**when("start", later), **when("end", soon)}):
        assert client.post(page(node, "maintenance", "inventory"), bad).status_code == 400
        assert not Allocation.objects.exists()
    client.post(
        page(node, "maintenance", "inventory"), {**when("start", soon), **when("end", later), "note": "RAM"}
    )
    planned = Allocation.objects.get(node=node)
    assert (planned.purpose, planned.note) == (Allocation.Purpose.MAINTENANCE, "RAM")

    taken = client.post(page(node, "maintenance", "inventory"), {**when("start", soon), **when("end", later)})
    assert "is taken" in taken.content.decode()
    done = client.post(
        reverse("admin:leases_allocation_changelist"),
        {"action": "end_maintenance", "_selected_action": [planned.pk]},
        follow=True,
    )
    assert "was ended" in said(done)
    assert not Allocation.objects.exists()

    end = soon + timedelta(days=10)
    client.post(
        page(node, "available", "inventory"), {**when("start", node.available.lower), **when("end", end)}
    )
    node.refresh_from_db()
    assert node.available.upper == end
