"""How old a figure is, in words: one form for every page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from portal.common.freshness import API, LIVE, RATE_CARD, how_long, is_stale, sentence, stamp

NOW = datetime(2026, 11, 20, 14, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _in_utc():
    with timezone.override("UTC"):
        yield


@pytest.mark.parametrize(
    ("at", "source", "said"),
    [
        (NOW - timedelta(minutes=4), API, "polled 4 min ago"),
        (NOW - timedelta(hours=3), API, "polled 3 h ago"),
        (NOW - timedelta(days=5), API, "polled 5 days ago"),
        (NOW + timedelta(minutes=4), API, "polled 0 min ago"),  # a clock that is off
        (datetime(2026, 7, 20, tzinfo=UTC), RATE_CARD, "rate card of 20 Jul 2026"),
        (NOW, LIVE, "as of 14:05"),
        (None, API, "never polled"),
        (None, RATE_CARD, "undated"),
    ],
)
def test_every_source_has_its_sentence(at, source, said):
    assert sentence(at, source, NOW) == said


def test_a_day_is_the_persons_day():
    with timezone.override("America/Los_Angeles"):
        assert sentence(NOW, LIVE, NOW) == "as of 06:05"


@pytest.mark.parametrize(
    ("age", "source", "stale"),
    [
        (timedelta(hours=2), API, False),
        (timedelta(hours=2, seconds=1), API, True),
        (timedelta(days=90), RATE_CARD, False),
        (timedelta(days=91), RATE_CARD, True),
        (timedelta(days=999), LIVE, False),
    ],
)
def test_what_is_stale_depends_on_the_source(age, source, stale):
    assert is_stale(NOW - age, source, NOW) is stale
    assert ("stale" in stamp(NOW - age, source, NOW)) is stale


def test_the_stamp_has_the_exact_time_at_hand():
    assert stamp(NOW - timedelta(minutes=4), API, NOW) == (
        '<span class="sb-age"><time datetime="2026-11-20T14:01:00Z" title="20 Nov 2026, 14:01 UTC">'
        "polled 4 min ago</time></span>"
    )


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (timedelta(minutes=119), "119 min"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=2), "2 days"),
    ],
)
def test_an_age_is_in_its_largest_unit(age, said):
    assert how_long(age) == said
