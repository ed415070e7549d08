"""Leases: the list, one lease, its settings, and cancelling it by quote."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.contrib.postgres.fields.ranges import RangeEndsWith
from django.core.paginator import Paginator
from django.db.models import Max, QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from billing import checkout, usage
from billing.access import quote_for
from billing.models import Quote, UsageRecord
from leases import configuration
from leases.access import lease_for, leases_of
from leases.models import Lease
from leases.provisioning.ssh import ssh_command
from leases.provisioning.timeline import timeline
from portal.accounts.access import Permission, project_for
from portal.common.errors import DomainError, NotFound
from portal.common.quantities import format_gpus
from portal.common.states import tone_of
from portal.dashboard import charts
from portal.dashboard.lease_forms import LeaseSettingsForm
from portal.dashboard.pages import page_links
from portal.dashboard.tenancy import TenantRequest, member_page, show_error

PER_PAGE = 25
CURRENT = ("provisioning", "active", "ending")
UPCOMING = ("held", "awaiting", "scheduled")
PAST = ("ended", "cancelled", "failed", "lapsed")
LIVE = CURRENT + UPCOMING


def with_terms(leases: QuerySet[Lease]) -> QuerySet[Lease]:
    """Fetch what a row of a list shows, whatever the number of rows."""
    return leases.select_related("project").prefetch_related("terms__gpu_model", "terms__region")


def lease_facts(lease: Lease) -> dict[str, Any]:
    """Return a lease's last term as pages show it (terms are prefetched)."""
    terms = list(lease.terms.all())
    last = terms[-1]
    return {
        "lease": lease,
        "term": last,
        "gpus": last.nodes * last.gpus_per_node,
        "start": terms[0].period.lower,
        "end": last.period.upper,
    }


def lease_bars(facts: list[dict[str, Any]]) -> list[charts.TimelineBar]:
    """Return the leases as bars of a timeline."""
    return [
        charts.TimelineBar(
            label=row["lease"].name,
            note=format_gpus(row["gpus"], model=row["term"].gpu_model.name),
            start=row["start"],
            end=row["end"],
            state=row["lease"].state,
            url=reverse("dashboard:lease", args=[row["lease"].uid]),
        )
        for row in facts
    ]


@member_page()
def lease_list(request: TenantRequest) -> HttpResponse:
    """All leases, by what they are doing, with a timeline of those that matter now."""
    mine = leases_of(user=request.user, organization=request.organization)
    project = None
    if request.GET.get("project"):
        project = project_for(
            user=request.user, uid=request.GET["project"], organization=request.organization
        )
        mine = mine.filter(project=project)
    groups = {
        "current": (_("Running"), mine.filter(state__in=CURRENT)),
        "upcoming": (_("Upcoming"), mine.filter(state__in=UPCOMING)),
        "past": (_("Past"), mine.filter(state__in=PAST)),
        "all": (_("All"), mine),
    }
    counts = {name: rows.count() for name, (_label, rows) in groups.items()}
    default = next((name for name in ("current", "upcoming", "all") if counts[name]), "all")
    chosen = request.GET.get("show", default)
    if chosen not in groups:
        chosen = default
    page = Paginator(with_terms(groups[chosen][1]).order_by("-pk"), PER_PAGE).get_page(
        request.GET.get("page")
    )
    now = timezone.now()
    recent = with_terms(mine.filter(state__in=(*LIVE, "ended")))[:40]
    bars = lease_bars(
        [
            row
            for row in map(lease_facts, recent)
            if row["end"] > now - timedelta(days=14) and row["start"] < now + timedelta(days=42)
        ]
    )
    suffix = f"&project={project.uid}" if project else ""
    context = {
        "tabs": [
            {
                "label": label,
                "url": f"?show={name}{suffix}",
                "current": name == chosen,
                "count": counts[name],
            }
            for name, (label, _rows) in groups.items()
        ],
        "rows": [lease_facts(lease) for lease in page],
        "pages": page_links(request, page),
        "show": chosen,
        "project": project,
        "timeline": charts.lease_timeline(
            title=_("Leases"),
            bars=bars,
            start=now - timedelta(days=14),
            end=now + timedelta(days=42),
            now=now,
        )
        if bars
        else None,
    }
    return render(request, "dashboard/leases.html", context)


def _machines(lease: Lease) -> list[dict[str, Any]]:
    """Return each node of the lease with its machine and how to reach it."""
    rows = []
    allocations = (
        lease.allocations.select_related("node__zone", "node__instance_type", "node__fabric")
        .prefetch_related("instances__accesses", "shortfalls")
        .order_by("pk")
    )
    for number, allocation in enumerate(allocations, start=1):
        instance = max(allocation.instances.all(), key=lambda found: found.pk, default=None)
        access = None
        if instance is not None:
            access = next((found for found in instance.accesses.all() if found.revoked_at is None), None)
        rows.append(
            {
                "number": number,
                "allocation": allocation,
                "instance": instance,
                "command": ssh_command(access) if access else "",
                "copy_id": f"copy-{allocation.pk}",
            }
        )
    return rows


