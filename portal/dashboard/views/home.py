"""The dashboard: capacity, leases and spend at a glance."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import formats, timezone
from django.utils.translation import gettext as _

from billing.accounts import account_for
from leases import search as capacity
from leases.access import leases_of
from portal.common.money import format_money
from portal.common.quantities import format_gpus
from portal.dashboard import charts
from portal.dashboard.tenancy import TenantRequest, member_page
from portal.dashboard.views.leases import CURRENT, LIVE, lease_bars, lease_facts, with_terms
from portal.dashboard.views.money import day_range, spend_chart, spend_rows
from portal.dashboard.views.reserve import calendar_chart, local_midnight

SPEND_DAYS = 30


def greeting(now: datetime, name: str) -> str:
    """Return a greeting for the hour in the person's zone."""
    hour = timezone.localtime(now).hour
    if 5 <= hour < 12:
        return _("Good morning, %(name)s") % {"name": name}
    if 12 <= hour < 18:
        return _("Good afternoon, %(name)s") % {"name": name}
    return _("Good evening, %(name)s") % {"name": name}


def free_gpus_now(now: datetime) -> int:
    """Return the GPUs that could be leased for the rest of today."""
    rows = capacity.calendar(days=1, start=local_midnight(now).astimezone(UTC), now=now)
    return sum(row.days[0].nodes_free * row.gpus_per_node for row in rows)


def _first_steps(request: TenantRequest, has_leases: bool) -> list[dict[str, Any]]:
    """Return what a new customer still has to do; nothing once they have leased."""
    if has_leases:
        return []
    organization = request.organization
    return [
        {
            "text": _("Be approved: we look at every new customer"),
            "done": organization.state == organization.State.APPROVED,
            "url": reverse("dashboard:organization"),
        },
        {
            "text": _("Add your SSH public key"),
            "done": organization.ssh_keys.exists(),
            "url": reverse("dashboard:ssh-keys"),
        },
        {
            "text": _("Add funds to your wallet"),
            "done": account_for(organization).spendable > 0,
            "url": reverse("dashboard:organization"),
        },
        {"text": _("Reserve your first GPUs"), "done": False, "url": reverse("dashboard:availability")},
    ]


@member_page()
def home(request: TenantRequest) -> HttpResponse:
    """The first page after signing in."""
    now = timezone.now()
    mine = leases_of(user=request.user, organization=request.organization)
    live = [lease_facts(lease) for lease in with_terms(mine.filter(state__in=LIVE)).order_by("-pk")[:100]]
    recent = [lease_facts(lease) for lease in with_terms(mine).order_by("-state_changed_at")[:6]]
    running = [row for row in live if row["lease"].state in CURRENT]
    upcoming = [row for row in live if row["lease"].state not in CURRENT]
    gpus_running = sum(row["gpus"] for row in running)
    figures: list[dict[str, Any]] = [
        {
            "label": _("GPUs running"),
            "value": str(gpus_running),
            "icon": "cpu",
            "note": _("in %(n)d leases") % {"n": len(running)} if running else _("nothing runs now"),
        },
        {
            "label": _("Reserved ahead"),
            "value": str(sum(row["gpus"] for row in upcoming)),
            "icon": "calendar-clock",
            "note": _("next on %(day)s")
            % {"day": formats.date_format(timezone.localtime(min(row["start"] for row in upcoming)), "j M")}
            if upcoming
            else _("nothing booked"),
        },
    ]
    chart = None
    if "billing" in request.may:
        account = account_for(request.organization)
        days = day_range(SPEND_DAYS, now)
        rows = spend_rows(
            request,
            datetime.combine(days[0], time(), UTC),
            datetime.combine(days[-1] + timedelta(days=1), time(), UTC),
        )
        by_day = {day: Decimal(0) for day in days}
        for row in rows:
            by_day[row["day"]] += row["amount"]
        month = sum((amount for day, amount in by_day.items() if day.month == days[-1].month), Decimal(0))
        chart = spend_chart(rows, days, account.currency)
        figures += [
            {
                "label": _("Spend this month"),
                "value": format_money(month, account.currency),
                "icon": "wallet",
                "note": _("before tax"),
                "sparkline": charts.sparkline(
                    [float(amount) for amount in by_day.values()], label=_("Spend by day, 30 days")
                )
                if rows
                else None,
            },
            {
                "label": _("Free to spend"),
                "value": format_money(account.spendable, account.currency),
                "icon": "piggy-bank",
                "note": account.get_mode_display(),
            },
        ]
    bars = [
        row
        for row in [*live, *(row for row in recent if row["lease"].state == "ended")]
        if row["end"] > now - timedelta(days=14) and row["start"] < now + timedelta(days=42)
    ]
    context = {
        "greeting": greeting(now, request.organization.name),
        "free_now": format_gpus(free_gpus_now(now)),
        "figures": figures,
        "calendar": calendar_chart(now),
        "chart": chart,
        "recent": recent,
        "timeline": charts.lease_timeline(
            title=_("Leases"),
            bars=lease_bars(bars),
            start=now - timedelta(days=14),
            end=now + timedelta(days=42),
            now=now,
        )
        if bars
        else None,
        "steps": _first_steps(request, bool(recent)),
    }
    return render(request, "dashboard/home.html", context)
