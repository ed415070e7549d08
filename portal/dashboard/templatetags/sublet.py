"""Template tags of the portal. They are builtins: no ``{% load %}`` is needed.

``docs/frontend.md`` shows each of them in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from django import template
from django.template.context import Context
from django.template.loader import render_to_string
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import pgettext
from lucide.templatetags.lucide import lucide

from portal.common import freshness, states
from portal.common.money import format_money
from portal.common.quantities import format_gpus
from portal.dashboard.navigation import NavLink, navigation

register = template.Library()

NOTHING = mark_safe('<span class="sb-muted">–</span>')


@lru_cache(maxsize=512)
def _icon(name: str, size: int, stroke: str, css_class: str) -> str:
    extra = {"class": css_class} if css_class else {}
    return str(lucide(name, size=size, stroke_width=stroke, aria_hidden="true", **extra))


@register.simple_tag
def icon(name: str, size: int = 18, css_class: str = "", stroke: str = "1.75") -> SafeString:
    """Draw a lucide icon as inline SVG, hidden from screen readers: words say what it means."""
    return mark_safe(_icon(str(name), int(size), str(stroke), str(css_class)))  # noqa: S308 - our own icons


@register.simple_tag
def money(amount: Decimal | None, currency: str, places: int | None = None) -> SafeString:
    """Write an amount with its currency: ``$1,234.50``. ``places`` is for unit prices."""
    if amount is None:
        return NOTHING
    return format_html('<span class="sb-num">{}</span>', format_money(amount, currency, places=places))


@register.simple_tag
def gpus(count: int | None, model: str = "") -> SafeString:
    """Write a GPU count: ``64 GPUs``, or with a model ``64 × H100 SXM``."""
    if count is None:
        return NOTHING
    return format_html('<span class="sb-num">{}</span>', format_gpus(int(count), model=str(model)))


def _time_format(style: str) -> str:
    known = {
        "datetime": pgettext("date and time format of django.utils.dateformat", "j M Y, H:i"),
        "date": pgettext("date format of django.utils.dateformat", "j M Y"),
        "day": pgettext("short date format of django.utils.dateformat", "j M"),
        "short": pgettext("short date and time format of django.utils.dateformat", "j M, H:i"),
        "time": pgettext("time format of django.utils.dateformat", "H:i"),
        "zone": pgettext("date and time format with zone of django.utils.dateformat", "j M Y, H:i T"),
    }
    return known[style]


@register.simple_tag
def when(value: datetime | date | None, style: str = "datetime") -> SafeString:
    """Write a time in the person's zone, with the same instant in UTC at hand.

    ``style`` is datetime, date, day, short, time or zone. A plain date has no zone.
    """
    if value is None:
        return NOTHING
    if not isinstance(value, datetime):
        text = formats.date_format(value, _time_format("day" if style == "day" else "date"))
        return format_html('<time datetime="{}">{}</time>', value.isoformat(), text)
    utc = value.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>',
        utc.isoformat(timespec="seconds").replace("+00:00", "Z"),
        formats.date_format(utc, _time_format("datetime")),
        formats.date_format(timezone.localtime(value), _time_format(style)),
    )


@register.simple_tag
def age(at: datetime | None = None, source: str = "") -> SafeString:
    """Say where a figure is from and how old it is: ``polled 4 min ago``, ``rate card of 20 Jul 2026``.

    ``source`` is ``api`` or ``rate_card``; without one the figure was counted for this page
    (``as of 14:05``). What is stale says so.
    """
    now = timezone.now()
    return freshness.stamp(at, source, now) if source else freshness.stamp(at or now, freshness.LIVE, now)


@register.simple_tag
def share(value: Decimal | None, tone: str = "") -> SafeString:
    """Write a difference as a percentage with its sign: ``−12 %``; ``tone`` colours it (good, bad)."""
    if value is None:
        return NOTHING
    percent = round(value * 100)
    number = formats.number_format(abs(percent), use_l10n=True, force_grouping=True)
    sign = "−" if percent < 0 else "+" if percent > 0 else "±"
    css = f" sb-{tone}" if tone else ""
    return format_html('<span class="sb-num{}">{}{}\u202f%</span>', css, sign, number)


@register.simple_tag
def status(state: str, label: str = "", tone: str = "") -> SafeString:
    """Draw a state as a pill; its tone comes from ``portal.common.states``."""
    return states.status_pill(str(state), label, tone)


@register.simple_tag(takes_context=True)
def portal_navigation(context: Context) -> list[NavLink]:
    """Return the navigation's links for this page."""
    return navigation(context.get("request"))


@register.simple_tag(takes_context=True)
def zone_name(context: Context) -> str:
    """Return the zone that times on this page are in, with its offset: ``Europe/Dublin, UTC+00:00``."""
    offset = timezone.localtime(timezone.now()).strftime("%z")
    name = timezone.get_current_timezone_name()
    return "UTC" if name == "UTC" else f"{name}, UTC{offset[:3]}:{offset[3:]}"


