"""Azure: Microsoft's own recorded answers, through the SDK of today and our adapter.

The recordings are of 2019, so newer fields are missing from them; what they have, our fake
of Resource Manager (tests/contract/azure_arm.py) has as well, which the last tests prove.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from inventory.providers.azure import AzureProvider, catalog, naming, network, prices
from inventory.providers.base import LaunchGroup, LeaseNetworkRequest, MachineState
from tests.contract import azure_arm
from tests.contract.azure import CREDENTIALS
from tests.contract.azure_arm import Arm
from tests.contract.azure_login import LocalAzure, token
from tests.contract.fake_api import Call
from tests.contract.prism import vendor_document
from tests.inventory import azure_replay
from tests.inventory.azure_replay import GROUP, MACHINE, MACHINES, SKUS, SUBSCRIPTION, USAGE, Replay

GROUP_OF_ONE = LaunchGroup(
    client_token="lau_abcdefghjkmnpqrs",
    count=1,
    instance_type="Standard_ND96isr_H100_v5",
    region="westus",
    zone="westus",
    ssh_public_keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPDzGVzT8LJ3KrQ1xZAf1Z3wVZXoJ5oYmAfv2xjLZ0v",),
    tags={"sublet:site": "site-one", "sublet:lease": "lse_abcdefghjkmnpqrs"},
    firewall_id="sublet-site-l1",
)


def connected(replay: Replay, **settings: Any) -> AzureProvider:
    return LocalAzure(
        credentials=CREDENTIALS,
        settings={
            "subscription_id": SUBSCRIPTION,
            "resource_group": GROUP,
            "image": "Canonical:ubuntu-24_04-lts:server:latest",
            "endpoint_url": replay.url,
            "prices_url": replay.url,
            **settings,
        },
    )


@pytest.fixture
def replay() -> Iterator[Replay]:
    with azure_replay.replaying(MACHINES, USAGE) as found:
        yield found
    assert found.unknown == []


def test_a_machine_is_made_read_and_ended(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "machine_name", lambda tags: MACHINE)
    azure = connected(replay)
    [launched] = azure.launch(GROUP_OF_ONE)
    assert (launched.id, launched.raw_state) == (MACHINE, "Creating")
    # One call, and nothing was polled: the operation goes on by itself.
    assert [request.method for request in replay.requests] == ["PUT"]
    assert replay.requests[0].headers["If-None-Match"] == "*"
    assert replay.requests[0].headers["Authorization"] == f"Bearer {token(CREDENTIALS)}"

    [machine] = azure.describe(region="westus", ids=[MACHINE])
    assert (machine.state, machine.raw_state) == (MachineState.RUNNING, "Succeeded/running")
    assert (machine.instance_type, machine.private_ip, machine.public_ip) == ("Standard_A0", "10.0.0.4", "")
    assert (machine.status_ok, machine.zone, machine.tags) == (True, "westus", {})
    # A machine of another region is not ours to describe there.
    assert azure.describe(region="eastus", ids=[MACHINE]) == []
    # Theirs has no tag of ours.
    assert azure.find(region="westus", tag="sublet:token", value="lau_abcdefghjkmnpqrs") == []

    before = len(replay.requests)
    azure.reclaim(region="westus", ids=[MACHINE])
    assert [request.method for request in replay.requests[before:]] == ["DELETE"]


def test_the_sdk_follows_the_recorded_operations(replay: Replay) -> None:
    """Our chain of calls bears the SDK's own polling, although the adapter never waits for it."""
    compute = connected(replay).session.compute
    # Each answer came half a minute after the other then; here it need not.
    now: dict[str, Any] = {"polling_interval": 0}
    made = compute.virtual_machines.begin_create_or_update(GROUP, MACHINE, {"location": "westus"}, **now)
    document = made.result().as_dict()
    assert document["properties"]["provisioningState"] == "Succeeded"
    assert document["properties"]["storageProfile"]["osDisk"]["diskSizeGB"] == 30
    compute.virtual_machines.begin_delete(GROUP, MACHINE, **now).result()
    polled = [request for request in replay.requests if "/operations/" in request.url]
    assert len(polled) == 6


