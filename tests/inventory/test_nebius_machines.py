"""Nebius: what a launch sends, what its instances are to us, a lease's security group, and what refusals mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nebius", reason="The SDK of Nebius is not installed: requirements-nebius.txt")

from grpc import StatusCode
from nebius.api.nebius.compute.v1 import ReservationPolicy
from nebius.api.nebius.vpc.v1 import RuleProtocol

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
    AuthFailed,
    NoCapacity,
    NotFound,
    NotSupported,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)
from inventory.providers.nebius import NebiusProvider
from inventory.providers.nebius.errors import explain
from inventory.providers.nebius.machines import STATES, State
from tests.contract.fake_nebius import (
    BLOCK,
    PROJECT,
    REFUSALS,
    REGION,
    SUBNET,
    TENANT,
    TOKEN,
    FakeNebius,
    ResourceMetadata,
    stranger_spec,
)

TAGS = {TAG_SITE: "site-one", TAG_LEASE: "lse_0123456789abcdef", TAG_ALLOCATION: "42"}
LAUNCH_TOKEN = "lau_fedcba9876543210"
GROUP = LaunchGroup(LAUNCH_TOKEN, 1, "gpu-h100-sxm_8gpu-128vcpu-1600gb", REGION, tags=TAGS)
LEASE = LeaseNetworkRequest(
    lease="lse_0123456789abcdef",
    region=REGION,
    ssh_cidrs=("203.0.113.0/24", "2001:db8::/32"),
    ssh_public_keys=("ssh-ed25519 AAAA one",),
    tags={TAG_SITE: "site-one", TAG_LEASE: "lse_0123456789abcdef"},
)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeNebius]:
    fake = FakeNebius()
    yield fake
    fake.close()


@pytest.fixture
def fake(server: FakeNebius, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNebius]:
    server.reset()
    monkeypatch.setattr("inventory.providers.nebius.session.PAUSE", 0.001)
    with server.connected():
        yield server


def provider(**settings: Any) -> NebiusProvider:
    usual = {"projects": {REGION: PROJECT}, "tenant_id": TENANT, "requests_per_second": 10_000}
    return NebiusProvider(credentials={"token": TOKEN}, settings={**usual, **settings})


def created(fake: FakeNebius) -> Any:
    [call] = [call for call in fake.calls if call.method == "InstanceService/Create"]
    return call


def test_a_launch_carries_our_identity_three_times(fake: FakeNebius) -> None:
    [launched] = provider().launch(GROUP)
    call = created(fake)
    assert list(fake.instances) == [launched.id]
    assert call.metadata["x-idempotency-key"] == LAUNCH_TOKEN
    assert naming.from_labels(dict(call.request.metadata.labels)) == {**TAGS, TAG_TOKEN: LAUNCH_TOKEN}
    assert naming.matches(naming.tags_of(call.request.metadata.name), TAG_TOKEN, LAUNCH_TOKEN)
    assert len(call.request.metadata.name) <= 63
    spec = call.request.spec
    assert (spec.resources.platform, spec.resources.preset) == ("gpu-h100-sxm", "8gpu-128vcpu-1600gb")
    assert spec.network_interfaces[0].subnet_id == SUBNET
    assert spec.network_interfaces[0].check_presence("public_ip_address")
    disk = spec.boot_disk.managed_disk
    assert disk.spec.size_gibibytes == 200
    assert disk.spec.source_image_family.image_family == "ubuntu24.04-cuda13.0"
    assert dict(disk.labels) == dict(call.request.metadata.labels)
    assert not spec.check_presence("preemptible")


def test_without_a_reservation_none_is_used_and_with_one_nothing_else(fake: FakeNebius) -> None:
    cloud = provider()
    cloud.launch(GROUP)
    policy = created(fake).request.spec.reservation_policy
    assert (policy.policy, list(policy.reservation_ids)) == (ReservationPolicy.Policy.FORBID, [])
    fake.calls.clear()
    cloud.launch(replace(GROUP, client_token="lau_0000000000000001", reservation_id=BLOCK))
    policy = created(fake).request.spec.reservation_policy
    assert (policy.policy, list(policy.reservation_ids)) == (ReservationPolicy.Policy.STRICT, [BLOCK])
    with pytest.raises(NoCapacity):
        cloud.launch(replace(GROUP, client_token="lau_0000000000000002", reservation_id="theirs"))
    assert len(fake.instances) == 2


def test_what_the_account_and_the_launch_choose_is_sent(fake: FakeNebius) -> None:
    cloud = provider(
        disk_gib=500,
        disk_type="NETWORK_SSD_IO_M3",
        image={REGION: "ubuntu24.04-driverless"},
        subnets={REGION: SUBNET},
        gpu_clusters={REGION: "computegpucluster-1"},
    )
    cloud.launch(
        replace(GROUP, ssh_public_keys=("ssh-ed25519 AAAA one",), purchase_option=PurchaseOption.SPOT)
    )
    spec = created(fake).request.spec
    disk = spec.boot_disk.managed_disk.spec
    assert (disk.size_gibibytes, disk.type.name) == (500, "NETWORK_SSD_IO_M3")
    assert disk.source_image_family.image_family == "ubuntu24.04-driverless"
    assert spec.gpu_cluster.id == "computegpucluster-1"
    assert spec.preemptible.on_preemption.name == "STOP"
    assert spec.follows_spot_price is not None
    keys = json.loads(spec.cloud_init_user_data.removeprefix("#cloud-config\n"))["ssh_authorized_keys"]
    assert keys == ["ssh-ed25519 AAAA one"]
    fake.calls.clear()
    one = replace(GROUP, client_token="lau_0000000000000001", instance_type="gpu-h100-sxm_1gpu-16vcpu-200gb")
    cloud.launch(replace(one, image="computeimage-e00x"))
    spec = created(fake).request.spec
    assert spec.boot_disk.managed_disk.spec.source_image_id == "computeimage-e00x"
    assert not spec.check_presence("gpu_cluster")


@pytest.mark.parametrize(
    ("group", "settings", "error"),
    [
        (replace(GROUP, count=2), {}, NotSupported),
        (replace(GROUP, purchase_option=PurchaseOption.RESERVED), {}, NotSupported),
        (replace(GROUP, instance_type="h100"), {}, ProviderError),
        (replace(GROUP, region="us-central1"), {}, ProviderError),
        (GROUP, {"disk_type": "NETWORK_HDD"}, ProviderError),
        (GROUP, {"disk_gib": "200"}, ProviderError),
        (GROUP, {"subnets": {REGION: "vpcsubnet-other"}}, NotFound),
    ],
)
def test_what_cannot_be_launched_is_said_and_not_called(
    fake: FakeNebius, group: LaunchGroup, settings: dict[str, Any], error: type[ProviderError]
) -> None:
    with pytest.raises(error):
        provider(**settings).launch(group)
    assert fake.count("InstanceService/Create") == 0


@pytest.mark.parametrize(
    ("name", "error", "doubtful"),
    [
        ("no-capacity", NoCapacity, False),
        ("quota", QuotaExceeded, False),
        ("throttled", RateLimited, False),
        ("credentials", AuthFailed, False),
        ("unauthenticated", AuthFailed, False),
        ("internal", ProviderError, True),
        ("silent", ProviderError, True),
        ("exists", ProviderError, True),
    ],
)
def test_refusals_of_a_launch(
    fake: FakeNebius, name: str, error: type[ProviderError], doubtful: bool
) -> None:
    fake.plant("InstanceService/Create", times=9, refuse=name)
    with pytest.raises(error) as refusal:
        provider().launch(GROUP)
    assert refusal.value.doubtful == doubtful
    assert fake.count("InstanceService/Create") == 1
    assert fake.instances == {}


@pytest.mark.parametrize(
    ("code", "fields", "error", "retryable"),
    [
        (StatusCode.DEADLINE_EXCEEDED, {}, TimedOut, True),
        (StatusCode.NOT_FOUND, {}, NotFound, False),
        (StatusCode.INVALID_ARGUMENT, {}, ProviderError, False),
        (StatusCode.OUT_OF_RANGE, {}, ProviderError, False),
        (StatusCode.UNIMPLEMENTED, {}, ProviderError, False),
        (StatusCode.FAILED_PRECONDITION, {}, ProviderError, False),
        (StatusCode.FAILED_PRECONDITION, {"kind": "bad_resource_state"}, ProviderError, True),
        (StatusCode.FAILED_PRECONDITION, {"kind": "not_enough_resources"}, NoCapacity, True),
        (StatusCode.ABORTED, {"kind": "operation_aborted"}, ProviderError, True),
        (StatusCode.CANCELLED, {}, ProviderError, True),
        (StatusCode.UNKNOWN, {}, ProviderError, True),
        (StatusCode.RESOURCE_EXHAUSTED, {"message": "GPU quota is reached"}, QuotaExceeded, False),
        (StatusCode.RESOURCE_EXHAUSTED, {"message": "NotEnoughResources"}, NoCapacity, True),
        (StatusCode.RESOURCE_EXHAUSTED, {}, RateLimited, True),
    ],
)
def test_errors_by_status_and_detail(
    code: StatusCode, fields: dict[str, str], error: type[ProviderError], retryable: bool
) -> None:
    detail = SimpleNamespace(field=fields["kind"]) if "kind" in fields else None
    told = [SimpleNamespace(code="", details=detail)]
    status = SimpleNamespace(code=code, message=fields.get("message", ""), service_errors=told)
    found = explain("launch", status)
    assert type(found) is error
    assert found.retryable == retryable


def test_an_operation_that_fails_at_once_is_said_and_leaves_nothing(fake: FakeNebius) -> None:
    fake.failing = "no-capacity"
    with pytest.raises(NoCapacity) as refusal:
        provider().launch(GROUP)
    assert not refusal.value.doubtful
    assert fake.count("InstanceService/Delete") == 1
    assert fake.instances == {}


def test_an_operation_that_cannot_be_read_leaves_the_launch_as_it_is(fake: FakeNebius) -> None:
    fake.plant("OperationService/Get", times=9, refuse="internal")
    [launched] = provider().launch(GROUP)
    assert list(fake.instances) == [launched.id]


@pytest.mark.parametrize(
    ("state", "expected"), [*STATES.items(), (State(99), MachineState.UNKNOWN)], ids=lambda each: each.name
)
def test_every_state_of_nebius_is_mapped(fake: FakeNebius, state: Any, expected: MachineState) -> None:
    assert set(STATES) == set(State)
    made = fake.make_instance(ResourceMetadata(name="x"), stranger_spec(), state)
    [found] = provider().describe(region=REGION, ids=[made.metadata.id])
    assert (found.state, found.status_ok) == (expected, None)
    assert found.instance_type == GROUP.instance_type
    assert found.public_ip.startswith("203.0.113.")
    assert found.private_ip.startswith("10.0.0.")
    assert found.launched_at is not None


def test_a_machine_without_addresses_has_none(fake: FakeNebius) -> None:
    made = fake.make_instance(ResourceMetadata(name="x"), stranger_spec(), State.CREATING)
    made.status.network_interfaces[0].public_ip_address.address = "soon"
    made.status.network_interfaces[0].ip_address.address = ""
    [found] = provider().describe(region=REGION, ids=[made.metadata.id, "computeinstance-gone"])
    assert (found.public_ip, found.private_ip) == ("", "")


def test_machines_are_found_on_every_page_by_label_or_name(fake: FakeNebius) -> None:
    cloud = provider()
    [launched] = cloud.launch(GROUP)
    for number in range(4):
        fake.make_instance(ResourceMetadata(name=f"training-{number}"), stranger_spec(), State.RUNNING)
    fake.instances[launched.id].metadata.labels = {}
    for tag, value in ((TAG_TOKEN, LAUNCH_TOKEN), (TAG_SITE, "site-one")):
        assert [each.id for each in cloud.find(region=REGION, tag=tag, value=value)] == [launched.id]
    assert cloud.find(region=REGION, tag=TAG_TOKEN, value="lau_other") == []


def test_what_costs_money_is_listed_and_removed_twice(fake: FakeNebius) -> None:
    cloud = provider()
    network = cloud.prepare_lease(LEASE)
    [launched] = cloud.launch(replace(GROUP, firewall_id=network.firewall_id))
    fake.make_disk("theirs", {})
    found = cloud.list_owned(region=REGION)
    assert [each.kind for each in found] == [ResourceKind.INSTANCE, ResourceKind.VOLUME, ResourceKind.NETWORK]
    assert found[1].tags[TAG_TOKEN] == LAUNCH_TOKEN
    with pytest.raises(ProviderError) as refusal:
        cloud.remove_network(network)
    assert refusal.value.code == "FAILED_PRECONDITION"
    fake.end(launched.id)
    for each in [*found, *found]:
        cloud.remove(each)
    cloud.remove_network(network)
    assert (fake.instances, fake.groups, fake.rules) == ({}, {}, {})
    assert len(fake.disks) == 1
    with pytest.raises(NotSupported):
        cloud.remove(OwnedResource(ResourceKind.KEY, "x", REGION))


def rules(fake: FakeNebius) -> set[tuple[str, tuple[str, ...], tuple[int, ...], str]]:
    found: set[tuple[str, tuple[str, ...], tuple[int, ...], str]] = set()
    for rule in fake.rules.values():
        spec = rule.spec
        if spec.ingress is None:
            found.add((f"out {spec.protocol.name}", (), (), ""))
            continue
        match = spec.ingress
        ports, source = tuple(match.destination_ports), match.source_security_group_id
        found.add((f"in {spec.protocol.name}", tuple(match.source_cidrs), ports, source))
    return found


def test_a_lease_has_a_security_group_of_its_own(fake: FakeNebius) -> None:
    cloud = provider()
    first = cloud.prepare_lease(LEASE)
    expected = {
        ("in TCP", ("203.0.113.0/24",), (22,), ""),
        ("in ANY", (), (), first.firewall_id),
        ("out ANY", (), (), ""),
    }
    assert rules(fake) == expected
    assert naming.from_labels(dict(fake.groups[first.firewall_id].metadata.labels)) == dict(LEASE.tags)

    # A second call writes nothing, and one with other addresses corrects.
    fake.calls.clear()
    assert cloud.prepare_lease(LEASE) == first
    assert not [call for call in fake.calls if not call.method.endswith("/List")]
    cloud.prepare_lease(replace(LEASE, ssh_cidrs=("198.51.100.7/32",)))
    assert rules(fake) == expected - {("in TCP", ("203.0.113.0/24",), (22,), "")} | {
        ("in TCP", ("198.51.100.7/32",), (22,), "")
    }


def test_a_rule_that_somebody_added_is_removed(fake: FakeNebius) -> None:
    cloud = provider()
    group = cloud.prepare_lease(LEASE).firewall_id
    before = rules(fake)
    for rule in list(fake.rules.values()):
        if rule.spec.ingress is not None and rule.spec.protocol == RuleProtocol.TCP:
            wide = type(rule).FromString(rule.SerializeToString())
            assert wide.spec.ingress is not None
            wide.spec.ingress.source_cidrs = []
            wide.metadata.id = "vpcsecurityrule-wide"
            fake.rules["vpcsecurityrule-wide"] = wide
    assert rules(fake) != before
    assert cloud.prepare_lease(LEASE).firewall_id == group
    assert rules(fake) == before


def test_nine_addresses_need_two_rules_and_none_lets_nobody_in(fake: FakeNebius) -> None:
    cloud = provider()
    cloud.prepare_lease(replace(LEASE, ssh_cidrs=tuple(f"203.0.113.{n}/32" for n in range(9))))
    assert sorted(len(cidrs) for name, cidrs, _, _ in rules(fake) if name == "in TCP") == [1, 8]
    cloud.prepare_lease(replace(LEASE, ssh_cidrs=()))
    assert not [name for name, *_ in rules(fake) if name == "in TCP"]


def test_ending_twice_is_no_error(fake: FakeNebius) -> None:
    cloud = provider()
    [launched] = cloud.launch(GROUP)
    cloud.reclaim(region=REGION, ids=[launched.id])
    fake.end(launched.id)
    cloud.reclaim(region=REGION, ids=[launched.id])
    assert cloud.describe(region=REGION, ids=[launched.id]) == []
    assert fake.disks == {}


def test_the_refusals_of_the_counterpart_have_a_status(fake: FakeNebius) -> None:
    assert {status.code for _, status in REFUSALS.values()} == {
        code.value[0] for code, _ in REFUSALS.values()
    }
