"""Vast.ai: what a launch sends, what its instances are to us, and how they end."""

from __future__ import annotations

import base64
import gzip
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from inventory.providers import naming
from inventory.providers.base import (
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
from inventory.providers.vast import VastProvider
from inventory.providers.vast.api import INTERVALS, explain
from inventory.providers.vast.machines import LONGEST_ONSTART, STATES, label_for, onstart
from tests.contract.fake_vast import ADDRESS, KEY, REFUSALS, FakeVast, host
from tests.contract.faults import Answer, faulty
from tests.contract.vast import is_launch

TAGS = {TAG_SITE: "site-one", TAG_LEASE: "lse_0123456789abcdef"}
TOKEN = "lau_fedcba9876543210"
GROUP = LaunchGroup(TOKEN, 1, "8x H100 SXM 80GB", "DE", tags=TAGS, ssh_public_keys=("ssh-ed25519 AAAA one",))


@pytest.fixture
def fake() -> Iterator[FakeVast]:
    fake = FakeVast()
    yield fake
    fake.close()


def provider(fake: FakeVast, **settings: Any) -> VastProvider:
    fast = {"endpoint_url": fake.url, "calls_factor": 10_000}
    return VastProvider(credentials={"api_key": KEY}, settings={**fast, **settings})


def launches(fake: FakeVast) -> list[Any]:
    return [call for call in fake.calls if call.method == "PUT"]


def test_a_launch_takes_the_cheapest_host_once_and_names_itself(fake: FakeVast) -> None:
    fake.hosts[103]["dph_total"] = 12.5
    [launched] = provider(fake, image="ours:1", disk_gb=300).launch(GROUP)
    [call] = launches(fake)
    assert call.path == "/api/v0/asks/103"
    assert [launched.id] == [str(number) for number in fake.instances]
    body = call.body
    assert (body["image"], body["disk"], body["runtype"]) == ("ours:1", 300, "ssh_direct")
    assert (body["cancel_unavail"], body["target_state"]) == (True, "running")
    assert "price" not in body
    tags = naming.tags_of(body["label"].removesuffix(".de"))
    assert naming.matches(tags, TAG_TOKEN, TOKEN)
    assert naming.matches(tags, TAG_SITE, "site-one")
    assert naming.matches(tags, TAG_LEASE, TAGS[TAG_LEASE])


def test_an_image_of_the_launch_goes_before_the_accounts_and_vasts(fake: FakeVast) -> None:
    provider(fake).launch(GROUP)
    provider(fake, image="ours:1").launch(replace(GROUP, image="stack:2"))
    assert [call.body["image"] for call in launches(fake)] == [
        "vastai/base-image:@vastai-automatic-tag",
        "stack:2",
    ]


def test_a_bid_is_never_below_the_lowest(fake: FakeVast) -> None:
    fake.hosts[102]["min_bid"] = 6.123456789012
    provider(fake).launch(replace(GROUP, purchase_option=PurchaseOption.SPOT))
    [call] = launches(fake)
    assert call.path == "/api/v0/asks/102"
    assert call.body["price"] == 6.123457


def test_a_bid_that_vast_would_not_take_is_not_sent(fake: FakeVast) -> None:
    for item in fake.hosts.values():
        item["min_bid"] = 128.01
    with pytest.raises(NoCapacity, match="128"):
        provider(fake).launch(replace(GROUP, purchase_option=PurchaseOption.SPOT))
    assert launches(fake) == []


def test_nothing_dearer_than_the_account_allows_is_launched(fake: FakeVast) -> None:
    with pytest.raises(NoCapacity, match="max_usd_per_hour"):
        provider(fake, max_usd_per_hour=19).launch(GROUP)
    assert launches(fake) == []
    provider(fake, max_usd_per_hour="19.92").launch(GROUP)
    assert len(launches(fake)) == 1


@pytest.mark.parametrize(
    ("group", "error"),
    [
        (replace(GROUP, count=2), NotSupported),
        (replace(GROUP, reservation_id="res-1"), NotSupported),
        (replace(GROUP, purchase_option=PurchaseOption.RESERVED), NotSupported),
        (replace(GROUP, user_data="#cloud-config\n{}"), NotSupported),
        (replace(GROUP, instance_type="h100"), ProviderError),
        (replace(GROUP, instance_type="8x H100 PCIE 80GB"), NoCapacity),
        (replace(GROUP, instance_type="8x H100 SXM 94GB"), NoCapacity),
        (replace(GROUP, region="NO"), NoCapacity),
    ],
)
def test_what_cannot_be_launched_is_said_and_not_called(
    fake: FakeVast, group: LaunchGroup, error: type[ProviderError]
) -> None:
    with pytest.raises(error):
        provider(fake).launch(group)
    assert launches(fake) == []


def test_a_free_offer_is_no_offer(fake: FakeVast) -> None:
    fake.hosts[101]["dph_total"] = 0
    with pytest.raises(BadAnswer):
        provider(fake).launch(GROUP)
    assert launches(fake) == []


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("taken", NoCapacity),
        ("gone", NoCapacity),
        ("credit", QuotaExceeded),
        ("frequent", RateLimited),
        ("key", AuthFailed),
    ],
)
def test_vasts_refusals_of_a_launch(fake: FakeVast, name: str, error: type[ProviderError]) -> None:
    fake.refuse.append(name)
    with pytest.raises(error) as refusal:
        provider(fake).launch(GROUP)
    assert not refusal.value.doubtful
    assert len(launches(fake)) == 1
    assert fake.instances == {}


