"""Lambda: a lease's own firewall ruleset and key, and networks that are open to others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from inventory.providers import naming
from inventory.providers.base import TAG_LEASE, TAG_SITE, LeaseNetwork, LeaseNetworkRequest
from inventory.providers.errors import BadAnswer, ProviderError
from inventory.providers.lambda_cloud import LambdaProvider
from tests.contract.fake_lambda import ICMP, KEY, OPEN_SSH, FakeLambda

REGION = "us-west-1"
LEASE = "lse_0123456789abcdef"
REQUEST = LeaseNetworkRequest(
    lease=LEASE,
    region=REGION,
    ssh_cidrs=("203.0.113.0/24", "198.51.100.7/32"),
    ssh_public_keys=("ssh-ed25519 AAAAone me@laptop", "ssh-rsa AAAAtwo"),
    tags={TAG_SITE: "site-one", TAG_LEASE: LEASE},
)


@pytest.fixture
def fake() -> Iterator[FakeLambda]:
    fake = FakeLambda()
    yield fake
    fake.close()


def provider(fake: FakeLambda, **settings: Any) -> LambdaProvider:
    fast = {"endpoint_url": fake.url, "requests_per_second": 10_000}
    return LambdaProvider(credentials={"api_key": KEY}, settings={**fast, **settings})


def sources(fake: FakeLambda) -> list[tuple[str, Any, str]]:
    [ruleset] = fake.rulesets.values()
    return [(rule["protocol"], rule["port_range"], rule["source_network"]) for rule in ruleset["rules"]]


def writes(fake: FakeLambda) -> list[str]:
    return [f"{call.method} {call.path}" for call in fake.calls if call.method != "GET"]


def test_a_lease_gets_ssh_from_its_addresses_and_its_first_key(fake: FakeLambda) -> None:
    network = provider(fake).prepare_lease(REQUEST)
    assert sources(fake) == [("tcp", [22, 22], "198.51.100.7/32"), ("tcp", [22, 22], "203.0.113.0/24")]
    [ruleset], [key] = fake.rulesets.values(), fake.keys.values()
    assert network == LeaseNetwork(REGION, ruleset["id"], key["name"])
    assert ruleset["region"]["name"] == REGION
    assert naming.matches(naming.tags_of(ruleset["name"]), TAG_LEASE, LEASE)
    assert key["public_key"] == "ssh-ed25519 AAAAone me@laptop"
    assert key["name"].endswith(f".{REGION}") and len(key["name"]) <= 64


def test_preparing_again_changes_nothing(fake: FakeLambda) -> None:
    cloud = provider(fake)
    first = cloud.prepare_lease(REQUEST)
    made = writes(fake)
    renamed = (REQUEST.ssh_public_keys[0].replace("me@laptop", "me@desk"),)
    assert cloud.prepare_lease(replace(REQUEST, ssh_public_keys=renamed)) == first
    assert writes(fake) == made


def test_preparing_again_corrects_what_differs(fake: FakeLambda) -> None:
    cloud = provider(fake)
    first = cloud.prepare_lease(REQUEST)
    changed = replace(REQUEST, ssh_cidrs=("192.0.2.1/32",), ssh_public_keys=("ssh-ed25519 AAAAnew",))
    assert cloud.prepare_lease(changed) == first
    assert sources(fake) == [("tcp", [22, 22], "192.0.2.1/32")]
    assert [key["public_key"] for key in fake.keys.values()] == ["ssh-ed25519 AAAAnew"]


def test_ipv6_addresses_are_left_out_since_no_machine_has_one(fake: FakeLambda) -> None:
    provider(fake).prepare_lease(replace(REQUEST, ssh_cidrs=("2001:db8::/32", "192.0.2.1")))
    assert sources(fake) == [("tcp", [22, 22], "192.0.2.1/32")]


def test_a_lease_without_a_key_has_no_key(fake: FakeLambda) -> None:
    network = provider(fake).prepare_lease(replace(REQUEST, ssh_public_keys=()))
    assert network.key_name == ""
    assert fake.keys == {}


@pytest.mark.parametrize("rule", [OPEN_SSH, {**OPEN_SSH, "protocol": "all", "source_network": "8.8.8.8"}])
def test_a_workspace_that_lets_others_in_is_refused(fake: FakeLambda, rule: dict[str, Any]) -> None:
    fake.global_rules = [ICMP, rule]
    with pytest.raises(ProviderError, match="accept_open_network") as refusal:
        provider(fake).prepare_lease(REQUEST)
    assert not refusal.value.retryable
    assert writes(fake) == []
    assert fake.rulesets == fake.keys == {}


def test_firewall_rules_do_not_apply_in_texas(fake: FakeLambda) -> None:
    south = replace(REQUEST, region="us-south-1")
    with pytest.raises(ProviderError, match="us-south-1"):
        provider(fake).prepare_lease(south)
    assert fake.calls == []
    network = provider(fake, accept_open_network=True).prepare_lease(south)
    assert network.firewall_id == ""
    assert network.key_name.endswith(".us-south-1")
    assert fake.rulesets == {}


def test_an_open_network_can_be_accepted(fake: FakeLambda) -> None:
    fake.global_rules = [OPEN_SSH]
    network = provider(fake, accept_open_network=True).prepare_lease(REQUEST)
    assert network.firewall_id in fake.rulesets
    with pytest.raises(ProviderError, match="true or false"):
        provider(fake, accept_open_network="yes").prepare_lease(REQUEST)


def test_a_lease_in_two_regions_has_a_key_in_each(fake: FakeLambda) -> None:
    cloud = provider(fake)
    west = cloud.prepare_lease(REQUEST)
    east = cloud.prepare_lease(replace(REQUEST, region="us-east-1"))
    cloud.remove_network(west)
    assert [key["name"] for key in fake.keys.values()] == [east.key_name]
    assert list(fake.rulesets) == [east.firewall_id]


def test_a_firewall_in_use_stays_and_is_tried_again(fake: FakeLambda) -> None:
    cloud = provider(fake)
    network = cloud.prepare_lease(REQUEST)
    machine = fake.make_instance("x", {}, firewall_rulesets=[{"id": network.firewall_id}])
    with pytest.raises(ProviderError) as refusal:
        cloud.remove_network(network)
    assert refusal.value.retryable
    assert list(fake.rulesets) == [network.firewall_id]
    del fake.instances[machine["id"]]
    cloud.remove_network(network)
    cloud.remove_network(network)
    assert fake.rulesets == fake.keys == {}


@pytest.mark.parametrize(
    "damage", [{"source_network": "everywhere"}, {"port_range": ["ssh"]}, {"protocol": 6}]
)
def test_rules_that_cannot_be_read_are_not_taken_for_closed(fake: FakeLambda, damage: Any) -> None:
    fake.global_rules = [{**OPEN_SSH, **damage}]
    with pytest.raises(BadAnswer):
        provider(fake).prepare_lease(REQUEST)
    assert writes(fake) == []
