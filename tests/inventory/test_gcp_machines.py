"""Google Cloud: what a launch sends, what machines are to us, and how they end."""

from __future__ import annotations

import json
import re
import uuid
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
    LeaseNetworkRequest,
    MachineState,
    OwnedResource,
    PurchaseOption,
    ResourceKind,
)
from inventory.providers.errors import (
    BadAnswer,
    NoCapacity,
    NotSupported,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)
from inventory.providers.gcp import machines, network, operations
from tests.contract.discovery import Discovery
from tests.contract.fake_api import Reply
from tests.contract.fake_gcp import ELSEWHERE, PROJECT, REGION, RESERVATION, TYPE, ZONES, FakeGcp
from tests.contract.gcp import DOCUMENTS
from tests.contract.prism import vendor_document
from tests.inventory.test_gcp_prices import provider

ZONE = ZONES[0]
TAGS = {TAG_SITE: "Site One", TAG_LEASE: "lse_0123456789abcdef", TAG_ALLOCATION: "42"}
TOKEN = "lau_fedcba9876543210"
FAMILY = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
GROUP = LaunchGroup(TOKEN, 1, TYPE, REGION, zone=ZONE, tags=TAGS, image=FAMILY)
NAME = naming.name_for({**TAGS, TAG_TOKEN: TOKEN}, limit=63)
CIDRS = ("203.0.113.0/24", "198.51.100.7/32", "2001:db8::/64")
REQUEST = LeaseNetworkRequest(TAGS[TAG_LEASE], REGION, CIDRS, (), tags={TAG_SITE: TAGS[TAG_SITE]})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcp]:
    monkeypatch.setattr(operations, "LOOKS", (0.0, 0.0))
    monkeypatch.setattr(operations, "SETTLE_PAUSE", 0.0)
    fake = FakeGcp()
    yield fake
    fake.close()


def sent(fake: FakeGcp, end: str = "/instances", method: str = "POST") -> Any:
    [call] = [call for call in fake.calls if call.method == method and call.path.endswith(end)]
    return call


def metadata(fake: FakeGcp) -> dict[str, str]:
    return {each["key"]: each["value"] for each in sent(fake).body["metadata"]["items"]}


# --- launches


def test_a_launch_is_one_insert_that_carries_our_tags(fake: FakeGcp) -> None:
    [launched] = provider(fake).launch(
        replace(GROUP, firewall_id="a-firewall", ssh_public_keys=("ssh-ed25519 AAAA one", "ssh-rsa BBBB"))
    )
    assert (launched.id, launched.zone) == (f"{ZONE}/{NAME}", ZONE)
    call = sent(fake)
    body = call.body
    labels = {
        "sublet-site": "digest-" + naming.digest("Site One"),
        "sublet-lease": TAGS[TAG_LEASE],
        "sublet-allocation": "42",
        "sublet-token": TOKEN,
    }
    assert (body["name"], body["labels"]) == (NAME, labels)
    assert body["machineType"] == f"zones/{ZONE}/machineTypes/{TYPE}"
    [request_id] = call.query["requestId"]
    assert uuid.UUID(request_id).int
    assert body["tags"] == {"items": ["a-firewall"]}
    assert body["disks"] == [
        {
            "boot": True,
            "autoDelete": True,
            "initializeParams": {
                "diskName": NAME,
                "sourceImage": FAMILY,
                "diskSizeGb": "100",
                "diskType": f"zones/{ZONE}/diskTypes/pd-balanced",
                "labels": labels,
            },
        }
    ]
    assert metadata(fake) == {
        "block-project-ssh-keys": "TRUE",
        "enable-oslogin": "FALSE",
        "ssh-keys": "ubuntu:ssh-ed25519 AAAA one\nubuntu:ssh-rsa BBBB",
    }
    # Nothing that a tenant runs there may call Google in our name.
    assert "serviceAccounts" not in body


def test_the_same_token_is_the_same_request(fake: FakeGcp) -> None:
    google = provider(fake)
    first, second = google.launch(GROUP), google.launch(GROUP)
    assert first == second
    assert len(fake.instances) == 1
    google.launch(replace(GROUP, client_token="lau_0000000000000000"))
    assert len(fake.instances) == 2