@register.filter
def initials(name: str) -> str:
    """Return one or two capitals for an avatar."""
    words = [word for word in str(name).replace("@", " ").split() if word[:1].isalnum()]
    return "".join(word[0] for word in words[:2]).upper() or "?"


@register.filter
def inline_svg(svg: str) -> SafeString:
    """Put an SVG document that we made ourselves (a QR code) into the page, without its XML prolog."""
    return mark_safe(svg[max(0, svg.find("<svg")) :])  # noqa: S308 - never from outside


@register.inclusion_tag("components/kpi.html")
def kpi(
    *,
    label: str,
    value: str,
    icon: str = "",
    of: str = "",
    delta: str = "",
    tone: str = "",
    note: str = "",
    sparkline: Any = None,
) -> dict[str, Any]:
    """Draw a key figure. ``tone`` (good, bad, warn) says whether the delta is welcome."""
    return {
        "label": label,
        "value": value,
        "icon": icon,
        "of": of,
        "delta": delta,
        "tone": tone,
        "note": note,
        "sparkline": sparkline,
    }


@register.inclusion_tag("components/empty.html")
def empty_state(
    *, icon: str, title: str, text: str = "", url: str = "", action: str = "", heading: str = "p"
) -> dict[str, Any]:
    """Say that a list is empty and what to do next."""
    return {"icon": icon, "title": title, "text": text, "url": url, "action": action, "heading": heading}


@register.inclusion_tag("components/breadcrumb.html")
def breadcrumb(*parts: str) -> dict[str, Any]:
    """Draw the way here: label, url, label, url, …, label of this page."""
    trail = [(parts[i], parts[i + 1]) for i in range(0, len(parts) - 1, 2)]
    return {"trail": trail, "here": parts[-1] if len(parts) % 2 else ""}


@register.inclusion_tag("components/tabs.html")
def tabs(items: Iterable[Mapping[str, Any]], label: str) -> dict[str, Any]:
    """Draw links as tabs: each item has ``label``, ``url``, ``current`` and perhaps ``count``."""
    return {"items": items, "label": label}


@register.inclusion_tag("components/pagination.html")
def pagination(*, previous: str = "", next: str = "", note: str = "") -> dict[str, Any]:
    """Draw newer and older links of a cursor-paginated list; nothing when there is one page."""
    return {"previous": previous or "", "next": next or "", "note": note}


@register.inclusion_tag("components/countdown.html")
def countdown(until: datetime, label: str = "", over: str = "") -> dict[str, Any]:
    """Count down to ``until``. Without JavaScript the time itself stands there."""
    return {
        "until": until,
        "iso": until.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "label": label or _("This quote is held for you until"),
        "over": over or _("This quote has expired. Ask for a new one."),
        "expired": until <= timezone.now(),
    }


@register.inclusion_tag("components/copy.html")
def copy(text: str, label: str = "", id: str = "") -> dict[str, Any]:
    """Show a command or key in a box with a button that copies it.

    ``id`` names them where the part of the page is replaced: the focus stays where it was.
    """
    return {"text": text, "label": label or _("Copy"), "id": id}


@register.inclusion_tag("components/alert.html")
def alert(text: str, tone: str = "info", title: str = "", url: str = "", action: str = "") -> dict[str, Any]:
    """Draw a notice within a page."""
    return {"text": text, "tone": tone, "title": title, "url": url, "action": action}


@register.simple_tag
def chart(drawn: Any) -> SafeString:
    """Draw what a function of ``portal.dashboard.charts`` returned; nothing for ``None``."""
    return render_to_string(drawn.template_name, {"chart": drawn}) if drawn else mark_safe("")


@register.simple_block_tag
def card(
    content: str,
    title: str = "",
    *,
    text: str = "",
    aside: str = "",
    url: str = "",
    link: str = "",
    css_class: str = "",
    level: int = 2,
) -> SafeString:
    """Wrap its content in a card: ``aside`` is a quiet word, ``url`` with ``link`` leads further."""
    return render_to_string(
        "components/card.html",
        {
            "content": content,
            "title": title,
            "text": text,
            "aside": aside,
            "url": url,
            "link": link,
            "css_class": css_class,
            "level": level,
        },
    )


@register.simple_block_tag(takes_context=True)
def confirm(
    context: Context,
    content: str,
    *,
    id: str,
    title: str,
    action: str,
    trigger: str,
    confirm: str = "",
    tone: str = "danger",
    icon: str = "",
) -> SafeString:
    """Ask before a POST to ``action``: a button that opens a dialog with its content and a form.

    Without JavaScript the question and the form's button stand in the page.
    """
    return render_to_string(
        "components/confirm.html",
        {
            "content": content,
            "id": id,
            "title": title,
            "action": action,
            "trigger": trigger,
            "confirm": confirm or trigger,
            "tone": tone,
            "icon": icon,
            "csrf_token": context.get("csrf_token"),
        },
    )
