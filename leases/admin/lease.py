"""Leases: the list, one page with all that belongs to a lease, and what staff may do to it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Prefetch, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from inventory.admin.base import form_page, span, staff
from leases import capacity
from leases.admin.base import ActingAdmin, AgreedForm, LookingInline, ReasonForm, bound, button, link, moment
from leases.lifecycle import WAITING
from leases.models import Allocation, Instance, LaunchIntent, Lease, Shortfall, Term, Turnover
from leases.provisioning import ending
from leases.provisioning.facts import RUNS
from portal.accounts.models import Event
from portal.common.money import format_money
from portal.common.quantities import format_gpus
from portal.common.states import BAD, GOOD, status_pill

EVENTS = 100
MACHINE_TONES: dict[str, str] = {Instance.State.LOST: BAD}
INTENT_TONES: dict[str, str] = {LaunchIntent.State.LAUNCHED: GOOD, LaunchIntent.State.FAILED: BAD}


class ShortfallFilter(admin.SimpleListFilter):
    title = gettext_lazy("missing nodes")
    parameter_name = "missing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", gettext_lazy("Some are missing now"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Lease]) -> QuerySet[Lease]:
        if self.value() != "open":
            return queryset
        return queryset.filter(
            pk__in=Shortfall.objects.filter(closed_at=None, period__contains=timezone.now()).values("lease")
        )


class TermInline(LookingInline):
    model = Term
    fields = ("from_", "until", "nodes", "gpu_model", "gpus_per_node", "region", "rate", "quote_uid")
    readonly_fields = fields

    @admin.display(description=gettext_lazy("from"))
    def from_(self, term: Term) -> str:
        return moment(term.period.lower)

    @admin.display(description=gettext_lazy("until"))
    def until(self, term: Term) -> str:
        return moment(term.period.upper)

    @admin.display(description=gettext_lazy("per GPU-hour"))
    def rate(self, term: Term) -> str:
        if term.rate_per_gpu_hour is None:
            return "–"
        return format_money(term.rate_per_gpu_hour, term.currency, places=4)


class AllocationInline(LookingInline):
    model = Allocation
    fields = ("node", "from_", "until", "delivered_from", "delivered_until")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Allocation]:
        return super().get_queryset(request).select_related("node")

    @admin.display(description=gettext_lazy("from"))
    def from_(self, allocation: Allocation) -> str:
        return moment(allocation.period.lower)

    @admin.display(description=gettext_lazy("until"))
    def until(self, allocation: Allocation) -> str:
        return moment(allocation.period.upper)

    @admin.display(description=gettext_lazy("delivered from"))
    def delivered_from(self, allocation: Allocation) -> str:
        return moment(allocation.delivered.lower if allocation.delivered else None)

    @admin.display(description=gettext_lazy("delivered until"))
    def delivered_until(self, allocation: Allocation) -> str:
        return moment(allocation.delivered.upper if allocation.delivered else None)


class ShortfallInline(LookingInline):
    model = Shortfall
    fields = ("cause", "detail", "from_", "until", "told_at", "closed_at", "fill")
    readonly_fields = fields

    @admin.display(description=gettext_lazy("since"))
    def from_(self, shortfall: Shortfall) -> str:
        return moment(shortfall.period.lower)

    @admin.display(description=gettext_lazy("until"))
    def until(self, shortfall: Shortfall) -> str:
        return moment(shortfall.period.upper)

    @admin.display(description="")
    def fill(self, shortfall: Shortfall) -> str | SafeString:
        if shortfall.closed_at or shortfall.pk is None:
            return ""
        return button("leases_shortfall_replace", shortfall, _("Give another node"))


@admin.register(Lease)
class LeaseAdmin(ActingAdmin):
    change_form_template = "admin/leases/lease/change_form.html"
    list_display = ("uid", "name", "organization", "state_", "gpus", "period", "missing")
    list_filter = (
        "state",
        ShortfallFilter,
        ("terms__gpu_model", admin.RelatedOnlyFieldListFilter),
        "organization__segment",
    )
    list_select_related = ("organization",)
    search_fields = (
        "uid",
        "name",
        "organization__name",
        "organization__uid",
        "allocations__node__name",
        "allocations__instances__provider_id",
    )
    date_hierarchy = "created_at"
    inlines = (TermInline, AllocationInline, ShortfallInline)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "uid",
                    "name",
                    "organization",
                    "project",
                    "state_",
                    "state_changed_at",
                    "deadline",
                    "kind",
                    "actions_",
                )
            },
        ),
        (
            gettext_lazy("Terms of use"),
            {"fields": ("one_fabric", "stack", "image", "keys", "allowed_addresses")},
        ),
        (gettext_lazy("Booked"), {"fields": ("created_by", "created_at")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Lease]:
        missing = Q(shortfalls__closed_at=None, shortfalls__period__contains=timezone.now())
        terms = Prefetch("terms", Term.objects.select_related("gpu_model").order_by("period"))
        return (
            super()
            .get_queryset(request)
            .prefetch_related(terms)
            .annotate(missing_n=Count("shortfalls", filter=missing, distinct=True))
        )

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, lease: Lease) -> SafeString:
        return status_pill(lease.state, lease.get_state_display())

    @admin.display(description=gettext_lazy("GPUs"))
    def gpus(self, lease: Lease) -> str:
        terms = lease.terms.all()
        words = (format_gpus(term.nodes * term.gpus_per_node, model=term.gpu_model.name) for term in terms)
        return ", ".join(word.replace(" ", "\u00a0") for word in words)

    @admin.display(description=gettext_lazy("period"))
    def period(self, lease: Lease) -> str:
        terms = list(lease.terms.all())
        return span(terms[0].period.lower, terms[-1].period.upper) if terms else "–"

    @admin.display(description=gettext_lazy("missing"), ordering="missing_n")
    def missing(self, lease: Any) -> str | SafeString:
        return status_pill("shortfall", str(lease.missing_n)) if lease.missing_n else "–"

    @admin.display(description=gettext_lazy("SSH keys"))
    def keys(self, lease: Lease) -> str | SafeString:
        keys = [(key.name, key.fingerprint) for key in lease.ssh_keys.order_by("pk")]
        return format_html_join(", ", '{} <span class="sb-muted">{}</span>', keys) or "–"

    @admin.display(description=gettext_lazy("change"))
    def actions_(self, lease: Lease) -> str | SafeString:
        if lease.state in RUNS:
            return button("leases_lease_end", lease, _("End early"))
        if lease.state in (*WAITING, Lease.State.SCHEDULED):
            return button("leases_lease_cancel", lease, _("Cancel"))
        return _("This lease is over: nothing can be done to it.")

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/end/", wrap(self.end_view), name="leases_lease_end"),
            path("<int:pk>/cancel/", wrap(self.cancel_view), name="leases_lease_cancel"),
            *super().get_urls(),
        ]

    def end_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(lease: Lease, values: dict[str, Any]) -> str:
            ending.end_early(
                lease_uid=lease.uid, reason=values["reason"], actor=staff(request), now=timezone.now()
            )
            return _("The lease is ending: access is revoked, and its machines are being ended.")

        return self._reason(request, pk, _("End early"), _("End the lease now"), act)

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(lease: Lease, values: dict[str, Any]) -> str:
            ending.cancel(
                lease_uid=lease.uid, reason=values["reason"], actor=staff(request), now=timezone.now()
            )
            return _("The lease is cancelled without a fee, and its nodes are free.")

        return self._reason(request, pk, _("Cancel"), _("Cancel the lease"), act)

    def _reason(self, request: HttpRequest, pk: int, title: str, submit: str, act: Any) -> HttpResponse:
        return form_page(
            self,
            request,
            pk,
            title=title,
            submit=submit,
            make=lambda lease, request: bound(ReasonForm, request),
            act=act,
            allowed=self.has_act_permission(request),
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), **_about(object_id)}
        )


def _about(object_id: str) -> dict[str, Any]:
    """Return what the lease's page shows below its own rows: machines, journal, turnovers, events."""
    lease = Lease.objects.filter(pk=int(object_id)).first() if object_id.isdigit() else None
    if lease is None:
        return {}
    instances = Instance.objects.filter(allocation__lease=lease).select_related("allocation__node")
    intents = LaunchIntent.objects.filter(allocation__lease=lease).select_related("allocation__node")
    turnovers = Turnover.objects.filter(allocation__lease=lease).select_related("allocation__node")
    events = Event.objects.filter(subject_type="lease", subject_id=lease.uid).order_by("-pk")
    return {
        "machine_rows": [
            (row, status_pill(row.state, row.get_state_display(), MACHINE_TONES.get(row.state, "")))
            for row in instances
        ],
        "intent_rows": [
            (
                row,
                status_pill(row.state, row.get_state_display(), INTENT_TONES.get(row.state, "")),
            )
            for row in intents
        ],
        "turnover_rows": turnovers,
        "event_rows": events[:EVENTS],
    }


