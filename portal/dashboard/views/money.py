"""Usage, spend and invoices."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from django.core.paginator import Paginator
from django.db.models import F, Min, Sum
from django.db.models.functions import Coalesce, TruncDate
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import formats, timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from billing.access import invoice_for
from billing.accounts import account_for
from billing.documents import invoice_pdf
from billing.history import charges_of, invoices_of
from billing.models import Invoice
from portal.common.money import format_money
from portal.dashboard import charts
from portal.dashboard.pages import page_links
from portal.dashboard.tenancy import TenantRequest, member_page

RANGES = (7, 30, 90)
MOST_CATEGORIES = 5


def day_range(days: int, now: datetime) -> list[date]:
    """Return the last ``days`` days in UTC, today last."""
    today = now.astimezone(UTC).date()
    return [today - timedelta(days=back) for back in range(days - 1, -1, -1)]


def spend_chart(rows: list[dict[str, Any]], days: list[date], currency: str) -> charts.BarChart | None:
    """Draw spend by day, the largest leases apart and the rest together.

    ``rows`` hold ``day``, ``lease`` (name) and ``amount``.
    """
    totals: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        totals[row["lease"]] += row["amount"]
    largest = sorted(totals, key=lambda name: (-totals[name], name))[:MOST_CATEGORIES]
    others = len(totals) > len(largest)
    values: dict[date, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in rows:
        name = row["lease"] if row["lease"] in largest else ""
        values[row["day"]][name] += row["amount"]
    names = [*largest, *([""] if others else [])]
    return charts.bar_chart(
        title=_("Spend by day"),
        categories=[name or _("Others") for name in names],
        bars=[
            charts.Bar(label=formats.date_format(day, "j M"), values=[values[day][name] for name in names])
            for day in days
        ],
        write=lambda amount: format_money(Decimal(str(amount)), currency),
        write_axis=lambda amount: _axis_money(amount, currency),
        label_heading=_("Day (UTC)"),
    )


def _axis_money(amount: int | float | Decimal, currency: str) -> str:
    """Write a round amount without its cents; the cents stay where a step is smaller than one."""
    value = Decimal(str(amount))
    return format_money(value, currency, places=0 if value == value.to_integral_value() else None)


def spend_rows(request: TenantRequest, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Return spend per UTC day and lease within ``[start, end)``."""
    found = (
        charges_of(user=request.user, organization=request.organization)
        .filter(started_at__gte=start, started_at__lt=end)
        .annotate(day=TruncDate("started_at", tzinfo=UTC), name=Coalesce(F("lease__name"), F("description")))
        .values("day", "name")
        .annotate(sum=Sum("amount"))
        .order_by("day", "name")
    )
    return [{"day": row["day"], "lease": row["name"], "amount": row["sum"]} for row in found]


@member_page("billing")
def usage_page(request: TenantRequest) -> HttpResponse:
    """Spend and GPU-hours by day and by lease."""
    now = timezone.now()
    wanted = request.GET.get("days", "30")
    length = next((days for days in RANGES if wanted == str(days)), 30)
    days = day_range(length, now)
    start = datetime.combine(days[0], time(), UTC)
    end = datetime.combine(days[-1] + timedelta(days=1), time(), UTC)
    account = account_for(request.organization)
    rows = spend_rows(request, start, end)
    by_lease = (
        charges_of(user=request.user, organization=request.organization)
        .filter(started_at__gte=start, started_at__lt=end)
        .values(
            "unit", lease_uid=F("lease__uid"), name=F("lease__name"), project_name=F("lease__project__name")
        )
        .annotate(amount_sum=Sum("amount"), quantity_sum=Sum("quantity"), first=Min("started_at"))
        .order_by("-amount_sum")
    )
    leases = [
        {**row, "gpu_hours": row["quantity_sum"] / 3600 if row["unit"] == "gpu_second" else None}
        for row in by_lease
    ]
    total = sum((row["amount_sum"] for row in leases), Decimal(0))
    gpu_hours = sum((row["gpu_hours"] or Decimal(0) for row in leases), Decimal(0))
    period = ngettext("last day", "last %(n)d days", length) % {"n": length}
    figures = [
        {
            "label": _("Spend"),
            "value": format_money(total, account.currency),
            "icon": "wallet",
            "note": period,
        },
        {
            "label": _("GPU-hours"),
            "value": formats.number_format(round(gpu_hours, 1), use_l10n=True, force_grouping=True),
            "icon": "cpu",
            "note": period,
        },
        {
            "label": _("Average per GPU-hour"),
            "value": format_money(total / gpu_hours, account.currency) if gpu_hours else "–",
            "icon": "tag",
            "note": _("before tax"),
        },
        {
            "label": _("Free to spend"),
            "value": format_money(account.spendable, account.currency),
            "icon": "piggy-bank",
            "note": _("after what is kept for leases"),
        },
    ]
    context = {
        "account": account,
        "figures": figures,
        "tabs": [
            {"label": _("%(n)d days") % {"n": n}, "url": f"?days={n}", "current": n == length} for n in RANGES
        ],
        "days": length,
        "chart": spend_chart(rows, days, account.currency),
        "leases": leases,
        "total": total,
        "gpu_hours": gpu_hours,
    }
    return render(request, "dashboard/usage.html", context)


