"""Invoices on paper: one typed document in, one PDF/A-3b out, drawn by Typst.

The document holds finished strings. It reaches ``invoice.typ`` as JSON, where a
string is text and never markup, whatever a customer is called.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import unicodedata
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import typst
from django.utils.text import Truncator
from django.utils.translation import get_language
from django.utils.translation import gettext as _

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("invoice.typ")
LONGEST_WORD = 28  # longer runs without a space may be broken anywhere, so that they stay in their column


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """Who sells or buys: the name, the address line by line, the tax id with its country."""

    name: str
    lines: tuple[str, ...] = ()
    tax_id: str = ""
    email: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentLine:
    """One row, formatted: ``quantity`` with ``unit``, ``unit_price``, tax rate and amount."""

    description: str
    quantity: str
    unit_price: str
    amount: str
    tax: str = ""
    unit: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaxLine:
    """One tax code: ``VAT 23%``, the sum it is on, its amount, and why it is what it is."""

    label: str
    base: str
    amount: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class InvoiceDocument:
    """All that an invoice prints, as finished strings in one language and currency.

    ``stamp`` (Draft, Void, Paid) is written across the page. ``paid`` and
    ``amount_due`` differ from the total once something was paid. ``terms`` are
    paragraphs: how and until when to pay, in whose favour.
    """

    number: str
    issued_on: str
    due_on: str
    period: str
    currency: str
    seller: Party
    buyer: Party
    lines: tuple[DocumentLine, ...]
    subtotal: str
    total: str
    amount_due: str
    taxes: tuple[TaxLine, ...] = ()
    tax: str = ""
    paid: str = ""
    purchase_order: str = ""
    terms: tuple[str, ...] = ()
    title: str = ""
    stamp: str = ""
    issued_at: datetime | None = None  # the file's own date; aware


@lru_cache(maxsize=1)
def _fonts() -> typst.Fonts:
    spec = importlib.util.find_spec("fontpkg_geist")
    folders = [str(Path(spec.origin).parent / "files")] if spec and spec.origin else []
    # The system's fonts help with scripts that Geist has no letters for.
    return typst.Fonts(font_paths=list(folders))


def _printable(text: str) -> str:
    """Return ``text`` without control characters, NFC, with breaks allowed in endless words."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(
        " " if character in "\t\r\n\u2028\u2029" else character
        for character in text
        if character in "\t\r\n" or unicodedata.category(character) not in {"Cc", "Cs", "Co", "Cn"}
    )
    return re.sub(
        rf"\S{{{LONGEST_WORD + 1},}}",
        lambda run: "\u200b".join(
            run.group()[i : i + LONGEST_WORD] for i in range(0, len(run.group()), LONGEST_WORD)
        ),
        text,
    )


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _payload(data: InvoiceDocument) -> dict[str, Any]:
    facts = [
        (_("Invoice number"), data.number),
        (_("Issued"), data.issued_on),
        (_("Service period"), data.period),
        (_("Due"), data.due_on),
        (_("Purchase order"), data.purchase_order),
        (_("Currency"), data.currency),
    ]
    sums = [(_("Subtotal"), data.subtotal), (_("Tax"), data.tax)]
    after = [(_("Paid"), data.paid), (_("Amount due"), data.amount_due if data.paid else "")]
    footer = [data.seller.name, *([f"{_('Tax id')} {data.seller.tax_id}"] if data.seller.tax_id else [])]
    return {
        "labels": {
            "title": data.title or _("Invoice"),
            "billed_to": _("Billed to"),
            "tax_id": _("Tax id"),
            "amount_due": _("Amount due"),
            "description": _("Description"),
            "quantity": _("Quantity"),
            "unit_price": _("Unit price"),
            "tax": _("Tax"),
            "amount": _("Amount"),
            "tax_summary": _("Tax summary"),
            "taxable": _("Taxable"),
            "total": _("Total"),
            "payment": _("Payment terms"),
            "page": _("Page {page} of {pages}"),
        },
        "language": (get_language() or "en").split("-")[0],
        "number": data.number or _("Draft"),
        "stamp": data.stamp,
        "seller": asdict(data.seller),
        "buyer": asdict(data.buyer),
        "buyer_short": Truncator(data.buyer.name).chars(60),
        "facts": [{"label": label, "value": value} for label, value in facts if value],
        "amount_due": data.amount_due,
        "due_sentence": _("Due on %(date)s") % {"date": data.due_on} if data.due_on else "",
        "lines": [asdict(line) for line in data.lines],
        "taxes": [asdict(tax) for tax in data.taxes],
        "sums": [{"label": label, "amount": amount} for label, amount in sums if amount],
        "total": data.total,
        "after_total": [{"label": label, "amount": amount} for label, amount in after if amount],
        "terms": list(data.terms),
        "footer": " · ".join(footer),
    }


def render_invoice_pdf(data: InvoiceDocument) -> bytes:
    """Return the invoice as PDF/A-3b, tagged, A4.

    PDF/A demands a glyph for every character. A name in a script that no font of
    this machine has makes an ordinary PDF instead, with a box in its place, rather
    than no invoice. Raises ``typst.TypstError`` only if the template itself is
    broken.
    """
    inputs = {"document": json.dumps(_clean(_payload(data)), ensure_ascii=False)}
    compiler = typst.Compiler(TEMPLATE, root=TEMPLATE.parent, font_paths=_fonts(), sys_inputs=inputs)
    try:
        pdf = compiler.compile(format="pdf", pdf_standards=["a-3b"], timestamp=data.issued_at)
    except typst.TypstError as error:
        log.warning("invoice_pdf_not_archival", extra={"number": data.number, "error": str(error)[:200]})
        pdf = compiler.compile(format="pdf", timestamp=data.issued_at)
    assert isinstance(pdf, bytes)
    return pdf