def test_the_limits_of_a_region_are_read(replay: Replay) -> None:
    limits = catalog.read_limits(connected(replay).session, "westus")
    recorded = azure_replay.interactions(USAGE)[0]["response"]["body"]["string"]
    items = json.loads(recorded)["value"]
    assert len(limits) == len(items) > 50
    assert limits["standardncfamily"] == next(
        item["limit"] for item in items if item["name"]["value"] == "standardNCFamily"
    )


def test_the_sizes_of_a_region_are_read() -> None:
    text = vendor_document(SKUS).read_text()
    with azure_replay.replaying() as replay:
        path = (
            f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/skus?$filter=location%20eq%20'eastus'"
        )
        replay.add("GET", path, 200, text, {"content-type": "application/json; charset=utf-8"})
        sizes = {size.info.name: size for size in catalog.read_sizes(connected(replay).session, "eastus")}
    assert len(sizes) > 20
    largest = sizes["Standard_NC24rs_v3"]
    assert (largest.info.gpu_count, largest.info.vcpus, largest.info.memory_mib) == (4, 24, 448 * 1024)
    assert (largest.info.gpu_name, largest.info.architecture) == ("Standard_NC24rs_v3", "x86_64")
    assert (largest.family, largest.spot) == ("standardNCSv3Family", True)
    # Two zones have it and this subscription may use none of them: it is placed without one.
    assert (sizes["Standard_NV6"].zones, sizes["Standard_NV6"].refused) == ((), False)
    # And some are refused in the whole region.
    refused = {
        item["name"]
        for item in json.loads(text)["value"]
        if item["locations"] == ["eastus"]
        for restriction in item["restrictions"]
        if restriction["type"] == "Location"
    }
    assert {name for name, size in sizes.items() if size.refused} == refused


def test_a_recorded_price_of_windows_or_of_spot_is_none_of_ours() -> None:
    text = vendor_document(azure_replay.PRICES).read_text()
    with azure_replay.replaying() as replay:
        session = connected(replay).session

        def read(region: str, name: str) -> dict[Any, Any]:
            query = (
                "serviceName%20eq%20'Virtual%20Machines'"
                f"%20and%20armRegionName%20eq%20'{region}'%20and%20priceType%20eq%20'Consumption'"
            )
            path = f"{prices.PATH}?currencyCode='USD'&$filter={query}"
            replay.add("GET", path, 200, text, {"content-type": "application/json"})
            return prices.read_prices(session, region, [name])

        # The one row is for Windows, the other for development and test.
        assert read("uaecentral", "Standard_D2ds_v5") == {}
        assert read("southindia", "Standard_D14") == {}


def fields(document: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every field of a document with the JSON type of its value; items of a list count once."""
    if isinstance(document, Mapping):
        for name, value in document.items():
            yield from fields(value, f"{path}.{name}")
    elif isinstance(document, list):
        yield path, "list"
        for item in document[:1]:
            yield from fields(item, path + "[]")
    else:
        kinds = {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}
        yield path, kinds[type(document)]


def compare(recorded: Any, ours: Any, *, but: set[str]) -> None:
    """Assert that a fake's document has every recorded field; ``but`` names those that differ for a reason."""
    missing = {
        (path, kind)
        for path, kind in set(fields(recorded)) - set(fields(ours))
        if not any(path.startswith(each) for each in but)
    }
    assert missing == set()


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arm]:
    monkeypatch.setattr(network, "SETTLE_PAUSE", 0)
    arm = Arm()
    yield arm
    arm.close()


def call(**arguments: str) -> Call:
    return Call("GET", "/", arguments, {"api-version": ["2026-04-01"]}, {}, None)


