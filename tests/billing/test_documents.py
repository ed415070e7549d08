"""An invoice prints what was kept at its issue, every value as finished text."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from billing import documents, invoicing, metering
from billing.sellers import default_seller
from tests.billing.helpers import deliver, make_booking, make_customer, make_rule
from tests.factories import NOW, make_fleet, make_user

pytestmark = pytest.mark.django_db

START = NOW + timedelta(days=1)
JANUARY = datetime(2027, 1, 2, 9, 30, 15, 123, tzinfo=UTC)


@pytest.fixture
def draft():
    make_fleet(nodes=2)
    make_rule(amount="2.19")
    seller = default_seller()
    seller.name, seller.address, seller.country = "Reseller GmbH", "Hafen 1\n20457 Hamburg", "DE"
    seller.tax_code, seller.tax_rate = "VAT", Decimal("0.19")
    seller.payment_note = "Pay to IBAN DE00.\n\nThank you."
    seller.save()
    customer = make_customer(
        mode="postpaid",
        credit="9000",
        name="Wolke #[x] AG",
        billing_address="Weg 2\n\n1010 Wien",
        country="AT",
        tax_id="ATU1",
    )
    lease = make_booking(
        customer,
        nodes=2,
        hours=100,
        prepared_by=make_user(is_staff=True),
        purchase_order="PO-9",
        name="Llama",
    )
    deliver(lease, START)
    metering.meter_due(now=JANUARY)
    return invoicing.draft_month(month=date(2026, 12, 1), now=JANUARY)[0]


def finalize(draft):
    return invoicing.finalize(invoice_uid=draft.uid, actor=None, now=JANUARY)


def test_an_open_invoice(draft):
    document = documents.invoice_document(finalize(draft))
    assert (document.number, document.issued_on, document.due_on, document.period) == (
        "INV-000001",
        "2 January 2027",
        "16 January 2027",
        "1–31 December 2026",
    )
    assert document.seller.lines == ("Hafen 1", "20457 Hamburg", "DE")
    assert document.buyer.name == "Wolke #[x] AG" and document.buyer.lines == ("Weg 2", "1010 Wien", "AT")
    (line,) = document.lines
    assert (line.quantity, line.unit, line.unit_price, line.amount, line.tax) == (
        "1,600.00",
        "GPU-hours",
        "$2.19",
        "$3,504.00",
        "19%",
    )
    assert "Llama: 2 × 8 H100" in line.description and line.detail.startswith("lse_")
    assert (document.subtotal, document.tax, document.total) == ("$3,504.00", "$665.76", "$4,169.76")
    assert (document.amount_due, document.paid, document.stamp) == ("$4,169.76", "", "")
    assert [(tax.label, tax.base, tax.amount) for tax in document.taxes] == [
        ("VAT 19%", "$3,504.00", "$665.76")
    ]
    assert document.terms == ("Pay to IBAN DE00.", "Thank you.")
    assert document.purchase_order == "PO-9"
    assert documents.invoice_pdf(draft).startswith(b"%PDF-")


def test_states_are_stamped_and_payments_shown(draft):
    assert documents.invoice_document(draft).stamp == "Draft"
    invoice = finalize(draft)
    invoicing.record_payment(
        invoice_uid=invoice.uid, amount=Decimal("69.76"), reference="a", actor=None, now=JANUARY
    )
    document = documents.invoice_document(invoice)
    assert (document.paid, document.amount_due, document.stamp) == ("$69.76", "$4,100.00", "")
    invoicing.record_payment(
        invoice_uid=invoice.uid, amount=Decimal(4100), reference="b", actor=None, now=JANUARY
    )
    invoice.refresh_from_db()
    document = documents.invoice_document(invoice)
    assert (document.amount_due, document.stamp, document.due_on) == ("$0.00", "Paid", "")
    voided = invoicing.void(invoice_uid=invoice.uid, reason="Wrong buyer", actor=None, now=JANUARY)
    document = documents.invoice_document(voided)
    assert document.stamp == "Void" and document.terms == ("This invoice is void: Wrong buyer",)


def test_the_parties_are_printed_as_they_were(draft):
    invoice = finalize(draft)
    seller, buyer = invoice.seller, invoice.organization
    seller.name, buyer.name = "New seller", "New buyer"
    seller.save()
    buyer.save()
    document = documents.invoice_document(invoice)
    assert (document.seller.name, document.buyer.name) == ("Reseller GmbH", "Wolke #[x] AG")


def test_file_names_are_safe(draft):
    invoice = finalize(draft)
    assert documents.file_name(invoice) == "INV-000001.pdf"
    invoice.number = 'A/B "1"\n'
    assert documents.file_name(invoice) == "A-B--1--.pdf"
