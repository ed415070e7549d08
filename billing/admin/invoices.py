"""Invoices: draft a month, finalize, record payments, void with a reason, and the PDF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from billing import documents, invoicing, ledger, metering
from billing.admin.base import MoneyField, amount, buttons, facts, form_page
from billing.admin.money import ReasonForm
from billing.models import Invoice, InvoiceLine, PaymentAllocation
from billing.pricing import text
from inventory.admin.base import ReadOnlyAdmin, ReadOnlyInline, moment_field, staff
from portal.common.errors import DomainError, InvalidInput
from portal.common.html import BAD, GOOD, INFO, NEUTRAL, WARN, pill
from portal.common.money import format_money

State = Invoice.State
TONES = {State.DRAFT: NEUTRAL, State.OPEN: INFO, State.PAID: GOOD, State.VOID: WARN}


class LineInline(ReadOnlyInline):
    model = InvoiceLine
    fields = ("quantity_", "price", "amount_", "tax_", "exact")
    readonly_fields = fields
    ordering = ("ordinal",)

    @admin.display(description=gettext_lazy("quantity"))
    def quantity_(self, line: InvoiceLine) -> str:
        return f"{text(line.quantity)} {line.unit.replace('_', ' ')}"

    @admin.display(description=gettext_lazy("unit price"))
    def price(self, line: InvoiceLine) -> str:
        return text(line.unit_price)

    @admin.display(description=gettext_lazy("amount"))
    def amount_(self, line: InvoiceLine) -> str:
        return format_money(line.amount, line.invoice.currency)

    @admin.display(description=gettext_lazy("tax"))
    def tax_(self, line: InvoiceLine) -> str:
        return format_money(line.tax_amount, line.invoice.currency)

    @admin.display(description=gettext_lazy("exact, before rounding"))
    def exact(self, line: InvoiceLine) -> str:
        return text(line.exact_amount)


class AllocationInline(ReadOnlyInline):
    model = PaymentAllocation
    fields = ("payment", "amount_", "reversed_at")
    readonly_fields = fields

    @admin.display(description=gettext_lazy("amount"))
    def amount_(self, allocation: PaymentAllocation) -> str:
        return format_money(allocation.amount, allocation.invoice.currency)


class DraftForm(forms.Form):
    month = forms.CharField(
        label=gettext_lazy("Month"),
        help_text=gettext_lazy("As YYYY-MM (UTC). Metered to its end first; drafting again is harmless."),
    )

    def clean_month(self) -> Any:
        try:
            return ledger.parse_month(self.cleaned_data["month"])
        except InvalidInput as error:
            raise forms.ValidationError(error.message) from None


class PaymentForm(forms.Form):
    amount = MoneyField()
    reference = forms.CharField(
        label=gettext_lazy("Reference"),
        max_length=120,
        help_text=gettext_lazy("As the bank wrote it: one reference is booked once."),
    )
    received_at = moment_field(gettext_lazy("Received"))


@admin.register(Invoice)
class InvoiceAdmin(ReadOnlyAdmin):
    list_display = ("name", "organization", "month_", "state_", "total_", "open_", "due_on", "issued_at")
    list_filter = ("state", "month", "seller")
    list_select_related = ("organization", "seller")
    search_fields = ("number", "uid", "organization__name")
    readonly_fields = ("next_steps", "month_", "state_", "subtotal_", "tax_", "total_", "open_", "parties")
    fieldsets = (
        (None, {"fields": ("organization", "month_", "state_", "next_steps")}),
        (gettext_lazy("Sums"), {"fields": ("subtotal_", "tax_", "total_", "open_")}),
        (
            gettext_lazy("Issue"),
            {"fields": ("seller", "issued_at", "due_on", "voided_at", "void_reason", "entry", "parties")},
        ),
    )
    inlines = (LineInline, AllocationInline)
    actions = ("finalize",)
    subtotal_ = amount("subtotal", gettext_lazy("subtotal"))
    tax_ = amount("tax", gettext_lazy("tax"))
    total_ = amount("total", gettext_lazy("total"))

    def has_finalize_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.change_invoice")

    @admin.action(description=gettext_lazy("Finalize: number and freeze them"), permissions=["finalize"])
    def finalize(self, request: HttpRequest, queryset: QuerySet[Invoice]) -> None:
        for uid, name in list(queryset.order_by("pk").values_list("uid", "organization__name")):
            try:
                invoice = invoicing.finalize(invoice_uid=uid, actor=staff(request), now=timezone.now())
            except DomainError as error:
                messages.error(request, f"{name}: {error}")
            else:
                messages.success(request, f"{name}: {invoice.number} ({invoice.get_state_display()})")

    def get_urls(self) -> list[URLPattern]:
        def page(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            return path(route, self.admin_site.admin_view(view), name=f"billing_invoice_{name}")

        return [
            page("draft/", self.draft_view, "draft"),
            page("<int:pk>/pdf/", self.pdf_view, "pdf"),
            page("<int:pk>/payment/", self.payment_view, "payment"),
            page("<int:pk>/void/", self.void_view, "void"),
            *super().get_urls(),
        ]

    def pdf_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        invoice = self.get_object(request, str(pk))
        if invoice is None or not self.has_view_permission(request, invoice):
            raise Http404
        return HttpResponse(
            documents.invoice_pdf(invoice),
            content_type="application/pdf",
            headers={"Content-Disposition": f'attachment; filename="{documents.file_name(invoice)}"'},
        )

    def draft_view(self, request: HttpRequest) -> HttpResponse:
        def act(row: Any, values: dict[str, Any]) -> tuple[str, Any]:
            now = timezone.now()
            metering.meter_due(now=now, thorough=True)
            drafts = invoicing.draft_month(month=values["month"], now=now)
            said = ngettext("%(n)s draft.", "%(n)s drafts.", len(drafts)) % {"n": len(drafts)}
            return said, None

        initial = {"month": f"{ledger.last_month(timezone.now()):%Y-%m}"}
        return form_page(
            self,
            request,
            title=_("Draft a month's invoices"),
            submit=_("Draft"),
            make=lambda row: DraftForm(request.POST or None, initial=initial),
            act=act,
        )

    def payment_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def make(invoice: Invoice) -> forms.Form:
            initial = {
                "amount": text(invoicing.open_amount(invoice)),
                "received_at": timezone.now().replace(second=0, microsecond=0),
            }
            return PaymentForm(request.POST or None, initial=initial)

        def act(invoice: Invoice, values: dict[str, Any]) -> tuple[str, Any]:
            payment = invoicing.record_payment(
                invoice_uid=invoice.uid, actor=staff(request), now=timezone.now(), **values
            )
            return (
                _("%(amount)s booked.") % {"amount": format_money(payment.amount, payment.currency)},
                invoice,
            )

        return form_page(
            self, request, pk=pk, title=_("Record a payment"), submit=_("Book it"), make=make, act=act
        )

    def void_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(invoice: Invoice, values: dict[str, Any]) -> tuple[str, Any]:
            invoicing.void(
                invoice_uid=invoice.uid, reason=values["reason"], actor=staff(request), now=timezone.now()
            )
            said = _("%(number)s is void: its charges are unbilled again, what was paid is in the wallet.")
            return said % {"number": invoice.number}, invoice

        return form_page(
            self,
            request,
            pk=pk,
            title=_("Void an invoice"),
            submit=_("Void it"),
            make=lambda row: ReasonForm(request.POST or None),
            act=act,
        )

    @admin.display(description=gettext_lazy("invoice"), ordering="number")
    def name(self, invoice: Invoice) -> str:
        return str(invoice)

    @admin.display(description=gettext_lazy("month"), ordering="month")
    def month_(self, invoice: Invoice) -> str:
        return f"{invoice.month:%Y-%m}"

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, invoice: Invoice) -> SafeString:
        if invoice.state == State.OPEN and invoice.due_on and invoice.due_on < timezone.now().date():
            return pill(_("Overdue"), BAD)
        return pill(invoice.get_state_display(), TONES[State(invoice.state)])

    @admin.display(description=gettext_lazy("open"))
    def open_(self, invoice: Invoice) -> str:
        left = invoicing.open_amount(invoice)
        return format_money(left, invoice.currency) if left else "–"

    @admin.display(description=gettext_lazy("seller and buyer as issued"))
    def parties(self, invoice: Invoice) -> str | SafeString:
        if not invoice.seller_snapshot:
            return "–"
        return facts(
            (f"{who}, {name.replace('_', ' ')}", value)
            for who, kept in (
                (_("Seller"), invoice.seller_snapshot),
                (_("Buyer"), invoice.buyer_snapshot),
            )
            for name, value in kept.items()
        )

    @admin.display(description=gettext_lazy("next"))
    def next_steps(self, invoice: Invoice) -> str | SafeString:
        links = [(reverse("admin:billing_invoice_pdf", args=[invoice.pk]), _("PDF"))]
        if invoice.state == State.OPEN:
            links.append((reverse("admin:billing_invoice_payment", args=[invoice.pk]), _("Record a payment")))
        if invoice.state in (State.OPEN, State.PAID):
            links.append((reverse("admin:billing_invoice_void", args=[invoice.pk]), _("Void")))
        return buttons(*links)
