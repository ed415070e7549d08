"""An invoice as the document that is printed: every value finished text, from what was kept at issue."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from decimal import Decimal

from django.utils import formats
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from billing import ledger
from billing.invoicing import open_amount, paid_amount
from billing.models import Invoice, InvoiceLine, Quote
from billing.pdf import DocumentLine, InvoiceDocument, Party, TaxLine, render_invoice_pdf
from billing.pricing import text
from portal.common.money import MINOR_UNITS, format_money

State = Invoice.State


def invoice_pdf(invoice: Invoice) -> bytes:
    """Return the invoice as a PDF."""
    return render_invoice_pdf(invoice_document(invoice))


def file_name(invoice: Invoice) -> str:
    """Return the name under which the PDF is downloaded."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in invoice.number or invoice.uid)
    return f"{safe}.pdf"


def invoice_document(invoice: Invoice) -> InvoiceDocument:
    """Return all that the invoice prints, in the active language.

    A finalized invoice prints seller and buyer as they were when it was issued; a draft
    prints them as they are.
    """
    seller = invoice.seller_snapshot or _seller_now(invoice)
    buyer = invoice.buyer_snapshot or _buyer_now(invoice)
    lines = list(invoice.lines.select_related("lease").order_by("ordinal"))
    paid = paid_amount(invoice)
    due = invoice.total if invoice.state in (State.DRAFT, State.VOID) else open_amount(invoice)
    last_day = ledger.next_month(invoice.month) - timedelta(days=1)
    return InvoiceDocument(
        number=invoice.number,
        issued_on=formats.date_format(invoice.issued_at, "j F Y") if invoice.issued_at else "",
        due_on=(
            formats.date_format(invoice.due_on, "j F Y")
            if invoice.due_on and invoice.state == State.OPEN
            else ""
        ),
        period=f"{formats.date_format(invoice.month, 'j')}–{formats.date_format(last_day, 'j F Y')}",
        currency=invoice.currency,
        seller=_party(seller),
        buyer=_party(buyer),
        lines=tuple(_line(line, invoice.currency) for line in lines),
        subtotal=format_money(invoice.subtotal, invoice.currency),
        tax=format_money(invoice.tax, invoice.currency),
        total=format_money(invoice.total, invoice.currency),
        taxes=_taxes(lines, invoice.currency),
        paid=format_money(paid, invoice.currency) if paid else "",
        amount_due=format_money(due, invoice.currency),
        purchase_order=", ".join(_purchase_orders(lines)),
        terms=_terms(invoice, seller),
        stamp={State.DRAFT: _("Draft"), State.PAID: _("Paid"), State.VOID: _("Void")}.get(
            State(invoice.state), ""
        ),
        issued_at=invoice.issued_at.replace(microsecond=0) if invoice.issued_at else None,
    )


def _seller_now(invoice: Invoice) -> dict[str, str]:
    seller = invoice.seller
    return {
        "name": seller.name,
        "address": seller.address,
        "country": seller.country,
        "tax_id": seller.tax_id,
        "email": seller.email,
        "payment_note": seller.payment_note,
    }


def _buyer_now(invoice: Invoice) -> dict[str, str]:
    buyer = invoice.organization
    return {
        "name": buyer.name,
        "address": buyer.billing_address,
        "country": buyer.country,
        "tax_id": buyer.tax_id,
        "email": buyer.billing_email,
    }


def _party(facts: dict[str, str]) -> Party:
    lines = [line.strip() for line in facts.get("address", "").splitlines() if line.strip()]
    return Party(
        name=facts.get("name", ""),
        lines=tuple([*lines, facts["country"]] if facts.get("country") else lines),
        tax_id=facts.get("tax_id", ""),
        email=facts.get("email", ""),
    )


def _line(line: InvoiceLine, currency: str) -> DocumentLine:
    hours = line.unit == "gpu_hour"
    return DocumentLine(
        description=line.description,
        quantity=_number(line.quantity, places=2 if hours else None),
        unit=_("GPU-hours") if hours else ngettext("piece", "pieces", int(abs(line.quantity))),
        unit_price=format_money(line.unit_price, currency, places=_places(line.unit_price, currency)),
        amount=format_money(line.amount, currency),
        tax=f"{_number(line.tax_rate * 100)}%" if line.tax_rate else "",
        detail=line.lease.uid if line.lease else "",
    )


def _taxes(lines: list[InvoiceLine], currency: str) -> tuple[TaxLine, ...]:
    base: dict[tuple[str, Decimal, str], Decimal] = defaultdict(Decimal)
    tax: dict[tuple[str, Decimal, str], Decimal] = defaultdict(Decimal)
    for line in lines:
        key = (line.tax_code, line.tax_rate, line.tax_reason)
        base[key] += line.amount
        tax[key] += line.tax_amount
    return tuple(
        TaxLine(
            label=f"{code} {_number(rate * 100)}%",
            base=format_money(base[code, rate, reason], currency),
            amount=format_money(tax[code, rate, reason], currency),
            reason=reason,
        )
        for code, rate, reason in base
        if rate or reason  # a seller without tax prints no table of it
    )


def _purchase_orders(lines: list[InvoiceLine]) -> list[str]:
    """Return the customers' order numbers, as the accepted quotes of the lines' leases name them."""
    leases = {line.lease_id for line in lines if line.lease_id}
    orders = Quote.objects.filter(lease__in=leases, state=Quote.State.ACCEPTED).exclude(purchase_order="")
    return sorted(set(orders.values_list("purchase_order", flat=True)))


def _terms(invoice: Invoice, seller: dict[str, str]) -> tuple[str, ...]:
    if invoice.state == State.VOID:
        return (_("This invoice is void: %(reason)s") % {"reason": invoice.void_reason},)
    note = seller.get("payment_note", "").strip()
    return tuple(paragraph.strip() for paragraph in note.split("\n\n") if paragraph.strip())


def _number(value: Decimal, *, places: int | None = None) -> str:
    """Return a quantity or a percentage for people, without needless zeros unless ``places`` says so."""
    if places is None:
        plain = text(value)
        places = len(plain.partition(".")[2])
    return formats.number_format(value, decimal_pos=places, use_l10n=True, force_grouping=True)


def _places(price: Decimal, currency: str) -> int:
    """Return how many decimals a unit price needs: its own, and the currency's at least."""
    return max(MINOR_UNITS.get(currency, 2), len(text(price).partition(".")[2]))
