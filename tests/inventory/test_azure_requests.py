"""Azure: what a launch, a reservation and a lease's network really ask for, and what is refused before that."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from inventory.providers import registry
from inventory.providers.azure import AzureProvider, images, naming, network, session
from inventory.providers.base import (
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    LaunchGroup,
    LeaseNetwork,
    LeaseNetworkRequest,
    Machine,
    MachineState,
    OwnedResource,
    PurchaseOption,
    ResourceKind,
)
from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotSupported,
    ProviderError,
    QuotaExceeded,
)
from tests.contract import azure_arm
from tests.contract.azure import CREDENTIALS, IMAGE
from tests.contract.azure_arm import GROUP, REGION, RESERVATION, SUBSCRIPTION, TYPE, Arm
from tests.contract.azure_login import LocalAzure, token
from tests.contract.fake_api import Call

LEASE = "lse_abcdefghjkmnpqrs"
TOKEN = "lau_abcdefghjkmnpqrs"
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPDzGVzT8LJ3KrQ1xZAf1Z3wVZXoJ5oYmAfv2xjLZ0v"
ECDSA = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBG=="
TAGS = {TAG_SITE: "site-one", TAG_LEASE: LEASE}


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arm]:
    monkeypatch.setattr(network, "SETTLE_PAUSE", 0)
    monkeypatch.setattr(session, "PAUSE", 0)
    arm = Arm()
    arm.token = token(CREDENTIALS)
    yield arm
    arm.close()


def azure(arm: Arm, **settings: Any) -> AzureProvider:
    return LocalAzure(
        credentials=CREDENTIALS,
        settings={
            "subscription_id": SUBSCRIPTION,
            "resource_group": GROUP,
            "image": IMAGE,
            "endpoint_url": arm.url,
            "prices_url": arm.url,
            **settings,
        },
    )


def prepared(cloud: AzureProvider, *cidrs: str) -> LeaseNetwork:
    return cloud.prepare_lease(LeaseNetworkRequest(LEASE, REGION, cidrs, (), TAGS))


def group(**fields: Any) -> LaunchGroup:
    usual = LaunchGroup(
        client_token=TOKEN,
        count=1,
        instance_type=TYPE,
        region=REGION,
        zone="1",
        ssh_public_keys=(ED25519,),
        tags={**TAGS, "sublet:allocation": "7"},
    )
    return replace(usual, **fields)


def launched(arm: Arm, fields: dict[str, Any] | None = None, **settings: Any) -> tuple[Call, dict[str, Any]]:
    """Prepare a lease and launch on it; return the launch's call and its document."""
    cloud = azure(arm, **settings)
    firewall = prepared(cloud, "203.0.113.0/24").firewall_id
    cloud.launch(group(firewall_id=firewall, **(fields or {})))
    [call] = [call for call in arm.calls if call.method == "PUT" and "/virtualMachines/" in call.path]
    return call, call.body


# --- a launch


def test_a_machine_is_one_call_with_all_that_ends_with_it(arm: Arm) -> None:
    call, document = launched(arm)
    assert call.path.endswith("-labcdefghjkmnpqrs-tabcdefghjkmnpqrs")
    assert call.headers["if-none-match"] == "*"
    assert (document["location"], document["zones"]) == (REGION, ["1"])
    assert document["tags"] == {
        "sublet:site": "site-one",
        "sublet:lease": LEASE,
        "sublet:allocation": "7",
        "sublet:token": TOKEN,
    }
    settings = document["properties"]
    disk = settings["storageProfile"]["osDisk"]
    assert (disk["deleteOption"], disk["managedDisk"]) == ("Delete", {"storageAccountType": "Premium_LRS"})
    [interface] = settings["networkProfile"]["networkInterfaceConfigurations"]
    [address] = interface["properties"]["ipConfigurations"]
    public = address["properties"]["publicIPAddressConfiguration"]
    assert interface["properties"]["deleteOption"] == public["properties"]["deleteOption"] == "Delete"
    assert interface["tags"] == public["tags"] == document["tags"]
    assert public["sku"]["name"] == "Standard"
    for absent in ("priority", "capacityReservation", "securityProfile"):
        assert absent not in settings
    assert "plan" not in document


