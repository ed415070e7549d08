"""Charges: what a customer owes, each with one unique source and its ledger entry (M5, M8)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from django.utils.translation import gettext as _

from billing import accounts, ledger
from billing.models import BillingAccount, Charge, FundsHold, LedgerAccount
from leases.models import Lease
from portal.common.periods import Period
from portal.common.transactions import require_transaction

Kind = LedgerAccount.Kind
GPU_SECOND = "gpu_second"
EACH = "each"


def add_charge(
    account: BillingAccount,
    *,
    kind: str,
    source: str,
    description: str,
    lease: Lease | None,
    period: Period,
    quantity: Decimal,
    unit: str,
    unit_price: Decimal,
    amount: Decimal,
    effective_at: datetime,
    now: datetime,
    hold: FundsHold | None = None,
) -> Charge:
    """Part: charge ``amount`` (account currency, eight decimals) to the locked account, once per ``source``.

    Posts unbilled against revenue, adds to what is owed and uses up the lease's funds
    hold. The same source again returns the charge of the first time. An amount that
    rounds to zero is recorded without an entry: the ledger has no lines of zero.
    """
    require_transaction()
    known = Charge.objects.filter(source=source).first()
    if known is not None:
        return known
    entry = None
    if amount:
        entry = ledger.post(
            key=f"charge:{source}",
            effective_at=effective_at,
            description=description,
            lines=[
                ledger.Line(Kind.UNBILLED, amount, organization=account.organization),
                ledger.Line(Kind.REVENUE, -amount),
            ],
            currency=account.currency,
            now=now,
        )
    charge = Charge.objects.create(
        organization=account.organization,
        project_id=lease.project_id if lease else None,
        lease=lease,
        kind=kind,
        source=source,
        description=description[:200],
        period=period,
        quantity=quantity,
        unit=unit,
        unit_price=unit_price,
        amount=amount,
        currency=account.currency,
        entry=entry,
        created_at=now,
    )
    accounts.use_hold(account, hold, amount, owed=amount)
    return charge


def take_back(
    account: BillingAccount, charge: Charge, *, now: datetime, hold: FundsHold | None = None
) -> Charge:
    """Part: credit a whole charge that turned out wrong; it stays on record beside its credit.

    The credit's entry is the reversal of the charge's. Call it once per charge: again,
    it returns the credit of the first time.
    """
    require_transaction()
    source = f"reversal:{charge.uid}"
    known = Charge.objects.filter(source=source).first()
    if known is not None:
        return known
    description = _("Taken back: %(description)s") % {"description": charge.description}
    entry = None
    if charge.entry is not None:
        entry = ledger.reverse(
            charge.entry, description=description, effective_at=charge.entry.effective_at, now=now
        )
    credit = Charge.objects.create(
        organization=charge.organization,
        project_id=charge.project_id,
        lease=charge.lease,
        kind=Charge.Kind.CREDIT,
        source=source,
        description=description[:200],
        period=charge.period,
        quantity=-charge.quantity,
        unit=charge.unit,
        unit_price=charge.unit_price,
        amount=-charge.amount,
        currency=charge.currency,
        entry=entry,
        created_at=now,
    )
    accounts.use_hold(account, hold, -charge.amount, owed=-charge.amount)
    return credit
