"""EC2: launch, find, describe, end and list, against an independent EC2-compatible server."""

from __future__ import annotations

from datetime import UTC

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from inventory.providers.aws import Ec2Provider
from inventory.providers.base import (
    TAG_LEASE,
    TAG_TOKEN,
    LaunchGroup,
    LeaseNetworkRequest,
    MachineState,
    OwnedResource,
    Provider,
    ResourceKind,
)
from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError, TimedOut
from tests.inventory.conftest import KEYS

REGION = "us-east-1"
UNKNOWN = "i-0123456789abcdef0"


def connect(endpoint: str, **settings) -> Ec2Provider:
    options = {"endpoint_url": endpoint, "regions": [REGION], "image": "ami-12c6146b", **settings}
    return Ec2Provider(credentials=KEYS, settings=options)


@pytest.fixture
def cloud(moto_ec2: str) -> Ec2Provider:
    return connect(moto_ec2)


def public_key() -> str:
    key = Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + " someone@example.com"


def group(token: str = "lau_1", **fields) -> LaunchGroup:
    values = {
        "count": 1,
        "instance_type": "p5.48xlarge",
        "region": REGION,
        "zone": "us-east-1a",
        "tags": {TAG_LEASE: "lse_1"},
        **fields,
    }
    return LaunchGroup(client_token=token, **values)


def network(lease: str = "lse_1", *cidrs: str) -> LeaseNetworkRequest:
    return LeaseNetworkRequest(
        lease=lease, region=REGION, ssh_cidrs=cidrs or ("203.0.113.7/32",), ssh_public_keys=(public_key(),)
    )


def raw(cloud: Ec2Provider):
    return boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=cloud.session.settings["endpoint_url"],
        aws_access_key_id="x",
        aws_secret_access_key="y",
    )


def test_it_keeps_the_protocol(cloud):
    assert isinstance(cloud, Provider)
    assert cloud.test_connection().account == "123456789012"
    assert [region.code for region in cloud.regions()] == [REGION]


def test_without_configured_regions_the_enabled_ones_are_polled(moto_ec2):
    codes = [region.code for region in connect(moto_ec2, regions=[]).regions()]
    assert len(codes) > 10
    assert REGION in codes


def test_the_catalog_has_gpu_details_and_zones(cloud):
    catalog = cloud.offers(REGION)

    p5 = next(info for info in catalog.instance_types if info.name == "p5.48xlarge")
    assert (p5.gpu_vendor, p5.gpu_name, p5.gpu_count, p5.gpu_memory_mib) == ("nvidia", "H100", 8, 81920)
    assert (p5.vcpus, p5.memory_mib, p5.network) == (192, 2097152, "3200 Gigabit, EFA")
    offers = [offer for offer in catalog.offers if offer.instance_type == "p5.48xlarge"]
    assert {str(offer.purchase_option) for offer in offers} == {"on_demand", "spot", "reserved"}
    assert all("us-east-1a" in offer.zones and offer.price is None for offer in offers)
    assert {zone.code for zone in catalog.region.zones} >= {"us-east-1a", "us-east-1f"}
    # A fraction of a GPU is no node.
    assert not [info.name for info in catalog.instance_types if info.name.startswith("g6f.")]


def test_launch_find_describe_and_end(cloud):
    launched = cloud.launch(group(count=2))

    assert len(launched) == 2
    found = cloud.find(region=REGION, tag=TAG_TOKEN, value="lau_1")
    assert {machine.id for machine in found} == {item.id for item in launched}
    machine = found[0]
    assert (machine.state, machine.zone, machine.status_ok) == (MachineState.RUNNING, "us-east-1a", True)
    assert machine.tags == {TAG_LEASE: "lse_1", TAG_TOKEN: "lau_1"}
    assert machine.public_ip
    assert machine.launched_at
    assert machine.launched_at.tzinfo is UTC

    ids = [item.id for item in launched]
    assert [m.id for m in cloud.describe(region=REGION, ids=[UNKNOWN])] == []
    assert len(cloud.describe(region=REGION, ids=[*ids, UNKNOWN])) == 2

    cloud.reclaim(region=REGION, ids=[ids[0], UNKNOWN])
    cloud.reclaim(region=REGION, ids=[UNKNOWN])
    states = {m.id: m.state for m in cloud.describe(region=REGION, ids=ids)}
    assert states == {ids[0]: MachineState.TERMINATED, ids[1]: MachineState.RUNNING}
    cloud.reclaim(region=REGION, ids=ids)
    assert {m.state for m in cloud.describe(region=REGION, ids=ids)} == {MachineState.TERMINATED}


def test_the_token_alone_is_no_idempotency_so_the_tag_decides(cloud):
    """This server ignores ClientToken: who trusted it would pay twice."""
    cloud.launch(group("lau_7"))
    assert len(cloud.find(region=REGION, tag=TAG_TOKEN, value="lau_7")) == 1
    cloud.launch(group("lau_7"))
    assert len(cloud.find(region=REGION, tag=TAG_TOKEN, value="lau_7")) == 2


def test_listings_are_read_to_the_last_page(cloud, monkeypatch):
    ids = {item.id for item in cloud.launch(group(count=7))}
    client = cloud.session.ec2(REGION)
    pages = client.get_paginator("describe_instances")
    monkeypatch.setattr(
        client,
        "get_paginator",
        lambda operation: _Small(pages) if operation == "describe_instances" else None,
    )
    monkeypatch.setattr(
        client,
        "can_paginate",
        lambda operation: operation == "describe_instances",
    )
    cloud.launch(group("lau_2", count=1))
    assert len(cloud.find(region=REGION, tag=TAG_LEASE, value="lse_1")) == 8
    assert ids <= {machine.id for machine in cloud.find(region=REGION, tag=TAG_LEASE, value="lse_1")}