@pytest.mark.parametrize(
    ("status", "document", "error", "retryable"),
    [
        (400, {"error": "invalid_args", "msg": "Invalid args"}, ProviderError, False),
        (400, {"error": "invalid_price", "msg": "too low"}, ProviderError, False),
        (403, {"error": "invalid_args", "msg": "Offer 1 is not your own."}, ProviderError, False),
        (403, {"error": "permission_denied", "msg": "no"}, AuthFailed, False),
        (404, {"error": "not_found", "msg": "Instance not found"}, NotFound, False),
        (404, {"msg": "Invalid user key"}, AuthFailed, False),
        (410, {"msg": "gone"}, NoCapacity, True),
        (429, {"detail": "API requests too frequent"}, RateLimited, True),
        (500, {"error": "server", "msg": "oops"}, ProviderError, True),
    ],
)
def test_errors_by_code_and_status(
    status: int, document: dict[str, Any], error: type[ProviderError], retryable: bool
) -> None:
    found = explain("launch", status, document, httpx.Headers())
    assert type(found) is error
    assert found.retryable == retryable
    assert found.doubtful == (status == 500)


@pytest.mark.parametrize("document", [None, [], "text", {}, {"error": None}])
def test_an_error_that_says_nothing_is_told_by_its_status(document: Any) -> None:
    assert explain("launch", 400, document, httpx.Headers()) is None


def test_a_success_that_is_none_is_an_error(fake: FakeVast) -> None:
    with faulty(fake.url) as proxy:
        for document, error in (
            (b'{"success": false, "error": "no_such_ask", "msg": "gone"}', NoCapacity),
            (b'{"success": false}', ProviderError),
            (b'{"success": true}', BadAnswer),
        ):
            proxy.plant(is_launch, answer=Answer(200, document))
            with pytest.raises(error):
                provider(fake, endpoint_url=proxy.url).launch(GROUP)


def machine(fake: FakeVast, **fields: Any) -> Any:
    made = fake.make_instance(label_for({**TAGS, TAG_TOKEN: TOKEN}, "DE"), host(7))
    fake.run(made)
    made.update(fields)
    [found] = provider(fake).describe(region="DE", ids=[str(made["id"])])
    return found


@pytest.mark.parametrize(
    ("status", "state"),
    [*STATES.items(), ("deleting", MachineState.UNKNOWN), ("RUNNING", MachineState.UNKNOWN)],
)
def test_every_status_that_vast_documents_is_mapped(
    fake: FakeVast, status: str | None, state: MachineState
) -> None:
    found = machine(fake, actual_status=status)
    assert found.state == state
    never = status in ("exited", "unknown", "offline")
    assert found.status_ok is (False if never else True if status == "running" else None)
    assert bool(found.reason) == never


@pytest.mark.parametrize("fields", [{"intended_status": "stopped"}, {"cur_state": "unloaded"}])
def test_what_was_told_to_stop_does_not_count_as_running(fake: FakeVast, fields: dict[str, str]) -> None:
    assert machine(fake, **fields).state == MachineState.STOPPING


def test_a_machine_is_reached_at_the_port_that_its_host_mapped(fake: FakeVast) -> None:
    found = machine(fake)
    assert found.public_ip == ADDRESS
    assert 20_000 <= found.ssh_port < 21_000
    assert (found.region, found.instance_type) == ("DE", "8x H100 SXM 80GB")


