"""Lambda: what a launch sends, what its instances are to us, and how they end."""

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
from inventory.providers.lambda_cloud import LambdaProvider, machines
from inventory.providers.lambda_cloud.api import explain
from inventory.providers.lambda_cloud.machines import STATES
from tests.contract.fake_api import Call, Reply
from tests.contract.fake_lambda import IMAGE, KEY, FakeLambda, refused
from tests.contract.lambda_cloud import DOCUMENT
from tests.contract.prism import vendor_document

REGION = "us-west-1"
TAGS = {
    TAG_SITE: "site-one",
    TAG_LEASE: "lse_0123456789abcdef",
    TAG_ALLOCATION: "42",
}
TOKEN = "lau_fedcba9876543210"
GROUP = LaunchGroup(TOKEN, 1, "gpu_8x_h100_sxm5", REGION, tags=TAGS, key_name="ours")


@pytest.fixture
def fake() -> Iterator[FakeLambda]:
    fake = FakeLambda()
    fake.make_key("ours", "ssh-ed25519 AAAA")
    yield fake
    fake.close()


def provider(fake: FakeLambda, **settings: Any) -> LambdaProvider:
    fast = {"endpoint_url": fake.url, "requests_per_second": 10_000, "launches_per_minute": 100_000}
    return LambdaProvider(credentials={"api_key": KEY}, settings={**fast, **settings})


def sent(fake: FakeLambda) -> dict[str, Any]:
    [call] = [call for call in fake.calls if call.path.endswith("/launch")]
    body: dict[str, Any] = call.body
    return body


def paths(fake: FakeLambda) -> list[str]:
    return [f"{call.method} {call.path.removeprefix('/api/v1')}" for call in fake.calls]


def test_a_launch_carries_our_tags_and_a_name_that_says_the_same(fake: FakeLambda) -> None:
    ruleset = fake.make_ruleset("x", REGION, [])["id"]
    [launched] = provider(fake).launch(
        replace(GROUP, firewall_id=ruleset, ssh_public_keys=("ssh-ed25519 AAAA one", "ssh-rsa BBBB two"))
    )
    body = sent(fake)
    assert list(fake.instances) == [launched.id]
    assert {item["key"]: item["value"] for item in body["tags"]} == {**TAGS, TAG_TOKEN: TOKEN}
    assert naming.matches(naming.tags_of(body["name"]), TAG_TOKEN, TOKEN)
    assert naming.matches(naming.tags_of(body["name"]), TAG_SITE, "site-one")
    assert (body["region_name"], body["instance_type_name"]) == (REGION, "gpu_8x_h100_sxm5")
    assert body["ssh_key_names"] == ["ours"]
    assert body["firewall_rulesets"] == [{"id": ruleset}]
    keys = json.loads(body["user_data"].removeprefix("#cloud-config\n"))["ssh_authorized_keys"]
    assert keys == ["ssh-ed25519 AAAA one", "ssh-rsa BBBB two"]
    assert "image" not in body  # Lambda's own choice


@pytest.mark.parametrize(
    ("image", "setting", "asked"),
    [
        ("", None, None),
        ("", "ubuntu-24-04", {"family": "ubuntu-24-04"}),
        ("", {REGION: IMAGE}, {"id": IMAGE}),
        ("", {"us-east-1": IMAGE}, None),
        ("lambda-stack-24-04", "ubuntu-24-04", {"family": "lambda-stack-24-04"}),
        (f"id:{IMAGE}", None, {"id": IMAGE}),
        ("family:ubuntu-24-04", None, {"family": "ubuntu-24-04"}),
    ],
)
def test_the_image_is_a_family_or_an_id(fake: FakeLambda, image: str, setting: Any, asked: Any) -> None:
    provider(fake, image=setting).launch(replace(GROUP, image=image))
    assert sent(fake).get("image") == asked


def test_a_tag_that_is_too_long_for_lambda_is_sent_as_its_digest(fake: FakeLambda) -> None:
    site = "a-site-of-a-very-long-name-" * 6
    cloud = provider(fake)
    cloud.launch(replace(GROUP, tags={**TAGS, TAG_SITE: site}))
    assert all(len(item["value"]) <= 128 for item in sent(fake)["tags"])
    assert len(cloud.find(region=REGION, tag=TAG_SITE, value=site)) == 1


