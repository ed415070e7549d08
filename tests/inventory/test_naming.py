"""Names that carry our tags: what goes in comes back, and nobody else's name looks like ours."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.providers import naming
from inventory.providers.base import TAG_ALLOCATION, TAG_LEASE, TAG_SITE, TAG_TOKEN
from portal.common.ids import ALPHABET, LENGTH, public_id

IDS = st.text(ALPHABET, min_size=LENGTH, max_size=LENGTH)
SITES = st.text(min_size=1, max_size=64)
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@given(site=SITES, lease=IDS, token=IDS, index=st.none() | st.integers(0, naming.LARGEST_INDEX))
def test_a_name_gives_back_what_it_carries(site: str, lease: str, token: str, index: int | None) -> None:
    tags = {TAG_SITE: site, TAG_LEASE: f"lse_{lease}", TAG_TOKEN: f"lau_{token}", TAG_ALLOCATION: "7"}
    name = naming.name_for(tags, index=index)
    assert DNS_LABEL.fullmatch(name)
    assert len(name) <= 60
    found = naming.tags_of(name)
    assert {TAG_LEASE: tags[TAG_LEASE], TAG_TOKEN: tags[TAG_TOKEN]}.items() <= found.items()
    assert naming.matches(found, TAG_SITE, site)
    assert not naming.matches(found, TAG_SITE, site + "2")
    assert not naming.matches(found, TAG_ALLOCATION, "7")


def test_the_short_form_keeps_the_token_and_leaves_the_lease_out() -> None:
    tags = {TAG_SITE: "eu-production", TAG_LEASE: public_id("lse"), TAG_TOKEN: public_id("lau")}
    name = naming.name_for(tags, limit=32)
    assert len(name) == 32
    found = naming.tags_of(name)
    assert found[TAG_TOKEN] == tags[TAG_TOKEN]
    assert TAG_LEASE not in found
    network = naming.name_for({TAG_SITE: "eu-production", TAG_LEASE: tags[TAG_LEASE]}, limit=32)
    assert naming.tags_of(network)[TAG_LEASE] == tags[TAG_LEASE]
    assert TAG_TOKEN not in naming.tags_of(network)


@given(token=st.text(min_size=1, max_size=64))
def test_any_other_token_is_matched_by_its_digest(token: str) -> None:
    found = naming.tags_of(naming.name_for({TAG_SITE: "s", TAG_TOKEN: token}))
    assert naming.matches(found, TAG_TOKEN, token)
    assert not naming.matches(found, TAG_TOKEN, token + "x")


@given(first=SITES, second=SITES)
def test_sites_differ(first: str, second: str) -> None:
    names = {naming.name_for({TAG_SITE: site, TAG_TOKEN: "lau_0123456789abcdef"}) for site in (first, second)}
    assert len(names) == len({first, second})


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sublet",
        "sublet-production",
        "sublet-0123456-database",
        "sublet-0123456-t0123456789abcdef-copy",
        "my-sublet-0123456-t0123456789abcdef",
        "sublet-0123456-t0123456789abcdef\n",
        "Sublet-0123456-t0123456789abcdef",
        "sublet-0123456-t0123456789abcde",
        "sublet-0123456-x0123456789abcdef",
    ],
)
def test_names_of_other_people_say_nothing(name: str) -> None:
    assert naming.tags_of(name) == {}


@pytest.mark.parametrize(
    ("tags", "limit", "index"),
    [
        ({TAG_TOKEN: "lau_0123456789abcdef"}, 60, None),
        ({TAG_SITE: "s"}, 60, None),
        ({TAG_SITE: "s", TAG_TOKEN: "lau_0123456789abcdef"}, 31, None),
        ({TAG_SITE: "s", TAG_TOKEN: "lau_0123456789abcdef"}, 32, 1),
        ({TAG_SITE: "s", TAG_TOKEN: "lau_0123456789abcdef"}, 60, -1),
        ({TAG_SITE: "s", TAG_TOKEN: "lau_0123456789abcdef"}, 60, 100_000),
    ],
)
def test_a_name_that_could_not_be_recognised_is_refused(
    tags: dict[str, str], limit: int, index: int | None
) -> None:
    with pytest.raises(ValueError, match=r"name|index"):
        naming.name_for(tags, limit=limit, index=index)


def test_nothing_is_the_same_as_nothing() -> None:
    assert not naming.same("", "")
    assert not naming.same("digest-", "anything")
    assert not naming.same("lau_a", "lau_b")
    assert naming.same("lau_a", "lau_a")


@given(site=SITES)
def test_labels_have_no_colon_and_give_the_tags_back(site: str) -> None:
    tags = {TAG_SITE: site, TAG_LEASE: public_id("lse"), TAG_TOKEN: public_id("lau"), TAG_ALLOCATION: "12"}
    labels = naming.to_labels({**tags, "other": "left out"})
    assert set(labels) == {"sublet-site", "sublet-lease", "sublet-token", "sublet-allocation"}
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", value) for value in labels.values())
    found = naming.from_labels({**labels, "team": "ml"})
    assert set(found) == set(tags)
    assert all(naming.matches(found, tag, value) for tag, value in tags.items())
    assert naming.label_selector(TAG_SITE, site) == ("sublet-site", labels["sublet-site"])
