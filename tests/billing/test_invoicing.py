"""M6, M8: drafts, gapless numbers, payments, voiding, and what PostgreSQL refuses."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction

from billing import accounts, charges, checkout, invoicing, ledger, metering
from billing.models import (
    Charge,
    FundsHold,
    Invoice,
    InvoiceCounter,
    InvoiceLine,
    Payment,
    PaymentAllocation,
)
from billing.sellers import default_seller
from leases.models import Lease, Shortfall
from portal.common.errors import Conflict, InvalidInput, NotFound
from portal.common.periods import period
from portal.common.transactions import durable
from tests.billing.helpers import (
    account_of,
    check_books,
    deliver,
    make_booking,
    make_customer,
    make_quote,
    make_rule,
    money_snapshot,
    owed_by_ledger,
)
from tests.concurrency import race
from tests.factories import NOW, make_fleet, make_user

pytestmark = pytest.mark.django_db

DECEMBER = date(2026, 12, 1)
JANUARY = datetime(2027, 1, 2, 9, tzinfo=UTC)
START = NOW + timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _fleet_and_price():
    make_fleet(nodes=4)
    make_rule()


def run(customer, *, hours=24, delivered=None, start=START, **more):
    """Book, deliver and meter a lease of ``hours``."""
    lease = make_booking(customer, start=start, hours=hours, **more)
    deliver(lease, start, start + (delivered or hours * HOUR))
    Lease.objects.filter(pk=lease.pk).update(state=Lease.State.ENDED)
    metering.meter_due(now=start + hours * HOUR)
    return lease


def draft(customer, month=DECEMBER, now=JANUARY):
    return invoicing.draft_month(month=month, now=now, organization=customer)[0]


def finalize(invoice, now=JANUARY):
    return invoicing.finalize(invoice_uid=invoice.uid, actor=None, now=now)


def charge_tax(rate="0.23"):
    seller = default_seller()
    seller.tax_code, seller.tax_rate = "VAT", Decimal(rate)
    seller.save()


# --- drafts ---------------------------------------------------------------------------------------


def test_a_draft_sums_charges_by_lease_and_price():
    customer = make_customer(funds="5000")
    first = run(customer, nodes=2)
    run(customer, hours=10)
    invoice = draft(customer)
    lines = list(invoice.lines.all())
    assert [(line.quantity, line.unit, line.unit_price, line.amount) for line in lines] == [
        (2 * 8 * 24, "gpu_hour", 2, 768),
        (80, "gpu_hour", 2, 160),
    ]
    assert lines[0].lease == first and "2 × 8 H100 SXM 80 GB" in lines[0].description
    assert (invoice.state, invoice.number, invoice.total) == ("draft", "", 928)
    check_books()


def test_drafting_again_changes_nothing_and_late_charges_join():
    customer = make_customer(funds="5000")
    lease = make_booking(customer)
    deliver(lease, START, START + 24 * HOUR)
    metering.meter_due(now=START + 5 * HOUR)
    first = draft(customer)
    assert draft(customer) == first and Invoice.objects.count() == 1
    assert InvoiceLine.objects.get().amount == 80
    metering.meter_due(now=START + 24 * HOUR)
    again = draft(customer)
    assert again == first and again.total == 384 and InvoiceLine.objects.count() == 1
    check_books()


def test_each_line_is_rounded_half_even_once():
    customer = make_customer(funds="5000")
    make_rule(name="odd", amount="0.00390625", organization=customer)  # 8 GPUs: 0.03125 an hour
    lease = make_booking(customer, hours=24)
    deliver(lease, START)
    for minutes in range(10, 25, 7):
        metering.meter_due(now=START + timedelta(minutes=minutes))
    deliver(lease, START, START + 4 * HOUR)
    metering.meter_due(now=START + 24 * HOUR)
    line = draft(customer).lines.get()
    assert abs(line.exact_amount - Decimal("0.125")) < Decimal("0.0000001")
    assert line.amount in (Decimal("0.12"), Decimal("0.13")) and line.quantity == 32
    invoice = finalize(line.invoice)
    assert -ledger.balance("rounding", currency="USD") == invoice.subtotal - line.exact_amount
    check_books()


def test_only_charges_up_to_the_end_of_the_month_are_collected():
    customer = make_customer(funds="5000")
    start = datetime(2026, 12, 31, 20, tzinfo=UTC)
    run(customer, start=start, hours=8)
    invoice = draft(customer, now=JANUARY)
    assert invoice.total == 64
    finalize(invoice)
    february = datetime(2027, 2, 1, tzinfo=UTC)
    assert draft(customer, month=date(2027, 1, 31), now=february).total == 64
    check_books()


def test_a_month_that_is_not_over_is_not_drafted():
    with pytest.raises(InvalidInput) as refused:
        invoicing.draft_month(month=DECEMBER, now=datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert refused.value.field == "month"


def test_what_was_taken_back_lowers_the_line_or_waits_for_a_later_invoice():
    customer = make_customer(funds="5000")
    lease = make_booking(customer)
    (allocation,) = deliver(lease, START)
    metering.meter_due(now=START + 10 * HOUR)
    finalize(draft(customer))
    Shortfall.objects.create(
        lease=lease,
        allocation=allocation,
        cause="node_failed",
        period=period(START + 4 * HOUR, START + 24 * HOUR),
    )
    metering.meter_due(now=JANUARY)
    assert invoicing.draft_month(month=DECEMBER, now=JANUARY) == []  # 6 hours in the customer's favour
    run(customer, start=START + timedelta(days=2), hours=12)
    second = draft(customer)
    assert second.total == Decimal(16) * 6
    finalize(second)
    assert account_of(customer).owed == 0
    check_books()


# --- finalizing -----------------------------------------------------------------------------------


def test_finalizing_numbers_posts_and_pays_from_the_wallet():
    customer = make_customer(funds="1000", country="DE", tax_id="DE123")
    run(customer)
    staff = make_user(is_staff=True)
    invoice = invoicing.finalize(invoice_uid=draft(customer).uid, actor=staff, now=JANUARY)
    assert (invoice.number, invoice.sequence, invoice.state) == ("INV-000001", 1, "paid")
    assert invoice.issued_at == JANUARY and invoice.due_on == date(2027, 1, 16)
    assert invoice.buyer_snapshot["tax_id"] == "DE123"
    account = account_of(customer)
    assert (account.balance, account.owed, account.reserved) == (616, 0, 0)
    payment = Payment.objects.get(method="wallet")
    assert payment.amount == 384 == invoicing.paid_amount(invoice)
    check_books()


def test_tax_is_added_per_line_and_was_reserved():
    charge_tax()
    customer = make_customer(funds="472.32")
    run(customer)
    account = account_of(customer)
    assert (account.reserved, account.spendable) == (Decimal("88.32"), 0)
    metering.release_finished(now=START + 30 * HOUR)
    assert account_of(customer).spendable == 0  # the tax stays reserved until it is invoiced
    invoice = finalize(draft(customer))
    assert (invoice.subtotal, invoice.tax, invoice.total) == (384, Decimal("88.32"), Decimal("472.32"))
    assert invoice.state == "paid"
    account = account_of(customer)
    assert (account.balance, account.reserved, account.owed) == (0, 0, 0)
    metering.release_finished(now=JANUARY)
    assert not FundsHold.objects.filter(released_at=None).exists()
    assert -ledger.balance("tax", currency="USD") == Decimal("88.32")
    check_books()


def test_parties_and_rates_stay_as_they_were():
    customer = make_customer(funds="1000")
    run(customer)
    name = customer.name
    invoice = finalize(draft(customer))
    customer.name = "Renamed"
    customer.save()
    charge_tax()
    invoice.refresh_from_db()
    assert invoice.buyer_snapshot["name"] == name and invoice.tax == 0


def test_finalizing_twice_is_refused():
    customer = make_customer(funds="1000")
    run(customer)
    invoice = finalize(draft(customer))
    before = money_snapshot()
    with pytest.raises(invoicing.InvoiceState, match="INV-000001"):
        finalize(invoice)
    with pytest.raises(NotFound):
        invoicing.finalize(invoice_uid="inv_none", actor=None, now=JANUARY)
    assert money_snapshot() == before


@pytest.mark.django_db(transaction=True)
def test_numbers_have_no_gaps_whatever_fails_or_races(monkeypatch):
    customers = [make_customer(funds="1000") for _ in range(4)]
    for number, customer in enumerate(customers):
        run(customer, start=START + timedelta(days=number))
    drafts = invoicing.draft_month(month=DECEMBER, now=JANUARY)

    def breaks(*args, **kwargs):
        raise RuntimeError("after the number was taken")

    with monkeypatch.context() as broken:
        broken.setattr(invoicing, "_event", breaks)
        with pytest.raises(RuntimeError):
            finalize(drafts[0])
    results = race([lambda each=each: finalize(each) for each in drafts for _ in range(2)])
    assert sum(isinstance(result, invoicing.InvoiceState) for result in results) == 4
    assert sorted(Invoice.objects.values_list("sequence", flat=True)) == [1, 2, 3, 4]
    assert InvoiceCounter.objects.get().last_number == 4
    check_books()


def test_an_invoice_of_nothing_is_paid_at_once():
    customer = make_customer(funds="1000")
    make_rule(name="tiny", amount="0.00000001", organization=customer)
    run(customer)
    invoice = finalize(draft(customer))
    assert (invoice.state, invoice.total) == ("paid", 0)
    assert account_of(customer).owed == 0
    check_books()


# --- payments -------------------------------------------------------------------------------------


@pytest.fixture
def open_invoice():
    customer = make_customer(mode="postpaid", credit="1000")
    run(customer)
    return finalize(draft(customer))


def pay(invoice, amount, reference="bank 1", **more):
    return invoicing.record_payment(
        invoice_uid=invoice.uid,
        amount=Decimal(amount),
        reference=reference,
        actor=None,
        now=JANUARY,
        **more,
    )


def test_paid_is_the_sum_of_allocations(open_invoice):
    assert open_invoice.state == "open"
    pay(open_invoice, "100")
    open_invoice.refresh_from_db()
    assert open_invoice.state == "open" and invoicing.open_amount(open_invoice) == 284
    pay(open_invoice, "284", reference="bank 2")
    open_invoice.refresh_from_db()
    assert open_invoice.state == "paid"
    assert account_of(open_invoice.organization).owed == 0
    assert ledger.balance("cash", currency="USD") == 384
    check_books()


def test_a_reference_is_booked_once(open_invoice):
    first = pay(open_invoice, "100")
    assert pay(open_invoice, "100") == first
    before = money_snapshot()
    with pytest.raises(accounts.ReferenceUsed):
        pay(open_invoice, "101")
    with pytest.raises(accounts.ReferenceUsed):
        accounts.top_up(
            organization=open_invoice.organization,
            amount=Decimal(100),
            reference="bank 1",
            actor=None,
            now=JANUARY,
        )
    assert money_snapshot() == before and Payment.objects.count() == 1


@pytest.mark.parametrize(
    ("amount", "more", "field"),
    [
        ("384.01", {}, "amount"),
        ("0", {}, "amount"),
        ("-5", {}, "amount"),
        ("NaN", {}, "amount"),
        ("1.001", {}, "amount"),
        ("5", {"reference": "  "}, "reference"),
        ("5", {"received_at": JANUARY + HOUR}, "received_at"),
    ],
)
def test_wrong_payments_are_refused(open_invoice, amount, more, field):
    before = money_snapshot()
    with pytest.raises(InvalidInput) as refused:
        pay(open_invoice, amount, **more)
    assert refused.value.field == field
    assert money_snapshot() == before and not Payment.objects.exists()


def test_a_bounced_transfer_opens_the_invoice_again(open_invoice):
    pay(open_invoice, "384")
    invoicing.reverse_payment(reference="bank 1", reason="Bounced", actor=None, now=JANUARY)
    open_invoice.refresh_from_db()
    assert open_invoice.state == "open" and invoicing.open_amount(open_invoice) == 384
    assert account_of(open_invoice.organization).owed == 384
    with pytest.raises(invoicing.InvoiceState):
        invoicing.reverse_payment(reference="bank 1", reason="Bounced", actor=None, now=JANUARY)
    pay(open_invoice, "384", reference="bank 2")
    check_books()


def test_an_undone_reference_is_not_booked_again_in_silence(open_invoice):
    pay(open_invoice, "100")
    invoicing.reverse_payment(reference="bank 1", reason="Bounced", actor=None, now=JANUARY)
    with pytest.raises(accounts.ReferenceUsed):
        pay(open_invoice, "100")


def test_a_reference_of_another_invoice_is_refused(open_invoice):
    pay(open_invoice, "100")
    run(open_invoice.organization, start=START + timedelta(days=3))
    other = finalize(draft(open_invoice.organization))
    with pytest.raises(accounts.ReferenceUsed):
        pay(other, "100")
    assert invoicing.paid_amount(other) == 0


def test_a_top_up_that_was_typed_wrong_is_undone_once():
    customer = make_customer(funds="1000")
    reference = f"bank {customer.uid}"
    undone = accounts.undo_top_up(reference=reference, reason="Typed wrong", actor=None, now=NOW)
    assert undone.balance == 0 and ledger.balance("cash", currency="USD") == 0
    with pytest.raises(Conflict):
        accounts.undo_top_up(reference=reference, reason="Typed wrong", actor=None, now=NOW)
    with pytest.raises(accounts.ReferenceUsed):
        accounts.top_up(organization=customer, amount=Decimal(1000), reference=reference, actor=None, now=NOW)
    with pytest.raises(NotFound):
        accounts.undo_top_up(reference="none", reason="Typed wrong", actor=None, now=NOW)
    check_books()


def test_a_top_up_that_was_spent_is_not_undone():
    customer = make_customer(funds="1000")
    run(customer)
    finalize(draft(customer))
    before = money_snapshot()
    with pytest.raises(Conflict, match=r"\$616\.00"):
        accounts.undo_top_up(reference=f"bank {customer.uid}", reason="Bounced", actor=None, now=JANUARY)
    assert money_snapshot() == before


def test_credits_that_round_to_more_than_charges_wait():
    customer = make_customer(funds="1000")
    with durable():
        account = accounts.lock_account(customer)
        for number, amount in enumerate(["0.0149", "-0.0051", "-0.0051"]):
            charges.add_charge(
                account,
                kind="one_off" if number == 0 else "credit",
                source=f"test:{number}",
                description="odd",
                lease=None,
                period=period(START, START + HOUR),
                quantity=Decimal(1),
                unit=charges.EACH,
                unit_price=Decimal(amount),
                amount=Decimal(amount),
                effective_at=START,
                now=JANUARY,
            )
    assert invoicing.draft_month(month=DECEMBER, now=JANUARY) == []
    check_books()


def test_a_wallet_pays_as_far_as_it_reaches_and_the_rest_when_filled():
    customer = make_customer(funds="384")
    run(customer)
    invoice = draft(customer)
    # The wallet is short of the tax that came with the invoice.
    charge_tax()
    invoice = finalize(draft(customer))
    assert invoice.state == "open" and invoicing.open_amount(invoice) == Decimal("88.32")
    assert account_of(customer).balance == 0
    assert invoicing.pay_due(now=JANUARY) == 0
    accounts.top_up(organization=customer, amount=Decimal(100), reference="r", actor=None, now=JANUARY)
    assert invoicing.pay_due(now=JANUARY) == 1
    invoice.refresh_from_db()
    assert invoice.state == "paid" and account_of(customer).balance == Decimal("11.68")
    check_books()


# --- voiding --------------------------------------------------------------------------------------


def test_voiding_unbills_the_charges_and_fills_the_wallet():
    customer = make_customer(funds="1000")
    run(customer)
    first = finalize(draft(customer))
    voided = invoicing.void(invoice_uid=first.uid, reason="Wrong address", actor=None, now=JANUARY)
    assert (voided.state, voided.number, voided.void_reason) == ("void", "INV-000001", "Wrong address")
    account = account_of(customer)
    assert (account.balance, account.owed) == (1000, 384)
    assert owed_by_ledger(customer) == 384
    check_books()
    again = finalize(draft(customer))
    assert again.number == "INV-000002" and again.total == 384
    assert account_of(customer).balance == 616
    check_books()


def test_a_bank_payment_of_a_void_invoice_goes_to_the_wallet(open_invoice):
    pay(open_invoice, "100")
    invoicing.void(invoice_uid=open_invoice.uid, reason="Wrong month", actor=None, now=JANUARY)
    account = account_of(open_invoice.organization)
    assert (account.balance, account.owed) == (100, 384)
    check_books()


def test_voiding_wants_a_reason_and_a_finalized_invoice(open_invoice):
    before = money_snapshot()
    with pytest.raises(InvalidInput) as refused:
        invoicing.void(invoice_uid=open_invoice.uid, reason=" ", actor=None, now=JANUARY)
    assert refused.value.field == "reason"
    assert money_snapshot() == before
    invoicing.void(invoice_uid=open_invoice.uid, reason="Wrong", actor=None, now=JANUARY)
    before = money_snapshot()
    with pytest.raises(invoicing.InvoiceState):
        invoicing.void(invoice_uid=open_invoice.uid, reason="Again", actor=None, now=JANUARY)
    with pytest.raises(invoicing.InvoiceState):
        pay(open_invoice, "1")
    with pytest.raises(invoicing.InvoiceState):
        invoicing.void(
            invoice_uid=draft(open_invoice.organization).uid, reason="Not yet", actor=None, now=JANUARY
        )
    assert money_snapshot()["entries"] == before["entries"]


# --- PostgreSQL refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_invoice SET total = total + 1, subtotal = subtotal + 1",
        "UPDATE billing_invoice SET number = 'INV-9'",
        "UPDATE billing_invoice SET sequence = 9",
        "UPDATE billing_invoice SET buyer_snapshot = '{}'",
        "UPDATE billing_invoice SET issued_at = now()",
        "UPDATE billing_invoice SET state = 'draft', sequence = NULL",
        "UPDATE billing_invoice SET state = 'void'",
        "UPDATE billing_invoice SET void_reason = 'x'",
        "DELETE FROM billing_invoice",
        "UPDATE billing_invoiceline SET amount = amount + 1",
        "UPDATE billing_invoiceline SET description = 'x'",
        "DELETE FROM billing_invoiceline",
        "INSERT INTO billing_invoiceline SELECT 999, 9, description, quantity, unit, unit_price, exact_amount,"
        " amount, tax_code, tax_rate, tax_amount, tax_reason, invoice_id, lease_id FROM billing_invoiceline",
        "UPDATE billing_charge SET invoice_line_id = NULL",
        "UPDATE billing_charge SET amount = amount + 1",
        "DELETE FROM billing_charge",
    ],
)
def test_a_finalized_invoice_never_changes(open_invoice, statement):
    before = (money_snapshot(), list(InvoiceLine.objects.values()))
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert (money_snapshot(), list(InvoiceLine.objects.values())) == before


def test_an_invoice_that_differs_from_its_lines_cannot_be_finalized():
    customer = make_customer(mode="postpaid", credit="1000")
    run(customer)
    invoice = draft(customer)
    Invoice.objects.update(subtotal=1, total=1)
    with pytest.raises(IntegrityError, match="M6"), transaction.atomic():
        Invoice.objects.filter(pk=invoice.pk).update(state="open", sequence=1)
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_payment SET amount = amount + 1",
        "DELETE FROM billing_payment",
        "UPDATE billing_paymentallocation SET amount = 1",
        "DELETE FROM billing_paymentallocation",
    ],
)
def test_payments_never_change(open_invoice, statement):
    pay(open_invoice, "100")
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert PaymentAllocation.objects.get().amount == 100 == Payment.objects.get().amount


def test_the_fee_of_a_cancellation_is_invoiced_as_a_line_of_its_own(settings):
    settings.SUBLET_CANCELLATION_FEE_PERCENT = 10
    charge_tax()
    customer = make_customer(funds="1000")
    lease = make_booking(customer)
    quote = checkout.quote_cancellation(lease_uid=lease.uid, organization=customer, actor=None, now=NOW)
    checkout.cancel(quote_uid=quote.uid, organization=customer, actor=None, now=NOW)
    assert account_of(customer).reserved == Decimal("8.83")
    invoice = finalize(draft(customer))
    line = invoice.lines.get()
    assert (line.unit, line.quantity, line.amount) == ("each", 1, Decimal("38.40"))
    account = account_of(customer)
    assert (account.reserved, account.owed) == (0, 0)
    metering.release_finished(now=JANUARY)
    check_books()


def test_a_quote_that_was_never_accepted_charges_nothing():
    customer = make_customer(funds="1000")
    make_quote(customer)
    metering.meter_due(now=JANUARY)
    assert invoicing.draft_month(month=DECEMBER, now=JANUARY) == [] and not Charge.objects.exists()