@pytest.mark.parametrize(
    "group",
    [
        replace(GROUP, count=2),
        replace(GROUP, reservation_id="res-1"),
        replace(GROUP, purchase_option=PurchaseOption.SPOT),
    ],
)
def test_what_lambda_has_not_is_said_and_not_called(fake: FakeLambda, group: LaunchGroup) -> None:
    with pytest.raises(NotSupported):
        provider(fake).launch(group)
    assert fake.calls == []


def test_a_launch_needs_a_key_of_the_lease_or_of_the_account(fake: FakeLambda) -> None:
    with pytest.raises(ProviderError, match="ssh_key_name"):
        provider(fake).launch(replace(GROUP, key_name=""))
    assert fake.calls == []
    provider(fake, ssh_key_name="ours").launch(replace(GROUP, key_name=""))
    assert sent(fake)["ssh_key_names"] == ["ours"]


def test_user_data_that_lambda_would_not_take_is_not_sent(fake: FakeLambda) -> None:
    with pytest.raises(ProviderError, match="1 MB"):
        provider(fake).launch(replace(GROUP, user_data="#!/bin/sh\n" + "x" * 1_000_001))
    assert fake.calls == []


def test_launches_have_a_limit_of_their_own(fake: FakeLambda) -> None:
    cloud = provider(fake, launches_per_minute="0.1")
    cloud.launch(GROUP)
    with pytest.raises(RateLimited):
        cloud.launch(GROUP)
    assert len(fake.instances) == 1
    assert len(cloud.find(region=REGION, tag=TAG_TOKEN, value=TOKEN)) == 1


@pytest.mark.parametrize("ids", [[], ["a", "b"], [7], [""], "i", None])
def test_a_launch_that_answers_anything_but_one_id_is_in_doubt(fake: FakeLambda, ids: Any) -> None:
    fake.authorize = lambda call: Reply({"data": {"instance_ids": ids}})  # type: ignore[method-assign]
    with pytest.raises(BadAnswer) as refusal:
        provider(fake).launch(GROUP)
    assert refusal.value.doubtful


# --- what instances are


def test_every_status_of_the_document_has_a_meaning() -> None:
    document = json.loads(vendor_document(DOCUMENT).read_text())
    assert set(document["components"]["schemas"]["InstanceStatus"]["enum"]) == set(STATES)


@pytest.mark.parametrize(
    ("status", "state", "healthy"),
    [
        ("booting", MachineState.PENDING, None),
        ("active", MachineState.RUNNING, True),
        ("unhealthy", MachineState.RUNNING, False),
        ("terminating", MachineState.STOPPING, None),
        ("terminated", MachineState.TERMINATED, None),
        ("preempted", MachineState.TERMINATED, None),
        ("hibernating", MachineState.UNKNOWN, None),
    ],
)
def test_a_status_is_understood(
    fake: FakeLambda, status: str, state: MachineState, healthy: bool | None
) -> None:
    made = fake.make_instance("x", {}, status=status)
    [machine] = provider(fake).describe(region=REGION, ids=[made["id"]])
    assert (machine.state, machine.raw_state, machine.status_ok) == (state, status, healthy)
    assert (machine.public_ip, machine.private_ip) == (made["ip"], made["private_ip"])
    assert machine.instance_type == "gpu_8x_h100_sxm5"


def test_a_machine_is_found_by_its_tags_and_by_its_name_alone(fake: FakeLambda) -> None:
    tags = {**TAGS, TAG_TOKEN: TOKEN}
    tagged = fake.make_instance("renamed by somebody", tags)
    named = fake.make_instance(naming.name_for(tags), {})
    fake.make_instance("training", {"team": "vision"})
    fake.make_instance("x", tags, region=fake.region("us-east-1"))
    found = provider(fake).find(region=REGION, tag=TAG_TOKEN, value=TOKEN)
    assert {machine.id for machine in found} == {tagged["id"], named["id"]}