def test_a_launch_is_never_sent_twice(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after a 5xx, nor where Azure would register a resource provider first."""
    cloud = azure(arm)
    firewall = prepared(cloud).firewall_id
    refusals = [
        azure_arm.error(500, "InternalServerError", "Sorry."),
        azure_arm.error(409, "MissingSubscriptionRegistration", "Not registered: 'Microsoft.Compute'."),
        azure_arm.error(429, "TooManyRequests", "Slow down.", **{"retry-after": "1"}),
    ]
    for refusal in refusals:
        before = len(arm.calls)
        monkeypatch.setattr(arm, "refused", lambda body, refusal=refusal: refusal)
        with pytest.raises(ProviderError):
            cloud.launch(group(firewall_id=firewall))
        assert [call.method for call in arm.calls[before:]] == ["PUT"]


def test_a_second_launch_of_one_name_is_refused_and_doubted(arm: Arm) -> None:
    cloud = azure(arm)
    firewall = prepared(cloud).firewall_id
    cloud.launch(group(firewall_id=firewall))
    with pytest.raises(ProviderError) as refusal:
        cloud.launch(group(firewall_id=firewall))
    assert (refusal.value.doubtful, refusal.value.retryable) == (True, True)
    assert len(cloud.find(region=REGION, tag=TAG_TOKEN, value=TOKEN)) == 1


def test_spot_is_evicted_by_deletion_and_never_priced_out(arm: Arm) -> None:
    settings = launched(arm, {"purchase_option": PurchaseOption.SPOT})[1]["properties"]
    assert (settings["priority"], settings["evictionPolicy"]) == ("Spot", "Delete")
    assert settings["billingProfile"] == {"maxPrice": -1}


def test_without_a_zone_azure_places_the_machine(arm: Arm) -> None:
    _call, document = launched(arm, {"zone": REGION})
    assert "zones" not in document


def test_several_machines_at_once_are_not_supported(arm: Arm) -> None:
    with pytest.raises(NotSupported):
        azure(arm).launch(group(count=2))
    assert arm.calls == []


def test_settings_of_the_account_shape_the_machine(arm: Arm) -> None:
    subnet = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/hub/providers/Microsoft.Network/virtualNetworks/v"
    arm.keep("virtualNetworks", "v", {"location": REGION})
    _call, document = launched(
        arm,
        {"login_user": "azureuser"},
        subnet={REGION: f"{subnet}/subnets/gpu"},
        public_ip=False,
        disk_gib=512,
        disk_sku="StandardSSD_LRS",
        security_type="TrustedLaunch",
    )
    settings = document["properties"]
    [interface] = settings["networkProfile"]["networkInterfaceConfigurations"]
    [address] = interface["properties"]["ipConfigurations"]
    assert address["properties"]["subnet"] == {"id": f"{subnet}/subnets/gpu"}
    assert "publicIPAddressConfiguration" not in address["properties"]
    assert settings["storageProfile"]["osDisk"]["diskSizeGB"] == 512
    assert settings["osProfile"]["adminUsername"] == "azureuser"
    assert settings["securityProfile"] == {"securityType": "TrustedLaunch"}
    # The account's own subnet is used, so the lease gets none of its own.
    assert {call.path.split("/")[-2] for call in arm.calls if call.method == "PUT"} == {
        "applicationSecurityGroups",
        "networkSecurityGroups",
        "virtualMachines",
    }


# --- keys


def test_keys_that_azure_takes_go_its_way_and_others_by_cloud_init(arm: Arm) -> None:
    login = launched(arm, {"ssh_public_keys": (ED25519, ECDSA)})[1]["properties"]["osProfile"]
    [key] = login["linuxConfiguration"]["ssh"]["publicKeys"]
    assert key == {"path": "/home/ubuntu/.ssh/authorized_keys", "keyData": ED25519}
    assert login["linuxConfiguration"]["disablePasswordAuthentication"] is True
    assert "adminPassword" not in login
    config = base64.b64decode(login["customData"]).decode()
    assert yaml.safe_load(config) == {"ssh_authorized_keys": [ECDSA]}


def test_a_lease_without_such_a_key_gets_one_that_nobody_holds(arm: Arm) -> None:
    login = launched(arm, {"ssh_public_keys": (ECDSA,)})[1]["properties"]["osProfile"]
    [key] = login["linuxConfiguration"]["ssh"]["publicKeys"]
    assert key["keyData"].startswith("ssh-ed25519 ")
    assert key["keyData"].endswith(" nobody")
    assert ECDSA in base64.b64decode(login["customData"]).decode()


# --- images


@pytest.mark.parametrize(
    ("image", "reference", "plan"),
    [
        (
            "Canonical:ubuntu-24_04-lts:server:latest",
            {"publisher": "Canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"},
            None,
        ),
        (
            "nvidia:ngc_base:gen2:24.10.1:plan",
            {"publisher": "nvidia", "offer": "ngc_base", "sku": "gen2", "version": "24.10.1"},
            {"publisher": "nvidia", "product": "ngc_base", "name": "gen2"},
        ),
        (
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/images/mine",
            {"id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/images/mine"},
            None,
        ),
        (
            "/SharedGalleries/a/Images/b/Versions/c",
            {"sharedGalleryImageId": "/SharedGalleries/a/Images/b/Versions/c"},
            None,
        ),
        (
            "/CommunityGalleries/a/Images/b/Versions/c",
            {"communityGalleryImageId": "/CommunityGalleries/a/Images/b/Versions/c"},
            None,
        ),
    ],
)
def test_images_are_named_as_azure_names_them(image: str, reference: Any, plan: Any) -> None:
    assert images.reference(image) == (reference, plan)


@pytest.mark.parametrize(
    "image", ["ubuntu", "a:b:c", "a:b::d", "a:b:c:d:offer", "a b:c:d:e", "x" * 600, "a:b:c:\n"]
)
def test_what_is_no_image_is_refused_before_any_call(arm: Arm, image: str) -> None:
    with pytest.raises(ProviderError, match="no image at Azure"):
        azure(arm).launch(group(firewall_id="f", image=image))
    assert arm.calls == []


def test_an_image_must_be_set_for_the_region(arm: Arm) -> None:
    with pytest.raises(ProviderError, match="No image for eastus"):
        azure(arm, image={"westeurope": IMAGE}).launch(group(firewall_id="f"))
    assert arm.calls == []


# --- committed capacity


@pytest.mark.parametrize(
    "name",
    [
        RESERVATION,
        f"{GROUP}/{RESERVATION}",
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Compute"
        f"/capacityReservationGroups/{RESERVATION}",
    ],
)
def test_committed_capacity_is_targeted(arm: Arm, name: str) -> None:
    settings = launched(arm, {"reservation_id": name})[1]["properties"]
    path = azure_arm.resource_id("capacityReservationGroups", RESERVATION)
    assert settings["capacityReservation"] == {"capacityReservationGroup": {"id": path}}
    assert "priority" not in settings


def test_a_full_reservation_is_never_overrun(arm: Arm) -> None:
    """Azure would place the machine on public capacity, and bill it beside the reservation."""
    arm.reserved = 1
    cloud = azure(arm)
    firewall = prepared(cloud).firewall_id
    cloud.launch(group(firewall_id=firewall, reservation_id=RESERVATION))
    with pytest.raises(NoCapacity, match="all 1 reserved machines are in use"):
        cloud.launch(
            group(firewall_id=firewall, reservation_id=RESERVATION, client_token="lau_zbcdefghjkmnpqrs")
        )
    assert len([call for call in arm.calls if call.method == "PUT" and "virtualMachines/" in call.path]) == 1


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"instance_type": "Standard_NC24ads_A100_v4"}, "reserves no Standard_NC24ads_A100_v4"),
        ({"zone": "2"}, "in zone 2"),
        ({"reservation_id": "other"}, "was not found"),
        ({"reservation_id": "a/b/c"}, "names no capacity reservation group"),
        ({"reservation_id": "bad name"}, "names no capacity reservation group"),
    ],
)
def test_a_reservation_for_something_else_launches_nothing(
    arm: Arm, fields: dict[str, Any], problem: str
) -> None:
    cloud = azure(arm)
    firewall = prepared(cloud).firewall_id
    with pytest.raises(ProviderError, match=problem):
        cloud.launch(group(**{"firewall_id": firewall, "reservation_id": RESERVATION, **fields}))
    assert cloud.list_owned(region=REGION)
    assert not [call for call in arm.calls if call.method == "PUT" and "virtualMachines/" in call.path]


# --- a lease's network


def rules(arm: Arm) -> dict[str, dict[str, Any]]:
    [firewall] = [item for (kind, _), item in arm.resources.items() if kind == "networksecuritygroups"]
    return {rule["name"]: rule["properties"] for rule in firewall["properties"]["securityRules"]}


def test_only_the_customer_and_the_leases_own_machines_get_in(arm: Arm) -> None:
    made = prepared(azure(arm), "203.0.113.7/24", "2001:db8::/48", "198.51.100.1")
    found = rules(arm)
    assert found["ssh-ipv4"]["sourceAddressPrefixes"] == ["198.51.100.1/32", "203.0.113.0/24"]
    assert found["ssh-ipv6"]["sourceAddressPrefixes"] == ["2001:db8::/48"]
    assert {found[name]["destinationPortRange"] for name in ("ssh-ipv4", "ssh-ipv6")} == {"22"}
    members = [{"id": azure_arm.resource_id("applicationSecurityGroups", made.firewall_id)}]
    assert found["own-machines"]["sourceApplicationSecurityGroups"] == members
    assert found["own-machines"]["destinationApplicationSecurityGroups"] == members
    # Whatever else Azure's own rules would let in from the same network comes after this one.
    last = max(found.values(), key=lambda rule: rule["priority"])
    assert last == found["nobody-else"]
    assert (last["access"], last["sourceAddressPrefix"], last["priority"]) == ("Deny", "*", 4096)
    assert {rule["direction"] for rule in found.values()} == {"Inbound"}


def test_a_network_is_corrected_by_preparing_it_again(arm: Arm) -> None:
    cloud = azure(arm)
    first = prepared(cloud, "203.0.113.0/24")
    second = prepared(cloud, "198.51.100.0/24")
    assert first == second == LeaseNetwork(REGION, first.firewall_id, "")
    assert rules(arm)["ssh-ipv4"]["sourceAddressPrefixes"] == ["198.51.100.0/24"]
    assert len(arm.resources) == 3
    assert prepared(cloud) == first
    assert "ssh-ipv4" not in rules(arm)


def test_a_network_that_is_not_ready_yet_is_tried_again_later(
    arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "SETTLE_TRIES", 2)
    arm.settled = False
    with pytest.raises(ProviderError, match="not ready yet") as refusal:
        prepared(azure(arm))
    assert refusal.value.retryable
    assert not refusal.value.doubtful


def test_a_network_in_use_stays_and_goes_afterwards(arm: Arm) -> None:
    cloud = azure(arm)
    made = prepared(cloud, "203.0.113.0/24")
    cloud.launch(group(firewall_id=made.firewall_id))
    before = dict(arm.resources)
    with pytest.raises(ProviderError) as refusal:
        cloud.remove_network(made)
    assert refusal.value.retryable
    assert arm.resources == before

    [machine] = cloud.find(region=REGION, tag=TAG_TOKEN, value=TOKEN)
    cloud.reclaim(region=REGION, ids=[machine.id])
    arm.finish_ending()
    cloud.remove_network(made)
    assert arm.resources == {}
    cloud.remove_network(made)


# --- machines


def several(arm: Arm, count: int) -> tuple[AzureProvider, list[str]]:
    cloud = azure(arm)
    firewall = prepared(cloud).firewall_id
    names = []
    for letter in "abcdefgh"[:count]:
        [one] = cloud.launch(group(firewall_id=firewall, client_token=f"lau_{letter * 16}"))
        names.append(one.id)
    arm.finish_booting()
    return cloud, names


def test_many_machines_read_by_listings_are_the_same_as_read_one_by_one(arm: Arm) -> None:
    cloud, names = several(arm, 6)
    one_by_one: list[Machine] = []
    for name in names:
        one_by_one += cloud.describe(region=REGION, ids=[name])
    before = len(arm.calls)
    together = cloud.describe(region=REGION, ids=[*names, "sublet-unknown"])
    # Four listings of three pages each, instead of two reads for every machine.
    assert len(arm.calls) - before == 12
    assert sorted(together, key=lambda each: each.id) == sorted(one_by_one, key=lambda each: each.id)
    assert {machine.state for machine in together} == {MachineState.RUNNING}
    assert len({machine.public_ip for machine in together}) == 6
    assert cloud.describe(region="westeurope", ids=names) == []


def test_a_wrong_resource_group_does_not_look_like_lost_machines(arm: Arm) -> None:
    _cloud, names = several(arm, 1)
    with pytest.raises(ProviderError, match="could not be found") as refusal:
        azure(arm, resource_group="typo").describe(region=REGION, ids=names)
    assert type(refusal.value) is ProviderError


DOOM = [
    ("AllocationFailed", "We do not have sufficient capacity."),
    ("QuotaExceeded", "No more cores."),
]


@pytest.mark.parametrize("count", [2, 6])
def test_a_machine_that_found_no_host_is_told_once_and_removed(arm: Arm, count: int) -> None:
    arm.doomed = list(DOOM)
    cloud, names = several(arm, count)
    first, second, *others = sorted(cloud.describe(region=REGION, ids=names), key=lambda each: each.id)
    for machine, (code, text) in zip((first, second), DOOM, strict=True):
        assert (machine.state, machine.status_ok) == (MachineState.TERMINATED, False)
        assert machine.reason == f"{text} ({code})"
    assert {machine.state for machine in others} == ({MachineState.RUNNING} if others else set())
    # It takes its disk, interface and address along; nothing is left for anybody to find.
    assert arm.ending == {first.id, second.id}
    arm.finish_ending()
    assert {machine.id for machine in cloud.describe(region=REGION, ids=names)} == {
        machine.id for machine in others
    }
    owned = cloud.list_owned(region=REGION)
    assert len([item for item in owned if item.kind != ResourceKind.NETWORK]) == 4 * len(others)


def test_a_machine_that_ran_before_it_lost_its_host_is_left_to_staff(arm: Arm) -> None:
    """Its disk has a customer's data; somebody stopped it, and it found no room to start again."""
    arm.doomed = list(DOOM)
    cloud, names = several(arm, 2)
    for name, made in zip(names, ("2026-11-19T08:00:00Z", None), strict=True):
        arm.resources["virtualmachines", name]["properties"]["timeCreated"] = made
    found = cloud.describe(region=REGION, ids=names)
    assert {machine.state for machine in found} == {MachineState.TERMINATED}
    assert arm.ending == set()
    # As long as it is there it is listed.
    owned = {item.id for item in cloud.list_owned(region=REGION) if item.kind == ResourceKind.INSTANCE}
    assert owned == set(names)


def test_our_ids_are_the_same_however_azure_writes_them(arm: Arm) -> None:
    cloud, [name] = several(arm, 1)
    item = arm.resources["virtualmachines", name]
    item["name"], item["location"] = name.upper(), "East US"
    assert [machine.id for machine in cloud.describe(region=REGION, ids=[name])] == [name]
    assert [machine.id for machine in cloud.find(region=REGION, tag=TAG_LEASE, value=LEASE)] == [name]
    owned = [item.id for item in cloud.list_owned(region=REGION) if item.kind == ResourceKind.INSTANCE]
    assert owned == [name]


def test_everything_of_a_lease_is_listed_with_its_marks(arm: Arm) -> None:
    cloud, names = several(arm, 1)
    arm.keep("publicIPAddresses", "somebody-elses", {"location": REGION, "tags": {"env": "prod"}})
    owned = cloud.list_owned(region=REGION)
    kinds = sorted(item.kind for item in owned)
    assert kinds == sorted(
        [
            ResourceKind.INSTANCE,
            ResourceKind.VOLUME,
            ResourceKind.ADDRESS,  # the interface
            ResourceKind.ADDRESS,  # and the public address
            ResourceKind.NETWORK,  # three resources with one name
        ]
    )
    for item in owned:
        assert item.tags[TAG_LEASE] == LEASE
        if item.kind != ResourceKind.NETWORK:
            assert item.tags[TAG_TOKEN] == "lau_aaaaaaaaaaaaaaaa"
    # The disk has no tags at Azure; its name says whose it is.
    [disk] = [item for item in owned if item.kind == ResourceKind.VOLUME]
    assert disk.id == names[0]
    assert "tags" not in arm.resources["disks", names[0]]
    assert cloud.list_owned(region="westeurope") == []


def test_ids_that_are_not_ours_never_reach_an_address(arm: Arm) -> None:
    cloud = azure(arm)
    for kind, name in (
        (ResourceKind.INSTANCE, "../../other"),
        (ResourceKind.VOLUME, "a/b"),
        (ResourceKind.ADDRESS, "virtualNetworks/x"),
        (ResourceKind.NETWORK, "x?y"),
    ):
        with pytest.raises(ProviderError, match="no id of ours"):
            cloud.remove(OwnedResource(kind=kind, id=name, region=REGION))
    assert arm.calls == []


# --- tags


def test_tags_come_back_whatever_azure_does_to_their_case() -> None:
    document = {"name": "vm", "tags": {"Sublet:Lease": LEASE, "SUBLET:SITE": "Site-One", "env": "prod"}}
    assert naming.tags_of(document) == {TAG_LEASE: LEASE, TAG_SITE: "Site-One"}
    for broken in ({"name": None, "tags": None}, {"name": 5, "tags": []}, {}):
        assert naming.tags_of(broken) == {}


def test_our_tags_name_and_values_are_what_azure_takes(arm: Arm) -> None:
    _call, document = launched(arm)
    for name, value in document["tags"].items():
        assert not set(name) & set("<>%&\\?/")
        assert len(value) <= 256
    assert len(document["properties"]["osProfile"]["computerName"]) <= 64


# --- accounts


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"subscription_id": "production"}, "subscription_id"),
        ({"subscription_id": 5}, "subscription_id"),
        ({"resource_group": ""}, "resource_group"),
        ({"resource_group": "a/../b"}, "resource_group"),
        ({"endpoint_url": "http://management.azure.com"}, "https://"),
    ],
)
def test_bad_settings_are_said_before_any_call(arm: Arm, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProviderError, match=problem):
        azure(arm, **settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"public_ip": "no"}, "public_ip"),
        ({"disk_gib": "512"}, "disk_gib"),
        ({"disk_gib": 0}, "disk_gib"),
        ({"disk_sku": ["x"]}, "disk_sku"),
        ({"subnet": "gpu"}, "subnet"),
        ({"subnet": {REGION: 5}}, "subnet"),
        ({"image": {REGION: 5}}, "image"),
    ],
)
def test_bad_settings_of_machines_launch_nothing(arm: Arm, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProviderError, match=problem):
        azure(arm, **settings).launch(group(firewall_id="f"))
    assert arm.calls == []


