"""A customer's billing account: its wallet, its credit, and what is spoken for.

The account's row is the first that any money path locks. ``balance`` mirrors the
ledger's wallet, ``owed`` its unbilled charges and receivables, ``reserved`` the open
funds holds; each changes in one statement together with its ledger entry. Amounts are
``Decimal`` in the account's currency.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, InvalidOperation

from django.conf import settings
from django.db.models import F
from django.utils.translation import gettext as _

from billing import ledger
from billing.models import BillingAccount, Entry, FundsHold, Invoice, LedgerAccount, Payment
from leases.models import Lease
from portal.accounts import events
from portal.accounts.models import Organization, User
from portal.common.errors import Conflict, InvalidInput, NotFound
from portal.common.money import format_money, round_minor
from portal.common.nudge import nudge
from portal.common.transactions import durable, require_transaction

Kind = LedgerAccount.Kind
# numeric(20,8) keeps twelve digits before the point; a wallet near them is a slip of the keyboard.
LARGEST = Decimal("1000000000")


class ReferenceUsed(Conflict):
    """The payment reference was booked before for something else."""

    code = "reference-used"


def account_for(organization: Organization) -> BillingAccount:
    """Return the organization's billing account, opened as prepaid on first need. Not locked."""
    account, _created = BillingAccount.objects.get_or_create(
        organization=organization, defaults={"currency": settings.SUBLET_CURRENCY}
    )
    return account


def lock_account(organization: Organization) -> BillingAccount:
    """Part: lock the organization's wallet row, the first lock of every money path, and return it."""
    require_transaction()
    rows = BillingAccount.objects.select_for_update(no_key=True, of=("self",)).select_related("organization")
    account = rows.filter(organization=organization).first()
    if account is None:
        account_for(organization)  # a lock on an absent row locks nothing
        account = rows.get(organization=organization)
    return account


def change(
    account: BillingAccount,
    *,
    balance: Decimal = Decimal(0),
    reserved: Decimal = Decimal(0),
    owed: Decimal = Decimal(0),
) -> None:
    """Part: add to the locked account's sums, in one statement."""
    require_transaction()
    if not (balance or reserved or owed):
        return
    BillingAccount.objects.filter(pk=account.pk).update(
        balance=F("balance") + balance, reserved=F("reserved") + reserved, owed=F("owed") + owed
    )
    account.balance += balance
    account.reserved += reserved
    account.owed += owed


def reserve(
    account: BillingAccount, *, lease: Lease, amount: Decimal, tax_rate: Decimal, now: datetime
) -> FundsHold:
    """Part: keep ``amount`` (tax included) of the locked account for a lease. The caller checked the funds."""
    require_transaction()
    change(account, reserved=amount)
    return FundsHold.objects.create(
        account=account, lease=lease, amount=amount, remaining=amount, tax_rate=tax_rate, created_at=now
    )


def lock_hold(lease_id: int) -> FundsHold | None:
    """Part: return the lease's open funds hold, locked, if there is one. The wallet is locked already."""
    require_transaction()
    return (
        FundsHold.objects.select_for_update(no_key=True, of=("self",))
        .filter(lease_id=lease_id, released_at=None)
        .first()
    )


def use_hold(
    account: BillingAccount, hold: FundsHold | None, amount: Decimal, *, owed: Decimal = Decimal(0)
) -> Decimal:
    """Part: a charge takes the place of what was reserved for it; return how much was used.

    A negative amount (a charge taken back) gives back up to what the hold was made for.
    ``owed`` is added to what the account owes in the same statement.
    """
    require_transaction()
    if hold is None:
        change(account, owed=owed)
        return Decimal(0)
    used = max(min(amount, hold.remaining), hold.remaining - hold.amount)
    if used:
        hold.remaining -= used
        hold.save(update_fields=["remaining"])
    change(account, reserved=-used, owed=owed)
    return used


def shrink_hold(account: BillingAccount, hold: FundsHold, *, to: Decimal, now: datetime) -> None:
    """Part: reserve no more than ``to`` for the lease; at zero the hold is released for good."""
    require_transaction()
    keep = min(hold.remaining, max(to, Decimal(0)))
    change(account, reserved=keep - hold.remaining)
    hold.remaining = keep
    if keep == 0:
        hold.released_at = now
    hold.save(update_fields=["remaining", "released_at"])


