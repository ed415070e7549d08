"""Together: the nodes of a cluster as machines, and how they end together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from inventory.providers import naming
from inventory.providers.base import (
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    MachineState,
    OwnedResource,
    ResourceKind,
)
from inventory.providers.errors import BadAnswer, NotSupported, ProviderError
from inventory.providers.together import TogetherProvider
from inventory.providers.together.clusters import STATES
from tests.contract.fake_together import KEY, FakeTogether
from tests.contract.prism import vendor_document
from tests.contract.together import DOCUMENT

REGION = "us-central-8"
TAGS = {TAG_SITE: "site-one", TAG_LEASE: "lse_0123456789abcdef", TAG_TOKEN: "lau_fedcba9876543210"}
NAME = naming.name_for(TAGS, limit=50)


@pytest.fixture
def fake() -> Iterator[FakeTogether]:
    fake = FakeTogether()
    yield fake
    fake.close()


@pytest.fixture
def cloud(fake: FakeTogether) -> TogetherProvider:
    return TogetherProvider(
        credentials={"api_key": KEY}, settings={"endpoint_url": fake.url, "requests_per_second": 10_000}
    )


def test_every_status_of_the_document_has_a_meaning() -> None:
    document = yaml.safe_load(vendor_document(DOCUMENT).read_text())
    info = document["components"]["schemas"]["GPUClusterInfo"]
    assert set(info["properties"]["status"]["enum"]) == set(STATES)
    assert len(STATES) == 11


@pytest.mark.parametrize(
    ("status", "state", "healthy"),
    [
        ("WaitingForControlPlaneNodes", MachineState.PENDING, None),
        ("WaitingForDataPlaneNodes", MachineState.PENDING, None),
        ("WaitingForSubnet", MachineState.PENDING, None),
        ("WaitingForSharedVolume", MachineState.PENDING, None),
        ("InstallingDrivers", MachineState.PENDING, None),
        ("RunningAcceptanceTests", MachineState.PENDING, None),
        ("Ready", MachineState.RUNNING, True),
        ("Degraded", MachineState.RUNNING, False),
        ("Paused", MachineState.STOPPING, None),
        ("OnDemandComputePaused", MachineState.STOPPING, None),
        ("Deleting", MachineState.STOPPING, None),
        ("Hibernating", MachineState.UNKNOWN, None),
    ],
)
def test_a_status_is_understood(
    fake: FakeTogether, cloud: TogetherProvider, status: str, state: MachineState, healthy: bool | None
) -> None:
    cluster = fake.make_cluster(NAME)
    fake.boot(cluster)
    cluster["status"] = status
    [machine] = cloud.describe(region=REGION, ids=[f"{cluster['cluster_id']}/0"])
    assert (machine.state, machine.raw_state, machine.status_ok) == (state, status, healthy)


def test_nodes_are_machines_with_their_own_addresses(fake: FakeTogether, cloud: TogetherProvider) -> None:
    cluster = fake.make_cluster(NAME, num_gpus=24)
    waiting = cloud.find(region=REGION, tag=TAG_TOKEN, value=TAGS[TAG_TOKEN])
    assert [machine.state for machine in waiting] == [MachineState.PENDING] * 3
    fake.boot(cluster)
    cluster["gpu_worker_nodes"].reverse()  # the order of a list is nobody's promise
    found = cloud.describe(region=REGION, ids=[machine.id for machine in waiting])
    assert [machine.id for machine in found] == [f"{cluster['cluster_id']}/{index}" for index in range(3)]
    networks = {node["node_name"]: node["networks"] for node in cluster["gpu_worker_nodes"]}
    for index, machine in enumerate(found):
        assert [machine.private_ip, machine.public_ip] == networks[f"gpu-worker-{index}"]
        assert machine.launched_at is not None
        assert naming.matches(machine.tags, TAG_SITE, "site-one")


def test_a_node_that_a_ready_cluster_lacks_is_not_well(fake: FakeTogether, cloud: TogetherProvider) -> None:
    cluster = fake.make_cluster(NAME, num_gpus=16)
    fake.boot(cluster)
    del cluster["gpu_worker_nodes"][1]
    first, second = cloud.find(region=REGION, tag=TAG_TOKEN, value=TAGS[TAG_TOKEN])
    assert (first.state, first.status_ok) == (MachineState.RUNNING, True)
    assert (second.state, second.status_ok) == (MachineState.UNKNOWN, False)
    assert second.reason


def test_only_our_clusters_of_the_region_are_found(fake: FakeTogether, cloud: TogetherProvider) -> None:
    ours = fake.make_cluster(NAME)
    fake.make_cluster(NAME, region="us-central-4")
    fake.make_cluster("training")
    fake.make_volume("training-data")
    fake.make_volume(f"{naming.name_for(TAGS, limit=32)}-us-central-4")
    volume = fake.make_volume(f"{naming.name_for(TAGS, limit=32)}-{REGION}")
    found = cloud.find(region=REGION, tag=TAG_TOKEN, value=TAGS[TAG_TOKEN])
    assert [machine.id for machine in found] == [f"{ours['cluster_id']}/0"]
    assert {(item.kind, item.id) for item in cloud.list_owned(region=REGION)} == {
        (ResourceKind.INSTANCE, f"{ours['cluster_id']}/0"),
        (ResourceKind.VOLUME, volume["volume_id"]),
    }


def test_what_is_not_known_is_left_out(cloud: TogetherProvider) -> None:
    assert cloud.describe(region=REGION, ids=["c-nobody/0", "c-nobody/1"]) == []
    assert cloud.describe(region=REGION, ids=[]) == []


def test_nodes_end_together_and_ending_again_is_no_error(fake: FakeTogether, cloud: TogetherProvider) -> None:
    cluster, other = fake.make_cluster(NAME, num_gpus=16), fake.make_cluster("training")
    ids = [f"{cluster['cluster_id']}/{index}" for index in range(2)]
    cloud.reclaim(region=REGION, ids=ids)
    assert [call.method for call in fake.calls] == ["DELETE"]
    assert (cluster["status"], other["status"]) == ("Deleting", "WaitingForControlPlaneNodes")
    cloud.reclaim(region=REGION, ids=ids)
    fake.end(cluster["cluster_id"])
    cloud.reclaim(region=REGION, ids=ids)


def test_a_volume_that_is_attached_is_removed_later(fake: FakeTogether, cloud: TogetherProvider) -> None:
    volume = fake.make_volume(f"{naming.name_for(TAGS, limit=32)}-{REGION}")
    [owned] = cloud.list_owned(region=REGION)
    volume["status"] = "bound"
    with pytest.raises(ProviderError) as refusal:
        cloud.remove(owned)
    assert refusal.value.retryable
    assert list(fake.volumes) == [owned.id]
    volume["status"] = "available"
    cloud.remove(owned)
    cloud.remove(owned)
    assert fake.volumes == {}


def test_an_orphan_is_removed_by_any_of_its_nodes(fake: FakeTogether, cloud: TogetherProvider) -> None:
    cluster = fake.make_cluster(NAME, num_gpus=16)
    for resource in cloud.list_owned(region=REGION):
        cloud.remove(resource)
    assert cluster["status"] == "Deleting"
    with pytest.raises(NotSupported):
        cloud.remove(OwnedResource(ResourceKind.KEY, "x", REGION))


@pytest.mark.parametrize(
    "damage",
    [
        {"cluster_id": None},
        {"status": 7},
        {"num_gpus": None},
        {"num_gpus": -8},
        {"num_gpus": 10**12},
        {"cluster_name": None},
        {"region": ["us-central-8"]},
        {"gpu_worker_nodes": "none"},
        {"gpu_worker_nodes": [{}]},
    ],
)
def test_a_cluster_that_cannot_be_read_spoils_the_whole_list(
    fake: FakeTogether, cloud: TogetherProvider, damage: dict[str, Any]
) -> None:
    fake.make_cluster(NAME).update(damage)
    fake.make_cluster("training")
    with pytest.raises(BadAnswer):
        cloud.find(region=REGION, tag=TAG_TOKEN, value=TAGS[TAG_TOKEN])