@pytest.mark.parametrize("regions", ["eastus", [5], ["East US"], ["eastus'; drop"]])
def test_bad_regions_are_refused(arm: Arm, regions: Any) -> None:
    with pytest.raises(ProviderError, match="regions"):
        azure(arm, regions=regions).regions()


def test_regions_are_places_and_not_groups_of_them(arm: Arm) -> None:
    assert [(region.code, region.name) for region in azure(arm).regions()] == [
        ("eastus", "East US"),
        ("westeurope", "West Europe"),
    ]


def test_credentials_are_complete_and_in_no_text(arm: Arm) -> None:
    with pytest.raises(AuthFailed):
        AzureProvider(credentials={"tenant_id": "x", "client_id": "y"}, settings={})
    cloud = azure(arm)
    for thing in (cloud, cloud.session, vars(cloud)):
        assert CREDENTIALS["client_secret"] not in repr(thing)


@pytest.mark.parametrize(
    ("tenant", "authority"),
    [("a tenant", ""), ("../x", ""), (CREDENTIALS["tenant_id"], "http://login.example")],
)
def test_a_malformed_tenant_or_authority_is_said(tenant: str, authority: str) -> None:
    with pytest.raises(AuthFailed, match="tenant_id"):
        AzureProvider(
            credentials={**CREDENTIALS, "tenant_id": tenant},
            settings={"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "authority": authority},
        )


def test_without_its_sdk_the_adapter_says_what_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("inventory.providers.azure")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "azure.mgmt.compute", None)
    with pytest.raises(NotSupported, match="requirements-azure"):
        registry.adapter("azure")


def test_no_link_leads_our_token_to_another_host(arm: Arm) -> None:
    arm.public_url = "http://127.0.0.1:9"
    cloud = azure(arm)
    with pytest.raises(BadAnswer, match="another host"):
        cloud.offers(REGION)
    several(arm, 1)
    with pytest.raises(BadAnswer, match="another host"):
        cloud.list_owned(region=REGION)


def test_a_quota_that_is_met_in_the_call_is_said(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Operation could not be completed as it results in exceeding approved cores quota."
    monkeypatch.setattr(arm, "refused", lambda body: azure_arm.error(409, "OperationNotAllowed", text))
    cloud = azure(arm)
    firewall = prepared(cloud).firewall_id
    with pytest.raises(QuotaExceeded, match="approved cores quota"):
        cloud.launch(group(firewall_id=firewall))
    assert json.dumps(list(arm.resources)).count("virtualmachines") == 0
