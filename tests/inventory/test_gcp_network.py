"""Google Cloud: a lease's firewall, and everything of ours in a region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from inventory.providers import naming
from inventory.providers.base import (
    TAG_LEASE,
    TAG_SITE,
    OwnedResource,
    ResourceKind,
)
from inventory.providers.errors import (
    NotSupported,
    ProviderError,
)
from inventory.providers.gcp import network, operations
from tests.contract.fake_gcp import FakeGcp
from tests.contract.gcp_data import ELSEWHERE, REGION
from tests.inventory.test_gcp_launches import GROUP, NAME, REQUEST, TAGS, ZONE
from tests.inventory.test_gcp_prices import provider


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcp]:
    monkeypatch.setattr(operations, "LOOKS", (0.0, 0.0))
    monkeypatch.setattr(operations, "SETTLE_PAUSE", 0.0)
    fake = FakeGcp()
    yield fake
    fake.close()


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