def test_what_the_list_lacks_is_asked_for_and_the_unknown_left_out(fake: FakeLambda) -> None:
    listed, gone = fake.make_instance("a", {}), fake.make_instance("b", {})
    fake.ended[gone["id"]] = {**fake.instances.pop(gone["id"]), "status": "terminated"}
    found = provider(fake).describe(region=REGION, ids=[gone["id"], "f" * 32, listed["id"]])
    assert [(machine.id, machine.raw_state) for machine in found] == [
        (gone["id"], "terminated"),
        (listed["id"], "booting"),
    ]


@pytest.mark.parametrize(
    "damage", [{"id": None}, {"status": 7}, {"region": None}, {"tags": "none"}, {"tags": [{"key": "a"}]}]
)
def test_an_instance_that_cannot_be_read_spoils_the_whole_list(fake: FakeLambda, damage: Any) -> None:
    made = fake.make_instance("x", {})
    fake.make_instance("y", {})
    made.update(damage)
    with pytest.raises(BadAnswer):
        provider(fake).find(region=REGION, tag=TAG_TOKEN, value=TOKEN)


# --- how they end


def test_ending_leaves_nothing_and_ending_again_is_no_error(fake: FakeLambda) -> None:
    ids = [fake.make_instance(name, {})["id"] for name in "ab"]
    cloud = provider(fake)
    cloud.reclaim(region=REGION, ids=ids)
    assert paths(fake) == ["POST /instance-operations/terminate"]
    assert {each["status"] for each in fake.instances.values()} == {"terminating"}
    cloud.reclaim(region=REGION, ids=ids)
    fake.instances.clear()
    cloud.reclaim(region=REGION, ids=ids)
    cloud.reclaim(region=REGION, ids=[])


def test_one_unknown_id_does_not_keep_the_others_running(fake: FakeLambda) -> None:
    made = fake.make_instance("a", {})
    provider(fake).reclaim(region=REGION, ids=["f" * 32, made["id"]])
    assert made["status"] == "terminating"


@pytest.mark.parametrize(("status", "fails"), [("terminating", False), ("booting", True)])
def test_a_refused_end_is_an_error_unless_it_is_under_way(fake: FakeLambda, status: str, fails: bool) -> None:
    made = fake.make_instance("a", {}, status=status)

    def authorize(call: Call) -> Reply | None:
        if call.path.endswith("/terminate"):
            return refused(400, "global/invalid-parameters", "It cannot be terminated now.")
        return None

    fake.authorize = authorize  # type: ignore[method-assign]
    cloud = provider(fake)
    if fails:
        with pytest.raises(ProviderError, match="cannot be terminated"):
            cloud.reclaim(region=REGION, ids=[made["id"]])
    else:
        cloud.reclaim(region=REGION, ids=[made["id"]])


def test_everything_of_ours_is_listed_once_in_its_region_and_can_be_removed(fake: FakeLambda) -> None:
    name = naming.name_for({TAG_SITE: "site-one", TAG_LEASE: TAGS[TAG_LEASE]})
    ours = {
        ResourceKind.INSTANCE: fake.make_instance("x", {**TAGS, TAG_TOKEN: TOKEN})["id"],
        ResourceKind.VOLUME: fake.make_filesystem(name, REGION)["id"],
        ResourceKind.NETWORK: fake.make_ruleset(name, REGION, [])["id"],
        ResourceKind.KEY: fake.make_key(f"{name}.{REGION}", "ssh-rsa A")["name"],
    }
    fake.make_instance("training", {})
    fake.make_instance("gone", dict(TAGS), status="terminated")
    fake.make_filesystem("datasets", REGION)
    fake.make_ruleset("office", REGION, [])
    cloud = provider(fake)
    owned = cloud.list_owned(region=REGION)
    assert {item.kind: item.id for item in owned} == ours
    assert len(owned) == 4
    assert all(naming.matches(item.tags, TAG_SITE, "site-one") for item in owned)
    assert cloud.list_owned(region="us-east-1") == []
    for resource in owned:
        cloud.remove(resource)
        cloud.remove(resource)
    assert fake.instances[ours[ResourceKind.INSTANCE]]["status"] == "terminating"
    assert [item["name"] for item in fake.filesystems.values()] == ["datasets"]
    assert [item["name"] for item in fake.rulesets.values()] == ["office"]
    assert [item["name"] for item in fake.keys.values()] == ["ours"]
    with pytest.raises(NotSupported):
        cloud.remove(OwnedResource(ResourceKind.ADDRESS, "x", REGION))