def test_a_name_that_is_taken_is_a_doubt(fake: FakeGcp) -> None:
    google = provider(fake)
    google.launch(GROUP)
    fake.requests.clear()
    with pytest.raises(ProviderError) as taken:
        google.launch(GROUP)
    assert (taken.value.retryable, taken.value.doubtful) == (True, True)
    assert len(fake.instances) == 1


def test_user_data_goes_to_cloud_init_and_the_login_is_the_lease_s(fake: FakeGcp) -> None:
    script = "#!/bin/sh\necho hello\n"
    provider(fake).launch(
        replace(GROUP, user_data=script, login_user="alice", ssh_public_keys=("ssh-rsa AAAA",))
    )
    assert metadata(fake)["user-data"] == script
    assert metadata(fake)["ssh-keys"] == "alice:ssh-rsa AAAA"


def test_on_demand_takes_no_reservation_by_chance(fake: FakeGcp) -> None:
    provider(fake).launch(GROUP)
    body = sent(fake).body
    assert body["reservationAffinity"] == {"consumeReservationType": "NO_RESERVATION"}
    assert body["scheduling"] == {
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": True,
        "provisioningModel": "STANDARD",
    }


def test_spot_is_deleted_when_its_capacity_is_wanted(fake: FakeGcp) -> None:
    provider(fake).launch(replace(GROUP, purchase_option=PurchaseOption.SPOT))
    assert sent(fake).body["scheduling"] == {
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
    }


def test_a_reservation_is_targeted_and_nothing_else(fake: FakeGcp) -> None:
    provider(fake).launch(replace(GROUP, reservation_id=RESERVATION))
    body = sent(fake).body
    assert body["reservationAffinity"] == {
        "consumeReservationType": "SPECIFIC_RESERVATION",
        "key": "compute.googleapis.com/reservation-name",
        "values": [RESERVATION],
    }
    assert body["scheduling"]["provisioningModel"] == "STANDARD"


@pytest.mark.parametrize(
    ("fields", "mode", "bound"),
    [
        ({"deploymentType": "DENSE"}, "", True),
        ({"deleteAtTime": "2026-12-01T00:00:00Z"}, "CALENDAR", True),
        ({"deleteAtTime": "2026-12-01T00:00:00Z"}, "DEFAULT", False),
        ({"deleteAtTime": "2026-12-01T00:00:00Z"}, "", False),
    ],
)
def test_machines_of_dense_and_calendar_reservations_are_bound_to_them(
    fake: FakeGcp, fields: dict[str, str], mode: str, bound: bool
) -> None:
    fake.reservations[f"{ZONE}/{RESERVATION}"].update(fields)
    if mode:
        ours = {"name": "fr-1", "reservationName": RESERVATION, "reservationMode": mode}
        fake.future = {f"{ZONE}/fr-1": ours, f"{ZONE}/fr-2": {"name": "fr-2", "reservationMode": "CALENDAR"}}
    provider(fake).launch(replace(GROUP, reservation_id=RESERVATION))
    scheduling = sent(fake).body["scheduling"]
    assert scheduling["provisioningModel"] == ("RESERVATION_BOUND" if bound else "STANDARD")
    assert scheduling.get("instanceTerminationAction") == ("DELETE" if bound else None)


def test_a_shared_reservation_is_bound_where_the_settings_say_so(fake: FakeGcp) -> None:
    shared = "projects/other-project/reservations/gpus"
    fake.reservations[f"{ZONE}/{shared}"] = {}
    provider(fake, reservation_bound=True).launch(replace(GROUP, reservation_id=shared))
    assert sent(fake).body["scheduling"]["provisioningModel"] == "RESERVATION_BOUND"


@pytest.mark.parametrize("reservation", ["nothing-like-it", "../instances", "A", "projects/x/reservations/y"])
def test_a_reservation_that_is_none_stops_the_launch_before_its_call(fake: FakeGcp, reservation: str) -> None:
    with pytest.raises(ProviderError) as refused:
        provider(fake).launch(replace(GROUP, reservation_id=reservation))
    assert not refused.value.doubtful
    assert not fake.instances


