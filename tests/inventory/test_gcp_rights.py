"""Google Cloud: the documented role is what the adapter's calls need, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from inventory.providers.base import TAG_TOKEN, OwnedResource, ResourceKind
from inventory.providers.gcp import operations
from tests.browser.chromium import BASE_DIR
from tests.contract.discovery import Discovery
from tests.contract.fake_gcp import FakeGcp
from tests.contract.gcp import DOCUMENTS
from tests.contract.gcp_data import REGION, RESERVATION, ZONES
from tests.contract.prism import vendor_document
from tests.inventory.test_gcp_launches import GROUP, REQUEST, TOKEN
from tests.inventory.test_gcp_prices import provider
from tests.inventory.test_gcp_reservations import REQUEST as CAPACITY

# Of a method, the permission has the same name but for these verbs:
# https://cloud.google.com/compute/docs/access/iam-permissions
VERBS = {"aggregatedList": "list", "insert": "create", "patch": "update"}
# What an insert of a machine with disk, labels, metadata and network tags needs beside its own
# (https://cloud.google.com/compute/docs/instances/create-start-instance), and a firewall rule.
ALSO = {
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.images.useReadOnly",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setTags",
    "compute.networks.updatePolicy",
    "compute.networks.use",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcp]:
    monkeypatch.setattr(operations, "LOOKS", (0.0, 0.0))
    monkeypatch.setattr(operations, "SETTLE_PAUSE", 0.0)
    fake = FakeGcp()
    yield fake
    fake.close()


def use_everything(fake: FakeGcp) -> None:
    google = provider(fake, capacity_advice=True, calendar_prices={CAPACITY.instance_type: 50})
    google.test_connection()
    google.regions()
    google.offers(REGION)
    network = google.prepare_lease(REQUEST)
    google.prepare_lease(replace(REQUEST, ssh_cidrs=()))
    google.prepare_lease(REQUEST)
    google.prepare_lease(replace(REQUEST, ssh_cidrs=("192.0.2.0/24",)))
    fake.reservations[f"{ZONES[0]}/{RESERVATION}"]["deleteAtTime"] = "2026-12-01T00:00:00Z"
    [launched] = google.launch(replace(GROUP, reservation_id=RESERVATION))
    google.find(region=REGION, tag=TAG_TOKEN, value=TOKEN)
    google.describe(region=REGION, ids=[launched.id, f"{ZONES[0]}/gone"])
    google.describe(region=REGION, ids=[f"{ZONES[0]}/gone-{number}" for number in range(10)])
    google.reclaim(region=REGION, ids=[launched.id])
    google.list_owned(region=REGION)
    for kind, name in ((ResourceKind.VOLUME, f"{ZONES[0]}/x"), (ResourceKind.ADDRESS, f"{REGION}/x")):
        google.remove(OwnedResource(kind, name, REGION))
    fake.end(launched.id)
    google.remove_network(network)
    window = replace(CAPACITY, latest=CAPACITY.earliest + timedelta(days=9))
    [offering] = google.capacity_offerings(window)
    google.buy_capacity(offering, client_token="cap_1", tags=REQUEST.tags)
    google.reservations(region=REGION)


def test_the_documented_role_is_what_is_called(fake: FakeGcp) -> None:
    documents = Discovery(*(vendor_document(path) for path in DOCUMENTS))
    use_everything(fake)
    found = [documents.method(call.method, call.path) for call in fake.calls]
    called = {method.id for method in found if method is not None}
    needed = set(ALSO)
    for name in called - {"cloudbilling.services.skus.list"}:
        start, _dot, verb = name.rpartition(".")
        needed.add(f"{start}.{VERBS.get(verb, verb)}")
    page = (BASE_DIR / "docs/providers/gcp.md").read_text()
    role = set(re.findall(r"^  - (compute\.\S+)$", page, re.MULTILINE))
    assert role == needed
