"""Buying: where demand exceeds what we hold, what each cloud would charge, and taking a choice."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from inventory.admin.base import ReadOnlyAdmin, show_form, span, staff
from inventory.models import Commitment
from leases.admin.base import link
from leases.admin.buying_forms import AskForm, CommitForm
from leases.buying import inquiries, purchases
from leases.buying.demand import Demand, demand
from leases.models import CapacityChoice, CapacityInquiry, CapacityPurchase, UnmetSearch
from portal.common.errors import DomainError, InvalidInput
from portal.common.money import format_money
from portal.common.periods import Period
from portal.common.quantities import format_gpus
from portal.common.states import BAD, GOOD, INFO, WARN, status_pill

AHEAD = {30: gettext_lazy("30 days"), 90: gettext_lazy("90 days"), 365: gettext_lazy("1 year")}
LEAST_HOURS = 24


@admin.register(UnmetSearch)
class UnmetSearchAdmin(ReadOnlyAdmin):
    list_display = ("what", "region_", "stack", "hours", "earliest", "latest", "times", "last_at")
    list_filter = (("gpu_model", admin.RelatedOnlyFieldListFilter), "searched_on")
    list_select_related = ("gpu_model", "region__provider", "stack")
    date_hierarchy = "last_at"
    fields = ("what", "region_", "stack", "one_fabric", "hours", "earliest", "latest", "times", "last_at")

    @admin.display(description=gettext_lazy("wanted"), ordering="nodes")
    def what(self, row: UnmetSearch) -> str:
        return f"{row.nodes} × {format_gpus(row.gpus_per_node, model=row.gpu_model.name)}"

    @admin.display(description=gettext_lazy("region"), ordering="region")
    def region_(self, row: UnmetSearch) -> str:
        return str(row.region) if row.region else _("any")


@admin.register(CapacityInquiry)
class CapacityInquiryAdmin(ReadOnlyAdmin):
    list_display = ("uid", "what", "between", "hours", "choices_", "asked_by", "created_at")
    list_filter = (("gpu_model", admin.RelatedOnlyFieldListFilter),)
    list_select_related = ("gpu_model", "asked_by")
    change_list_template = "admin/leases/inquiries.html"
    date_hierarchy = "created_at"

    def get_queryset(self, request: HttpRequest) -> QuerySet[CapacityInquiry]:
        return super().get_queryset(request).prefetch_related("choices__taken")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("leases.add_capacityinquiry")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("demand/", view(self.demand_view), name="leases_capacityinquiry_demand"),
            path("choice/<int:pk>/commit/", view(self.commit_view), name="leases_capacitychoice_commit"),
            path("choice/<int:pk>/buy/", view(self.buy_view), name="leases_capacitychoice_buy"),
            *super().get_urls(),
        ]

    @admin.display(description=gettext_lazy("wanted"), ordering="gpus")
    def what(self, inquiry: CapacityInquiry) -> str:
        return format_gpus(inquiry.gpus, model=inquiry.gpu_model.name)

    @admin.display(description=gettext_lazy("between"), ordering="window")
    def between(self, inquiry: CapacityInquiry) -> str:
        return span(inquiry.window.lower, inquiry.window.upper)

    @admin.display(description=gettext_lazy("choices"))
    def choices_(self, inquiry: CapacityInquiry) -> str:
        choices = list(inquiry.choices.all())
        taken = sum(hasattr(choice, "taken") for choice in choices)
        return ngettext("%(n)s choice", "%(n)s choices", len(choices)) % {"n": len(choices)} + (
            f", {ngettext('%(n)s taken', '%(n)s taken', taken) % {'n': taken}}" if taken else ""
        )

    # --- where demand exceeds what we hold

    def demand_view(self, request: HttpRequest) -> HttpResponse:
        """Show each GPU model: wanted in vain, held, used, ending; and ask the clouds from there."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = timezone.now()
        days = next((n for n in AHEAD if str(n) == request.GET.get("days")), 90)
        rows = demand(now=now, ahead=timedelta(days=days))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Demand and capacity"),
            "opts": self.opts,
            "days": days,
            "ranges": [{"label": label, "days": n, "current": n == days} for n, label in AHEAD.items()],
            "rows": [(row, self._ask_url(row, now)) for row in rows],
            "may_ask": self.has_add_permission(request),
            "ends": _ends(now, days),
        }
        return TemplateResponse(request, "admin/leases/demand.html", context)

    def _ask_url(self, row: Demand, now: datetime) -> str:
        start = max(row.first or now, now)
        hours = max(row.hours or 720, LEAST_HOURS)
        end = max(row.last or start, start + timedelta(hours=hours)) + timedelta(days=7)
        query: dict[str, str | int] = {
            "gpu_model": row.slug,
            "gpus": row.peak or row.ending or row.gpus_per_node or 8,
            "gpus_per_node": row.gpus_per_node or 8,
            "hours": hours,
            "start": f"{timezone.localtime(start):%Y-%m-%dT%H:%M}",
            "end": f"{timezone.localtime(end):%Y-%m-%dT%H:%M}",
        }
        return f"{reverse('admin:leases_capacityinquiry_add')}?{urlencode(query)}"

    # --- what each cloud would charge

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Ask the clouds."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        now = timezone.now()
        initial = {"hours": 720, "start": now, "end": now + timedelta(days=37), **request.GET.dict()}
        form = AskForm(request.POST if request.method == "POST" else None, initial=initial)
        if request.method == "POST" and form.is_valid():
            values = form.cleaned_data
            try:
                inquiry = inquiries.ask(
                    gpu_model=values["gpu_model"].slug,
                    gpus=values["gpus"],
                    gpus_per_node=values["gpus_per_node"],
                    hours=values["hours"],
                    start=values["start"],
                    end=values["end"],
                    actor=staff(request),
                    now=now,
                )
            except InvalidInput as error:
                form.add_error(error.field if error.field in form.fields else None, error.message)
            else:
                return HttpResponseRedirect(reverse("admin:leases_capacityinquiry_change", args=[inquiry.pk]))
        return show_form(self, request, form, title=_("Ask the clouds"), submit=_("Ask"))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show what each cloud would charge; asks itself anew until every cloud has answered."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        inquiry = self.get_object(request, object_id)
        if inquiry is None:
            raise Http404
        choices = list(
            inquiry.choices.select_related(
                "account", "instance_type__provider", "region__provider", "taken__commitment"
            )
        )
        rows = sorted((_row(choice) for choice in choices), key=lambda row: row["order"])
        context = {
            **self.admin_site.each_context(request),
            "title": format_gpus(inquiry.gpus, model=inquiry.gpu_model.name),
            "opts": self.opts,
            "inquiry": inquiry,
            "rows": rows,
            "waiting": inquiry.answered_at is None,
            "buying": any(row["state"] in ("pending", "calling") for row in rows),
            "may_buy": request.user.has_perm("leases.buy_capacity"),
        }
        name = "answers" if request.headers.get("HX-Request") else "inquiry"
        return TemplateResponse(request, f"admin/leases/{name}.html", context)

    # --- taking one

    def commit_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Turn a list price into a commitment."""
        choice = self._choice(request, pk, "inventory.add_commitment")
        hours = Decimal(int((choice.period.upper - choice.period.lower).total_seconds())) / 3600
        initial = {
            "quantity": choice.nodes,
            "cost_per_node_hour": (choice.total / choice.nodes / hours).quantize(Decimal("0.000001"))
            if choice.total
            else None,
            "payment": Commitment.Payment.MONTHLY,
            "start": choice.period.lower,
            "end": choice.period.upper,
        }
        form = CommitForm(request.POST if request.method == "POST" else None, initial=initial)
        if request.method == "POST" and form.is_valid():
            values = form.cleaned_data
            try:
                if values["end"] <= values["start"]:
                    raise InvalidInput(_("The end must be after the start."), field="end")
                commitment = purchases.commit_by_contract(
                    choice_id=choice.pk,
                    promised=Period(values.pop("start"), values.pop("end"), "[)"),
                    actor=staff(request),
                    now=timezone.now(),
                    **values,
                )
            except InvalidInput as error:
                field = "end" if error.field == "promised" else error.field
                form.add_error(field if field in form.fields else None, error.message)
            except DomainError as error:
                form.add_error(None, error.message)
            else:
                messages.success(
                    request, _("The commitment was entered. Record its delivery when the nodes are ours.")
                )
                return HttpResponseRedirect(
                    reverse("admin:inventory_commitment_change", args=[commitment.pk])
                )
        title = _("Commit to %(nodes)s × %(type)s at %(provider)s") % {
            "nodes": choice.nodes,
            "type": choice.instance_type.name,
            "provider": choice.instance_type.provider,
        }
        return show_form(
            self, request, form, title=title, submit=_("Enter the commitment"), row=choice.inquiry
        )

    def buy_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show once more what is bought, and buy it."""
        choice = self._choice(request, pk, "leases.buy_capacity")
        if request.method == "POST":
            try:
                purchases.buy(
                    choice_id=choice.pk,
                    agreed_total=request.POST.get("total", ""),
                    actor=staff(request),
                    now=timezone.now(),
                )
            except DomainError as error:
                messages.error(request, error.message)
            else:
                messages.success(request, _("It is being bought; this page says when it is ours."))
            return HttpResponseRedirect(
                reverse("admin:leases_capacityinquiry_change", args=[choice.inquiry_id])
            )
        context = {
            **self.admin_site.each_context(request),
            "title": _("Buy this reservation?"),
            "opts": self.opts,
            "inquiry": choice.inquiry,
            "row": _row(choice),
        }
        return TemplateResponse(request, "admin/leases/buy.html", context)

    def _choice(self, request: HttpRequest, pk: int, permission: str) -> CapacityChoice:
        if not request.user.has_perm(permission):
            raise PermissionDenied
        rows = CapacityChoice.objects.select_related(
            "account", "instance_type__provider", "region__provider", "inquiry__gpu_model"
        )
        return get_object_or_404(rows, pk=pk)


