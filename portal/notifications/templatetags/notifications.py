"""How a mail writes a time: the recipient's clock, with UTC beside it."""

from __future__ import annotations

from datetime import UTC, datetime

from django import template
from django.utils import formats, timezone
from django.utils.translation import pgettext

register = template.Library()


@register.filter
def clocks(value: datetime | None) -> str:
    """Write ``Tue 1 Dec 2026, 10:00 Europe/Dublin (09:00 UTC)``; the date twice where it differs."""
    if value is None:
        return "–"
    style = pgettext("date and time format of django.utils.dateformat", "D j M Y, H:i")
    utc, local = value.astimezone(UTC), timezone.localtime(value)
    zone = timezone.get_current_timezone_name()
    if zone == "UTC":
        return f"{formats.date_format(utc, style)} UTC"
    short = utc.strftime("%H:%M") if utc.date() == local.date() else formats.date_format(utc, style)
    return f"{formats.date_format(local, style)} {zone} ({short} UTC)"
