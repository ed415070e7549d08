"""Crusoe: what a launch sends, what its VMs are to us, and how they end."""

from __future__ import annotations

import re
import subprocess
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
from inventory.providers.crusoe import CrusoeProvider
from inventory.providers.crusoe.machines import STATES, key_script
from inventory.providers.errors import BadAnswer, NoCapacity, NotSupported, ProviderError
from tests.contract.fake_api import Call, Reply
from tests.contract.fake_crusoe import H100, KEY_ID, OUT_OF_STOCK, PROJECT, RESERVATION, SECRET, FakeCrusoe

REGION, ZONE = "us-east1", "us-east1-a"
TAGS = {TAG_SITE: "site-one", TAG_LEASE: "lse_0123456789abcdef", TAG_ALLOCATION: "42"}
TOKEN = "lau_fedcba9876543210"
IMAGE = "ubuntu22.04-nvidia-sxm-docker:latest"
NAME = naming.name_for({**TAGS, TAG_TOKEN: TOKEN})
GROUP = LaunchGroup(
    TOKEN, 1, H100, REGION, zone=ZONE, tags=TAGS, image=IMAGE, ssh_public_keys=("ssh-ed25519 AAAA one",)
)
INSTANCES = f"/projects/{PROJECT}/compute/vms/instances"


@pytest.fixture
def fake() -> Iterator[FakeCrusoe]:
    fake = FakeCrusoe()
    yield fake
    fake.close()


def provider(fake: FakeCrusoe, **settings: Any) -> CrusoeProvider:
    usual = {"endpoint_url": fake.url, "requests_per_second": 10_000, "project_id": PROJECT}
    return CrusoeProvider(
        credentials={"access_key_id": KEY_ID, "secret_key": SECRET}, settings={**usual, **settings}
    )


def network(fake: FakeCrusoe, location: str = ZONE) -> str:
    """Make a lease's network with one subnet."""
    made = fake.make_network("x")
    subnet = {"id": fake.identifier(), "name": "x", "vpc_network_id": made["id"], "location": location}
    fake.subnets[subnet["id"]] = {**subnet, "cidr": "172.27.0.0/20"}
    return str(made["id"])


def launches(fake: FakeCrusoe) -> list[Call]:
    return [call for call in fake.calls if call.method == "POST" and call.path == INSTANCES]


def sent(fake: FakeCrusoe) -> dict[str, Any]:
    [call] = launches(fake)
    body: dict[str, Any] = call.body
    return body


def test_a_launch_is_in_the_leases_network_and_on_demand(fake: FakeCrusoe) -> None:
    firewall = network(fake)
    [launched] = provider(fake).launch(replace(GROUP, firewall_id=firewall))
    assert list(fake.vms) == [launched.id]
    assert launched.zone == ZONE
    body = sent(fake)
    [interface] = body.pop("network_interfaces")
    assert body == {
        "name": NAME,
        "type": H100,
        "location": ZONE,
        "ssh_public_key": "ssh-ed25519 AAAA one",
        "image": IMAGE,
        "reservation_specification": {"selection_strategy": "on_demand"},
        "install_crusoe_watch_agent": False,
    }
    [subnet] = fake.subnets
    assert (interface["network"], interface["subnet"]) == (firewall, subnet)
    assert interface["ips"][0]["public_ipv4"]["type"] == "dynamic"


def test_a_reservation_is_the_only_thing_that_is_used(fake: FakeCrusoe) -> None:
    provider(fake).launch(replace(GROUP, firewall_id=network(fake), reservation_id=RESERVATION))
    assert sent(fake)["reservation_specification"] == {"id": RESERVATION}
    [vm] = fake.vms.values()
    assert vm["reservation_id"] == RESERVATION


def test_without_a_zone_the_location_with_most_room_is_taken(fake: FakeCrusoe) -> None:
    fake.free = {(H100, "us-northcentral1-a"): 1, (H100, "us-northcentral1-b"): 5}
    firewall = network(fake, "us-northcentral1-b")
    provider(fake).launch(replace(GROUP, region="us-northcentral1", zone="", firewall_id=firewall))
    assert sent(fake)["location"] == "us-northcentral1-b"


