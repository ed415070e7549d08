"""Providers' bills in the staff's admin: import, look through, reconcile again, approve."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from billing.admin.base import amount, buttons, facts, form_page
from billing.ledger import parse_month
from billing.models import BillLine, Finding, UpstreamAccrual, VendorBill
from billing.vendor import accrual, approval, landing, matching
from billing.vendor.csv_file import BadBillFile, Limits
from billing.vendor.summary import bar, class_rows
from inventory.admin.base import ReadOnlyAdmin, staff
from inventory.models import ProviderAccount
from portal.common.errors import DomainError, InvalidInput
from portal.common.html import GOOD, INFO, NEUTRAL, WARN, pill
from portal.common.money import format_money

State = VendorBill.State
TONES = {State.LANDED: WARN, State.CLASSIFIED: INFO, State.APPROVED: GOOD, State.REPLACED: NEUTRAL}


def upload_limit(path: str) -> int:
    """Return the largest body in bytes that ``path`` takes: that of the longest prefix of the settings."""
    limits = settings.SUBLET_BODY_LIMITS
    return int(limits[max((prefix for prefix in limits if path.startswith(prefix)), key=len)])


class ImportForm(forms.Form):
    """A bill's file, and what its invoice says."""

    account = forms.ModelChoiceField(
        label=gettext_lazy("Provider account"), queryset=ProviderAccount.objects.order_by("name")
    )
    file = forms.FileField(label=gettext_lazy("File"), allow_empty_file=True)
    month = forms.CharField(
        label=gettext_lazy("Month"),
        required=False,
        help_text=gettext_lazy("As YYYY-MM (UTC). Left empty, it is the billing period of the first row."),
    )
    header_total = forms.DecimalField(
        label=gettext_lazy("Invoice total"),
        required=False,
        help_text=gettext_lazy("What the invoice states in all; the lines must add up to it."),
    )

    def __init__(self, *args: Any, limit: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["file"].help_text = _(
            "FOCUS 1.0, 1.1 or 1.2 as CSV in UTF-8, at most %(limit)s. A larger one: manage.py import_bill."
        ) % {"limit": filesizeformat(limit)}

    def clean_month(self) -> Any:
        if not self.cleaned_data["month"]:
            return None
        try:
            return parse_month(self.cleaned_data["month"])
        except InvalidInput as error:
            raise forms.ValidationError(error.message) from None


@admin.register(VendorBill)
class VendorBillAdmin(ReadOnlyAdmin):
    list_display = ("name", "state_", "total_", "line_count", "classes_bar", "open_findings", "landed_at")
    list_filter = ("state", "account", "month")
    list_select_related = ("account",)
    search_fields = ("uid", "file_name", "account__name", "sha256")
    fields = (
        "next_steps",
        "state_",
        "account",
        "month_",
        "snapshot",
        "total_",
        "header_total_",
        "classes_table",
        "open_findings",
        "invoices",
        "file_name",
        "format",
        "line_count",
        "sha256",
        "landed_at",
        "landed_by",
        "approved_at",
        "approved_by",
        "entry",
    )
    readonly_fields = fields
    total_ = amount("total", gettext_lazy("total"))
    header_total_ = amount("header_total", gettext_lazy("invoice total"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[VendorBill]:
        def open_ones(**which: Any) -> Coalesce:
            found = Finding.objects.filter(
                account=OuterRef("account"), month=OuterRef("month"), state=Finding.State.OPEN, **which
            )
            count = found.order_by().values("account").annotate(n=Count("pk")).values("n")
            return Coalesce(Subquery(count), 0)

        return (
            super()
            .get_queryset(request)
            .select_related("account", "entry", "landed_by", "approved_by")
            .annotate(open_large=open_ones(material=True), open_small=open_ones(material=False))
        )

    def get_urls(self) -> list[URLPattern]:
        def page(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            return path(route, self.admin_site.admin_view(view), name=f"billing_vendorbill_{name}")

        return [
            page("import/", self.import_view, "import"),
            page("clearing/", self.clearing_view, "clearing"),
            page("<int:pk>/reconcile/", self.reconcile_view, "reconcile"),
            page("<int:pk>/approve/", self.approve_view, "approve"),
            *super().get_urls(),
        ]

    # --- pages -----------------------------------------------------------------------------------

    def import_view(self, request: HttpRequest) -> HttpResponse:
        if not request.user.has_perm("billing.change_vendorbill"):
            raise PermissionDenied
        limit = upload_limit(request.path)
        form = ImportForm(request.POST or None, request.FILES or None, limit=limit)
        errors: list[Any] = []
        if request.method == "POST" and form.is_valid():
            try:
                bill = self._import(request, form.cleaned_data, limit)
            except BadBillFile as error:
                errors = error.errors
                form.add_error("file", _("Nothing was stored: the file cannot be used."))
            except InvalidInput as error:
                form.add_error(error.field if error.field in form.fields else None, error.message)
            except DomainError as error:
                form.add_error(None, error.message)
            else:
                return HttpResponseRedirect(reverse("admin:billing_vendorbill_change", args=[bill.pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Import a provider's bill"),
            "submit": _("Import and reconcile"),
            "form": form,
            "line_errors": errors,
            "opts": self.opts,
            "media": self.media + form.media,
        }
        return TemplateResponse(
            request, "admin/billing/vendorbill/import.html", context, status=400 if form.errors else 200
        )

    def _import(self, request: HttpRequest, values: dict[str, Any], limit: int) -> VendorBill:
        now = timezone.now()
        bill = landing.land(
            account_id=values["account"].pk,
            month=values["month"],
            file=values["file"].file,
            file_name=values["file"].name,
            actor=staff(request),
            now=now,
            header_total=values["header_total"],
            limits=Limits(bytes=limit),
        )
        if bill.already_landed:
            messages.info(request, _("This file was imported before; nothing changed."))
        if bill.state == State.LANDED:
            bill = matching.classify(bill_id=bill.pk, now=now, actor=staff(request))
            text = ngettext(
                "%(n)s line was imported and reconciled.",
                "%(n)s lines were imported and reconciled.",
                bill.line_count,
            )
            messages.success(request, text % {"n": bill.line_count})
        return bill

    def reconcile_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(bill: VendorBill, values: dict[str, Any]) -> tuple[str, Any]:
            matching.classify(bill_id=bill.pk, now=timezone.now(), actor=staff(request))
            return _("%(bill)s was reconciled with what is recorded now.") % {"bill": bill}, bill

        return self._confirm(request, pk, _("Reconcile again"), _("Reconcile"), act)

    def approve_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        def act(bill: VendorBill, values: dict[str, Any]) -> tuple[str, Any]:
            bill = approval.approve(bill_uid=bill.uid, actor=staff(request), now=timezone.now())
            return _("%(bill)s is approved for payment and in the ledger.") % {"bill": bill}, bill

        return self._confirm(request, pk, _("Approve for payment"), _("Approve"), act)

    def _confirm(
        self,
        request: HttpRequest,
        pk: int,
        title: str,
        submit: str,
        act: Callable[[Any, dict[str, Any]], tuple[str, Any]],
    ) -> HttpResponse:
        def make(row: Any) -> forms.Form:
            return forms.Form(request.POST if request.method == "POST" else None)

        return form_page(self, request, pk=pk, title=title, submit=submit, make=make, act=act)

    def clearing_view(self, request: HttpRequest) -> HttpResponse:
        """What was accrued and what approved bills cleared, month by month (V5)."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        names = dict(ProviderAccount.objects.values_list("pk", "name"))
        rows = [
            {
                "month": f"{row.month:%Y-%m}" if row.month else "–",
                "account": names.get(row.account_id, "–"),
                "accrued": format_money(row.accrued, row.currency),
                "billed": format_money(row.billed, row.currency),
                "rest": format_money(row.rest, row.currency),
                "open": row.rest != 0,
            }
            for row in reversed(accrual.clearing())
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Accrued and billed"),
            "rows": rows,
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/billing/vendorbill/clearing.html", context)

    # --- columns ---------------------------------------------------------------------------------

    @admin.display(description=gettext_lazy("bill"), ordering="month")
    def name(self, bill: VendorBill) -> str:
        return str(bill)

    @admin.display(description=gettext_lazy("month"), ordering="month")
    def month_(self, bill: VendorBill) -> str:
        return f"{bill.month:%Y-%m}"

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_(self, bill: VendorBill) -> SafeString:
        return pill(bill.get_state_display(), TONES[State(bill.state)])

    @admin.display(description=gettext_lazy("classes"))
    def classes_bar(self, bill: VendorBill) -> SafeString:
        return SafeString(
            render_to_string("admin/billing/vendorbill/bar.html", {"bar": bar(bill), "width": 160})
        )

    @admin.display(description=gettext_lazy("classes"))
    def classes_table(self, bill: VendorBill) -> SafeString:
        lines = reverse("admin:billing_billline_changelist")
        context = {
            "rows": class_rows(bill),
            "bar": bar(bill),
            "total": format_money(bill.total, bill.currency),
            "bill": bill,
            "lines_url": f"{lines}?bill__id__exact={bill.pk}",
        }
        return SafeString(render_to_string("admin/billing/vendorbill/classes.html", context))

    @admin.display(description=gettext_lazy("open findings"), ordering="open_large")
    def open_findings(self, bill: Any) -> str | SafeString:
        if bill.state == State.REPLACED:
            return "–"
        url = (
            reverse("admin:billing_finding_changelist")
            + f"?account__id__exact={bill.account_id}&month={bill.month}&state__exact=open"
        )
        if bill.open_large:
            return format_html('{} <a href="{}">{}</a>', pill(str(bill.open_large), WARN), url, _("Settle"))
        if bill.state == State.LANDED:
            return pill(_("not classified"), WARN)
        if not bill.open_small:
            return pill(_("none"), GOOD)
        small = _("%(n)s small") % {"n": bill.open_small}
        return format_html('{} <a href="{}">{}</a>', pill(_("none"), GOOD), url, small)

    @admin.display(description=gettext_lazy("invoices"))
    def invoices(self, bill: VendorBill) -> SafeString | str:
        if not bill.invoice_ids:
            return _("The lines name no invoice.")
        return facts(
            {name: format_money(Decimal(cost), bill.currency) for name, cost in bill.invoice_ids.items()}
        )

    @admin.display(description=gettext_lazy("next"))
    def next_steps(self, bill: VendorBill) -> str | SafeString:
        if bill.state not in (State.LANDED, State.CLASSIFIED):
            return "–"
        return buttons(
            (reverse("admin:billing_vendorbill_approve", args=[bill.pk]), _("Approve for payment")),
            (reverse("admin:billing_vendorbill_reconcile", args=[bill.pk]), _("Reconcile again")),
        )


@admin.register(BillLine)
class BillLineAdmin(ReadOnlyAdmin):
    list_display = (
        "ordinal",
        "bill",
        "class_",
        "resource_id",
        "period_",
        "hours_",
        "cost_",
        "expected_",
        "rule",
    )
    list_filter = ("line_class", "category", ("bill", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("bill__account",)
    search_fields = ("resource_id", "description", "invoice_id")
    search_help_text = gettext_lazy("Resource, description or invoice")
    ordering = ("-bill", "ordinal")
    fields = (
        "bill",
        "ordinal",
        "class_",
        "rule",
        "finding",
        "resource_id",
        "period_",
        "quantity_",
        "hours_",
        "cost_",
        "expected_",
        "differences",
        "instance",
        "allocation",
        "as_it_came",
    )
    readonly_fields = fields

    @admin.display(description=gettext_lazy("class"), ordering="line_class")
    def class_(self, line: BillLine) -> SafeString:
        tone = WARN if line.finding_id else GOOD if line.line_class == BillLine.Class.MATCHED else NEUTRAL
        return pill(line.get_line_class_display() or _("not yet"), tone)

    @admin.display(description=gettext_lazy("period (UTC)"), ordering="period")
    def period_(self, line: BillLine) -> str:
        if line.period is None:
            return "–"
        return f"{line.period.lower:%Y-%m-%d %H:%M} – {line.period.upper:%Y-%m-%d %H:%M}"

    @admin.display(description=gettext_lazy("quantity"))
    def quantity_(self, line: BillLine) -> str:
        return "–" if line.quantity is None else f"{line.quantity:f} {line.unit}"

    @admin.display(description=gettext_lazy("hours"), ordering="hours")
    def hours_(self, line: BillLine) -> str:
        return "–" if line.hours is None else f"{line.hours.normalize():f}"

    @admin.display(description=gettext_lazy("cost"), ordering="cost")
    def cost_(self, line: BillLine) -> str:
        return format_money(line.cost, line.currency, places=4)

    @admin.display(description=gettext_lazy("expected"))
    def expected_(self, line: BillLine) -> str:
        if line.expected_hours is None or line.expected_price is None:
            return "–"
        return _("%(hours)s h at %(price)s") % {
            "hours": f"{line.expected_hours.normalize():f}",
            "price": format_money(line.expected_price, line.currency, places=4),
        }

    @admin.display(description=gettext_lazy("difference"))
    def differences(self, line: BillLine) -> str:
        if line.quantity_variance is None or line.price_variance is None:
            return "–"
        return _("%(quantity)s by quantity, %(price)s by price") % {
            "quantity": format_money(line.quantity_variance, line.currency, places=6),
            "price": format_money(line.price_variance, line.currency, places=6),
        }

    @admin.display(description=gettext_lazy("as it came"))
    def as_it_came(self, line: BillLine) -> SafeString:
        return facts({name: value for name, value in line.raw.items() if value and value != "NULL"})


@admin.register(UpstreamAccrual)
class UpstreamAccrualAdmin(ReadOnlyAdmin):
    list_display = ("month_", "account", "amount_", "expected_", "revision", "created_at")
    list_filter = ("account", "month")
    list_select_related = ("account",)
    fields = ("account", "month_", "amount_", "expected_", "revision", "created_at", "entry", "arithmetic")
    readonly_fields = fields
    amount_ = amount("amount", gettext_lazy("accrued now"))
    expected_ = amount("expected", gettext_lazy("accrued in all"))

    @admin.display(description=gettext_lazy("month"), ordering="month")
    def month_(self, row: UpstreamAccrual) -> str:
        return f"{row.month:%Y-%m}"

    @admin.display(description=gettext_lazy("arithmetic"))
    def arithmetic(self, row: UpstreamAccrual) -> SafeString:
        return facts(
            {
                line["name"]: _("%(type)s, %(hours)s h at %(price)s: %(amount)s")
                % {
                    "type": line["type"],
                    "hours": line["hours"],
                    "price": format_money(Decimal(line["price"]), row.currency, places=4),
                    "amount": format_money(Decimal(line["amount"]), row.currency),
                }
                for line in row.breakdown
            }
        )
