"""Providers, places, GPU models, instance types, and offers with their freshness."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.db.models import Count, F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from inventory.admin.base import ReadOnlyAdmin, ReadOnlyInline, SupplyAdmin
from inventory.models import GpuModel, InstanceType, Offer, PollRun, PricePoint, Provider, Region, Zone
from inventory.prices import API
from inventory.providers.registry import kinds
from portal.common.freshness import stamp
from portal.common.html import BAD, GOOD, NEUTRAL, pill
from portal.common.money import format_money

AVAILABILITY = {
    Offer.Availability.AVAILABLE: GOOD,
    Offer.Availability.UNAVAILABLE: BAD,
    Offer.Availability.UNKNOWN: NEUTRAL,
}


class ProviderForm(forms.ModelForm):
    """The adapter is one of those that are installed, or none."""

    kind = forms.ChoiceField(label=gettext_lazy("adapter"), required=False)

    class Meta:
        model = Provider
        fields = ("slug", "name", "kind")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = cast(forms.ChoiceField, self.fields["kind"])
        installed = kinds()
        field.choices = [("", _("None: known from a rate card only")), *((kind, kind) for kind in installed)]
        if (kind := self.instance.kind) and kind not in installed:
            field.choices = [*field.choices, (kind, _("%(kind)s (not installed)") % {"kind": kind})]


@admin.register(Provider)
class ProviderAdmin(SupplyAdmin):
    form = ProviderForm
    deletable = True
    list_display = ("name", "slug", "kind", "regions_", "types_", "accounts_")
    search_fields = ("name", "slug")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        counts = {name: Count(name, distinct=True) for name in ("regions", "instance_types", "accounts")}
        return (
            super().get_queryset(request).annotate(**{f"{name}_n": count for name, count in counts.items()})
        )

    @admin.display(description=gettext_lazy("regions"), ordering="regions_n")
    def regions_(self, provider: Any) -> int:
        return provider.regions_n

    @admin.display(description=gettext_lazy("instance types"), ordering="instance_types_n")
    def types_(self, provider: Any) -> int:
        return provider.instance_types_n

    @admin.display(description=gettext_lazy("accounts"), ordering="accounts_n")
    def accounts_(self, provider: Any) -> int:
        return provider.accounts_n


@admin.register(Region)
class RegionAdmin(SupplyAdmin):
    list_display = ("code", "provider", "name")
    list_filter = ("provider",)
    list_select_related = ("provider",)
    search_fields = ("code", "name", "provider__name", "provider__slug")


@admin.register(Zone)
class ZoneAdmin(SupplyAdmin):
    list_display = ("code", "region")
    list_filter = ("region__provider",)
    list_select_related = ("region__provider",)
    search_fields = ("code", "region__code", "region__provider__name")


@admin.register(GpuModel)
class GpuModelAdmin(SupplyAdmin):
    deletable = True
    list_display = ("name", "slug", "vendor", "memory_gib", "family")
    list_filter = ("vendor", "family")
    search_fields = ("name", "slug")


@admin.register(InstanceType)
class InstanceTypeAdmin(SupplyAdmin):
    deletable = True
    list_display = ("name", "provider", "gpu_model", "gpus_per_node", "vcpus", "memory_gib", "interconnect")
    list_filter = ("provider", ("gpu_model", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("provider", "gpu_model")
    search_fields = ("name", "gpu_model__name", "gpu_model__slug")


class PricePointInline(ReadOnlyInline):
    model = PricePoint
    fields = ("price", "currency", "source", "from_", "until")
    readonly_fields = fields
    ordering = ("-period",)
    verbose_name_plural = gettext_lazy("price history")

    @admin.display(description=gettext_lazy("from"))
    def from_(self, point: PricePoint) -> Any:
        return point.period.lower

    @admin.display(description=gettext_lazy("until"))
    def until(self, point: PricePoint) -> Any:
        return point.period.upper or _("now")


@admin.register(Offer)
class OfferAdmin(ReadOnlyAdmin):
    list_display = (
        "instance_type",
        "region",
        "purchase",
        "availability_",
        "signal_age",
        "per_hour",
        "price_from",
    )
    list_filter = (
        "region__provider",
        "purchase",
        "availability",
        ("instance_type__gpu_model", admin.RelatedOnlyFieldListFilter),
    )
    list_select_related = ("instance_type__gpu_model", "region__provider")
    search_fields = ("instance_type__name", "region__code", "instance_type__gpu_model__name")
    inlines = (PricePointInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Offer]:
        polls = PollRun.objects.filter(
            state=PollRun.State.COMPLETE,
            region=OuterRef("region"),
            account=Coalesce(OuterRef("account"), F("account")),  # any, where none tells about the offer
        )
        last = polls.order_by("-finished_at").values("finished_at")[:1]
        return super().get_queryset(request).annotate(polled_at=Subquery(last))

    @admin.display(description=gettext_lazy("price per hour"), ordering="price", empty_value="–")
    def per_hour(self, offer: Offer) -> str | None:
        return format_money(offer.price, offer.currency, places=4) if offer.price is not None else None

    @admin.display(description=gettext_lazy("price from"), ordering="price_seen_at", empty_value="–")
    def price_from(self, offer: Any) -> SafeString | None:
        if not offer.price_seen_at:
            return None
        at = offer.price_seen_at
        if offer.price_source == API and offer.polled_at:
            at = max(at, offer.polled_at)
        return stamp(at, offer.price_source, timezone.now())

    @admin.display(description=gettext_lazy("availability"), ordering="availability")
    def availability_(self, offer: Offer) -> SafeString:
        return pill(offer.get_availability_display(), AVAILABILITY[Offer.Availability(offer.availability)])

    @admin.display(description=gettext_lazy("last complete poll"), ordering="polled_at")
    def signal_age(self, offer: Any) -> SafeString:
        return stamp(offer.polled_at, API, timezone.now())