@pytest.mark.parametrize(
    ("image", "setting", "asked"),
    [
        (IMAGE, None, {"image": IMAGE}),
        ("", IMAGE, {"image": IMAGE}),
        ("", {REGION: "custom:img-1"}, {"custom_image": "img-1"}),
        (RESERVATION, None, {"custom_image": RESERVATION}),
    ],
)
def test_the_image_is_crusoes_or_our_own(fake: FakeCrusoe, image: str, setting: Any, asked: Any) -> None:
    provider(fake, image=setting).launch(replace(GROUP, image=image, firewall_id=network(fake)))
    assert {key: value for key, value in sent(fake).items() if "image" in key} == asked


def test_a_fabric_is_joined_by_the_types_that_have_one(fake: FakeCrusoe) -> None:
    fake.free["a40.1x", ZONE] = 1
    firewall = network(fake)
    partition = {"name": naming.name_for({**TAGS}) + "-" + ZONE, "ib_network_id": "ib-1"}
    fake.partitions["part-1"] = {"id": "part-1", **partition}
    cloud = provider(fake, ib_network={ZONE: "ib-1"})
    cloud.launch(replace(GROUP, firewall_id=firewall))
    cloud.launch(replace(GROUP, firewall_id=firewall, instance_type="a40.1x", client_token="lau_" + "1" * 16))
    first, second = (call.body for call in launches(fake))
    assert first["host_channel_adapters"] == [{"transport_partition_id": "part-1"}]
    assert "host_channel_adapters" not in second

    fake.partitions.clear()  # and never without its partition, nor in somebody else's
    with pytest.raises(ProviderError, match="partition"):
        cloud.launch(replace(GROUP, firewall_id=firewall, client_token="lau_" + "2" * 16))
    assert len(launches(fake)) == 2


def test_more_keys_come_by_a_script_that_changes_nothing_the_second_time(tmp_path: Any) -> None:
    keys = ("ssh-ed25519 AAAA Zoë's; rm -rf /", "ssh-rsa $(reboot)'; two")
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    script = key_script(user, keys)
    # The test's own home instead of the user's, and no change of owner, which only root may make.
    script = re.sub(r"home=.*", f"home={tmp_path}", script)
    script = re.sub(r" -o \S+ -g \S+", "", re.sub(r"chown .*", "", script))
    for _turn in range(2):
        subprocess.run(["bash", "-eu", "-c", script], check=True)
    assert (tmp_path / ".ssh" / "authorized_keys").read_text().splitlines() == [
        "ssh-ed25519 AAAA",
        "ssh-rsa $(reboot)';",
    ]
    with pytest.raises(ProviderError, match="user"):
        key_script("root; reboot", keys)
    with pytest.raises(ProviderError, match="64 kB"):
        key_script("ubuntu", ["ssh-rsa " + "B" * 500] * 200)


def test_a_launch_with_more_keys_sends_the_script(fake: FakeCrusoe) -> None:
    keys = ("ssh-ed25519 AAAA one", "ssh-rsa BBBB two")
    provider(fake).launch(replace(GROUP, firewall_id=network(fake), ssh_public_keys=keys, login_user="rocky"))
    assert sent(fake)["startup_script"] == key_script("rocky", keys[1:])


@pytest.mark.parametrize(
    "group",
    [
        replace(GROUP, count=2),
        replace(GROUP, purchase_option=PurchaseOption.SPOT),
        replace(GROUP, user_data="#!/bin/sh"),
    ],
)
def test_what_crusoe_has_not_is_said_and_not_called(fake: FakeCrusoe, group: LaunchGroup) -> None:
    with pytest.raises(NotSupported):
        provider(fake).launch(group)
    assert fake.calls == []


@pytest.mark.parametrize(
    ("group", "settings", "said"),
    [
        (replace(GROUP, image=""), {}, "image"),
        (replace(GROUP, ssh_public_keys=()), {}, "SSH key"),
        (replace(GROUP, image=""), {"image": 7}, "image"),
        (GROUP, {"ib_network": 7}, "ib_network"),
        (replace(GROUP, ssh_public_keys=("a", "b")), {"user": "x y"}, "user"),
        (replace(GROUP, firewall_id="gone"), {}, "subnet"),
        (replace(GROUP, zone="", region="moon-1"), {}, "moon-1"),
        (GROUP, {"project_id": 7}, "project_id"),
    ],
)
def test_a_launch_that_cannot_be_is_not_made(
    fake: FakeCrusoe, group: LaunchGroup, settings: Any, said: str
) -> None:
    with pytest.raises(ProviderError, match=said):
        provider(fake, **settings).launch(group)
    assert launches(fake) == []


