"""What staff do to nodes: health, a shorter period, maintenance. Promises come first."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from inventory.admin.base import form_page, staff
from inventory.admin.nodes import NodeAdmin
from inventory.models import Node
from leases import capacity
from leases.admin.base import ActingAdmin, LookingInline, PeriodForm, bound, button, link, moment
from leases.models import Allocation
from portal.common.errors import DomainError, InvalidInput
from portal.common.periods import Period, period
from portal.common.states import INFO, NEUTRAL, status_pill


class HealthForm(forms.Form):
    health = forms.ChoiceField(label=gettext_lazy("Health"), choices=Node.Health.choices)
    note = forms.CharField(label=gettext_lazy("Note"), max_length=200, required=False)


class MaintenanceForm(PeriodForm):
    note = forms.CharField(label=gettext_lazy("What for"), max_length=200, required=False)


def _period(values: dict[str, Any]) -> Period:
    return period(values["start"], values["end"])


def _unless_touched(entered: datetime, known: datetime) -> datetime:
    """Return ``known`` where the browser, which shows minutes only, sent it back without its seconds."""
    return known if entered == known.replace(second=0, microsecond=0) else entered


class AllocationInline(LookingInline):
    model = Allocation
    verbose_name_plural = gettext_lazy("Now and later")
    fields = ("purpose", "lease_", "from_", "until", "free_from", "note")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Allocation]:
        now = timezone.now()
        return super().get_queryset(request).filter(occupied_until__gt=now).order_by("occupied_from")

    @admin.display(description=gettext_lazy("lease"))
    def lease_(self, allocation: Allocation) -> str | SafeString:
        return link(allocation.lease)

    @admin.display(description=gettext_lazy("from"))
    def from_(self, allocation: Allocation) -> str:
        return moment(allocation.period.lower)

    @admin.display(description=gettext_lazy("until"))
    def until(self, allocation: Allocation) -> str:
        return moment(allocation.period.upper)

    @admin.display(description=gettext_lazy("free from"))
    def free_from(self, allocation: Allocation) -> str:
        return moment(allocation.occupied.upper)


admin.site.unregister(Node)


@admin.register(Node)
class PromisedNodeAdmin(NodeAdmin):
    """The page of inventory, with the actions that leases decide about."""

    inlines = (AllocationInline,)

    def get_fields(self, request: HttpRequest, obj: Node | None = None) -> tuple[str, ...]:
        return (*NodeAdmin.fields, "actions_")

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Tell whether the person may use the actions, although no field can be typed over."""
        return request.user.has_perm("inventory.change_node")

    @admin.display(description=gettext_lazy("available from"), ordering="available")
    def from_(self, node: Node) -> str:
        return moment(node.available.lower)

    @admin.display(description=gettext_lazy("available until"))
    def until(self, node: Node) -> str:
        return moment(node.available.upper)

    @admin.display(description=gettext_lazy("change"))
    def actions_(self, node: Node) -> SafeString:
        buttons = (
            button("inventory_node_health", node, _("Set health")),
            button("inventory_node_available", node, _("Change its period")),
            button("inventory_node_maintenance", node, _("Plan maintenance")),
        )
        return format_html_join(" ", "{}", ((found,) for found in buttons))

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/health/", wrap(self.health_view), name="inventory_node_health"),
            path("<int:pk>/available/", wrap(self.available_view), name="inventory_node_available"),
            path("<int:pk>/maintenance/", wrap(self.maintenance_view), name="inventory_node_maintenance"),
            *super().get_urls(),
        ]

    def health_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(node: Node, values: dict[str, Any]) -> str:
            changed = capacity.set_health(node_id=node.pk, actor=staff(request), now=timezone.now(), **values)
            return _("%(node)s is %(health)s; its leases have been seen to.") % {
                "node": changed,
                "health": changed.get_health_display().lower(),
            }

        def make(node: Node, request: HttpRequest) -> forms.Form:
            return bound(HealthForm, request, {"health": node.health, "note": node.health_note})

        return self._page(request, pk, _("Set health"), _("Set health"), make, act)

    def available_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(node: Node, values: dict[str, Any]) -> str:
            start = _unless_touched(values["start"], node.available.lower)
            available = period(start, _unless_touched(values["end"], node.available.upper))
            capacity.shrink_node(
                node_id=node.pk, available=available, actor=staff(request), now=timezone.now()
            )
            return _("The period is changed. What no longer fitted was moved, or its customers are told.")

        def make(node: Node, request: HttpRequest) -> forms.Form:
            initial = {"start": node.available.lower, "end": node.available.upper}
            return bound(PeriodForm, request, initial)

        return self._page(request, pk, _("Change its period"), _("Change the period"), make, act)

    def maintenance_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(node: Node, values: dict[str, Any]) -> str:
            capacity.allocate_maintenance(
                node_id=node.pk,
                period=_period(values),
                note=values["note"],
                actor=staff(request),
                now=timezone.now(),
            )
            return _("The maintenance is planned: nobody can book the node then.")

        return self._page(
            request,
            pk,
            _("Plan maintenance"),
            _("Keep the node"),
            lambda node, request: bound(MaintenanceForm, request),
            act,
        )

    def _page(
        self, request: HttpRequest, pk: int, title: str, submit: str, make: Any, act: Any
    ) -> HttpResponse:
        def act_on_fields(node: Node, values: dict[str, Any]) -> str:
            try:
                return str(act(node, values))
            except InvalidInput as error:
                field = {"available": "end", "period": "end"}.get(error.field, error.field)
                raise InvalidInput(error.message, field=field) from error

        return form_page(
            self,
            request,
            pk,
            title=title,
            submit=submit,
            make=make,
            act=act_on_fields,
            allowed=self.has_act_permission(request),
        )


