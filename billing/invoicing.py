"""Invoices: finalized once with a gapless number, paid, or voided with a reason (M6, M8).

Drafts are made by :func:`billing.drafting.draft_month`, importable from here. Amounts
are in the invoice's currency, already rounded to its minor unit per line.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import F, Sum
from django.utils.translation import gettext as _

from billing import accounts, ledger
from billing.drafting import draft_month
from billing.models import (
    BillingAccount,
    Charge,
    Invoice,
    InvoiceCounter,
    LedgerAccount,
    Payment,
    PaymentAllocation,
    Seller,
)
from portal.accounts import events
from portal.accounts.models import Organization, User
from portal.common.errors import Conflict, InvalidInput, NotFound
from portal.common.money import format_money
from portal.common.transactions import durable, require_transaction

__all__ = [
    "InvoiceState",
    "draft_month",
    "finalize",
    "finalize_month",
    "open_amount",
    "paid_amount",
    "pay_due",
    "pay_from_wallet",
    "record_payment",
    "reverse_payment",
    "void",
]

Kind = LedgerAccount.Kind
State = Invoice.State


class InvoiceState(Conflict):
    """The invoice is not in a state for this."""

    code = "invoice-state"


def paid_amount(invoice: Invoice) -> Decimal:
    """Return what was paid: the sum of the payment allocations that stand (M8)."""
    allocations = PaymentAllocation.objects.filter(invoice=invoice, reversed_at=None)
    return allocations.aggregate(sum=Sum("amount"))["sum"] or Decimal(0)


def open_amount(invoice: Invoice) -> Decimal:
    """Return what is left to pay: nothing for a draft or a void invoice."""
    return invoice.total - paid_amount(invoice) if invoice.state in (State.OPEN, State.PAID) else Decimal(0)


def _lock(uid: str) -> tuple[BillingAccount, Invoice]:
    """Part: lock the wallet, then the invoice."""
    require_transaction()
    organization = Organization.objects.filter(invoices__uid=uid).first()
    if organization is None:
        raise NotFound(_("There is no invoice like that."))
    account = accounts.lock_account(organization)
    locked = Invoice.objects.select_for_update(no_key=True, of=("self",)).select_related("seller")
    return account, locked.get(uid=uid)


def finalize(*, invoice_uid: str, actor: User | None, now: datetime) -> Invoice:
    """Give a draft its number and freeze it; a prepaid customer's wallet pays it at once.

    Numbers per seller have no gaps. Seller and buyer are kept as they are today. Posts
    receivable against unbilled and tax, what the lines' rounding leaves against the
    rounding account. Raises :class:`InvoiceState` unless it is a draft with lines.
    """
    with durable():
        account, invoice = _lock(invoice_uid)
        if invoice.state != State.DRAFT:
            raise InvoiceState(_("%(number)s is finalized already.") % {"number": invoice.number})
        lines = list(invoice.lines.all())
        if not lines:
            raise InvoiceState(_("This draft has no lines. Draft the month again."))
        exact = sum((line.exact_amount for line in lines), Decimal(0))
        ledger.lock_period(effective_at=now)  # before the counter: the order of locks
        sequence = _next_number(invoice.seller)
        invoice.sequence = sequence
        invoice.number = f"{invoice.seller.number_prefix}{sequence:06d}"
        postings = [
            ledger.Line(Kind.RECEIVABLE, invoice.total, organization=account.organization),
            ledger.Line(Kind.UNBILLED, -exact, organization=account.organization),
            ledger.Line(Kind.TAX, -invoice.tax),
            ledger.Line(Kind.ROUNDING, exact - invoice.subtotal),
        ]
        postings = [line for line in postings if line.amount]
        if postings:
            invoice.entry = ledger.post(
                key=f"invoice:{invoice.uid}",
                effective_at=now,
                description=_("Invoice %(number)s") % {"number": invoice.number},
                lines=postings,
                currency=invoice.currency,
                now=now,
            )
        invoice.issued_at = now
        invoice.due_on = now.astimezone(UTC).date() + timedelta(days=account.payment_days)
        invoice.seller_snapshot = _seller_facts(invoice.seller)
        invoice.buyer_snapshot = _buyer_facts(account.organization)
        invoice.state = State.OPEN if invoice.total else State.PAID
        invoice.save()
        accounts.change(account, owed=invoice.total - exact)
        for line in lines:  # the tax that was reserved with the lease is owed now
            if line.lease_id is not None and line.tax_amount:
                accounts.use_hold(account, accounts.lock_hold(line.lease_id), line.tax_amount)
        _event(invoice, "finalized", actor=actor, now=now, before=State.DRAFT)
        if account.mode == BillingAccount.Mode.PREPAID:
            _pay(account, invoice, actor=None, now=now)
    return invoice


def finalize_month(*, month: Any, actor: User | None, now: datetime) -> list[Invoice]:
    """Finalize every draft of ``month`` (any day of it), oldest draft first; return the invoices."""
    drafts = Invoice.objects.filter(month=month.replace(day=1), state=State.DRAFT).order_by("pk")
    done = []
    for uid in list(drafts.values_list("uid", flat=True)):
        try:
            done.append(finalize(invoice_uid=uid, actor=actor, now=now))
        except InvoiceState:  # another run was first
            continue
    return done


def _next_number(seller: Seller) -> int:
    """Part: take the seller's next number from its locked counter row, so that a rollback leaves no gap."""
    if not InvoiceCounter.objects.filter(seller=seller).exists():
        InvoiceCounter.objects.bulk_create([InvoiceCounter(seller=seller)], ignore_conflicts=True)
    counter = InvoiceCounter.objects.select_for_update(no_key=True, of=("self",)).get(seller=seller)
    InvoiceCounter.objects.filter(pk=counter.pk).update(last_number=F("last_number") + 1)
    return counter.last_number + 1


