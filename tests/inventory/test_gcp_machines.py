"""Google Cloud: what machines are to us, and how they end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from inventory.providers.base import (
    TAG_LEASE,
    TAG_SITE,
    TAG_TOKEN,
    MachineState,
    PurchaseOption,
)
from inventory.providers.errors import (
    ProviderError,
)
from inventory.providers.gcp import machines, operations
from tests.contract.discovery import Discovery
from tests.contract.fake_gcp import FakeGcp
from tests.contract.gcp import DOCUMENTS
from tests.contract.gcp_data import ELSEWHERE, PROJECT, REGION, RESERVATION, TYPE, ZONES
from tests.contract.prism import vendor_document
from tests.inventory.test_gcp_launches import GROUP, NAME, REQUEST, TAGS, TOKEN, ZONE
from tests.inventory.test_gcp_prices import provider


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcp]:
    monkeypatch.setattr(operations, "LOOKS", (0.0, 0.0))
    monkeypatch.setattr(operations, "SETTLE_PAUSE", 0.0)
    fake = FakeGcp()
    yield fake
    fake.close()


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
