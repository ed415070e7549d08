"""Crusoe: a lease's own VPC network, its subnets and its rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from inventory.providers import naming
from inventory.providers.base import TAG_LEASE, TAG_SITE, LeaseNetwork, LeaseNetworkRequest
from inventory.providers.crusoe import CrusoeProvider
from inventory.providers.errors import NotFound, ProviderError
from tests.contract.fake_crusoe import KEY_ID, PROJECT, SECRET, FakeCrusoe

REGION = "us-northcentral1"  # which has two locations
LEASE = "lse_0123456789abcdef"
TAGS = {TAG_SITE: "site-one"}
REQUEST = LeaseNetworkRequest(LEASE, REGION, ("203.0.113.0/24", "2001:db8::/32"), ("ssh-rsa A",), TAGS)
NAME = naming.name_for({**TAGS, TAG_LEASE: LEASE})


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


def writes(fake: FakeCrusoe) -> list[str]:
    return [f"{call.method} {call.path.rpartition('/')[2]}" for call in fake.calls if call.method != "GET"]


def rules(fake: FakeCrusoe) -> dict[str, tuple[Any, ...]]:
    def places(items: list[dict[str, str]]) -> list[str]:
        return [next(iter(item.values())) for item in items]

    return {
        rule["name"].removeprefix(f"{NAME}-{REGION}-"): (
            rule["direction"],
            rule["protocols"],
            places(rule["sources"]),
            places(rule["destinations"]),
            rule["destination_ports"],
        )
        for rule in fake.rules.values()
    }


def test_a_lease_has_a_network_with_a_subnet_in_each_location_and_five_rules(fake: FakeCrusoe) -> None:
    made = provider(fake).prepare_lease(REQUEST)
    [(network, item)] = fake.networks.items()
    assert made == LeaseNetwork(REGION, network, "")
    assert (item["name"], item["cidr"]) == (f"{NAME}-{REGION}", "172.27.0.0/16")
    assert {(each["location"], each["cidr"], each["vpc_network_id"]) for each in fake.subnets.values()} == {
        ("us-northcentral1-a", "172.27.0.0/20", network),
        ("us-northcentral1-b", "172.27.16.0/20", network),
    }
    assert rules(fake) == {
        "ssh": ("ingress", ["tcp"], ["203.0.113.0/24"], [network], ["22"]),
        "in": ("ingress", ["tcp", "udp"], [network], [network], []),
        "in-icmp": ("ingress", ["icmp"], [network], [network], []),
        "out": ("egress", ["tcp", "udp"], [network], ["0.0.0.0/0"], []),
        "out-icmp": ("egress", ["icmp"], [network], ["0.0.0.0/0"], []),
    }


def test_a_second_call_makes_nothing(fake: FakeCrusoe) -> None:
    cloud = provider(fake)
    first = cloud.prepare_lease(REQUEST)
    for rule in fake.rules.values():
        rule["protocols"].reverse()  # the order says nothing
    fake.calls.clear()
    assert cloud.prepare_lease(REQUEST) == first
    assert writes(fake) == []


def test_what_a_crash_left_is_completed_and_what_differs_is_corrected(fake: FakeCrusoe) -> None:
    cloud = provider(fake)
    network = fake.make_network(f"{NAME}-{REGION}")["id"]
    assert cloud.prepare_lease(REQUEST).firewall_id == network
    before = rules(fake)
    kept = {key for key, rule in fake.rules.items() if not rule["name"].endswith("-ssh")}
    [ssh] = fake.rules.keys() - kept
    fake.rules[ssh]["sources"].append({"cidr": "0.0.0.0/0"})
    fake.rules["stray"] = {**fake.rules[ssh], "id": "stray", "name": "let everybody in"}
    fake.rules["other"] = {**fake.rules[ssh], "id": "other", "vpc_network_id": "somebody else's"}
    [first, _second] = fake.subnets
    del fake.subnets[first]

    assert cloud.prepare_lease(REQUEST).firewall_id == network
    assert {"stray", ssh} & fake.rules.keys() == set()
    assert kept | {"other"} <= fake.rules.keys()
    del fake.rules["other"]
    assert rules(fake) == before
    assert len({each["cidr"] for each in fake.subnets.values()}) == 2


def test_without_an_address_nobody_gets_in(fake: FakeCrusoe) -> None:
    cloud = provider(fake)
    cloud.prepare_lease(REQUEST)
    cloud.prepare_lease(LeaseNetworkRequest(LEASE, REGION, ("2001:db8::/32",), (), TAGS))
    assert set(rules(fake)) == {"in", "in-icmp", "out", "out-icmp"}


def test_a_rule_that_is_not_active_is_made_again(fake: FakeCrusoe) -> None:
    cloud = provider(fake)
    cloud.prepare_lease(REQUEST)
    next(iter(fake.rules.values()))["state"] = "inactive"
    cloud.prepare_lease(REQUEST)
    assert {rule["state"] for rule in fake.rules.values()} == {"active"}
    assert len(fake.rules) == 5


def test_removing_leaves_nothing_and_removing_again_is_no_error(fake: FakeCrusoe) -> None:
    cloud = provider(fake)
    strange = fake.make_network("default-vpc-network")["id"]
    made = cloud.prepare_lease(REQUEST)
    cloud.remove_network(made)
    assert (fake.rules, fake.subnets, list(fake.networks)) == ({}, {}, [strange])
    cloud.remove_network(made)
    cloud.remove_network(LeaseNetwork(REGION, "", ""))
    assert list(fake.networks) == [strange]


def test_a_network_in_use_is_tried_again_later(fake: FakeCrusoe) -> None:
    cloud = provider(fake)
    made = cloud.prepare_lease(REQUEST)
    vm = fake.make_vm("x", location="us-northcentral1-a")
    vm["network_interfaces"][0]["subnet"] = next(iter(fake.subnets))
    with pytest.raises(ProviderError, match="in use") as refusal:
        cloud.remove_network(made)
    assert refusal.value.retryable
    assert list(fake.networks) == [made.firewall_id]
    fake.vms.clear()
    cloud.remove_network(made)
    assert (fake.subnets, fake.networks) == ({}, {})


def test_a_lease_has_its_own_partition_of_the_fabric(fake: FakeCrusoe) -> None:
    cloud = provider(fake, ib_network={"us-northcentral1-b": "ib-1"})
    theirs = {"id": "other", "name": "office", "ib_network_id": "ib-1"}
    fake.partitions["other"] = theirs
    made = cloud.prepare_lease(REQUEST)
    assert cloud.prepare_lease(REQUEST) == made
    [ours] = fake.partitions.keys() - {"other"}
    assert fake.partitions[ours]["name"] == f"{NAME}-us-northcentral1-b"
    assert fake.partitions[ours]["ib_network_id"] == "ib-1"
    elsewhere = {**fake.partitions[ours], "id": "east", "name": f"{NAME}-us-east1-a"}
    fake.partitions["east"] = elsewhere  # of the same lease, in another region

    vm = fake.make_vm("x", host_channel_adapters=[{"ib_partition_id": ours}])
    with pytest.raises(ProviderError, match="in use") as refusal:
        cloud.remove_network(made)
    assert refusal.value.retryable
    del fake.vms[vm["id"]]
    cloud.remove_network(made)
    assert fake.partitions == {"other": theirs, "east": elsewhere}
    assert fake.networks == {}


def test_the_addresses_are_the_accounts(fake: FakeCrusoe) -> None:
    provider(fake, network_cidr="10.40.0.0/16").prepare_lease(REQUEST)
    assert {each["cidr"] for each in fake.subnets.values()} == {"10.40.0.0/20", "10.40.16.0/20"}


@pytest.mark.parametrize("cidr", ["8.8.0.0/16", "10.0.0.0/30", "10.0.0.1/16", "nonsense", "fd00::/48", 7])
def test_addresses_that_cannot_be_are_said(fake: FakeCrusoe, cidr: Any) -> None:
    with pytest.raises(ProviderError, match="network_cidr"):
        provider(fake, network_cidr=cidr).prepare_lease(REQUEST)
    assert fake.networks == {}


def test_a_region_that_crusoe_does_not_have_is_said(fake: FakeCrusoe) -> None:
    with pytest.raises(NotFound, match="moon-1"):
        provider(fake).prepare_lease(LeaseNetworkRequest(LEASE, "moon-1", (), (), TAGS))
    assert writes(fake) == []