@admin.register(Shortfall)
class ShortfallAdmin(ActingAdmin):
    list_display = ("lease_", "cause", "detail", "from_", "until", "state_", "told_at")
    list_filter = ("cause", ("closed_at", admin.EmptyFieldListFilter), "lease__state")
    list_select_related = ("lease",)
    search_fields = ("lease__uid", "lease__name", "lease__organization__name")
    fields = ("lease_", "allocation", "cause", "detail", "from_", "until", "state_", "told_at", "closed_at")

    @admin.display(description=gettext_lazy("lease"), ordering="lease")
    def lease_(self, shortfall: Shortfall) -> str | SafeString:
        return link(shortfall.lease)

    @admin.display(description=gettext_lazy("since"), ordering="period")
    def from_(self, shortfall: Shortfall) -> str:
        return moment(shortfall.period.lower)

    @admin.display(description=gettext_lazy("until"))
    def until(self, shortfall: Shortfall) -> str:
        return moment(shortfall.period.upper)

    @admin.display(description=gettext_lazy("state"), ordering="closed_at")
    def state_(self, shortfall: Shortfall) -> SafeString:
        if shortfall.closed_at:
            return status_pill("closed", _("Closed"))
        return status_pill("shortfall", _("Open"))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.replace_view)
        return [path("<int:pk>/replace/", view, name="leases_shortfall_replace"), *super().get_urls()]

    def replace_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(shortfall: Shortfall, values: dict[str, Any]) -> str:
            capacity.replace_missing(shortfall_id=shortfall.pk, actor=staff(request), now=timezone.now())
            return _("The lease has another node; its machine starts next.")

        return form_page(
            self,
            request,
            pk,
            title=_("Give another node"),
            submit=_("Give an equal free node"),
            make=lambda shortfall, request: bound(AgreedForm, request),
            act=act,
            allowed=self.has_act_permission(request),
        )
