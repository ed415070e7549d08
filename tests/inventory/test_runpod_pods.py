"""RunPod: what a launch sends, what its pods are to us, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from inventory.providers import naming
from inventory.providers.base import (
    TAG_ALLOCATION,
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    LaunchGroup,
    MachineState,
    OwnedResource,
    PurchaseOption,
    ResourceKind,
)
from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotFound,
    NotSupported,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)
from inventory.providers.runpod import RunPodProvider
from inventory.providers.runpod.api import CREATE, explain
from inventory.providers.runpod.pods import STATES
from tests.contract.fake_api import Reply
from tests.contract.fake_runpod import CREATED, H100, KEY, FakeRunPod
from tests.contract.prism import vendor_document
from tests.contract.runpod import DOCUMENT

REGION = "US-KS-2"
TAGS = {TAG_SITE: "site-one", TAG_LEASE: "lse_0123456789abcdef", TAG_ALLOCATION: "42"}
TOKEN = "lau_fedcba9876543210"
IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
KEYS = ("ssh-ed25519 AAAA one", "ssh-rsa BBBB two\n")
GROUP = LaunchGroup(TOKEN, 1, f"{H100} x8", REGION, tags=TAGS, image=IMAGE, ssh_public_keys=KEYS)
NAME = naming.name_for({**TAGS, TAG_TOKEN: TOKEN}) + "." + REGION


@pytest.fixture
def fake() -> Iterator[FakeRunPod]:
    fake = FakeRunPod()
    yield fake
    fake.close()


def provider(fake: FakeRunPod, **settings: Any) -> RunPodProvider:
    fast = {"endpoint_url": fake.url, "requests_per_second": 10_000}
    return RunPodProvider(credentials={"api_key": KEY}, settings={**fast, **settings})


def sent(fake: FakeRunPod) -> dict[str, Any]:
    [call] = [call for call in fake.calls if call.method == "POST"]
    body: dict[str, Any] = call.body
    return body


def test_a_launch_asks_for_one_pod_in_one_place_with_the_leases_keys(fake: FakeRunPod) -> None:
    [launched] = provider(fake).launch(GROUP)
    assert list(fake.pods) == [launched.id]
    assert sent(fake) == {
        "name": NAME,
        "cloud": "SECURE",
        "dataCenterIds": [REGION],
        "gpu": {"id": H100, "count": 8},
        "image": IMAGE,
        "env": {"PUBLIC_KEY": "ssh-ed25519 AAAA one\nssh-rsa BBBB two"},
        "ports": ["22/tcp"],
        "startSsh": True,
    }
    tags = naming.tags_of(NAME.partition(".")[0])
    assert naming.matches(tags, TAG_TOKEN, TOKEN)
    assert naming.matches(tags, TAG_SITE, "site-one")


def test_the_accounts_options_go_into_a_launch(fake: FakeRunPod) -> None:
    cloud = provider(
        fake,
        image={REGION: "mine/here:1", "EU-RO-1": "mine/there:1"},
        disk_gb=200,
        volume_gb=500,
        min_cuda_version="12.8",
        registry="reg_1",
    )
    cloud.launch(replace(GROUP, image=""))
    body = sent(fake)
    assert (body["image"], body["disk"], body["registry"]) == ("mine/here:1", 200, "reg_1")
    assert body["mounts"] == {"persistent": {"size": 500, "path": "/workspace"}}
    assert body["gpu"] == {"id": H100, "count": 8, "minCudaVersion": "12.8"}


@pytest.mark.parametrize(
    "group",
    [
        replace(GROUP, count=2),
        replace(GROUP, reservation_id="res-1"),
        replace(GROUP, purchase_option=PurchaseOption.SPOT),
        replace(GROUP, user_data="#!/bin/sh"),
    ],
)
def test_what_runpod_has_not_is_said_and_not_called(fake: FakeRunPod, group: LaunchGroup) -> None:
    with pytest.raises(NotSupported):
        provider(fake).launch(group)
    assert fake.calls == []


@pytest.mark.parametrize(
    ("group", "settings", "said"),
    [
        (replace(GROUP, image=""), {}, "image"),
        (replace(GROUP, ssh_public_keys=()), {}, "SSH key"),
        (replace(GROUP, instance_type="H100"), {}, "x8"),
        (GROUP, {"disk_gb": 0}, "disk_gb"),
        (GROUP, {"volume_gb": 5}, "volume_gb"),
        (GROUP, {"volume_gb": "50"}, "volume_gb"),
        (GROUP, {"min_cuda_version": "12"}, "min_cuda_version"),
        (replace(GROUP, image=""), {"image": 7}, "image"),
        (GROUP, {"registry": ["a"]}, "registry"),
        (GROUP, {"cloud": 1}, "cloud"),
    ],
)
def test_a_launch_that_cannot_be_is_not_made(
    fake: FakeRunPod, group: LaunchGroup, settings: Any, said: str
) -> None:
    with pytest.raises(ProviderError, match=said):
        provider(fake, **settings).launch(group)
    assert fake.calls == []


@pytest.mark.parametrize("document", [None, [], {}, {"id": None}, {"id": 7}, {"id": "a", "dataCenterId": 1}])
def test_a_launch_that_answers_no_pod_is_in_doubt(fake: FakeRunPod, document: Any) -> None:
    fake.authorize = lambda call: Reply(document, 201)  # type: ignore[method-assign]
    with pytest.raises(BadAnswer) as refusal:
        provider(fake).launch(GROUP)
    assert refusal.value.doubtful


# --- what pods are


def test_every_status_of_the_document_has_a_meaning() -> None:
    document = json.loads(vendor_document(DOCUMENT).read_text())
    assert set(document["components"]["schemas"]["PodStatus"]["enum"]) == set(STATES)


@pytest.mark.parametrize(
    ("status", "state", "healthy"),
    [
        ("PROVISIONING", MachineState.PENDING, None),
        ("STARTING", MachineState.PENDING, None),
        ("RUNNING", MachineState.RUNNING, True),
        ("ERROR", MachineState.RUNNING, False),
        ("EXITED", MachineState.STOPPING, None),
        ("TERMINATED", MachineState.TERMINATED, None),
        ("MIGRATING", MachineState.UNKNOWN, None),
    ],
)
def test_a_status_is_understood(
    fake: FakeRunPod, status: str, state: MachineState, healthy: bool | None
) -> None:
    made = fake.make_pod(NAME)
    fake.start(made, REGION)
    made["status"] = status
    [machine] = provider(fake).describe(region=REGION, ids=[made["id"]])
    assert (machine.state, machine.raw_state, machine.status_ok) == (state, status, healthy)
    assert (machine.region, machine.zone, machine.instance_type) == (REGION, REGION, f"{H100} x8")
    assert machine.launched_at is not None and machine.launched_at.isoformat() == CREATED[:-1] + "+00:00"


def test_its_ssh_is_where_runpod_mapped_it(fake: FakeRunPod) -> None:
    made = fake.make_pod(NAME)
    cloud = provider(fake)
    fake.start(made, REGION)
    direct = made["ssh"]["direct"]
    [machine] = cloud.describe(region=REGION, ids=[made["id"]])
    assert (machine.public_ip, machine.ssh_port) == (direct["host"], direct["port"])

    made["ssh"]["direct"] = None  # the ports of the running container say the same
    [machine] = cloud.describe(region=REGION, ids=[made["id"]])
    assert (machine.public_ip, machine.ssh_port) == (direct["host"], direct["port"])

    made["runtime"]["ports"] = [{"private": 8888, "public": 1, "type": "http", "ip": "198.51.100.9"}, None]
    [machine] = cloud.describe(region=REGION, ids=[made["id"]])
    assert (machine.public_ip, machine.ssh_port) == ("", 0)
    assert (machine.state, machine.status_ok) == (MachineState.RUNNING, None)  # nobody gets in yet

    made["ssh"]["direct"] = {**direct, "host": "pod.example"}  # no address to keep
    [machine] = cloud.describe(region=REGION, ids=[made["id"]])
    assert machine.public_ip == ""


def test_a_pod_is_found_wherever_it_was_placed(fake: FakeRunPod) -> None:
    """A data center is only preferred, and unknown at first: a second launch must not follow from that."""
    unplaced, elsewhere = fake.make_pod(NAME), fake.make_pod(NAME, dataCenterId="EU-RO-1")
    fake.make_pod("my-training-pod")
    found = provider(fake).find(region=REGION, tag=TAG_TOKEN, value=TOKEN)
    assert {machine.id for machine in found} == {unplaced["id"], elsewhere["id"]}
    assert {machine.region for machine in found} == {REGION}
    assert provider(fake).find(region=REGION, tag=TAG_TOKEN, value="lau_0000000000000000") == []


def test_what_the_list_lacks_is_asked_for_and_the_unknown_left_out(fake: FakeRunPod) -> None:
    listed, late = fake.make_pod("a"), fake.make_pod("b")
    fake.unlisted = {late["id"]}
    found = provider(fake).describe(region=REGION, ids=[late["id"], "gone", listed["id"]])
    assert [machine.id for machine in found] == [late["id"], listed["id"]]
    assert provider(fake).describe(region=REGION, ids=[]) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"id": None},
        {"status": 7},
        {"name": None},
        {"gpu": {"id": 4}},
        {"runtime": {"ports": "none"}},
        {"ssh": {"direct": {"host": "198.51.100.1", "port": 99_999}}},
    ],
)
def test_a_pod_that_cannot_be_read_spoils_the_whole_list(fake: FakeRunPod, damage: Any) -> None:
    made = fake.make_pod(NAME)
    made.update(damage)
    with pytest.raises(BadAnswer):
        provider(fake).find(region=REGION, tag=TAG_TOKEN, value=TOKEN)


# --- how they end


def test_ending_leaves_nothing_and_ending_again_is_no_error(fake: FakeRunPod) -> None:
    ids = [fake.make_pod(name)["id"] for name in "ab"]
    cloud = provider(fake)
    cloud.reclaim(region=REGION, ids=ids)
    assert fake.pods == {}
    cloud.reclaim(region=REGION, ids=ids)


def test_everything_of_ours_is_listed_once_in_its_region_and_can_be_removed(fake: FakeRunPod) -> None:
    ours = {
        ResourceKind.INSTANCE: fake.make_pod(NAME)["id"],
        ResourceKind.VOLUME: fake.make_volume(NAME, REGION)["id"],
    }
    fake.make_pod("my-training-pod", dataCenterId=REGION)
    fake.make_pod(NAME, status="TERMINATED")
    fake.make_volume("datasets", REGION)
    cloud = provider(fake)
    owned = cloud.list_owned(region=REGION)
    assert {item.kind: item.id for item in owned} == ours
    assert len(owned) == 2
    assert all(naming.matches(item.tags, TAG_SITE, "site-one") for item in owned)
    assert cloud.list_owned(region="EU-RO-1") == []
    for resource in owned:
        cloud.remove(resource)
        cloud.remove(resource)
    assert ours[ResourceKind.INSTANCE] not in fake.pods
    assert [item["name"] for item in fake.volumes.values()] == ["datasets"]
    with pytest.raises(NotSupported):
        cloud.remove(OwnedResource(ResourceKind.NETWORK, "x", REGION))


# --- errors


@pytest.mark.parametrize(
    ("status", "detail", "kind", "retryable", "doubtful"),
    [
        (400, "create pod: There are no instances currently available", NoCapacity, True, False),
        (400, "There are no longer any instances available with the requested specifications. "
         "Please refresh and try again.", NoCapacity, True, False),
        (400, "There are no longer any instances available with enough disk space.", NoCapacity, True, False),
        (400, "This machine does not have the resources to deploy your pod. Please try a different machine",
         NoCapacity, True, False),
        (500, "create pod: There are no instances currently available", NoCapacity, True, False),
        (400, "exactly one of gpu or cpu must be set", ProviderError, False, False),
        (401, "missing bearer token", AuthFailed, False, False),
        (402, "insufficient balance", QuotaExceeded, False, False),
        (403, "access denied", AuthFailed, False, False),
        (404, "pod not found", NotFound, False, False),
        (409, "Pod belongs to a cluster", ProviderError, False, False),
        (422, "Request validation failed.", ProviderError, False, False),
        (429, "rate limit exceeded for the minute window", RateLimited, True, False),
        (500, "Something went wrong.", ProviderError, True, True),
        (503, "upstream", ProviderError, True, True),
    ],
)  # fmt: skip
def test_the_status_decides_and_for_a_launch_the_words(
    status: int, detail: str, kind: type[ProviderError], retryable: bool, doubtful: bool
) -> None:
    document = {"title": "X", "status": status, "detail": detail, "errors": ["$: no 'bogus'"]}
    error = explain(CREATE, status, document, {"retry-after": "45"})  # type: ignore[arg-type]
    assert error is not None
    assert type(error) is kind
    assert (error.retryable, error.doubtful) == (retryable, doubtful)
    if status != 401:  # whose text might quote the key
        assert detail in error.message and "bogus" in error.message
    if isinstance(error, RateLimited):
        assert error.retry_after == 45


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12", "ratelimit": '"minute";r=0;t=40'}, 12),
        ({"ratelimit": '"minute";r=0;t=12, "hour";r=2800;t=1812, "day";r=49500;t=45012'}, 12),
        ({"ratelimit": '"minute";r=0;t=12, "hour";r=0;t=1812'}, 1812),
        ({"ratelimit": '"day";r=0;t=45012'}, 3600),
        ({"ratelimit": "nonsense"}, 30),
        ({}, 30),
    ],
)
def test_a_limit_says_how_long_to_wait(headers: Any, seconds: float) -> None:
    error = explain("list pods", 429, {"detail": "rate limit exceeded"}, headers)
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


@pytest.mark.parametrize("document", [None, [], {}, {"detail": None}, {"error": "text"}])
def test_an_answer_without_a_detail_is_told_by_its_status(document: Any) -> None:
    assert explain(CREATE, 400, document, {}) is None  # type: ignore[arg-type]