def launched(arm: Arm) -> str:
    """Make a lease's network and a machine at the fake by the adapter; return the machine's name."""
    arm.token = token(CREDENTIALS)
    azure = LocalAzure(
        credentials=CREDENTIALS,
        settings={
            "subscription_id": azure_arm.SUBSCRIPTION,
            "resource_group": azure_arm.GROUP,
            "image": "Canonical:ubuntu-24_04-lts:server:latest",
            "endpoint_url": arm.url,
        },
    )
    tags = {"sublet:site": "site-one"}
    request = LeaseNetworkRequest("lse_abcdefghjkmnpqrs", "eastus", ("203.0.113.0/24",), (), tags)
    network = azure.prepare_lease(request)
    group = LaunchGroup(
        client_token="lau_abcdefghjkmnpqrs",
        count=1,
        instance_type=azure_arm.TYPE,
        region="eastus",
        zone="1",
        ssh_public_keys=GROUP_OF_ONE.ssh_public_keys,
        tags=GROUP_OF_ONE.tags,
        firewall_id=network.firewall_id,
    )
    [machine] = azure.launch(group)
    arm.finish_booting()
    return machine.id


def documents(method: str, part: str) -> Iterator[dict[str, Any]]:
    for each in azure_replay.interactions(MACHINES):
        if each["request"]["method"] == method and part in each["request"]["uri"]:
            text = each["response"]["body"]["string"]
            if text:
                yield json.loads(text)


def test_the_fakes_machines_have_the_recorded_fields(arm: Arm) -> None:
    name = launched(arm)
    shown = Call("GET", "/", {"name": name}, {"$expand": ["instanceView"]}, {}, None)
    [recorded] = documents("GET", f"{MACHINE}?$expand=instanceView")
    # Its disk was a file in a storage account, which nobody uses any more; ours has no password, and
    # image and size of the disk are the caller's.
    but = {
        ".properties.storageProfile.osDisk.vhd",
        ".properties.storageProfile.osDisk.osType",
        ".properties.storageProfile.osDisk.diskSizeGB",
        ".properties.storageProfile.imageReference.exactVersion",
        ".properties.instanceView.disks",
    }
    compare(recorded, arm.get_machine(shown).document, but=but)
    [listed] = documents("GET", "/virtualMachines?api-version")
    compare(listed, arm.list_machines(call()).document, but={f".value[]{path}" for path in but})


def test_the_fakes_networks_have_the_recorded_fields(arm: Arm) -> None:
    launched(arm)
    of_kind = {kind: item for (kind, _name), item in arm.resources.items()}
    # Fields that no part of the adapter reads, and that say nothing about what we make.
    but = {
        ".properties.resourceGuid",
        ".properties.dnsSettings",
        ".properties.enable",
        ".properties.hostedWorkloads",
        ".properties.tapConfigurations",
        ".properties.virtualNetworkPeerings",
        ".properties.subnets[].etag",
        ".properties.subnets[].type",
        ".properties.subnets[].properties",
        ".properties.ipConfigurations[].etag",
        ".properties.ipConfigurations[].id",
        ".properties.ipConfigurations[].type",
        ".properties.ipConfigurations[].properties.provisioningState",
    }
    for kind in ("virtualNetworks", "networkInterfaces"):
        *_made, recorded = [item for item in documents("GET", kind + "/") if item["type"].endswith(kind)]
        compare(recorded, of_kind[kind.lower()], but=but)


def test_the_fakes_catalog_has_the_recorded_fields(arm: Arm) -> None:
    sizes = json.loads(vendor_document(SKUS).read_text())["value"]
    compare(sizes[0], arm.sku(azure_arm.SIZES[0]), but={".restrictions"})
    usage = json.loads(azure_replay.interactions(USAGE)[0]["response"]["body"]["string"])
    compare(usage, arm.usages(call(region="eastus")).document, but=set())
    sample = json.loads(vendor_document(azure_replay.PRICES).read_text())
    query = {"$filter": ["armRegionName eq 'eastus'"]}
    ours = arm.retail(Call("GET", prices.PATH, {}, query, {}, None)).document
    compare({**sample, "NextPageLink": ""}, ours, but=set())