def clean_amount(amount: Decimal, currency: str, *, field: str = "amount") -> Decimal:
    """Return an amount of money that a person typed: above zero, no finer than the minor unit.

    Raises :class:`InvalidInput` naming ``field``.
    """
    try:
        valid = isinstance(amount, Decimal) and amount.is_finite() and amount > 0
        exact = valid and amount == round_minor(amount, currency)
    except InvalidOperation:
        valid = exact = False
    if not valid:
        raise InvalidInput(_("Give an amount above zero."), field=field)
    if not exact:
        raise InvalidInput(
            _("%(amount)s is finer than the smallest unit of %(currency)s.")
            % {"amount": amount, "currency": currency},
            field=field,
        )
    if amount > LARGEST:
        raise InvalidInput(
            _("The most at once is %(most)s.") % {"most": format_money(LARGEST, currency)}, field=field
        )
    return amount


def clean_reference(reference: str) -> str:
    """Return the trimmed payment reference; raise :class:`InvalidInput` when it is empty or too long."""
    reference = reference.strip()
    if not reference or len(reference) > 120:
        raise InvalidInput(
            _("Give the payment's reference as the bank wrote it, at most 120 characters."), field="reference"
        )
    return reference


def known_payment(
    *,
    reference: str,
    organization: Organization,
    method: str,
    amount: Decimal,
    currency: str,
    invoice: Invoice | None = None,
) -> Payment | None:
    """Return the payment booked under this reference if it is the same one, ``None`` if there is none.

    Raises :class:`ReferenceUsed` when the reference belongs to another payment, to
    another invoice's, or to one that was undone.
    """
    payment = Payment.objects.select_related("entry").filter(reference=reference).first()
    if payment is None:
        return None
    same = (payment.organization_id, payment.method, payment.amount, payment.currency) == (
        organization.pk,
        method,
        amount,
        currency,
    )
    if invoice is not None:
        same = same and payment.allocations.filter(invoice=invoice).exists()
    if not same or Entry.objects.filter(reverses=payment.entry).exists():
        raise _used(reference)
    return payment


def post_received(
    *,
    reference: str,
    description: str,
    credit: ledger.Line,
    currency: str,
    received_at: datetime,
    now: datetime,
) -> Entry:
    """Part: post cash received under its reference; ``credit`` says what for.

    A twin that books the same reference for another customer holds another wallet; both
    meet at the entry's unique key, and the second raises :class:`ReferenceUsed`.
    """
    try:
        return ledger.post(
            key=f"payment:{reference}",
            effective_at=received_at,
            description=description,
            lines=[ledger.Line(Kind.CASH, -credit.amount), credit],
            currency=currency,
            now=now,
        )
    except ledger.EntryConflict:
        raise _used(reference) from None


def _used(reference: str) -> ReferenceUsed:
    return ReferenceUsed(
        _("The reference “%(reference)s” was already booked for another payment. Check the bank statement.")
        % {"reference": reference}
    )


def top_up(
    *, organization: Organization, amount: Decimal, reference: str, actor: User | None, now: datetime
) -> BillingAccount:
    """Book money received into the organization's wallet, in its account's currency.

    ``reference`` is the bank's, unique among all payments: the same call again changes
    nothing, another amount or customer under it raises :class:`ReferenceUsed`. Raises
    :class:`InvalidInput` for an amount that is not above zero or too fine.
    """
    reference = clean_reference(reference)
    with durable():
        account = lock_account(organization)
        amount = clean_amount(amount, account.currency)
        if known_payment(
            reference=reference,
            organization=organization,
            method=Payment.Method.TOP_UP,
            amount=amount,
            currency=account.currency,
        ):
            return account
        before = account.balance
        entry = post_received(
            reference=reference,
            description=_("Top-up %(reference)s") % {"reference": reference},
            credit=ledger.Line(Kind.WALLET, -amount, organization=organization),
            currency=account.currency,
            received_at=now,
            now=now,
        )
        Payment.objects.create(
            organization=organization,
            method=Payment.Method.TOP_UP,
            amount=amount,
            currency=account.currency,
            reference=reference,
            received_at=now,
            entry=entry,
        )
        change(account, balance=amount)
        events.record(
            kind="account.topped_up",
            subject_type="organization",
            subject_id=organization.uid,
            organization=organization,
            actor=actor,
            now=now,
            before={"balance": str(before)},
            after={"balance": str(account.balance), "amount": str(amount), "reference": reference},
        )
        nudge("billing.tasks.settle_awaiting")
    return account