class _Small:
    """The same paginator with pages of five."""

    def __init__(self, pages) -> None:
        self.pages = pages

    def paginate(self, **parameters):
        return self.pages.paginate(**parameters, PaginationConfig={"PageSize": 5})


def test_a_lease_has_a_firewall_and_key_of_its_own(cloud):
    made = cloud.prepare_lease(network("lse_1", "203.0.113.7", "2001:db8::/64"))

    ec2 = raw(cloud)
    firewall = ec2.describe_security_groups(GroupIds=[made.firewall_id])["SecurityGroups"][0]
    inbound = {rule["IpProtocol"]: rule for rule in firewall["IpPermissions"]}
    assert set(inbound) == {"tcp", "-1"}
    assert (inbound["tcp"]["FromPort"], inbound["tcp"]["ToPort"]) == (22, 22)
    assert inbound["tcp"]["IpRanges"] == [{"CidrIp": "203.0.113.7/32"}]
    assert inbound["tcp"]["Ipv6Ranges"] == [{"CidrIpv6": "2001:db8::/64"}]
    assert [pair["GroupId"] for pair in inbound["-1"]["UserIdGroupPairs"]] == [made.firewall_id]
    assert not inbound["-1"]["IpRanges"]
    assert ec2.describe_key_pairs(KeyNames=[made.key_name])["KeyPairs"]

    other = cloud.prepare_lease(network("lse_2"))
    assert other.firewall_id != made.firewall_id


def test_preparing_again_corrects_what_differs(cloud):
    first = cloud.prepare_lease(network("lse_1", "203.0.113.7/32"))
    again = cloud.prepare_lease(network("lse_1", "198.51.100.0/24"))

    assert again == first
    firewall = raw(cloud).describe_security_groups(GroupIds=[first.firewall_id])["SecurityGroups"][0]
    ranges = [item["CidrIp"] for rule in firewall["IpPermissions"] for item in rule["IpRanges"]]
    assert ranges == ["198.51.100.0/24"]


def test_removing_a_network_twice_is_fine(cloud):
    made = cloud.prepare_lease(network())
    cloud.remove_network(made)
    cloud.remove_network(made)
    assert cloud.list_owned(region=REGION) == []


def test_everything_with_our_tag_is_listed_and_can_be_removed(cloud):
    ec2 = raw(cloud)
    made = cloud.prepare_lease(network())
    cloud.launch(group(firewall_id=made.firewall_id, key_name=made.key_name))
    tags = [{"Key": TAG_LEASE, "Value": "lse_1"}]
    ec2.create_volume(
        AvailabilityZone="us-east-1a", Size=10, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}]
    )
    ec2.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": tags}])
    # None of ours: no tag.
    ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)
    ec2.create_volume(AvailabilityZone="us-east-1a", Size=10)

    owned = cloud.list_owned(region=REGION)

    assert {item.kind for item in owned} == set(ResourceKind)
    assert len(owned) == 6  # with the disk that the machine brought along
    assert all(item.tags[TAG_LEASE] == "lse_1" for item in owned)
    for item in sorted(owned, key=lambda item: item.kind != ResourceKind.INSTANCE):
        cloud.remove(item)
        cloud.remove(item)
    assert cloud.list_owned(region=REGION) == []


def test_an_image_can_come_from_a_parameter(moto_ec2):
    ssm = boto3.client(
        "ssm", region_name=REGION, endpoint_url=moto_ec2, aws_access_key_id="x", aws_secret_access_key="y"
    )
    ssm.put_parameter(Name="/sublet/image", Value="ami-fromssm", Type="String")
    cloud = connect(moto_ec2, image="", image_ssm_parameter="/sublet/image")
    (launched,) = cloud.launch(group())
    item = raw(cloud).describe_instances(InstanceIds=[launched.id])["Reservations"][0]["Instances"][0]
    assert item["ImageId"] == "ami-fromssm"


def test_without_an_image_nothing_is_launched(moto_ec2):
    cloud = connect(moto_ec2, image="")
    with pytest.raises(ProviderError, match="No image for us-east-1") as refusal:
        cloud.launch(group())
    assert not refusal.value.retryable
    assert cloud.list_owned(region=REGION) == []


def test_html_instead_of_xml_is_a_bad_answer(cloud):
    """The server has no capacity reservations and answers an HTML page."""
    with pytest.raises(BadAnswer) as refusal:
        list(cloud.session.pages(REGION, "describe_capacity_reservations", "CapacityReservations"))
    assert (refusal.value.retryable, refusal.value.doubtful) == (True, True)
    assert "html" not in str(refusal.value).lower()


def test_an_endpoint_that_is_not_there(moto_ec2):
    cloud = connect("http://127.0.0.1:9")
    with pytest.raises(TimedOut) as refusal:
        cloud.launch(group())
    assert not refusal.value.doubtful  # nothing was sent


def test_credentials_are_asked_for():
    with pytest.raises(AuthFailed, match="secret_access_key"):
        Ec2Provider(credentials={"access_key_id": "x"}, settings={})


def test_removing_an_unknown_resource_is_no_error(cloud):
    for kind, name in [
        (ResourceKind.INSTANCE, UNKNOWN),
        (ResourceKind.VOLUME, "vol-0123456789abcdef0"),
        (ResourceKind.ADDRESS, "eipalloc-0123456789abcdef0"),
        (ResourceKind.NETWORK, "sg-0123456789abcdef0"),
        (ResourceKind.KEY, "sublet-gone"),
    ]:
        cloud.remove(OwnedResource(kind=kind, id=name, region=REGION))