@pytest.mark.parametrize(
    "fields",
    [
        {"ports": None},
        {"ports": {}},
        {"ports": {"22/tcp": []}},
        {"ports": {"22/tcp": [{"HostPort": "ssh"}]}},
        {"ports": {"22/tcp": [{"HostPort": "70000"}]}},
        {"ports": [22]},
        {"public_ipaddr": "ssh5.vast.ai"},
        {"public_ipaddr": None},
    ],
)
def test_without_a_mapped_port_a_machine_is_not_ready(fake: FakeVast, fields: dict[str, Any]) -> None:
    found = machine(fake, **fields)
    assert (found.state, found.public_ip, found.ssh_port) == (MachineState.RUNNING, "", 0)
    assert found.status_ok is None


def test_machines_are_found_on_every_page_and_by_their_country(fake: FakeVast) -> None:
    for number in range(60):
        fake.make_instance(label_for({**TAGS, TAG_TOKEN: f"lau_{number:016}"}, "DE"), host(7))
    fake.make_instance(label_for({**TAGS, TAG_TOKEN: TOKEN}, "US"), host(8))
    fake.make_instance("ML Training Job", host(9, geolocation="Bonn, DE"))
    fake.make_instance(None, host(9))
    cloud = provider(fake)
    assert len(cloud.list_owned(region="DE")) == 60
    assert len(cloud.find(region="US", tag=TAG_SITE, value="site-one")) == 1
    assert cloud.find(region="DE", tag=TAG_TOKEN, value=TOKEN) == []
    ids = [str(number) for number in fake.instances]
    assert [each.id for each in cloud.describe(region="DE", ids=[*ids, "77", "x"])] == ids


def test_a_page_that_repeats_is_no_list(fake: FakeVast) -> None:
    fake.make_instance("a", host(1))
    with faulty(fake.url) as proxy:
        page = b'{"instances": [], "next_token": "same"}'
        proxy.plant(lambda request: "/api/v1/instances" in request.path, times=10, answer=Answer(200, page))
        with pytest.raises(BadAnswer, match="twice"):
            provider(fake, endpoint_url=proxy.url).list_owned(region="DE")


def test_ending_twice_is_no_error(fake: FakeVast) -> None:
    cloud = provider(fake)
    [launched] = cloud.launch(GROUP)
    cloud.reclaim(region="DE", ids=[launched.id])
    cloud.reclaim(region="DE", ids=[launched.id, "not-an-id"])
    cloud.remove(OwnedResource(ResourceKind.INSTANCE, launched.id, "DE"))
    assert fake.instances == {}
    with pytest.raises(NotSupported):
        cloud.remove(OwnedResource(ResourceKind.VOLUME, "1", "DE"))


def test_launches_keep_the_interval_that_vast_documents(fake: FakeVast) -> None:
    assert INTERVALS["launch"] == 4.5
    cloud = provider(fake, calls_factor=0.1)  # one in 45 seconds
    cloud.launch(GROUP)
    with pytest.raises(RateLimited):
        cloud.launch(GROUP)


def run(commands: str, folder: Path) -> None:
    """Run the commands of a start as a machine would, with its /root somewhere else."""
    subprocess.run(["/bin/sh", "-ec", commands.replace("/root", str(folder))], check=True, timeout=20)


def test_the_commands_of_the_start_let_exactly_the_keys_in(tmp_path: Path) -> None:
    keys = ("ssh-ed25519 AAAA it's; touch /root/evil", "ssh-rsa BBBB $(touch /root/evil)")
    script = "#!/bin/sh\necho once >> /root/ran\n".replace("/root", str(tmp_path))
    for _start in range(2):
        run(onstart(keys, script), tmp_path)
    lines = (tmp_path / ".ssh" / "authorized_keys").read_text().splitlines()
    assert lines == [key.replace("/root", str(tmp_path)) for key in keys]
    assert (tmp_path / "ran").read_text() == "once\n"
    assert not (tmp_path / "evil").exists()


def test_long_commands_are_packed_and_too_long_ones_refused() -> None:
    packed = onstart((), "#!/bin/sh\n" + "echo hello world\n" * 1_000)
    assert len(packed) <= LONGEST_ONSTART
    inner = gzip.decompress(base64.b64decode(packed.split()[2])).decode()
    assert base64.b64decode(inner.split("printf %s ")[1].split()[0]).startswith(b"#!/bin/sh\necho hello")
    noise = "".join(f"{number * 7919 % 99991:x}" for number in range(4_000))
    with pytest.raises(ProviderError, match="4048"):
        onstart((), "#!/bin/sh\n# " + noise)


def test_the_refusals_of_the_counterpart_are_all_tested() -> None:
    assert set(REFUSALS) == {"taken", "gone", "credit", "frequent", "key"}