@pytest.mark.parametrize(
    ("settings", "interface"),
    [
        ({}, {"network": f"projects/{PROJECT}/global/networks/default"}),
        ({"network": "gpus"}, {"network": f"projects/{PROJECT}/global/networks/gpus"}),
        (
            {"network": "projects/host-project/global/networks/gpus", "subnet": {REGION: "machines"}},
            {
                "network": "projects/host-project/global/networks/gpus",
                "subnetwork": f"projects/host-project/regions/{REGION}/subnetworks/machines",
            },
        ),
    ],
)
def test_machines_are_in_the_account_s_network(
    fake: FakeGcp, settings: dict[str, Any], interface: dict[str, str]
) -> None:
    provider(fake, **settings).launch(GROUP)
    [found] = sent(fake).body["networkInterfaces"]
    assert found.pop("nicType") == "GVNIC"
    assert found.pop("accessConfigs") == [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
    assert found == interface


def test_machines_may_have_no_public_address(fake: FakeGcp) -> None:
    provider(fake, public_ip=False).launch(GROUP)
    assert "accessConfigs" not in sent(fake).body["networkInterfaces"][0]


@pytest.mark.parametrize(
    ("instance_type", "settings", "disk"),
    [
        ("a3-highgpu-8g", {}, "pd-balanced"),
        ("a3-ultragpu-8g", {}, "hyperdisk-balanced"),
        ("a4-highgpu-8g", {}, "hyperdisk-balanced"),
        ("g4-standard-48", {"disk_gib": 500}, "hyperdisk-balanced"),
        (TYPE, {"disk_type": "pd-ssd"}, "pd-ssd"),
    ],
)
def test_the_disk_fits_the_machine(
    fake: FakeGcp, instance_type: str, settings: dict[str, Any], disk: str
) -> None:
    provider(fake, **settings).launch(replace(GROUP, instance_type=instance_type))
    wanted = sent(fake).body["disks"][0]["initializeParams"]
    assert wanted["diskType"].endswith(f"/{disk}")
    assert wanted["diskSizeGb"] == str(settings.get("disk_gib", 100))


@pytest.mark.parametrize(
    ("image", "path"),
    [
        ("global/images/mine", "global/images/mine"),
        (f"https://www.googleapis.com/compute/v1/{FAMILY}", FAMILY),
        (f"https://compute.googleapis.com/compute/v1/{FAMILY}", FAMILY),
    ],
)
def test_images_are_paths(fake: FakeGcp, image: str, path: str) -> None:
    provider(fake).launch(replace(GROUP, image=image))
    assert sent(fake).body["disks"][0]["initializeParams"]["sourceImage"] == path


def test_the_account_has_an_image_of_its_own(fake: FakeGcp) -> None:
    provider(fake, image={REGION: "global/images/mine"}).launch(replace(GROUP, image=""))
    assert sent(fake).body["disks"][0]["initializeParams"]["sourceImage"] == "global/images/mine"


@pytest.mark.parametrize(
    ("changed", "settings", "said"),
    [
        ({"image": "ubuntu-2404"}, {}, "is no image"),
        ({"image": "https://elsewhere.example/image"}, {}, "is no image"),
        ({"image": ""}, {}, "No image for us-central1"),
        ({"zone": ""}, {}, "is no zone of us-central1"),
        ({"zone": ELSEWHERE}, {}, "is no zone of us-central1"),
        ({"zone": "us-central1-a/instances"}, {}, "is no zone of us-central1"),
        ({"instance_type": "../x"}, {}, "is no machine type"),
        ({"ssh_public_keys": ("ssh-rsa A\nroot:ssh-rsa B",)}, {}, "SSH key"),
        ({"login_user": "a:b"}, {}, "is no login"),
        ({}, {"disk_gib": "much"}, "disk_gib"),
        ({}, {"disk_type": "PD SSD"}, "disk_type"),
        ({}, {"network": "../x"}, "network"),
        ({}, {"subnet": 7}, "subnet"),
        ({}, {"subnet": "projects/host-project/regions/us-east1/subnetworks/x"}, "subnet"),
        ({}, {"public_ip": "no"}, "public_ip"),
    ],
)
def test_what_cannot_be_launched_is_said_before_any_call(
    fake: FakeGcp, changed: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ProviderError, match=said) as refused:
        provider(fake, **settings).launch(replace(GROUP, **changed))
    assert not refused.value.doubtful
    assert fake.calls == []


def test_several_machines_in_one_call_are_not_supported(fake: FakeGcp) -> None:
    with pytest.raises(NotSupported):
        provider(fake).launch(replace(GROUP, count=2))
    assert fake.calls == []


@pytest.mark.parametrize(
    ("how", "error"), [("stockout", NoCapacity), ("quota", QuotaExceeded), ("throttled", RateLimited)]
)
def test_a_launch_that_fails_at_once_is_no_doubt(fake: FakeGcp, how: str, error: type[ProviderError]) -> None:
    fake.refuse.append(how)
    with pytest.raises(error) as refused:
        provider(fake).launch(GROUP)
    assert not refused.value.doubtful
    assert not fake.instances


def test_a_launch_is_accepted_although_its_operation_cannot_be_read(
    fake: FakeGcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    google = provider(fake)

    def get(*_args: Any, **_options: Any) -> Any:
        raise BadAnswer("HTML")

    monkeypatch.setattr(google.session, "get", get)
    [launched] = google.launch(GROUP)
    assert launched.id in fake.instances


@pytest.mark.parametrize("answer", [{}, {"name": "../x"}, {"name": 7}, [], None, "text"])
def test_an_answer_that_is_no_operation_is_a_doubt(fake: FakeGcp, answer: Any) -> None:
    fake._routes = [
        (http, path, (lambda _call: Reply(answer)) if http == "POST" else function)
        for http, path, function in fake._routes
    ]
    with pytest.raises(BadAnswer) as broken:
        provider(fake).launch(GROUP)
    assert broken.value.doubtful


# --- reading


def test_every_state_that_google_lists_means_something() -> None:
    document = json.loads(vendor_document(DOCUMENTS[0]).read_text())
    listed = document["schemas"]["Instance"]["properties"]["status"]["enum"]
    assert set(listed) == set(machines.STATES)
    assert len(listed) == 12
    assert MachineState.UNKNOWN not in machines.STATES.values()


@pytest.mark.parametrize(
    ("raw", "state"),
    [
        *machines.STATES.items(),
        ("SOMETHING_NEW", MachineState.UNKNOWN),
        ("", MachineState.UNKNOWN),
    ],
)
def test_states_are_translated(fake: FakeGcp, raw: str, state: MachineState) -> None:
    fake.make_instance(ZONE, "one", status=raw)
    [found] = provider(fake).describe(region=REGION, ids=[f"{ZONE}/one"])
    assert (found.state, found.raw_state) == (state, raw)


def test_a_machine_is_read_with_its_addresses_and_tags(fake: FakeGcp) -> None:
    google = provider(fake)
    [launched] = google.launch(GROUP)
    [found] = google.describe(region=REGION, ids=[launched.id])
    assert (found.id, found.zone, found.instance_type) == (launched.id, ZONE, TYPE)
    assert found.public_ip.startswith("198.51.100.")
    assert found.private_ip.startswith("10.128.0.")
    assert found.tags[TAG_TOKEN] == TOKEN
    assert found.tags[TAG_LEASE] == TAGS[TAG_LEASE]
    assert found.launched_at is not None and found.launched_at.tzinfo is not None
    assert found.status_ok is None


def test_many_machines_are_read_from_the_listing_and_stragglers_one_by_one(fake: FakeGcp) -> None:
    ids = []
    for number in range(12):
        fake.make_instance(ZONE, f"m-{number}", labels={"sublet-site": "x"})
        ids.append(f"{ZONE}/m-{number}")
    fake.instances[ids[3]]["labels"] = {}
    fake.make_instance(ZONES[1], "other", labels={"sublet-site": "x"})
    found = provider(fake).describe(region=REGION, ids=[*ids, f"{ZONES[1]}/other", f"{ZONE}/never"])
    assert {each.id for each in found} == {*ids, f"{ZONES[1]}/other"}
    gets = [call for call in fake.calls if re.search(r"/instances/[\w-]+$", call.path)]
    assert len(gets) == 3


def test_find_goes_by_the_label_in_all_zones_of_the_region(fake: FakeGcp) -> None:
    google = provider(fake)
    google.launch(GROUP)
    google.launch(replace(GROUP, zone=ZONES[1], client_token="lau_1111111111111111"))
    fake.make_instance(ELSEWHERE, "far", labels={"sublet-lease": TAGS[TAG_LEASE]})
    by_token = google.find(region=REGION, tag=TAG_TOKEN, value=TOKEN)
    assert [each.id for each in by_token] == [f"{ZONE}/{NAME}"]
    assert len(google.find(region=REGION, tag=TAG_LEASE, value=TAGS[TAG_LEASE])) == 2
    # A site's id with capitals comes back as its digest.
    assert len(google.find(region=REGION, tag=TAG_SITE, value="Site One")) == 2
    assert google.find(region=REGION, tag=TAG_SITE, value="Site Two") == []


def test_a_zone_out_of_reach_makes_no_half_list(fake: FakeGcp) -> None:
    google = provider(fake)
    google.launch(GROUP)
    fake.unreachable = ZONES[1]
    with pytest.raises(ProviderError, match=ZONES[1]) as silent:
        google.find(region=REGION, tag=TAG_TOKEN, value=TOKEN)
    assert silent.value.retryable
    fake.unreachable = ELSEWHERE  # of another region
    assert len(google.find(region=REGION, tag=TAG_TOKEN, value=TOKEN)) == 1


def test_ids_that_are_none_are_never_put_into_a_path(fake: FakeGcp) -> None:
    google = provider(fake)
    for wrong in ("one", "us-central1-a/../x", "us-central1-a/", "a/b/c", "us-central1-a/A"):
        with pytest.raises(ProviderError):
            google.describe(region=REGION, ids=[wrong])
        with pytest.raises(ProviderError):
            google.reclaim(region=REGION, ids=[wrong])
    assert fake.calls == []


# --- machines that are not there


def test_a_machine_that_never_came_to_be_tells_why(fake: FakeGcp) -> None:
    target = f"zones/{ZONE}/instances/{NAME}"
    fake.operation(
        ZONE, "insert", target, error=("ZONE_RESOURCE_POOL_EXHAUSTED", "does not have enough resources")
    )
    [found] = provider(fake).describe(region=REGION, ids=[f"{ZONE}/{NAME}"])
    assert found.state == MachineState.TERMINATED
    assert "does not have enough resources" in found.reason
    assert found.tags[TAG_TOKEN] == TOKEN


def test_a_machine_whose_insert_goes_on_is_pending(fake: FakeGcp) -> None:
    fake.operation(ZONE, "insert", f"zones/{ZONE}/instances/{NAME}", done=False)
    [found] = provider(fake).describe(region=REGION, ids=[f"{ZONE}/{NAME}"])
    assert found.state == MachineState.PENDING


@pytest.mark.parametrize(("kind", "said"), [("delete", "deleted by"), (machines.PREEMPTED, "preempted")])
def test_a_machine_that_is_gone_tells_who_ended_it(fake: FakeGcp, kind: str, said: str) -> None:
    google = provider(fake)
    [launched] = google.launch(GROUP)
    fake.finish_operations(launched.id)
    fake.end(launched.id, kind)
    [found] = google.describe(region=REGION, ids=[launched.id])
    assert found.state == MachineState.TERMINATED
    assert said in found.reason


def test_a_deletion_that_failed_ended_nothing(fake: FakeGcp) -> None:
    target = f"zones/{ZONE}/instances/{NAME}"
    fake.operation(ZONE, "insert", target)
    fake.operation(ZONE, "delete", target, error=("RESOURCE_NOT_READY", "not ready"))
    assert provider(fake).describe(region=REGION, ids=[f"{ZONE}/{NAME}"]) == []


def test_a_machine_of_which_nothing_is_known_is_left_out(fake: FakeGcp) -> None:
    fake.operation(ZONE, "delete", f"zones/{ZONE}/instances/{NAME}-2")  # of another one
    assert provider(fake).describe(region=REGION, ids=[f"{ZONE}/{NAME}"]) == []


@pytest.mark.parametrize("settings", [{"project": "another-one"}, {"endpoint": "/elsewhere"}])
def test_a_wrong_setting_is_not_a_machine_that_is_gone(fake: FakeGcp, settings: dict[str, Any]) -> None:
    google = provider(fake, project=settings.get("project", PROJECT))
    google.session.compute.base_url += settings.get("endpoint", "")
    with pytest.raises(ProviderError):
        google.describe(region=REGION, ids=[f"{ZONE}/{NAME}"])
    with pytest.raises(ProviderError):
        google.reclaim(region=REGION, ids=[f"{ZONE}/{NAME}"])


def test_an_end_is_asked_for_once_each_and_gone_already_is_no_error(fake: FakeGcp) -> None:
    google = provider(fake)
    [launched] = google.launch(GROUP)
    google.reclaim(region=REGION, ids=[launched.id, f"{ZONE}/never-there"])
    assert fake.instances[launched.id]["status"] == "STOPPING"
    assert [call.path.rpartition("/")[2] for call in fake.calls if call.method == "DELETE"] == [
        NAME,
        "never-there",
    ]


# --- a lease's firewall


def test_a_firewall_lets_in_the_customer_and_the_lease_s_own_machines_only(fake: FakeGcp) -> None:
    made = provider(fake).prepare_lease(REQUEST)
    rules = {
        name.removeprefix(made.firewall_id): rule
        for name, rule in sorted(fake.firewalls.items(), key=lambda item: item[1]["priority"])
    }
    assert list(rules) == ["-0", "-1", "-2"]
    assert rules["-0"]["sourceRanges"] == ["198.51.100.7/32", "203.0.113.0/24"]
    assert rules["-0"]["allowed"] == [{"IPProtocol": "tcp", "ports": ["22"]}]
    assert rules["-1"]["sourceTags"] == [made.firewall_id]
    assert (rules["-2"]["sourceRanges"], rules["-2"]["denied"]) == (["0.0.0.0/0"], [{"IPProtocol": "all"}])
    for rule in rules.values():
        assert (rule["direction"], rule["targetTags"]) == ("INGRESS", [made.firewall_id])
        assert rule["priority"] < 1000  # what the network itself lets in comes after
    # What denies is made first.
    order = [call.body["name"][-2:] for call in fake.calls if call.method == "POST"]
    assert order == ["-2", "-1", "-0"]
    assert naming.tags_of(made.firewall_id)[TAG_LEASE] == TAGS[TAG_LEASE]


def test_a_second_call_changes_only_what_differs(fake: FakeGcp) -> None:
    google = provider(fake)
    made = google.prepare_lease(REQUEST)
    fake.calls.clear()
    assert google.prepare_lease(REQUEST) == made
    assert {call.method for call in fake.calls} == {"GET"}
    google.prepare_lease(replace(REQUEST, ssh_cidrs=("192.0.2.1/32",)))
    [patched] = [call for call in fake.calls if call.method == "PATCH"]
    assert patched.body["sourceRanges"] == ["192.0.2.1/32"]
    fake.firewalls[f"{made.firewall_id}-2"]["disabled"] = True
    google.prepare_lease(REQUEST)
    assert fake.firewalls[f"{made.firewall_id}-2"]["disabled"] is False


def test_without_addresses_nobody_gets_in(fake: FakeGcp) -> None:
    google = provider(fake)
    google.prepare_lease(REQUEST)
    made = google.prepare_lease(replace(REQUEST, ssh_cidrs=("2001:db8::/64",)))
    assert set(fake.firewalls) == {f"{made.firewall_id}-1", f"{made.firewall_id}-2"}


def test_a_lease_in_two_regions_has_two_firewalls(fake: FakeGcp) -> None:
    google = provider(fake)
    here, there = google.prepare_lease(REQUEST), google.prepare_lease(replace(REQUEST, region="europe-west4"))
    assert here.firewall_id != there.firewall_id
    assert len(fake.firewalls) == 6
    for region, made in ((REGION, here), ("europe-west4", there)):
        owned = [each for each in google.list_owned(region=region) if each.kind == ResourceKind.NETWORK]
        assert [each.id for each in owned] == [made.firewall_id]
    google.remove_network(there)
    assert {name.rpartition("-")[0] for name in fake.firewalls} == {here.firewall_id}


def test_a_firewall_in_use_stays(fake: FakeGcp) -> None:
    google = provider(fake)
    made = google.prepare_lease(REQUEST)
    [launched] = google.launch(replace(GROUP, firewall_id=made.firewall_id))
    with pytest.raises(ProviderError, match=NAME) as used:
        google.remove_network(made)
    assert used.value.retryable
    assert len(fake.firewalls) == 3
    fake.end(launched.id)
    google.remove_network(made)
    google.remove_network(made)
    assert fake.firewalls == {}


def test_a_firewall_that_takes_too_long_is_tried_again(
    fake: FakeGcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "SETTLE_TRIES", 1)
    with pytest.raises(ProviderError) as slow:
        provider(fake).prepare_lease(REQUEST)
    assert slow.value.retryable
    provider(fake).prepare_lease(REQUEST)


def test_rules_of_an_ordinary_name_are_never_removed(fake: FakeGcp) -> None:
    fake.firewalls["default-allow-ssh"] = {"name": "default-allow-ssh"}
    for name in ("default-allow", "default", ".*"):
        with pytest.raises(ProviderError, match="no firewall of ours"):
            provider(fake).remove(OwnedResource(ResourceKind.NETWORK, name, REGION))
    assert set(fake.firewalls) == {"default-allow-ssh"}


def test_more_addresses_than_a_rule_takes_are_refused() -> None:
    many = [f"10.{number // 250}.{number % 250}.1/32" for number in range(network.MOST_RANGES + 1)]
    with pytest.raises(ProviderError, match="5000"):
        network.rules("x", "y", REGION, many)


# --- what is ours


def test_everything_of_ours_in_the_region_is_listed_and_removed(fake: FakeGcp) -> None:
    google = provider(fake)
    made = google.prepare_lease(REQUEST)
    [launched] = google.launch(GROUP)
    labels = fake.instances[launched.id]["labels"]
    fake.make_disk(ZONE, "left-over", labels)
    fake.make_disk(ELSEWHERE, "far", labels)
    fake.make_disk(ZONE, "somebody-elses", {})
    fake.make_address(REGION, "static", labels)
    listed = {(each.kind, each.id): each for each in google.list_owned(region=REGION)}
    assert set(listed) == {
        (ResourceKind.INSTANCE, launched.id),
        (ResourceKind.VOLUME, launched.id),
        (ResourceKind.VOLUME, f"{ZONE}/left-over"),
        (ResourceKind.ADDRESS, f"{REGION}/static"),
        (ResourceKind.NETWORK, made.firewall_id),
    }
    assert all(naming.matches(each.tags, TAG_SITE, "Site One") for each in listed.values())
    assert all(each.created_at for each in listed.values())
    # A disk goes with its machine, and not before.
    with pytest.raises(ProviderError) as used:
        google.remove(listed[ResourceKind.VOLUME, launched.id])
    assert used.value.retryable
    google.remove(listed[ResourceKind.INSTANCE, launched.id])
    fake.end(launched.id)
    for each in listed.values():
        google.remove(each)
        google.remove(each)
    assert google.list_owned(region=REGION) == []
    assert set(fake.disks) == {f"{ELSEWHERE}/far", f"{ZONE}/somebody-elses"}


def test_keys_are_not_kept_by_google(fake: FakeGcp) -> None:
    with pytest.raises(NotSupported):
        provider(fake).remove(OwnedResource(ResourceKind.KEY, "x", REGION))


def test_what_a_launch_sends_and_reads_is_what_google_describes(fake: FakeGcp) -> None:
    fake.documents = Discovery(*(vendor_document(path) for path in DOCUMENTS))
    google = provider(fake)
    made = google.prepare_lease(REQUEST)
    for token, option in (("lau_1", PurchaseOption.ON_DEMAND), ("lau_2", PurchaseOption.SPOT)):
        group = replace(GROUP, client_token=token, firewall_id=made.firewall_id, purchase_option=option)
        [launched] = google.launch(replace(group, ssh_public_keys=("ssh-rsa A",), user_data="#!/bin/sh\n"))
        google.describe(region=REGION, ids=[launched.id])
    fake.reservations[f"{ZONE}/{RESERVATION}"]["deploymentType"] = "DENSE"
    google.launch(replace(GROUP, reservation_id=RESERVATION))
    google.find(region=REGION, tag=TAG_TOKEN, value=TOKEN)
    google.list_owned(region=REGION)
    google.reclaim(region=REGION, ids=[launched.id])
    assert fake.documents.problems == []
