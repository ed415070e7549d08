"""Commitments: enter what was bought, record its delivery, cancel what never came."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from inventory.admin.base import ReadOnlyInline, SupplyAdmin, form_page, moment_field, span, staff
from inventory.commitments import (
    cancel_commitment,
    check_commitment,
    enter,
    record_delivery,
    undelivered,
)
from inventory.models import Commitment, CommitmentDelivery, InstanceType, Zone
from portal.common.errors import DomainError, InvalidInput
from portal.common.html import BAD, GOOD, INFO, NEUTRAL, WARN, pill
from portal.common.money import format_money
from portal.common.periods import period

# Nodes were made from these: after a delivery they are history.
FIXED_BY_DELIVERY = ("account", "instance_type", "zone", "cutoff", "turnaround", "fabric_size")


class TypeField(forms.ModelChoiceField):
    def label_from_instance(self, item: Any) -> str:
        return f"{item.provider} {item.name} ({item.gpus_per_node} × {item.gpu_model})"


class ZoneField(forms.ModelChoiceField):
    def label_from_instance(self, zone: Any) -> str:
        return f"{zone.region.provider} {zone.code}"


class CommitmentForm(forms.ModelForm):
    """The promised period as two times; the rules are those of :func:`check_commitment`."""

    promised_start = moment_field(gettext_lazy("Promised from"))
    promised_end = moment_field(gettext_lazy("Promised until"))
    instance_type = TypeField(queryset=InstanceType.objects.select_related("provider", "gpu_model"))
    zone = ZoneField(
        queryset=Zone.objects.select_related("region__provider").order_by("region__provider", "code")
    )

    class Meta:
        model = Commitment
        fields = (
            "account",
            "instance_type",
            "zone",
            "reservation_id",
            "quantity",
            "payment",
            "cost_per_node_hour",
            "currency",
            "notice_date",
            "cutoff",
            "turnaround",
            "fabric_size",
            "note",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["promised_start"] = self.instance.promised.lower
            self.initial["promised_end"] = self.instance.promised.upper
            if self.instance.deliveries.exists():
                for name in ("promised_start", "promised_end"):
                    self.fields[name].disabled = True

    def clean(self) -> dict[str, Any]:
        values = super().clean() or self.cleaned_data
        if self.errors:
            return values
        try:
            self.instance.promised = period(values["promised_start"], values["promised_end"])
            for name, value in values.items():
                if name in self.Meta.fields:
                    setattr(self.instance, name, value)
            check_commitment(self.instance)
        except InvalidInput as error:
            field = "promised_end" if error.field in ("end", "promised") else error.field
            self.add_error(field if field in self.fields else None, error.message)
        return values


class DeliveryForm(forms.Form):
    nodes = forms.IntegerField(label=gettext_lazy("Nodes"), min_value=1)
    accepted_from = moment_field(
        gettext_lazy("Accepted from"),
        help_text=gettext_lazy("From when the nodes are ours: what the provider bills from."),
    )
    note = forms.CharField(label=gettext_lazy("Note"), max_length=200, required=False)

    def __init__(self, commitment: Commitment, data: Any = None) -> None:
        missing = undelivered(commitment)
        super().__init__(data, initial={"nodes": missing, "accepted_from": commitment.promised.lower})
        self.fields["nodes"].help_text = ngettext(
            "%(n)s node is still to come.", "%(n)s nodes are still to come.", missing
        ) % {"n": missing}


class DeliveryInline(ReadOnlyInline):
    model = CommitmentDelivery
    fields = ("nodes", "accepted_from", "recorded_by", "recorded_at", "note")


@admin.register(Commitment)
class CommitmentAdmin(SupplyAdmin):
    form = CommitmentForm
    list_display = (
        "reference",
        "state",
        "instance_type",
        "zone",
        "delivered_",
        "promised_",
        "notice_date",
        "cost",
    )
    list_filter = ("account", ("instance_type__gpu_model", admin.RelatedOnlyFieldListFilter), "payment")
    list_select_related = ("account", "instance_type", "zone")
    search_fields = ("uid", "reservation_id", "instance_type__name", "zone__code", "account__name")
    readonly_fields = ("state", "delivered_", "delivery_link")
    inlines = (DeliveryInline,)
    actions = ("cancel",)
    fieldsets = (
        (None, {"fields": ("account", "instance_type", "zone", "reservation_id", "quantity", "fabric_size")}),
        (
            gettext_lazy("Period"),
            {"fields": ("promised_start", "promised_end", "notice_date", "cutoff", "turnaround")},
        ),
        (gettext_lazy("Cost"), {"fields": ("payment", "cost_per_node_hour", "currency")}),
        (gettext_lazy("Delivery"), {"fields": ("state", "delivered_", "delivery_link", "note")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Commitment]:
        return super().get_queryset(request).annotate(delivered_n=Sum("deliveries__nodes", default=0))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        fixed = FIXED_BY_DELIVERY if obj and obj.deliveries.exists() else ()
        return (*self.readonly_fields, *fixed)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        before = {name: str(form.initial.get(name, "")) for name in form.changed_data} if change else None
        enter(obj, actor=staff(request), now=timezone.now(), before=before)

    def get_urls(self) -> list[URLPattern]:
        page = path(
            "<int:pk>/delivery/",
            self.admin_site.admin_view(self.delivery_view),
            name="inventory_commitment_delivery",
        )
        return [page, *super().get_urls()]

    def delivery_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(commitment: Commitment, values: dict[str, Any]) -> str:
            nodes = record_delivery(
                commitment_id=commitment.pk, actor=staff(request), now=timezone.now(), **values
            )
            return ngettext(
                "%(n)s node was added to the fleet.", "%(n)s nodes were added to the fleet.", len(nodes)
            ) % {"n": len(nodes)}

        def make(commitment: Commitment, request: HttpRequest) -> forms.Form:
            return DeliveryForm(commitment, request.POST if request.method == "POST" else None)

        return form_page(
            self, request, pk, title=_("Record delivery"), submit=_("Add the nodes"), make=make, act=act
        )

    @admin.display(description=gettext_lazy("delivered"), ordering="delivered_n")
    def delivered_(self, commitment: Any) -> str:
        if commitment.pk is None:
            return "–"
        return f"{commitment.delivered_n} / {commitment.quantity}"

    @admin.display(description=gettext_lazy("record"))
    def delivery_link(self, commitment: Any) -> str | SafeString:
        if commitment.pk is None:
            return _("Save first, then record what was delivered.")
        if commitment.cancelled_at or commitment.delivered_n >= commitment.quantity:
            return "–"
        url = reverse("admin:inventory_commitment_delivery", args=[commitment.pk])
        return format_html('<a class="button" href="{}">{}</a>', url, _("Record delivery"))

    @admin.display(description=gettext_lazy("commitment"), ordering="uid")
    def reference(self, commitment: Commitment) -> str:
        return commitment.uid

    @admin.display(description=gettext_lazy("promised"), ordering="promised")
    def promised_(self, commitment: Commitment) -> str:
        return span(commitment.promised.lower, commitment.promised.upper)

    @admin.display(description=gettext_lazy("per node and hour"), ordering="cost_per_node_hour")
    def cost(self, commitment: Commitment) -> str:
        return format_money(commitment.cost_per_node_hour, commitment.currency, places=4)

    @admin.display(description=gettext_lazy("state"))
    def state(self, commitment: Any) -> str | SafeString:
        if commitment.pk is None:
            return "–"
        now = timezone.now()
        if commitment.cancelled_at:
            return pill(_("Cancelled"))
        if commitment.promised.upper <= now:
            return pill(_("Ended"), NEUTRAL)
        if commitment.delivered_n >= commitment.quantity:
            return pill(_("Delivered"), GOOD)
        if commitment.promised.lower <= now:
            return pill(_("Late"), BAD)
        return pill(_("Partly delivered"), WARN) if commitment.delivered_n else pill(_("Signed"), INFO)

    @admin.action(description=gettext_lazy("Cancel (nothing delivered yet)"), permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Commitment]) -> None:
        for commitment in queryset.order_by("pk"):
            try:
                cancel_commitment(commitment_id=commitment.pk, actor=staff(request), now=timezone.now())
            except DomainError as error:
                messages.error(request, f"{commitment.uid}: {error}")
            else:
                messages.success(request, _("%(uid)s was cancelled.") % {"uid": commitment.uid})