@admin.register(Allocation)
class AllocationAdmin(ActingAdmin):
    list_display = ("node", "purpose_", "lease_", "from_", "until", "delivered_", "note")
    list_filter = ("purpose", "node__region", "node__instance_type__gpu_model")
    list_select_related = ("node", "lease")
    search_fields = ("node__name", "lease__uid", "lease__name", "note")
    fields = ("node", "purpose_", "lease_", "from_", "until", "free_from", "delivered_", "note", "created_at")
    actions = ("end_maintenance",)

    @admin.display(description=gettext_lazy("purpose"), ordering="purpose")
    def purpose_(self, allocation: Allocation) -> SafeString:
        ours = allocation.purpose != Allocation.Purpose.LEASE
        return status_pill(allocation.purpose, allocation.get_purpose_display(), NEUTRAL if ours else INFO)

    @admin.display(description=gettext_lazy("lease"), ordering="lease")
    def lease_(self, allocation: Allocation) -> str | SafeString:
        return link(allocation.lease)

    @admin.display(description=gettext_lazy("from"), ordering="occupied_from")
    def from_(self, allocation: Allocation) -> str:
        return moment(allocation.period.lower)

    @admin.display(description=gettext_lazy("until"), ordering="occupied_until")
    def until(self, allocation: Allocation) -> str:
        return moment(allocation.period.upper)

    @admin.display(description=gettext_lazy("free from"))
    def free_from(self, allocation: Allocation) -> str:
        return moment(allocation.occupied.upper)

    @admin.display(description=gettext_lazy("delivered from"))
    def delivered_(self, allocation: Allocation) -> str:
        return moment(allocation.delivered.lower if allocation.delivered else None)

    @admin.action(description=gettext_lazy("End maintenance now"), permissions=["act"])
    def end_maintenance(self, request: HttpRequest, queryset: QuerySet[Allocation]) -> None:
        ended = 0
        for pk in queryset.filter(~Q(purpose=Allocation.Purpose.LEASE)).values_list("pk", flat=True):
            try:
                capacity.release_maintenance(allocation_id=pk, actor=staff(request), now=timezone.now())
            except DomainError as error:
                messages.error(request, error.message)
            else:
                ended += 1
        if ended:
            text = ngettext("%(n)s maintenance was ended.", "%(n)s maintenances were ended.", ended)
            messages.success(request, text % {"n": ended})
        else:
            messages.warning(request, _("Choose maintenance or tests that are not over."))