def _row(choice: CapacityChoice) -> dict[str, Any]:
    """Return a choice as the page shows it; prices per GPU-hour compare clouds."""
    hours = Decimal(int((choice.period.upper - choice.period.lower).total_seconds())) / 3600
    gpus = choice.nodes * choice.instance_type.gpus_per_node
    rate = choice.total / gpus / hours if choice.total else None
    taken = getattr(choice, "taken", None)
    return {
        "choice": choice,
        "gpus": gpus,
        "rate": rate,
        "order": (rate is None, rate or 0, choice.pk),
        "taken": taken,
        "state": taken.state if taken else "",
        "sold_by_api": bool(choice.offering_id),
    }


def _ends(now: datetime, days: int) -> QuerySet[Commitment]:
    """Return the commitments that end within the time ahead, the soonest first."""
    return (
        Commitment.objects.filter(
            cancelled_at=None,
            promised__endswith__gt=now,
            promised__endswith__lte=now + timedelta(days=days),
        )
        .select_related("account", "instance_type__gpu_model", "zone")
        .order_by("promised__endswith")
    )


PURCHASE_TONES = {
    CapacityPurchase.State.PENDING: INFO,
    CapacityPurchase.State.CALLING: WARN,
    CapacityPurchase.State.BOUGHT: GOOD,
    CapacityPurchase.State.FAILED: BAD,
}


@admin.register(CapacityPurchase)
class CapacityPurchaseAdmin(ReadOnlyAdmin):
    list_display = (
        "token",
        "state_",
        "choice",
        "total",
        "commitment_",
        "bought_by",
        "created_at",
        "last_error",
    )
    list_filter = ("state",)
    list_select_related = ("choice__instance_type", "choice__region__provider", "commitment", "bought_by")
    search_fields = ("token", "last_error")
    fields = (
        "token",
        "state_",
        "choice",
        "total",
        "commitment_",
        "bought_by",
        "created_at",
        "attempts",
        "called_at",
        "next_try_at",
        "last_error",
    )

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, purchase: CapacityPurchase) -> SafeString:
        return status_pill(
            purchase.state,
            purchase.get_state_display(),
            PURCHASE_TONES[CapacityPurchase.State(purchase.state)],
        )

    @admin.display(description=gettext_lazy("total"))
    def total(self, purchase: CapacityPurchase) -> str:
        choice = purchase.choice
        return format_money(choice.total, choice.currency) if choice.total else "–"

    @admin.display(description=gettext_lazy("commitment"))
    def commitment_(self, purchase: CapacityPurchase) -> str | SafeString:
        return link(purchase.commitment)