def undo_top_up(*, reference: str, reason: str, actor: User | None, now: datetime) -> BillingAccount:
    """Take back a top-up that bounced or was typed wrong; its reference stays used.

    Leases that its money was reserved for keep running; nothing new can be booked until
    the wallet covers them. Raises :class:`InvalidInput` without a reason, and
    :class:`Conflict` when it was undone before or the wallet holds less than it.
    """
    reason = clean_reason(reason)
    payment = (
        Payment.objects.select_related("entry", "organization")
        .filter(reference=reference, method=Payment.Method.TOP_UP)
        .first()
    )
    if payment is None:
        raise NotFound(_("There is no top-up with this reference."))
    with durable():
        account = lock_account(payment.organization)
        if Entry.objects.filter(reverses=payment.entry).exists():
            raise Conflict(_("This payment was undone already."))
        if account.balance < payment.amount:
            raise Conflict(
                _("The wallet holds %(balance)s, less than this top-up: the rest was spent on invoices.")
                % {"balance": format_money(account.balance, account.currency)}
            )
        ledger.reverse(payment.entry, description=f"{reason} ({reference})", effective_at=now, now=now)
        before = account.balance
        change(account, balance=-payment.amount)
        events.record(
            kind="account.top_up_undone",
            subject_type="organization",
            subject_id=payment.organization.uid,
            organization=payment.organization,
            actor=actor,
            now=now,
            before={"balance": str(before)},
            after={"balance": str(account.balance), "reference": reference},
            message=reason,
        )
    return account


def clean_reason(reason: str) -> str:
    """Return the trimmed reason; raise :class:`InvalidInput` when it says nothing or too much."""
    reason = reason.strip()
    if not 3 <= len(reason) <= 200:
        raise InvalidInput(_("Give a reason of 3 to 200 characters."), field="reason")
    return reason


def set_terms(
    *,
    organization: Organization,
    mode: str,
    credit_limit: Decimal,
    payment_days: int,
    actor: User | None,
    now: datetime,
) -> BillingAccount:
    """Change how the organization pays: prepaid or postpaid, its credit limit, days until due.

    A limit below what is already owed stops new leases and touches nothing that runs.
    Raises :class:`InvalidInput` naming the field.
    """
    with durable():
        return write_terms(
            lock_account(organization),
            mode=mode,
            credit_limit=credit_limit,
            payment_days=payment_days,
            actor=actor,
            now=now,
        )


def write_terms(
    account: BillingAccount,
    *,
    mode: str,
    credit_limit: Decimal,
    payment_days: int,
    actor: User | None,
    now: datetime,
) -> BillingAccount:
    """Part of :func:`set_terms` for callers that hold the locked account (the admin's form)."""
    require_transaction()
    if mode not in BillingAccount.Mode.values:
        raise InvalidInput(_("Choose prepaid or postpaid."), field="mode")
    if not credit_limit.is_finite() or not 0 <= credit_limit <= LARGEST:
        raise InvalidInput(_("The credit limit is zero or more."), field="credit_limit")
    if not 0 <= payment_days <= 365:
        raise InvalidInput(_("The payment term is between 0 and 365 days."), field="payment_days")
    fields = ("mode", "credit_limit", "payment_days")
    before = {name: str(getattr(account, name)) for name in fields}
    account.mode = mode
    account.credit_limit = credit_limit
    account.payment_days = payment_days
    account.save(update_fields=fields)
    events.record(
        kind="account.terms_changed",
        subject_type="organization",
        subject_id=account.organization.uid,
        organization=account.organization,
        actor=actor,
        now=now,
        before=before,
        after={name: str(getattr(account, name)) for name in fields},
    )
    return account
