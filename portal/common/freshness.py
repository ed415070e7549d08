"""How old a figure of the market is, said the same way on every page.

A figure has a source. What a provider's API says is as old as the last complete poll
of its region; what a rate card says is as old as the card.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, pgettext

# Sources; inventory.prices writes the first two with each price.
API = "api"
RATE_CARD = "rate_card"
LIVE = "live"  # counted while the page was made, from what we hold ourselves

# A poll is due every quarter of an hour; a vendor's list price changes a few times a year.
STALE_AFTER = {API: timedelta(hours=2), RATE_CARD: timedelta(days=90)}


def is_stale(at: datetime | None, source: str, now: datetime) -> bool:
    """Return whether the figure is too old to rely on; one without a date always is."""
    if at is None:
        return True
    return now - at > STALE_AFTER.get(source, timedelta.max)


def how_long(age: timedelta) -> str:
    """Return an age in its largest unit: ``12 min``, ``3 h``, ``5 days``."""
    minutes = int(age.total_seconds() // 60)
    if minutes < 120:
        return _("%(n)s min") % {"n": max(minutes, 0)}
    if minutes < 48 * 60:
        return _("%(n)s h") % {"n": minutes // 60}
    days = minutes // (24 * 60)
    return ngettext("%(n)s day", "%(n)s days", days) % {"n": days}


def sentence(at: datetime | None, source: str, now: datetime) -> str:
    """Return where a figure is from and how old it is, in the person's zone.

    ``polled 4 min ago``, ``rate card of 20 Jul 2026``, ``as of 14:05``.
    """
    if at is None:
        return _("never polled") if source == API else _("undated")
    local = timezone.localtime(at)
    if source == RATE_CARD:
        pattern = pgettext("date format of django.utils.dateformat", "j M Y")
        return _("rate card of %(day)s") % {"day": formats.date_format(local, pattern)}
    if source == LIVE:
        pattern = pgettext("time format of django.utils.dateformat", "H:i")
        return _("as of %(time)s") % {"time": formats.date_format(local, pattern)}
    return _("polled %(age)s ago") % {"age": how_long(now - at)}


def stamp(at: datetime | None, source: str, now: datetime) -> SafeString:
    """Return :func:`sentence` as markup, with the exact time at hand and what is stale marked in words."""
    stale = is_stale(at, source, now)
    mark = (
        format_html(' <span class="sb-age__mark">{}</span>', _("stale")) if stale and at is not None else ""
    )
    text = sentence(at, source, now)
    if at is None:
        return format_html('<span class="sb-age" data-stale>{}</span>', text)
    utc = at.astimezone(UTC)
    pattern = pgettext("date and time format of django.utils.dateformat", "j M Y, H:i")
    return format_html(
        '<span class="sb-age"{}><time datetime="{}" title="{} UTC">{}</time>{}</span>',
        mark_safe(" data-stale") if stale else "",
        utc.isoformat(timespec="seconds").replace("+00:00", "Z"),
        formats.date_format(utc, pattern),
        text,
        mark,
    )