def test_a_launch_that_fails_at_once_is_no_capacity(fake: FakeCrusoe) -> None:
    fake.free.clear()
    with pytest.raises(NoCapacity) as refusal:
        provider(fake).launch(replace(GROUP, firewall_id=network(fake)))
    assert (refusal.value.code, refusal.value.doubtful) == ("out_of_stock", False)
    assert "out of stock" in refusal.value.message
    assert len(launches(fake)) == 1


def test_an_operation_that_cannot_be_read_leaves_the_launch_as_it_is(fake: FakeCrusoe) -> None:
    authorize = fake.authorize

    def refuse(call: Call) -> Reply | None:
        if "/operations/" in call.path:
            return Reply({"code": "internal_error", "message": "x"}, 500)
        return authorize(call)

    fake.authorize = refuse  # type: ignore[method-assign]
    [launched] = provider(fake).launch(replace(GROUP, firewall_id=network(fake)))
    assert list(fake.vms) == [launched.id]
    assert len([call for call in fake.calls if "/operations/" in call.path]) == 1


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"operation": None},
        {"operation": {"state": "IN_PROGRESS"}},
        {"operation": {"state": "IN_PROGRESS", "operation_id": "o", "metadata": {}}},
        {"operation": {"state": "IN_PROGRESS", "operation_id": "o", "metadata": {"id": 7}}},
    ],
)
def test_a_launch_that_answers_no_vm_is_in_doubt(fake: FakeCrusoe, document: Any) -> None:
    fake.authorize = lambda call: Reply(document) if call.method == "POST" else None  # type: ignore[method-assign]
    with pytest.raises(BadAnswer) as refusal:
        provider(fake).launch(GROUP)
    assert refusal.value.doubtful


# --- what VMs are


@pytest.mark.parametrize("prefix", ["STATE_", ""])
@pytest.mark.parametrize("word", STATES)
def test_a_state_is_understood_with_and_without_its_prefix(fake: FakeCrusoe, prefix: str, word: str) -> None:
    made = fake.make_vm(NAME, state=prefix + word)
    [machine] = provider(fake).describe(region=REGION, ids=[made["id"]])
    assert (machine.state, machine.raw_state, machine.status_ok) == (STATES[word], prefix + word, None)
    addresses = made["network_interfaces"][0]["ips"][0]
    assert machine.public_ip == addresses["public_ipv4"]["address"]
    assert machine.private_ip == addresses["private_ipv4"]["address"]
    assert (machine.region, machine.zone, machine.instance_type) == (REGION, ZONE, H100)


def test_a_state_that_nobody_names_is_unknown(fake: FakeCrusoe) -> None:
    made = fake.make_vm(NAME, state="STATE_MIGRATING")
    [machine] = provider(fake).describe(region=REGION, ids=[made["id"]])
    assert machine.state == MachineState.UNKNOWN
    assert STATES["RUNNING"] == MachineState.RUNNING


def test_a_vm_without_an_address_yet_has_none(fake: FakeCrusoe) -> None:
    made = fake.make_vm(NAME)
    cases: list[Any] = [[], [{"ips": []}], [{"ips": [{"public_ipv4": {"address": "pending"}}]}]]
    for interfaces in cases:
        made["network_interfaces"] = interfaces
        [machine] = provider(fake).describe(region=REGION, ids=[made["id"]])
        assert (machine.public_ip, machine.private_ip) == ("", "")


def test_a_vm_is_found_on_any_page(fake: FakeCrusoe) -> None:
    for number in range(5):
        fake.make_vm(f"somebody-{number}")
    ours = fake.make_vm(NAME)
    fake.make_vm(NAME + "-x")
    fake.make_vm(NAME, location="us-northcentral1-a")
    [found] = provider(fake).find(region=REGION, tag=TAG_TOKEN, value=TOKEN)
    assert found.id == ours["id"]
    assert len(fake.calls) == 4


def test_a_page_that_repeats_ends_in_an_error(fake: FakeCrusoe) -> None:
    page = {"items": [], "next_page_token": "again"}
    fake.authorize = lambda call: Reply(page)  # type: ignore[method-assign]
    with pytest.raises(BadAnswer, match="twice"):
        provider(fake).find(region=REGION, tag=TAG_TOKEN, value=TOKEN)


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["IN_PROGRESS"], MachineState.PENDING),
        (["SUCCEEDED", "IN_PROGRESS"], MachineState.STOPPING),
        (["FAILED"], MachineState.TERMINATED),
        (["SUCCEEDED"], None),
        (["SUCCEEDED", "FAILED"], None),
        (["PARKED"], None),
        ([], None),
    ],
)
def test_what_the_list_lacks_is_told_by_its_operations(
    fake: FakeCrusoe, states: list[str], state: MachineState | None
) -> None:
    missing, listed = fake.identifier(), fake.make_vm(NAME)["id"]
    for each in states:
        fake.operation(missing, each, OUT_OF_STOCK if each == "FAILED" else None)
    found = provider(fake).describe(region=REGION, ids=[missing, listed])
    assert {machine.id: machine.state for machine in found}.get(missing) == state
    assert found[-1].id == listed
    if state == MachineState.TERMINATED:
        assert "out of stock" in found[0].reason