def _seller_facts(seller: Seller) -> dict[str, str]:
    fields = ("name", "address", "country", "tax_id", "email", "payment_note")
    return {field: str(getattr(seller, field)) for field in fields}


def _buyer_facts(organization: Organization) -> dict[str, str]:
    return {
        "uid": organization.uid,
        "name": organization.name,
        "address": organization.billing_address,
        "country": organization.country,
        "tax_id": organization.tax_id,
        "email": organization.billing_email,
    }


def pay_from_wallet(*, invoice_uid: str, actor: User | None, now: datetime) -> Payment | None:
    """Pay an open invoice from the wallet, as far as it reaches; ``None`` when there is nothing to pay with."""
    with durable():
        account, invoice = _lock(invoice_uid)
        return _pay(account, invoice, actor=actor, now=now)


def pay_due(*, now: datetime) -> int:
    """Pay the open invoices of prepaid customers whose wallet has money, oldest first; return how many."""
    invoices = Invoice.objects.filter(
        state=State.OPEN,
        organization__billing__mode=BillingAccount.Mode.PREPAID,
        organization__billing__balance__gt=0,
    ).order_by("pk")
    uids = list(invoices.values_list("uid", flat=True))
    return sum(pay_from_wallet(invoice_uid=uid, actor=None, now=now) is not None for uid in uids)


def _pay(account: BillingAccount, invoice: Invoice, *, actor: User | None, now: datetime) -> Payment | None:
    """Part: move what is open, and what there is, from the locked wallet to the locked invoice."""
    amount = min(account.balance, open_amount(invoice))
    if invoice.state != State.OPEN or amount <= 0:
        return None
    number = Payment.objects.filter(reference__startswith=f"wallet:{invoice.uid}:").count() + 1
    reference = f"wallet:{invoice.uid}:{number}"
    entry = ledger.post(
        key=f"payment:{reference}",
        effective_at=now,
        description=_("%(number)s paid from the wallet") % {"number": invoice.number},
        lines=[
            ledger.Line(Kind.WALLET, amount, organization=account.organization),
            ledger.Line(Kind.RECEIVABLE, -amount, organization=account.organization),
        ],
        currency=invoice.currency,
        now=now,
    )
    payment = Payment.objects.create(
        organization=account.organization,
        method=Payment.Method.WALLET,
        amount=amount,
        currency=invoice.currency,
        reference=reference,
        received_at=now,
        entry=entry,
    )
    accounts.change(account, balance=-amount)
    _allocate(account, payment, invoice, actor=actor, now=now)
    return payment


def record_payment(
    *,
    invoice_uid: str,
    amount: Decimal,
    reference: str,
    actor: User | None,
    now: datetime,
    received_at: datetime | None = None,
) -> Payment:
    """Book a bank transfer for an open invoice, in full or in part, in the invoice's currency.

    ``reference`` is the bank's, unique among all payments: the same call again returns
    the same payment. ``received_at`` is when the money arrived (``now`` unless given).
    Raises :class:`InvalidInput` when it is more than is open (top up the wallet with
    the rest), :class:`InvoiceState` and :class:`~billing.accounts.ReferenceUsed`.
    """
    reference = accounts.clean_reference(reference)
    received_at = received_at or now
    if received_at > now:
        raise InvalidInput(_("The payment cannot have arrived in the future."), field="received_at")
    with durable():
        account, invoice = _lock(invoice_uid)
        amount = accounts.clean_amount(amount, invoice.currency)
        known = accounts.known_payment(
            reference=reference,
            organization=account.organization,
            method=Payment.Method.BANK,
            amount=amount,
            currency=invoice.currency,
            invoice=invoice,
        )
        if known is not None:
            return known
        if invoice.state != State.OPEN:
            raise InvoiceState(_("Only an open invoice takes a payment."))
        left = open_amount(invoice)
        if amount > left:
            raise InvalidInput(
                _("%(left)s is open on %(number)s. Book the rest as a top-up of the wallet.")
                % {"left": format_money(left, invoice.currency), "number": invoice.number},
                field="amount",
            )
        entry = accounts.post_received(
            reference=reference,
            description=_("%(number)s paid, %(reference)s")
            % {"number": invoice.number, "reference": reference},
            credit=ledger.Line(Kind.RECEIVABLE, -amount, organization=account.organization),
            currency=invoice.currency,
            received_at=received_at,
            now=now,
        )
        payment = Payment.objects.create(
            organization=account.organization,
            method=Payment.Method.BANK,
            amount=amount,
            currency=invoice.currency,
            reference=reference,
            received_at=received_at,
            entry=entry,
        )
        _allocate(account, payment, invoice, actor=actor, now=now)
    return payment