# --- errors


@pytest.mark.parametrize(
    ("code", "status", "kind", "retryable", "doubtful"),
    [
        ("instance-operations/launch/insufficient-capacity", 400, NoCapacity, True, False),
        ("global/quota-exceeded", 400, QuotaExceeded, False, False),
        ("global/invalid-api-key", 401, AuthFailed, False, False),
        ("global/account-inactive", 403, AuthFailed, False, False),
        ("global/invalid-address", 403, AuthFailed, False, False),
        ("global/forbidden", 403, AuthFailed, False, False),
        ("global/object-does-not-exist", 404, NotFound, False, False),
        ("global/object-does-not-exist", 400, NotFound, False, False),
        ("global/not-found", 404, NotFound, False, False),
        ("global/internal-error", 500, ProviderError, True, True),
        ("global/internal-error", 409, ProviderError, True, True),
        ("provider/internal-unavailable", 503, ProviderError, True, True),
        ("provider/anything-else", 400, ProviderError, True, True),
        ("global/conflict", 409, ProviderError, True, False),
        ("firewall-rulesets/firewall-ruleset-in-use", 400, ProviderError, True, False),
        ("filesystems/filesystem-in-use", 400, ProviderError, True, False),
        ("global/invalid-parameters", 400, ProviderError, False, False),
        ("global/duplicate", 400, ProviderError, False, False),
        ("instance-operations/launch/file-system-in-wrong-region", 400, ProviderError, False, False),
        ("global/rate-limited", 429, RateLimited, True, False),
        ("something/new", 500, ProviderError, True, True),
        ("something/new", 400, ProviderError, False, False),
    ],
)
def test_an_error_code_decides(
    code: str, status: int, kind: type[ProviderError], retryable: bool, doubtful: bool
) -> None:
    document = {"error": {"code": code, "message": "What happened.", "suggestion": "What to do."}}
    error = explain("launch instance", status, document, {"retry-after": "45"})  # type: ignore[arg-type]
    assert error is not None
    assert type(error) is kind
    assert (error.retryable, error.doubtful, error.code) == (retryable, doubtful, code)
    quoted = code != "global/invalid-api-key"  # whose text might quote the key
    assert ("What happened. What to do." in error.message) == quoted
    if isinstance(error, RateLimited):
        assert error.retry_after == 45


@pytest.mark.parametrize(
    "document", [None, [], {}, {"error": "text"}, {"error": {"message": "x"}}, {"error": None}]
)
def test_an_answer_without_a_code_is_told_by_its_status(document: Any) -> None:
    assert explain("launch instance", 400, document, {}) is None  # type: ignore[arg-type]


def test_every_code_of_the_document_is_in_the_table() -> None:
    document = json.loads(vendor_document(DOCUMENT).read_text())
    schemas = document["components"]["schemas"]
    codes = {
        schema["properties"]["code"]["const"]
        for name, schema in schemas.items()
        if name.startswith("ApiError")
    }
    [table] = [
        mark
        for mark in test_an_error_code_decides.pytestmark
        if mark.name == "parametrize"  # type: ignore[attr-defined]
    ]
    assert codes <= {row[0] for row in table.args[1]}


def test_of_machines_that_the_list_lacks_none_counts_as_gone_unasked() -> None:
    """A list may be wrong: what nobody asked about has not ended."""
    asked: list[str] = []

    class Workspace:
        def read(self, path: str, **names: Any) -> Any:
            if path == "/instances":
                return []
            asked.append(path)
            raise NotFound("gone")

    ids = [f"{number:032x}" for number in range(machines.ASKED_ALONE + 2)]
    found = machines.describe(Workspace(), ids)  # type: ignore[arg-type]
    assert len(asked) == machines.ASKED_ALONE
    assert [(machine.id, machine.state) for machine in found] == [
        (id_, MachineState.UNKNOWN) for id_ in ids[machines.ASKED_ALONE :]
    ]
