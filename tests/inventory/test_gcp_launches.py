"""Google Cloud: what a launch sends, and how it fails."""

from __future__ import annotations

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
    PurchaseOption,
)
from inventory.providers.errors import (
    BadAnswer,
    NoCapacity,
    NotSupported,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)
from inventory.providers.gcp import operations
from tests.contract.fake_api import Reply
from tests.contract.fake_gcp import FakeGcp
from tests.contract.gcp_data import ELSEWHERE, PROJECT, REGION, RESERVATION, TYPE, ZONES
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