def _allocate(
    account: BillingAccount, payment: Payment, invoice: Invoice, *, actor: User | None, now: datetime
) -> None:
    """Part: settle the locked invoice with the whole payment."""
    PaymentAllocation.objects.create(payment=payment, invoice=invoice, amount=payment.amount)
    accounts.change(account, owed=-payment.amount)
    if open_amount(invoice) == 0:
        invoice.state = State.PAID
        invoice.save(update_fields=["state"])
        _event(invoice, "paid", actor=actor, now=now, before=State.OPEN)


def reverse_payment(*, reference: str, reason: str, actor: User | None, now: datetime) -> Invoice:
    """Undo a bank transfer that bounced or is disputed: its invoice is open again.

    Raises :class:`NotFound` for an unknown reference, :class:`InvalidInput` without a
    reason and :class:`InvoiceState` when it was undone before.
    """
    reason = accounts.clean_reason(reason)
    allocation = (
        PaymentAllocation.objects.filter(payment__reference=reference, payment__method=Payment.Method.BANK)
        .select_related("invoice", "payment__entry")
        .first()
    )
    if allocation is None:
        raise NotFound(_("There is no bank transfer with this reference."))
    with durable():
        account, invoice = _lock(allocation.invoice.uid)
        undone = PaymentAllocation.objects.filter(pk=allocation.pk, reversed_at=None).update(reversed_at=now)
        if not undone:
            raise InvoiceState(_("This payment was undone already."))
        ledger.reverse(
            allocation.payment.entry, description=f"{reason} ({reference})", effective_at=now, now=now
        )
        accounts.change(account, owed=allocation.amount)
        before = invoice.state
        invoice.state = State.OPEN
        invoice.save(update_fields=["state"])
        _event(invoice, "payment_reversed", actor=actor, now=now, before=before, message=reason)
    return invoice


def void(*, invoice_uid: str, reason: str, actor: User | None, now: datetime) -> Invoice:
    """Void a finalized invoice: its number stays, its charges are unbilled again.

    What was paid goes to the customer's wallet. Raises :class:`InvalidInput` without a
    reason and :class:`InvoiceState` for a draft or a void invoice.
    """
    reason = accounts.clean_reason(reason)
    with durable():
        account, invoice = _lock(invoice_uid)
        if invoice.state not in (State.OPEN, State.PAID):
            raise InvoiceState(_("Only a finalized invoice can be voided."))
        before = invoice.state
        paid = paid_amount(invoice)
        if paid:
            ledger.post(
                key=f"void-refund:{invoice.uid}",
                effective_at=now,
                description=_("%(number)s voided, what was paid goes to the wallet")
                % {"number": invoice.number},
                lines=[
                    ledger.Line(Kind.RECEIVABLE, paid, organization=account.organization),
                    ledger.Line(Kind.WALLET, -paid, organization=account.organization),
                ],
                currency=invoice.currency,
                now=now,
            )
            PaymentAllocation.objects.filter(invoice=invoice, reversed_at=None).update(reversed_at=now)
            accounts.change(account, balance=paid, owed=paid)
        if invoice.entry is not None:
            ledger.reverse(
                invoice.entry,
                description=_("%(number)s voided: %(reason)s") % {"number": invoice.number, "reason": reason},
                effective_at=now,
                now=now,
            )
        invoice.state = State.VOID
        invoice.voided_at = now
        invoice.void_reason = reason
        invoice.save(update_fields=["state", "voided_at", "void_reason"])
        charged = Charge.objects.filter(invoice_line__invoice=invoice)
        exact = charged.aggregate(sum=Sum("amount"))["sum"] or Decimal(0)
        charged.update(invoice_line=None)
        accounts.change(account, owed=exact - invoice.total)
        _event(invoice, "voided", actor=actor, now=now, before=before, message=reason)
    return invoice


def _event(
    invoice: Invoice, what: str, *, actor: User | None, now: datetime, before: str, message: str = ""
) -> None:
    events.record(
        kind=f"invoice.{what}",
        subject_type="invoice",
        subject_id=invoice.uid,
        organization=invoice.organization,
        actor=actor,
        now=now,
        before={"state": str(before)},
        after={
            "state": str(invoice.state),
            "number": invoice.number,
            "total": str(invoice.total),
            "currency": invoice.currency,
        },
        message=message,
    )
