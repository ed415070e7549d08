"""Billing accounts, payments, charges, the ledger and its periods, sellers."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from billing import accounts, invoicing, ledger, sellers
from billing.admin.base import MoneyField, amount, buttons, form_page
from billing.models import (
    AccountingPeriod,
    BillingAccount,
    Charge,
    Entry,
    FundsHold,
    LedgerAccount,
    Payment,
    PaymentAllocation,
    Posting,
    Seller,
)
from inventory.admin.base import ReadOnlyAdmin, ReadOnlyInline, SupplyAdmin, staff
from portal.common.errors import DomainError
from portal.common.html import BAD, GOOD, INFO, NEUTRAL, pill
from portal.common.money import format_money


class TermsForm(forms.ModelForm):
    class Meta:
        model = BillingAccount
        fields = ("organization", "mode", "credit_limit", "payment_days")
        help_texts = {
            "mode": gettext_lazy("Prepaid spends the wallet; postpaid also spends the credit limit."),
            "payment_days": gettext_lazy("From the invoice's date until it is due."),
        }

    def clean_credit_limit(self) -> Any:
        limit = self.cleaned_data["credit_limit"]
        if not 0 <= limit <= accounts.LARGEST:
            raise forms.ValidationError(_("The credit limit is zero or more."))
        return limit


class TopUpForm(forms.Form):
    amount = MoneyField()
    reference = forms.CharField(
        label=gettext_lazy("Reference"),
        max_length=120,
        help_text=gettext_lazy("As the bank wrote it: one reference is booked once."),
    )


@admin.register(BillingAccount)
class BillingAccountAdmin(SupplyAdmin):
    form = TermsForm
    list_display = (
        "organization",
        "mode",
        "wallet",
        "reserved_",
        "owed_",
        "spendable_",
        "limit",
        "payment_days",
    )
    list_filter = ("mode", "currency")
    list_select_related = ("organization",)
    search_fields = ("organization__name", "organization__uid")
    readonly_fields = ("wallet", "reserved_", "owed_", "spendable_", "currency", "next_steps")
    fieldsets = (
        (None, {"fields": ("organization", "next_steps")}),
        (gettext_lazy("Terms"), {"fields": ("mode", "credit_limit", "payment_days", "currency")}),
        (gettext_lazy("Now"), {"fields": ("wallet", "reserved_", "owed_", "spendable_")}),
    )

    wallet = amount("balance", gettext_lazy("wallet"))
    reserved_ = amount("reserved", gettext_lazy("reserved"))
    owed_ = amount("owed", gettext_lazy("owed"))
    spendable_ = amount("spendable", gettext_lazy("can spend"))
    limit = amount("credit_limit", gettext_lazy("credit limit"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return (*self.readonly_fields, "organization") if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        # The wallet is locked before it is written: what the form was filled from may be old.
        account = accounts.write_terms(
            accounts.lock_account(obj.organization),
            mode=form.cleaned_data["mode"],
            credit_limit=form.cleaned_data["credit_limit"],
            payment_days=form.cleaned_data["payment_days"],
            actor=staff(request),
            now=timezone.now(),
        )
        obj.pk = account.pk

    def get_urls(self) -> list[URLPattern]:
        page = path(
            "<int:pk>/top-up/",
            self.admin_site.admin_view(self.top_up_view),
            name="billing_billingaccount_top_up",
        )
        return [page, *super().get_urls()]

    def top_up_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(account: BillingAccount, values: dict[str, Any]) -> tuple[str, Any]:
            booked = accounts.top_up(
                organization=account.organization, actor=staff(request), now=timezone.now(), **values
            )
            said = _("Booked. %(organization)s now has %(balance)s in its wallet.") % {
                "organization": account.organization,
                "balance": format_money(booked.balance, booked.currency),
            }
            return said, account

        return form_page(
            self,
            request,
            pk=pk,
            title=_("Top up the wallet"),
            submit=_("Book the payment"),
            make=lambda row: TopUpForm(request.POST or None),
            act=act,
        )

    @admin.display(description=gettext_lazy("next"))
    def next_steps(self, account: BillingAccount) -> str | SafeString:
        if account.pk is None:
            return _("Save first, then top up the wallet.")
        return buttons(
            (reverse("admin:billing_billingaccount_top_up", args=[account.pk]), _("Top up the wallet"))
        )


@admin.register(FundsHold)
class FundsHoldAdmin(ReadOnlyAdmin):
    list_display = ("lease", "account", "amount_", "remaining_", "created_at", "released_at")
    list_select_related = ("lease", "account__organization")
    list_filter = (("released_at", admin.EmptyFieldListFilter),)
    search_fields = ("lease__uid", "lease__name", "account__organization__name")

    @admin.display(description=gettext_lazy("amount"), ordering="amount")
    def amount_(self, hold: FundsHold) -> str:
        return format_money(hold.amount, hold.account.currency)

    @admin.display(description=gettext_lazy("remaining"), ordering="remaining")
    def remaining_(self, hold: FundsHold) -> str:
        return format_money(hold.remaining, hold.account.currency)


class PaymentAllocationInline(ReadOnlyInline):
    model = PaymentAllocation
    fields = ("invoice", "amount_", "reversed_at")
    readonly_fields = fields

    @admin.display(description=gettext_lazy("amount"))
    def amount_(self, allocation: PaymentAllocation) -> str:
        return format_money(allocation.amount, allocation.invoice.currency)


class ReasonForm(forms.Form):
    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=200, min_length=3)


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    list_display = ("reference", "organization", "method", "amount_", "received_at", "state")
    list_filter = ("method",)
    list_select_related = ("organization", "entry__reversed_by")
    search_fields = ("reference", "organization__name")
    readonly_fields = ("state", "next_steps")
    inlines = (PaymentAllocationInline,)
    amount_ = amount("amount", gettext_lazy("amount"))

    @admin.display(description=gettext_lazy("state"))
    def state(self, payment: Payment) -> SafeString:
        undone = hasattr(payment.entry, "reversed_by")
        return pill(_("Undone"), BAD) if undone else pill(_("Booked"), GOOD)

    @admin.display(description=gettext_lazy("next"))
    def next_steps(self, payment: Payment) -> str | SafeString:
        if payment.method == Payment.Method.WALLET or hasattr(payment.entry, "reversed_by"):
            return "–"
        return buttons((reverse("admin:billing_payment_undo", args=[payment.pk]), _("It is wrong: undo")))

    def get_urls(self) -> list[URLPattern]:
        page = path("<int:pk>/undo/", self.admin_site.admin_view(self.undo_view), name="billing_payment_undo")
        return [page, *super().get_urls()]

    def undo_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(payment: Payment, values: dict[str, Any]) -> tuple[str, Any]:
            facts = {
                "reference": payment.reference,
                "reason": values["reason"],
                "actor": staff(request),
                "now": timezone.now(),
            }
            if payment.method == Payment.Method.TOP_UP:
                account = accounts.undo_top_up(**facts)
                left = format_money(account.balance, account.currency)
                return _("Undone. The wallet holds %(balance)s.") % {"balance": left}, payment
            invoice = invoicing.reverse_payment(**facts)
            return _("Undone. Invoice %(number)s is open again.") % {"number": invoice.number}, payment

        return form_page(
            self,
            request,
            pk=pk,
            title=_("Undo a payment"),
            submit=_("Undo it"),
            make=lambda row: ReasonForm(request.POST or None),
            act=act,
        )


@admin.register(Charge)
class ChargeAdmin(ReadOnlyAdmin):
    list_display = ("uid", "organization", "kind", "description", "period", "amount_", "billed")
    list_filter = ("kind", ("invoice_line", admin.EmptyFieldListFilter))
    list_select_related = ("organization", "invoice_line__invoice")
    search_fields = ("uid", "source", "lease__uid", "organization__name", "description")
    amount_ = amount("amount", gettext_lazy("amount"), places=8)

    @admin.display(description=gettext_lazy("invoice"))
    def billed(self, charge: Charge) -> str | SafeString:
        line = charge.invoice_line
        return str(line.invoice) if line else pill(_("Unbilled"), NEUTRAL)


class PostingInline(ReadOnlyInline):
    model = Posting
    fields = ("account", "amount", "currency")


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    list_display = ("key", "description", "period", "effective_at", "posted_at", "reverses")
    list_filter = ("period",)
    list_select_related = ("period", "reverses")
    search_fields = ("key", "description")
    inlines = (PostingInline,)


@admin.register(LedgerAccount)
class LedgerAccountAdmin(ReadOnlyAdmin):
    list_display = ("kind", "owner", "currency", "balance")
    list_filter = ("kind", "currency")
    list_select_related = ("organization", "provider_account")
    search_fields = ("organization__name", "provider_account__name")

    def get_queryset(self, request: HttpRequest) -> QuerySet[LedgerAccount]:
        return super().get_queryset(request).annotate(sum=Sum("postings__amount", default=0))

    @admin.display(description=gettext_lazy("of"))
    def owner(self, account: LedgerAccount) -> str:
        return str(account.organization or account.provider_account or "–")

    @admin.display(description=gettext_lazy("balance"), ordering="sum")
    def balance(self, account: Any) -> str:
        return format_money(account.sum, account.currency)


@admin.register(AccountingPeriod)
class AccountingPeriodAdmin(ReadOnlyAdmin):
    list_display = ("month_", "state", "closed_at", "closed_by", "entries_")
    list_select_related = ("closed_by",)
    actions = ("close",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccountingPeriod]:

        return super().get_queryset(request).annotate(entry_count=Count("entries"))

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_accountingperiod")

    @admin.display(description=gettext_lazy("month"), ordering="month")
    def month_(self, period: AccountingPeriod) -> str:
        return f"{period.month:%Y-%m}"

    @admin.display(description=gettext_lazy("state"))
    def state(self, period: AccountingPeriod) -> SafeString:
        return pill(_("Closed"), NEUTRAL) if period.closed_at else pill(_("Open"), INFO)

    @admin.display(description=gettext_lazy("entries"), ordering="entry_count")
    def entries_(self, period: Any) -> int:
        return int(period.entry_count)

    @admin.action(description=gettext_lazy("Close for good, with every month before"), permissions=["close"])
    def close(self, request: HttpRequest, queryset: QuerySet[AccountingPeriod]) -> None:
        for month in queryset.order_by("month").values_list("month", flat=True):
            try:
                ledger.close_period(month=month, actor=staff(request), now=timezone.now())
            except DomainError as error:
                messages.error(request, f"{month:%Y-%m}: {error}")
            else:
                messages.success(request, _("%(month)s is closed.") % {"month": f"{month:%Y-%m}"})


class SellerForm(forms.ModelForm):
    class Meta:
        model = Seller
        fields = (
            "name",
            "address",
            "country",
            "tax_id",
            "email",
            "number_prefix",
            "tax_code",
            "tax_rate",
            "tax_reason",
            "payment_note",
        )
        help_texts = {
            "tax_rate": gettext_lazy("A fraction: 0.23 for 23 %."),
            "tax_reason": gettext_lazy("Printed on invoices, for example why no tax is charged."),
            "number_prefix": gettext_lazy("Fixed once a number was given."),
            "payment_note": gettext_lazy("Printed on invoices: the bank account, in whose favour."),
        }

    def clean_tax_rate(self) -> Any:
        rate = self.cleaned_data["tax_rate"]
        if not 0 <= rate < 1:
            raise forms.ValidationError(_("Write the rate as a fraction between 0 and 1, 0.23 for 23 %."))
        return rate

    def clean_country(self) -> str:
        country = str(self.cleaned_data["country"]).upper()
        if len(country) != 2 or not country.isalpha():
            raise forms.ValidationError(_("Use the two letters of ISO 3166-1, for example DE."))
        return country

    def clean(self) -> dict[str, Any]:
        values = super().clean() or self.cleaned_data
        untaxed = values.get("tax_rate") == 0 and values.get("tax_code", "NONE") != "NONE"
        if untaxed and not values.get("tax_reason"):
            self.add_error("tax_reason", _("Say why the rate is zero."))
        return values


@admin.register(Seller)
class SellerAdmin(SupplyAdmin):
    form = SellerForm
    list_display = ("name", "country", "number_prefix", "tax_code", "tax_rate", "is_default", "last")
    list_select_related = ("counter",)
    actions = ("make_default",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("number_prefix",) if obj and hasattr(obj, "counter") else ()

    def has_default_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_seller")

    @admin.action(
        description=gettext_lazy("Name this seller on new quotes and invoices"), permissions=["default"]
    )
    def make_default(self, request: HttpRequest, queryset: QuerySet[Seller]) -> None:
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            messages.error(request, _("Choose one seller."))
            return
        sellers.make_default(seller=chosen[0], actor=staff(request), now=timezone.now())
        messages.success(request, _("%(name)s is named from now on.") % {"name": chosen[0]})

    @admin.display(description=gettext_lazy("last number"))
    def last(self, seller: Any) -> str:
        return (
            f"{seller.number_prefix}{seller.counter.last_number:06d}" if hasattr(seller, "counter") else "–"
        )
