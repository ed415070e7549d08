"""Reserving: look for capacity, get a quote, set the lease up, accept."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from allauth.account.adapter import get_adapter
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import formats, timezone
from django.utils.dateparse import parse_datetime
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from billing import availability, checkout
from billing.access import quote_for
from billing.accounts import account_for
from billing.checkout import InsufficientFunds, QuoteExpired
from billing.models import Quote
from inventory.models import GpuModel, SoftwareStack
from leases import configuration
from leases import search as capacity
from leases.errors import NotEnoughCapacity
from leases.requests import CapacityRequest
from portal.accounts.organizations import NotApproved
from portal.common.errors import DomainError, InvalidInput
from portal.common.money import format_money
from portal.dashboard import charts
from portal.dashboard.lease_forms import LeaseSettingsForm, SearchForm
from portal.dashboard.tenancy import TenantRequest, member_page, show_error

CALENDAR_DAYS = 28


def local_midnight(now: datetime) -> datetime:
    """Return the beginning of today in the person's zone."""
    return timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)


def calendar_chart(now: datetime, *, days: int = CALENDAR_DAYS) -> charts.HeatMap | None:
    """Draw how many GPUs are free on each day; every free cell leads to its search."""
    midnight = local_midnight(now)
    rows = capacity.calendar(days=days, start=midnight.astimezone(UTC), now=now)
    drawn = []
    for row in rows:
        urls = []
        for day in row.days:
            begin = max(day.start, (now + timedelta(hours=1)).replace(minute=0, second=0, microsecond=0))
            query = urlencode(
                {
                    "gpu": f"{row.gpu_model}:{row.gpus_per_node}",
                    "nodes": "1",
                    "earliest": f"{timezone.localtime(begin):%Y-%m-%dT%H:%M}",
                    "latest": f"{timezone.localtime(begin) + timedelta(days=14):%Y-%m-%dT%H:%M}",
                    "duration": "1",
                    "unit": "24",
                    "region": row.region,
                }
            )
            urls.append(f"{reverse('dashboard:availability')}?{query}#results" if day.nodes_free else "")
        drawn.append(
            charts.HeatRow(
                label=row.gpu_name,
                note=row.region.rpartition("/")[2],
                values=[
                    day.nodes_free * row.gpus_per_node if day.nodes_held or day.nodes_free else None
                    for day in row.days
                ],
                urls=urls,
                capacity=max((day.nodes_held for day in row.days), default=0) * row.gpus_per_node,
            )
        )
    return charts.heat_map(
        title=_("Free GPUs, next %(days)d days") % {"days": days},
        days=[(midnight + timedelta(days=number)).date() for number in range(days)],
        rows=drawn,
    )


def _wanted(data: dict[str, Any]) -> CapacityRequest:
    return CapacityRequest(
        gpu_model=data["gpu_model"],
        gpus_per_node=data["gpus_per_node"],
        nodes=data["nodes"],
        start=data["earliest"].astimezone(UTC),
        end=data["latest"].astimezone(UTC),
        region=data["region"] or None,
        one_fabric=data["one_fabric"],
        stack=data["stack"] or None,
    )


def _near_miss_texts() -> dict[str, str]:
    return {
        "shorter": _("Shorter"),
        "longer": _("Fewer nodes, longer"),
        "fewer": _("Fewer nodes"),
        "later": _("Later"),
        "earlier": _("Earlier"),
        "other_region": _("Another region"),
        "other_gpu": _("Another GPU"),
        "other_stack": _("Other software"),
    }