class _Echo:
    """A file that hands back what is written, so that a CSV streams."""

    def write(self, value: str) -> str:
        return value


@member_page("billing")
def usage_csv(request: TenantRequest) -> StreamingHttpResponse:
    """Every charge of the organization as CSV, oldest first."""
    charges = (
        charges_of(user=request.user, organization=request.organization)
        .select_related("lease", "project")
        .order_by("started_at", "pk")
    )
    writer = csv.writer(_Echo())

    def safe(text: str) -> str:
        # A cell that begins like a formula would run in a spreadsheet.
        return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text

    def lines() -> Iterator[str]:
        yield writer.writerow(
            [
                "charge", "kind", "lease", "lease_name", "project", "start", "end", "quantity", "unit",
                "unit_price", "amount", "currency",
            ]
        )  # fmt: skip
        for row in charges.iterator(chunk_size=2000):
            yield writer.writerow(
                [
                    row.uid,
                    row.kind,
                    row.lease.uid if row.lease else "",
                    safe(row.lease.name) if row.lease else "",
                    safe(row.project.name) if row.project else "",
                    row.period.lower.isoformat(),
                    row.period.upper.isoformat(),
                    f"{row.quantity.normalize():f}",
                    row.unit,
                    f"{row.unit_price.normalize():f}",
                    f"{row.amount:f}",
                    row.currency,
                ]
            )

    return StreamingHttpResponse(
        lines(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
    )


@member_page("billing")
def invoice_list(request: TenantRequest) -> HttpResponse:
    """Invoices, newest first, and what is owed."""
    found = invoices_of(user=request.user, organization=request.organization)
    page = Paginator(found, 25).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "pages": page_links(request, page),
        "account": account_for(request.organization),
        "today": timezone.now().astimezone(UTC).date(),
    }
    return render(request, "dashboard/invoices.html", context)


@member_page("billing")
def invoice_detail(request: TenantRequest, uid: str) -> HttpResponse:
    """One invoice."""
    invoice = invoice_for(user=request.user, uid=uid, permission="billing", organization=request.organization)
    context = {
        "invoice": invoice,
        "lines": invoice.lines.select_related("lease"),
        "payments": invoice.payment_allocations.filter(reversed_at=None).select_related("payment"),
        "overdue": invoice.state == Invoice.State.OPEN
        and invoice.due_on is not None
        and invoice.due_on < timezone.now().astimezone(UTC).date(),
    }
    return render(request, "dashboard/invoice.html", context)


@member_page("billing")
def invoice_file(request: TenantRequest, uid: str) -> HttpResponse:
    """One invoice as PDF."""
    invoice = invoice_for(user=request.user, uid=uid, permission="billing", organization=request.organization)
    return HttpResponse(
        invoice_pdf(invoice),
        content_type="application/pdf",
        headers={"Content-Disposition": f'attachment; filename="{invoice.number}.pdf"'},
    )
