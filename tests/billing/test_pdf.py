"""Invoices on paper: whatever a customer is called, it is printed and never obeyed."""

from __future__ import annotations

import dataclasses
import io
import logging
from datetime import UTC, datetime

import pytest
from pypdf import PdfReader

from billing.pdf import DocumentLine, InvoiceDocument, Party, TaxLine, render_invoice_pdf

HOSTILE = 'Northwind #evil[] $x$ <b>bold</b> *star* _under_ @ref `code` \\ "q" // Ünïcødé Ελλάδα Київ'


def document(line_count: int = 3, **changes: object) -> InvoiceDocument:
    base = InvoiceDocument(
        number="INV-2026-0042",
        issued_on="1 December 2026",
        due_on="31 December 2026",
        period="1–30 November 2026",
        currency="USD",
        seller=Party(name="Sublet GPU Ltd", lines=("1 Long Street", "Bristol"), tax_id="GB 000 0000 00"),
        buyer=Party(name="Northwind AI, Inc.", lines=("22 Harbour Road", "Dublin"), tax_id="IE 1234567T"),
        lines=tuple(
            DocumentLine(
                description=f"H100 SXM × 8, lease train-llm-{i:02d}",
                detail="1–30 November, us-east-1" if i % 5 == 0 else "",
                quantity="1,536.00",
                unit="GPU h",
                unit_price="$2.1900",
                tax="23%",
                amount=f"$3,363.{i:02d}",
            )
            for i in range(1, line_count + 1)
        ),
        subtotal="$10,091.52",
        tax="$2,321.05",
        total="$12,412.57",
        amount_due="$12,412.57",
        taxes=(TaxLine(label="VAT 23%", base="$10,091.52", amount="$2,321.05", reason="Standard rate"),),
        terms=("Pay by bank transfer within 30 days, quoting INV-2026-0042.",),
        issued_at=datetime(2026, 12, 1, tzinfo=UTC),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def pages(pdf: bytes) -> list[str]:
    # A line break in the layout is a space in the sentence.
    return [" ".join(page.extract_text().split()) for page in PdfReader(io.BytesIO(pdf)).pages]


def squeeze(text: str) -> str:
    return "".join(text.split())


def test_everything_that_an_invoice_owes_its_reader_is_on_it():
    (page,) = pages(
        render_invoice_pdf(document(purchase_order="PO-7781", paid="-$412.57", amount_due="$12,000.00"))
    )
    for text in (
        "Invoice",
        "INV-2026-0042",
        "Sublet GPU Ltd",
        "GB 000 0000 00",
        "Northwind AI, Inc.",
        "IE 1234567T",
        "1 December 2026",
        "31 December 2026",
        "1–30 November 2026",
        "PO-7781",
        "train-llm-02",
        "1,536.00",
        "$2.1900",
        "$3,363.02",
        "$10,091.52",
        "VAT 23%",
        "Standard rate",
        "$2,321.05",
        "$12,412.57",
        "-$412.57",
        "$12,000.00",
        "Pay by bank transfer within 30 days",
        "Page 1 of 1",
    ):
        assert squeeze(text) in squeeze(page), text


def test_sixty_lines_run_over_three_pages_with_the_head_on_each():
    found = pages(render_invoice_pdf(document(60)))
    assert len(found) == 3
    for number, page in enumerate(found, start=1):
        assert f"Page {number} of 3" in page
        assert "Unit price" in page
        assert "INV-2026-0042" in page
    everything = squeeze(" ".join(found))
    for i in range(1, 61):
        assert f"$3,363.{i:02d}" in everything
    assert "$12,412.57" in found[-1]


def test_markup_in_names_and_descriptions_stays_text():
    line = DocumentLine(
        description=f'{HOSTILE} #panic("no")',
        detail='#import "x": *',
        quantity="#1",
        unit_price="$$",
        amount="[]",
    )
    hostile = document(
        number="INV-#1",
        buyer=Party(name=HOSTILE, lines=(HOSTILE, "= heading"), tax_id="#set", email="a@b"),
        lines=(line,),
        terms=("#lorem(100)", "- item"),
        taxes=(TaxLine(label="#tax", base="$b$", amount="*a*", reason="<label>"),),
        stamp="#Void",
    )
    text = squeeze(" ".join(pages(render_invoice_pdf(hostile))))
    for printed in (
        HOSTILE,
        '#panic("no")',
        '#import "x": *',
        "= heading",
        "#lorem(100)",
        "- item",
        "<label>",
        "$b$",
    ):
        assert squeeze(printed) in text, printed


@pytest.mark.parametrize(
    "name", ["x" * 300, "a\x00b\x1b[31mc", "line\nbreak", "\ud800 lone surrogate", "\u202eevil", ""]
)
def test_odd_names_make_an_invoice_all_the_same(name):
    pdf = render_invoice_pdf(document(buyer=Party(name=name, lines=(name,))))
    assert pdf.startswith(b"%PDF-")
    assert "INV-2026-0042" in pages(pdf)[0]


def test_a_long_word_is_broken_to_stay_in_its_column():
    pdf = render_invoice_pdf(document(0, buyer=Party(name="W" * 280)))
    rows = PdfReader(io.BytesIO(pdf)).pages[0].extract_text().replace("\u200b", "").splitlines()
    runs = [row.count("W") for row in rows if "WW" in row]
    assert sum(runs) == 280
    assert max(runs) <= 56


def test_it_is_pdf_a_3b_and_the_same_every_time():
    pdf = render_invoice_pdf(document())
    metadata = PdfReader(io.BytesIO(pdf)).xmp_metadata
    assert metadata is not None
    xmp = metadata.stream.get_data().decode()
    assert "<pdfaid:part>3</pdfaid:part>" in xmp
    assert "<pdfaid:conformance>B</pdfaid:conformance>" in xmp
    assert pdf == render_invoice_pdf(document())


def test_a_script_without_a_font_still_makes_an_invoice(caplog):
    # No font has a glyph for a private or newly assigned letter; PDF/A would refuse it.
    name = "\U00013000\U00013001 Ltd"  # Egyptian hieroglyphs
    with caplog.at_level(logging.WARNING, logger="billing.pdf"):
        pdf = render_invoice_pdf(document(buyer=Party(name=name)))
    assert "INV-2026-0042" in pages(pdf)[0]