def test_many_ids_are_asked_for_in_batches(fake: FakeCrusoe) -> None:
    ids = [fake.make_vm(f"a-{number}")["id"] for number in range(60)]
    assert [machine.id for machine in provider(fake).describe(region=REGION, ids=ids)] == ids
    asked = {call.query["ids"][0].count(",") + 1 for call in fake.calls}
    assert asked == {50, 10}
    assert provider(fake).describe(region=REGION, ids=[]) == []


@pytest.mark.parametrize(
    "damage", [{"id": None}, {"state": 7}, {"location": None}, {"name": None}, {"network_interfaces": "none"}]
)
def test_a_vm_that_cannot_be_read_spoils_the_whole_list(fake: FakeCrusoe, damage: Any) -> None:
    made = fake.make_vm(NAME)
    made.update(damage)
    with pytest.raises(BadAnswer):
        provider(fake).find(region=REGION, tag=TAG_TOKEN, value=TOKEN)


# --- how they end


def test_ending_leaves_nothing_and_ending_again_is_no_error(fake: FakeCrusoe) -> None:
    ids = [fake.make_vm(name)["id"] for name in "abc"]
    cloud = provider(fake)
    cloud.reclaim(region=REGION, ids=ids[:2])
    assert [vm["state"] for vm in fake.vms.values()] == ["STATE_DELETING", "STATE_DELETING", "STATE_DEFINING"]
    cloud.reclaim(region=REGION, ids=ids[:2])
    assert len([call for call in fake.calls if call.method == "DELETE"]) == 2
    del fake.vms[ids[0]]
    cloud.reclaim(region=REGION, ids=ids[:2])
    cloud.reclaim(region=REGION, ids=[])
    assert fake.vms[ids[2]]["state"] == "STATE_DEFINING"


def test_a_filter_that_crusoe_ignores_ends_nobody_elses_vm(fake: FakeCrusoe) -> None:
    ours, theirs = fake.make_vm("a"), fake.make_vm("b")
    fake.authorize = lambda call: call.query.clear()  # type: ignore[attr-defined,func-returns-value,method-assign]
    provider(fake).reclaim(region=REGION, ids=[ours["id"]])
    assert (ours["state"], theirs["state"]) == ("STATE_DELETING", "STATE_DEFINING")


def test_everything_of_ours_is_listed_once_in_its_region_and_can_be_removed(fake: FakeCrusoe) -> None:
    lease = naming.name_for({TAG_SITE: "site-one", TAG_LEASE: TAGS[TAG_LEASE]})
    ours = {
        ResourceKind.INSTANCE: fake.make_vm(NAME)["id"],
        ResourceKind.VOLUME: fake.make_disk(lease, ZONE)["id"],
        ResourceKind.NETWORK: fake.make_network(f"{lease}-{REGION}")["id"],
    }
    fake.make_vm("training")
    fake.make_vm(NAME, state="STATE_DELETED")
    fake.make_disk("datasets", ZONE)
    fake.make_network("default-vpc-network")
    cloud = provider(fake)
    owned = cloud.list_owned(region=REGION)
    assert {item.kind: item.id for item in owned} == ours
    assert len(owned) == 3
    assert all(naming.matches(item.tags, TAG_SITE, "site-one") for item in owned)
    assert cloud.list_owned(region="us-northcentral1") == []
    for resource in owned:
        cloud.remove(resource)
        cloud.remove(resource)
    assert fake.vms[ours[ResourceKind.INSTANCE]]["state"] == "STATE_DELETING"
    assert [item["name"] for item in fake.disks.values()] == ["datasets"]
    assert [item["name"] for item in fake.networks.values()] == ["default-vpc-network"]
    with pytest.raises(NotSupported):
        cloud.remove(OwnedResource(ResourceKind.KEY, "x", REGION))
