"""The staff index: figures, charts and what needs a look."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import template
from django.conf import settings
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from billing.models import Finding
from portal.common.money import format_money
from portal.dashboard import charts, overview

register = template.Library()

WEEKS = 8


def _url(name: str, query: str) -> str:
    """Return the address of an admin page; nothing where that page is not registered."""
    try:
        address = reverse(name)
    except NoReverseMatch:
        return ""
    return f"{address}?{query}" if query else address


@register.inclusion_tag("admin/overview.html")
def staff_overview() -> dict[str, Any]:
    """Draw the business at a glance."""
    now = timezone.now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = overview.utilization(start=today - timedelta(weeks=WEEKS), end=today + timedelta(days=1))
    month = overview.margin(
        start=overview.month_start(now.date()), end=now, currency=settings.SUBLET_CURRENCY
    )
    held = [day.percent for day in days if day.percent is not None]
    current = held[-1] if held else None
    counts = overview.to_do(now=now)
    todo = [
        (_("Open findings on vendor bills"), counts["findings"], "admin:billing_finding_changelist", "state__exact=open"),
        (_("Nodes that customers miss now"), counts["shortfalls"], "admin:leases_shortfall_changelist", ""),
        (_("Orphaned resources upstream"), counts["orphans"], "admin:leases_orphan_changelist", "state__exact=seen"),
        (_("Launches that failed"), counts["failed_launches"], "admin:leases_launchintent_changelist", "state__exact=failed"),
        (_("Promised nodes without an image"), counts["no_image"], "admin:inventory_stackimage_changelist", "enabled__exact=0"),
        (_("Customers to approve"), counts["pending_customers"], "admin:accounts_organization_changelist", "state__exact=pending"),
        (_("GPUs that we do not know"), counts["unknown_gpus"], "admin:inventory_gpuspelling_changelist", "state=unknown"),
        (_("Leases awaiting funds"), counts["awaiting_funds"], "admin:leases_lease_changelist", "state__exact=awaiting"),
    ]  # fmt: skip
    health = overview.nodes_by_health()
    return {
        "figures": [
            {
                "label": _("Fleet utilization"),
                "value": f"{current:.1f}%" if current is not None else "–",
                "icon": "gauge",
                "note": _("today, of held node-hours"),
                "sparkline": charts.sparkline(held, label=_("Utilization by day")) if len(held) > 1 else None,
            },
            {
                "label": _("Margin this month"),
                "value": format_money(month.amount, month.currency),
                "icon": "scale",
                "note": _("%(percent)s%% of revenue") % {"percent": f"{month.percent:.1f}"}
                if month.percent is not None
                else _("no revenue yet"),
            },
            {
                "label": _("Revenue this month"),
                "value": format_money(month.revenue, month.currency),
                "icon": "wallet",
                "note": _("earned by delivery, before tax"),
            },
            {
                "label": _("Nodes held"),
                "value": str(sum(health.values())),
                "icon": "server",
                "note": ", ".join(f"{count} {name}" for name, count in sorted(health.items())),
            },
        ],
        "chart": charts.time_chart(
            title=_("Fleet utilization"),
            times=[day.day for day in days],
            series=[charts.Series(label=_("Utilization"), values=[day.percent for day in days])],
            write=lambda value: f"{value:.0f}%",
        )
        if held
        else None,
        "todo": [
            {"label": label, "count": count, "url": _url(name, query)} for label, count, name, query in todo
        ],
        "commitments": overview.expiring_commitments(now=now),
        "polls": overview.poll_health(now=now),
        "findings": Finding.objects.filter(state=Finding.State.OPEN).select_related("account")[:6],
    }
