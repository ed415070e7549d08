"""Price rules, and quotes: staff look at all of them and prepare one for a customer."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from billing import checkout
from billing.admin.base import amount, facts, form_page
from billing.models import PriceRule, Quote
from inventory.admin.base import LocalDateTime, ReadOnlyAdmin, SupplyAdmin, moment_field, staff
from inventory.models import GpuModel, Region, SoftwareStack
from leases.requests import CapacityRequest
from portal.accounts.models import Organization
from portal.common.html import BAD, GOOD, INFO, NEUTRAL, WARN, pill
from portal.common.money import format_money

QUOTE_TONES = {Quote.State.OPEN: INFO, Quote.State.ACCEPTED: GOOD, Quote.State.LAPSED: NEUTRAL}


class PriceRuleForm(forms.ModelForm):
    """The period in force as two times; scopes that contradict each other are refused."""

    effective_from = moment_field(gettext_lazy("in force from"))
    effective_until = forms.DateTimeField(
        label=gettext_lazy("in force until"),
        widget=LocalDateTime(),
        required=False,
        help_text=gettext_lazy("Empty: until a later rule replaces it."),
    )

    class Meta:
        model = PriceRule
        fields = (
            "name",
            "kind",
            "amount",
            "currency",
            "organization",
            "segment",
            "instance_type",
            "gpu_model",
            "region",
            "lease_kind",
            "min_hours",
        )
        help_texts = {
            "min_hours": gettext_lazy("Applies to leases of at least this many hours."),
            "organization": gettext_lazy("A contract price: it comes before every other rule."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["effective_from"] = self.instance.effective.lower
            self.initial["effective_until"] = self.instance.effective.upper
        else:
            self.initial.setdefault("effective_from", timezone.now().replace(second=0, microsecond=0))

    def clean_currency(self) -> str:
        currency = str(self.cleaned_data["currency"]).upper()
        if len(currency) != 3 or not currency.isalpha():
            raise forms.ValidationError(_("Use the three letters of ISO 4217, for example USD."))
        return currency

    def clean(self) -> dict[str, Any]:
        values = super().clean() or self.cleaned_data
        if self.errors:
            return values
        start, end = values["effective_from"], values["effective_until"]
        if end is not None and end <= start:
            self.add_error("effective_until", _("The end must be after the start."))
            return values
        self.instance.effective = DateTimeTZRange(start, end, "[)")
        lowest = Decimal(0) if values["kind"] == PriceRule.Kind.FIXED else Decimal(-1)
        if values["amount"] <= lowest:
            self.add_error(
                "amount",
                _("A fixed price is above zero.")
                if values["kind"] == PriceRule.Kind.FIXED
                else _("A mark-up is above −1: 0.25 adds 25 %, −0.1 takes 10 % off."),
            )
        self._check_scopes(values)
        return values

    def _check_scopes(self, values: dict[str, Any]) -> None:
        kind, region, model = values["instance_type"], values["region"], values["gpu_model"]
        if kind and model and kind.gpu_model_id != model.pk:
            self.add_error("gpu_model", _("%(type)s has another GPU model.") % {"type": kind.name})
        if kind and region and kind.provider_id != region.provider_id:
            self.add_error("region", _("%(type)s is of another provider.") % {"type": kind.name})
        customer = values["organization"]
        if customer and values["segment"] and customer.segment != values["segment"]:
            self.add_error("segment", _("%(name)s is in another segment.") % {"name": customer})


@admin.register(PriceRule)
class PriceRuleAdmin(SupplyAdmin):
    form = PriceRuleForm
    list_display = ("name", "price", "scope", "from_", "until", "state")
    list_filter = ("kind", "segment", "gpu_model", "lease_kind")
    list_select_related = ("organization", "instance_type", "gpu_model", "region__provider")
    search_fields = ("name", "organization__name", "gpu_model__name", "instance_type__name")
    fieldsets = (
        (None, {"fields": ("name", "kind", "amount", "currency", "effective_from", "effective_until")}),
        (
            gettext_lazy("Applies to (empty: everything)"),
            {
                "fields": (
                    "organization",
                    "segment",
                    "instance_type",
                    "gpu_model",
                    "region",
                    "lease_kind",
                    "min_hours",
                ),
                "description": gettext_lazy(
                    "The most specific rule wins, in this order: organization, segment, instance type, "
                    "GPU model, region, lease kind, hours. Among equals, the one in force last."
                ),
            },
        ),
    )

    @admin.display(description=gettext_lazy("price"), ordering="amount")
    def price(self, rule: PriceRule) -> str:
        if rule.kind == PriceRule.Kind.FIXED:
            return _("%(price)s per GPU-hour") % {"price": format_money(rule.amount, rule.currency, places=4)}
        return _("cost %(percent)s %%") % {"percent": f"{rule.amount * 100:+.2f}"}

    @admin.display(description=gettext_lazy("applies to"))
    def scope(self, rule: PriceRule) -> str:
        parts = [rule.organization, rule.segment, rule.instance_type, rule.gpu_model, rule.region]
        parts += [rule.lease_kind, f"≥ {rule.min_hours} h" if rule.min_hours else None]
        return " · ".join(str(part) for part in parts if part) or _("everything")

    @admin.display(description=gettext_lazy("from"), ordering="effective")
    def from_(self, rule: PriceRule) -> Any:
        return rule.effective.lower

    @admin.display(description=gettext_lazy("until"))
    def until(self, rule: PriceRule) -> Any:
        return rule.effective.upper

    @admin.display(description=gettext_lazy("state"))
    def state(self, rule: PriceRule) -> SafeString:
        now = timezone.now()
        if rule.effective.upper is not None and rule.effective.upper <= now:
            return pill(_("Over"), NEUTRAL)
        return pill(_("In force"), GOOD) if rule.effective.lower <= now else pill(_("To come"), INFO)


class PrepareForm(forms.Form):
    """A request for capacity, and what only staff may add to it."""

    organization = forms.ModelChoiceField(
        label=gettext_lazy("Customer"),
        queryset=Organization.objects.filter(state=Organization.State.APPROVED),
    )
    name = forms.CharField(label=gettext_lazy("Name of the lease"), max_length=80, required=False)
    gpu_model = forms.ModelChoiceField(
        label=gettext_lazy("GPU model"), queryset=GpuModel.objects.all(), to_field_name="slug"
    )
    gpus_per_node = forms.IntegerField(label=gettext_lazy("GPUs per node"), min_value=1, initial=8)
    nodes = forms.IntegerField(label=gettext_lazy("Nodes"), min_value=1, initial=1)
    start = moment_field(gettext_lazy("Start"))
    end = moment_field(gettext_lazy("End"))
    region = forms.ModelChoiceField(
        label=gettext_lazy("Region"),
        queryset=Region.objects.filter(nodes__isnull=False).select_related("provider").distinct(),
        required=False,
        empty_label=gettext_lazy("Any"),
    )
    one_fabric = forms.BooleanField(label=gettext_lazy("One fabric"), required=False)
    stack = forms.ModelChoiceField(
        label=gettext_lazy("Software"),
        queryset=SoftwareStack.objects.filter(enabled=True),
        required=False,
        empty_label=gettext_lazy("The cloud’s own image"),
    )
    rate_override = forms.DecimalField(
        label=gettext_lazy("Rate per GPU-hour"),
        required=False,
        max_digits=13,
        decimal_places=8,
        help_text=gettext_lazy("Empty: the price list."),
    )
    override_reason = forms.CharField(
        label=gettext_lazy("Reason for the rate"), max_length=200, required=False
    )
    purchase_order = forms.CharField(label=gettext_lazy("Purchase order"), max_length=60, required=False)
    terms_version = forms.CharField(label=gettext_lazy("Terms"), max_length=40, required=False)
    valid_hours = forms.IntegerField(
        label=gettext_lazy("Valid for hours"),
        initial=24,
        min_value=1,
        max_value=720,
        help_text=gettext_lazy("The capacity is kept as long, until the start at the latest."),
    )


@admin.register(Quote)
class QuoteAdmin(ReadOnlyAdmin):
    list_display = ("uid", "organization", "lease", "kind", "total_", "rate", "expires_at", "state_", "by")
    list_filter = ("state", "kind", ("prepared_by", admin.EmptyFieldListFilter))
    list_select_related = ("organization", "lease", "prepared_by", "created_by")
    search_fields = ("uid", "lease__uid", "lease__name", "organization__name", "purchase_order")
    readonly_fields = ("state_", "arithmetic_", "due_now_", "due_later_", "total_", "rate")
    fieldsets = (
        (None, {"fields": ("organization", "project", "lease", "kind", "state_", "expires_at")}),
        (gettext_lazy("Price"), {"fields": ("total_", "due_now_", "due_later_", "rate", "arithmetic_")}),
        (
            gettext_lazy("Terms"),
            {"fields": ("prepared_by", "override_reason", "purchase_order", "terms_version")},
        ),
        (gettext_lazy("History"), {"fields": ("created_by", "created_at", "accepted_by", "accepted_at")}),
    )
    total_ = amount("total", gettext_lazy("total"))
    due_now_ = amount("due_now", gettext_lazy("due now"))
    due_later_ = amount("due_later", gettext_lazy("due later"))
    rate = amount("rate_per_gpu_hour", gettext_lazy("per GPU-hour"), places=4)

    def get_urls(self) -> list[URLPattern]:
        page = path("prepare/", self.admin_site.admin_view(self.prepare_view), name="billing_quote_prepare")
        return [page, *super().get_urls()]

    def prepare_view(self, request: HttpRequest) -> HttpResponse:
        def act(row: Any, values: dict[str, Any]) -> tuple[str, Any]:
            person = staff(request)
            quote = checkout.quote(
                organization=values["organization"],
                request=CapacityRequest(
                    gpu_model=values["gpu_model"].slug,
                    gpus_per_node=values["gpus_per_node"],
                    nodes=values["nodes"],
                    start=values["start"],
                    end=values["end"],
                    region=str(values["region"]) if values["region"] else None,
                    one_fabric=values["one_fabric"],
                    stack=values["stack"].slug if values["stack"] else None,
                ),
                actor=person,
                now=timezone.now(),
                name=values["name"],
                prepared_by=person,
                rate_override=values["rate_override"],
                override_reason=values["override_reason"],
                purchase_order=values["purchase_order"],
                terms_version=values["terms_version"],
                valid_for=timedelta(hours=values["valid_hours"]),
            )
            said = _("Quote %(uid)s for %(customer)s: %(total)s. An authorised member accepts it.") % {
                "uid": quote.uid,
                "customer": quote.organization,
                "total": format_money(quote.total, quote.currency),
            }
            return said, quote

        return form_page(
            self,
            request,
            title=_("Prepare a quote for a customer"),
            submit=_("Hold the capacity and quote"),
            make=lambda row: PrepareForm(request.POST or None),
            act=act,
        )

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, quote: Quote) -> SafeString:
        if quote.state == Quote.State.OPEN and quote.expires_at <= timezone.now():
            return pill(_("Lapsed"), WARN)
        return pill(quote.get_state_display(), QUOTE_TONES.get(Quote.State(quote.state), BAD))

    @admin.display(description=gettext_lazy("by"))
    def by(self, quote: Quote) -> str:
        return str(quote.prepared_by or quote.created_by or "–")

    @admin.display(description=gettext_lazy("arithmetic"))
    def arithmetic_(self, quote: Quote) -> SafeString:
        return facts(explain(quote))


def explain(quote: Quote) -> list[tuple[str, str]]:
    """Return how the quote's price came about, step by step, from what was stored with it."""
    told = quote.arithmetic
    if quote.kind == Quote.Kind.CANCELLATION:
        return [
            (_("Price of the lease"), told.get("lease_total", "")),
            (_("Fee, percent"), str(told.get("fee_percent", ""))),
            (_("Funds released"), told.get("released", "")),
        ]
    rule, cost, tax = told.get("rule") or {}, told.get("cost") or {}, told.get("tax") or {}
    scope = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in rule.get("scope", {}).items() if value
    )
    commitments = ", ".join(
        f"{each['uid']} ({each['nodes']} × {each['per_node_hour']})" for each in cost.get("commitments", [])
    )
    return [
        (
            _("Rule"),
            " · ".join(part for part in (rule.get("name"), rule.get("kind"), rule.get("amount")) if part),
        ),
        (_("Applies to"), scope or (_("everything") if rule else "")),
        (_("Cost of a node and hour"), cost.get("per_node_hour", "")),
        (_("Cost from"), commitments or cost.get("offer", "")),
        (_("List rate per GPU-hour"), told.get("list_rate_per_gpu_hour") or ""),
        (_("Reason for another rate"), told.get("override_reason", "")),
        (_("Rate per GPU-hour"), told.get("rate_per_gpu_hour", "")),
        (
            _("GPUs × seconds"),
            f"{told.get('gpus')} × {told.get('seconds')} = {told.get('gpu_hours')} GPU-hours",
        ),
        (_("Total"), f"{told.get('total')} {told.get('currency')}"),
        (_("Tax"), f"{tax.get('code')} {tax.get('rate')}: {tax.get('amount')}" if tax else ""),
        (_("Priced"), told.get("priced_at", "")),
    ]