ICONS = {
    "held": "clock",
    "awaiting": "wallet",
    "scheduled": "calendar-check",
    "provisioning": "loader",
    "active": "check",
    "ending": "power",
    "ended": "flag",
    "cancelled": "ban",
    "failed": "x",
    "lapsed": "clock-alert",
}


def _events(lease: Lease) -> list[dict[str, Any]]:
    """Return what happened, each with its icon and tone."""
    return [
        {
            "at": entry.at,
            "title": entry.title,
            "message": entry.message,
            "by": "" if entry.by == "system" else entry.by,
            "icon": ICONS.get(entry.state, "server"),
            "tone": tone_of(entry.state) if entry.state else "neutral",
        }
        for entry in timeline(lease)
    ]


@member_page()
def lease_detail(request: TenantRequest, uid: str) -> HttpResponse:
    """One lease: what was promised, what runs, how to get in, what it costs, what happened."""
    needed: Permission = "lease" if request.method == "POST" else "view"
    lease = lease_for(user=request.user, uid=uid, permission=needed, organization=request.organization)
    facts = lease_facts(lease)
    open_quote = (
        Quote.objects.filter(lease=lease, kind=Quote.Kind.BOOKING, state=Quote.State.OPEN)
        .order_by("-pk")
        .first()
    )
    form = LeaseSettingsForm(organization=request.organization, lease=lease)
    if request.method == "POST":
        form = LeaseSettingsForm(request.POST, organization=request.organization, lease=lease)
        if form.is_valid():
            try:
                configuration.configure_lease(
                    lease_uid=lease.uid,
                    organization=request.organization,
                    actor=request.user,
                    now=timezone.now(),
                    **form.cleaned_data,
                )
            except DomainError as error:
                show_error(error, form)
            else:
                messages.success(request, _("Saved."))
                return redirect("dashboard:lease", uid=lease.uid)
    now = timezone.now()
    shortfalls = lease.shortfalls.filter(closed_at=None).order_by("pk")
    context = {
        **facts,
        "now": now,
        "quote": open_quote if open_quote and open_quote.expires_at > now else None,
        "machines": _machines(lease),
        "shortfalls": shortfalls,
        "charged_until": UsageRecord.objects.filter(allocation__lease=lease).aggregate(
            until=Max(RangeEndsWith("period"))
        )["until"],
        "cost": usage.lease_cost(lease) if request.may & {"billing", "lease"} else None,
        "events": _events(lease),
        "form": form,
        "may_configure": "lease" in request.may and lease.state in configuration.OPEN_STATES,
        "may_cancel": "lease" in request.may and lease.state in ("awaiting", "scheduled"),
        "live": lease.state in (*CURRENT, "scheduled", "awaiting"),
        "ssh_keys": list(lease.ssh_keys.all()),
    }
    live_part = render_to_string("dashboard/_lease_live.html", context, request=request)
    seen = hashlib.sha256(f"{live_part}{context['cost']}".encode()).hexdigest()[:16]
    context |= {"live_part": live_part, "live_hash": seen}
    if not getattr(request, "htmx", None):
        return render(request, "dashboard/lease.html", context)
    if request.GET.get("state") != lease.state and not context["may_configure"]:
        # Another state, another page. While the set-up can be written in, only the parts that changed.
        return HttpResponse(status=204, headers={"HX-Refresh": "true"})
    if request.GET.get("seen") == seen and request.GET.get("state") == lease.state:
        return HttpResponse(status=204)  # leaves the page, its focus and its selection alone
    return render(request, "dashboard/_lease_refresh.html", context)


@require_POST
@member_page("lease")
def cancel_quote(request: TenantRequest, uid: str) -> HttpResponse:
    """Ask what cancelling costs, and show the answer."""
    lease = lease_for(user=request.user, uid=uid, permission="lease", organization=request.organization)
    try:
        quote = checkout.quote_cancellation(
            lease_uid=lease.uid, organization=request.organization, actor=request.user, now=timezone.now()
        )
    except DomainError as error:
        messages.error(request, error.message)
        return redirect("dashboard:lease", uid=lease.uid)
    return redirect("dashboard:lease-cancel", uid=lease.uid, quote=quote.uid)


@member_page("lease")
def cancel(request: TenantRequest, uid: str, quote: str) -> HttpResponse:
    """Show the cancellation quote; POST cancels on its terms."""
    lease = lease_for(user=request.user, uid=uid, permission="lease", organization=request.organization)
    terms = quote_for(user=request.user, uid=quote, permission="lease", organization=request.organization)
    if terms.lease_id != lease.pk:
        raise NotFound(_("There is no such quote for this lease."))
    if request.method == "POST":
        try:
            checkout.cancel(
                quote_uid=terms.uid,
                organization=request.organization,
                actor=request.user,
                now=timezone.now(),
            )
        except DomainError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, _("%(name)s was cancelled.") % {"name": lease.name})
        return redirect("dashboard:lease", uid=lease.uid)
    released = Decimal(str(terms.arithmetic.get("released") or 0))
    total = Decimal(str(terms.arithmetic.get("lease_total") or 0))
    context = {
        **lease_facts(lease),
        "quote": terms,
        "now": timezone.now(),
        "released": released,
        "lease_total": total,
    }
    return render(request, "dashboard/lease_cancel.html", context)