def near_miss_rows(alternatives: list[Any], names: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Return near misses for a table; each can be quoted as it is. Takes objects or their JSON facts."""
    names = names or dict(GpuModel.objects.values_list("slug", "name"))
    texts = _near_miss_texts()
    found = [near if isinstance(near, dict) else near.as_dict() for near in alternatives]
    others = {facts["stack"] for facts in found if facts["kind"] == "other_stack"}
    stacks = {stack.slug: stack for stack in SoftwareStack.objects.filter(slug__in=others)} if others else {}
    return [
        {
            **facts,
            "what": texts.get(facts["kind"], facts["kind"]),
            "other_stack": stacks.get(facts["stack"] or ""),
            "start": datetime.fromisoformat(facts["start"]),
            "end": datetime.fromisoformat(facts["end"]),
            "gpus": facts["nodes"] * facts["gpus_per_node"],
            "gpu_name": names.get(facts["gpu_model"], facts["gpu_model"]),
        }
        for facts in found
    ]


def chosen_stack(form: SearchForm) -> SoftwareStack | None:
    """Return the software that the person asked for."""
    slug = getattr(form, "cleaned_data", {}).get("stack")
    return next((row.stack for row in form.stacks if row.stack.slug == slug), None)


@member_page()
def search_page(request: TenantRequest) -> HttpResponse:
    """The calendar, the search, and what it found: slots with prices, or near misses."""
    now = timezone.now()
    asked = "gpu" in request.GET
    form = SearchForm(request.GET if asked else None, initial=SearchForm.defaults(now))
    found = None
    if asked and form.is_valid():
        try:
            found = availability.search(
                organization=request.organization,
                request=_wanted(form.cleaned_data),
                hours=form.cleaned_data["hours"],
                now=now,
            )
        except InvalidInput as error:
            field = {"start": "earliest", "end": "latest", "hours": "duration"}.get(error.field, error.field)
            form.add_error(field if field in form.fields else None, error.message)
    names = dict(GpuModel.objects.values_list("slug", "name"))
    context: dict[str, Any] = {
        "form": form,
        "asked": asked,
        "found": found,
        "names": names,
        "near": near_miss_rows(found.alternatives, names) if found else [],
        "gpu_name": names.get(form.cleaned_data.get("gpu_model", ""), "")
        if asked and form.is_valid()
        else "",
        "stack": chosen_stack(form),
        "may_lease": "lease" in request.may,
    }
    if getattr(request, "htmx", None):
        return render(request, "dashboard/_search_results.html", context)
    context["calendar"] = calendar_chart(now)
    return render(request, "dashboard/availability.html", context)


def _posted_request(data: QueryDict) -> CapacityRequest:
    """Read a slot that the page offered; raises InvalidInput for what was tampered with."""

    def number(field: str) -> int:
        text = data.get(field, "")
        if not (text.isascii() and text.isdigit() and len(text) < 6):
            raise InvalidInput(_("%(field)s must be a whole number.") % {"field": field}, field=field)
        return int(text)

    def moment(field: str) -> datetime:
        try:
            value = parse_datetime(data.get(field, ""))
            if value is not None and value.tzinfo is not None:
                return value.astimezone(UTC)
        except (ValueError, OverflowError):  # no such day, or one beyond the calendar in UTC
            pass
        raise InvalidInput(_("%(field)s must be a time with its zone.") % {"field": field}, field=field)

    def word(field: str, longest: int) -> str:
        text = data.get(field, "")
        if len(text) > longest or not text.isprintable():
            raise InvalidInput(_("%(field)s is not one that we know.") % {"field": field}, field=field)
        return text

    return CapacityRequest(
        gpu_model=word("gpu_model", 60),
        gpus_per_node=number("gpus_per_node"),
        nodes=number("nodes"),
        start=moment("start"),
        end=moment("end"),
        region=word("region", 120) or None,
        one_fabric=data.get("one_fabric") in ("True", "true", "1", "on"),
        stack=word("stack", 50) or None,
    )


def _own_address(request: HttpRequest) -> list[str]:
    """Return the person's own address: the likeliest network to connect from.

    Behind our proxy that is the address it names, never the proxy's: that would get in instead of the customer.
    """
    try:
        return [str(ipaddress.ip_address(get_adapter(request).get_client_ip(request)))]
    except (PermissionDenied, ValueError):  # unknown, or no address: the person writes it
        return []


@require_POST
@member_page("lease")
def quote_create(request: TenantRequest) -> HttpResponse:
    """Hold the chosen slot and make its quote."""
    organization = request.organization
    try:
        wanted = _posted_request(request.POST)
        quote = checkout.quote(
            organization=organization,
            request=wanted,
            actor=request.user,
            now=timezone.now(),
            name="",
            ssh_keys=list(organization.ssh_keys.filter(added_by=request.user)),
            allowed_addresses=_own_address(request),
        )
    except NotEnoughCapacity as error:
        messages.warning(request, error.message)
        near = near_miss_rows(error.extra.get("alternatives", []))
        return render(
            request, "dashboard/taken.html", {"near": near, "wanted": wanted, "may_lease": True}, status=409
        )
    except NotApproved as error:
        messages.error(request, error.message)
        return redirect("dashboard:organization")
    except DomainError as error:
        messages.error(request, error.message)
        return redirect("dashboard:availability")
    return redirect("dashboard:quote", uid=quote.uid)


def arithmetic_rows(quote: Quote) -> list[tuple[str, str]]:
    """Return how the total came about, as lines for people."""
    facts = quote.arithmetic
    rows = []
    if facts.get("gpus") and facts.get("seconds"):
        hours = Decimal(str(facts["seconds"])) / 3600
        rows.append(
            (
                _("%(gpus)d GPUs × %(hours)s hours") % {"gpus": facts["gpus"], "hours": _hours(hours)},
                _("%(hours)s GPU-hours") % {"hours": _hours(hours * facts["gpus"])},
            )
        )
    if quote.rate_per_gpu_hour is not None:
        rows.append(
            (_("× rate per GPU-hour"), format_money(quote.rate_per_gpu_hour, quote.currency, places=4))
        )
    return rows


def _hours(hours: Decimal) -> str:
    """Write hours with the decimals that they have, two at most."""
    places = 0 if hours == hours.to_integral_value() else 2
    return formats.number_format(hours, decimal_pos=places, use_l10n=True, force_grouping=True)


def quoted_tax(quote: Quote) -> Decimal:
    """Return the tax that comes on top of the quote's total."""
    return Decimal(str(quote.arithmetic.get("tax", {}).get("amount") or 0))


@member_page()
def quote_page(request: TenantRequest, uid: str) -> HttpResponse:
    """A quote with its countdown, the lease's set-up, and accepting it."""
    quote = quote_for(user=request.user, uid=uid, organization=request.organization)
    lease = quote.lease
    now = timezone.now()
    live = quote.state == Quote.State.OPEN and quote.expires_at > now
    form = LeaseSettingsForm(request.POST or None, organization=request.organization, lease=lease)
    missing: dict[str, Any] | None = None
    if request.method == "POST" and "lease" in request.may and form.is_valid():
        try:
            configuration.configure_lease(
                lease_uid=lease.uid,
                organization=request.organization,
                actor=request.user,
                now=now,
                **form.cleaned_data,
            )
            accepted = checkout.accept(
                quote_uid=quote.uid,
                organization=request.organization,
                actor=request.user,
                now=now,
                wait_for_funds="wait" in request.POST,
            )
        except InsufficientFunds as error:
            missing = {"message": error.message, **error.extra}
        except (QuoteExpired, configuration.TooLate) as error:
            messages.error(request, error.message)
            return redirect("dashboard:quote", uid=quote.uid)
        except DomainError as error:
            show_error(error, form)
        else:
            messages.success(
                request, _("%(name)s is reserved. It starts by itself.") % {"name": accepted.name}
            )
            return redirect("dashboard:lease", uid=accepted.uid)
    term = lease.terms.select_related("gpu_model", "region").first()
    context = {
        "quote": quote,
        "lease": lease,
        "term": term,
        "gpus": term.nodes * term.gpus_per_node if term else 0,
        "live": live,
        "form": form,
        "missing": missing,
        "arithmetic": arithmetic_rows(quote),
        "tax": quoted_tax(quote),
        "with_tax": quote.total + quoted_tax(quote),
        "account": account_for(request.organization),
        "may_accept": "lease" in request.may and live,
    }
    return render(request, "dashboard/quote.html", context, status=402 if missing else 200)


@require_POST
@member_page("lease")
def quote_drop(request: TenantRequest, uid: str) -> HttpResponse:
    """Give the held nodes back before the quote lapses."""
    quote = quote_for(user=request.user, uid=uid, permission="lease", organization=request.organization)
    try:
        checkout.decline(
            quote_uid=quote.uid, organization=request.organization, actor=request.user, now=timezone.now()
        )
    except DomainError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, _("The quote was dropped; nothing is kept or charged."))
    return redirect("dashboard:availability")
