"""Money, GPU counts, times and states are written in one place."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.template import Context, Template
from django.utils import timezone

from portal.common import states


def render(source: str, **context: object) -> str:
    return " ".join(Template(source).render(Context(context)).split())


NOON = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


def test_money():
    assert "$1,234.50" in render('{% money a "USD" %}', a=Decimal("1234.5"))
    assert "$2.1900" in render('{% money a "USD" 4 %}', a=Decimal("2.19"))
    assert "–" in render('{% money a "USD" %}', a=None)


def test_gpus():
    assert "1\u00a0GPU<" in Template("{% gpus 1 %}").render(Context())
    assert "1,536\u00a0GPUs<" in Template("{% gpus 1536 %}").render(Context())
    assert "64\u00a0×\u00a0H100 SXM" in Template('{% gpus 64 "H100 SXM" %}').render(Context())


def test_a_time_is_shown_in_the_persons_zone_with_utc_at_hand():
    with timezone.override(ZoneInfo("Asia/Kolkata")):
        html = render("{% when t %}", t=NOON)
    assert (
        html == '<time datetime="2026-07-01T12:00:00Z" title="1 Jul 2026, 12:00 UTC">1 Jul 2026, 17:30</time>'
    )


def test_a_time_given_in_another_zone_is_the_same_instant():
    there = NOON.astimezone(ZoneInfo("America/New_York"))
    with timezone.override(ZoneInfo("Asia/Kolkata")):
        assert render("{% when t %}", t=there) == render("{% when t %}", t=NOON)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("date", "1 Jul 2026"),
        ("day", "1 Jul"),
        ("short", "1 Jul, 12:00"),
        ("time", "12:00"),
        ("zone", "1 Jul 2026, 12:00 UTC"),
    ],
)
def test_styles_of_a_time(style, text):
    assert f">{text}</time>" in render("{% when t style %}", t=NOON, style=style)


def test_a_date_has_no_zone():
    with timezone.override(ZoneInfo("Pacific/Auckland")):
        assert render("{% when d %}", d=date(2026, 7, 1)) == '<time datetime="2026-07-01">1 Jul 2026</time>'


def test_no_time_is_a_dash():
    assert "–" in render("{% when t %}", t=None)


def test_a_state_has_one_tone_and_an_unknown_one_is_neutral():
    assert render('{% status "active" %}') == '<span class="sb-pill" data-tone="good">Active</span>'
    assert 'data-tone="neutral">Some thing<' in render('{% status "some_thing" %}')
    assert "&lt;b&gt;" in render('{% status "active" label %}', label="<b>")


def test_every_state_of_the_models_has_a_tone():
    from billing.models import Invoice
    from leases.models import Lease
    from portal.accounts.models import Organization

    for choices in (Lease.State, Invoice.State, Organization.State):
        assert {value for value in choices.values if value not in states.STATES} == set()


def test_a_card_keeps_its_content_and_escapes_its_title():
    html = render("{% card title=t %}<p>{{ body }}</p>{% endcard %}", t="<i>", body="<b>")
    assert "&lt;i&gt;" in html
    assert "<p>&lt;b&gt;</p>" in html


def test_a_countdown_reads_well_without_javascript():
    html = render("{% countdown until %}", until=datetime(2100, 1, 1, 9, 30, tzinfo=UTC))
    assert 'until="2100-01-01T09:30:00Z"' in html
    assert ">1 Jan 2100, 09:30 UTC</time>" in html
    assert 'data-part="over" hidden' in html


def test_a_countdown_that_is_over_says_so():
    html = render("{% countdown until %}", until=datetime(2020, 1, 1, tzinfo=UTC))
    assert 'data-phase="over"' in html
    assert 'data-part="running" hidden' in html


def test_pagination_of_one_page_is_nothing():
    assert render("{% pagination previous=None next=None %}") == ""
    assert 'rel="next"' in render('{% pagination next="?cursor=x" %}')


def test_a_copied_command_is_escaped():
    assert "&lt;x&gt;" in render("{% copy text %}", text="ssh <x>")


@pytest.mark.parametrize(
    ("name", "letters"), [("Ada Osei", "AO"), ("ada@example.com", "AE"), ("", "?"), ("李", "李")]
)
def test_initials(name, letters):
    assert render("{{ name|initials }}", name=name) == letters
