"""What a bill does to the ledger: who is owed, what clears the accrual, what is disputed.

The provider is owed the whole bill. What we expected clears the accrual; the small
differences that the tolerances forgive go to rounding; what was disputed is a claim;
everything else (tax, storage, accepted differences) is upstream cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from django.db import connection
from django.utils.translation import gettext as _

from billing.ledger import Kind, Line, month_start, next_month, post, reverse
from billing.models import Entry, Finding, VendorBill
from billing.vendor import tolerances
from billing.vendor.accrual import clearing
from billing.vendor.units import EXACT
from portal.common.errors import Conflict
from portal.common.money import LEDGER_QUANTUM, minor_unit
from portal.common.transactions import require_transaction

# Where each line's cost goes; a line's expected cost is its cost less its variances.
SPLIT = """
WITH line AS (
    SELECT l.cost, l.line_class, f.state = 'disputed' AS disputed, f.finding_class,
        CASE WHEN l.line_class IN ('matched', 'within_tolerance', 'qty_over', 'qty_under', 'price_variance')
                  AND l.quantity_variance IS NOT NULL
             THEN l.quantity_variance + l.price_variance END AS variance
    FROM billing_billline l LEFT JOIN billing_finding f ON f.id = l.finding_id
    WHERE l.bill_id = %(bill)s AND l.currency = %(currency)s AND l.line_class <> 'fx'
)
SELECT
    coalesce(sum(CASE
        WHEN variance IS NOT NULL THEN cost - variance
        WHEN line_class IN ('commitment', 'commitment_unused') AND finding_class IS NULL THEN cost
    END), 0) AS accrued,
    coalesce(sum(variance) FILTER (WHERE line_class IN ('matched', 'within_tolerance')), 0) AS rounding,
    coalesce(sum(coalesce(variance, cost)) FILTER (
        WHERE disputed AND line_class NOT IN ('matched', 'within_tolerance')), 0) AS disputed,
    coalesce(sum(cost), 0) AS total
FROM line
"""
OTHER_CURRENCIES = """
SELECT l.currency, sum(l.cost), coalesce(sum(l.cost) FILTER (WHERE f.state = 'disputed'), 0)
FROM billing_billline l LEFT JOIN billing_finding f ON f.id = l.finding_id
WHERE l.bill_id = %(bill)s AND l.currency <> %(currency)s GROUP BY l.currency ORDER BY l.currency
"""
# Findings about sums and not about lines, whose amount is part of the bill.
ABOUT_COMMITMENTS = Finding.Class.COMMITMENT_VARIANCE
# Findings that move no money of this bill: it is not on it.
NOT_ON_THE_BILL = (Finding.Class.LEASED_NOT_BILLED, Finding.Class.INVOICE_TOTAL_MISMATCH)


LARGEST = Decimal(10) ** 12  # what numeric(20, 8) holds


class TooLarge(Conflict):
    """An amount that no real bill has."""

    code = "amount-too-large"


@dataclass
class Split:
    """A bill's total by where it goes; exact, and adding up to the total."""

    accrued: Decimal
    rounding: Decimal
    disputed: Decimal
    total: Decimal

    @property
    def cost(self) -> Decimal:
        return EXACT.subtract(self.total, EXACT.add(EXACT.add(self.accrued, self.rounding), self.disputed))


def split(bill: VendorBill) -> Split:
    """Return where the bill's total goes, by its lines' classes and what was decided about them."""
    with connection.cursor() as cursor:
        cursor.execute(SPLIT, {"bill": bill.pk, "currency": bill.currency})
        found = Split(*cursor.fetchone())
    for finding in Finding.objects.filter(
        account=bill.account_id, month=bill.month, finding_class=ABOUT_COMMITMENTS
    ).exclude(state=Finding.State.CURED):
        found.accrued = EXACT.subtract(found.accrued, finding.amount)
        if finding.state == Finding.State.DISPUTED:
            found.disputed = EXACT.add(found.disputed, finding.amount)
    return found


def post_approval(bill: VendorBill, *, now: datetime) -> Entry | None:
    """Part: post an approved bill; ``None`` when there is nothing to post.

    Reverses what earlier snapshots of the same month had posted. What is left of the
    month's accrual is cleared too as long as rounding can explain it.
    """
    require_transaction()
    _reverse_earlier(bill, now)
    found = split(bill)
    owed, mismatch = _payable(bill, found)
    accrued, disputed = ledger(found.accrued), ledger(found.disputed)
    cost = ledger(EXACT.add(found.cost, mismatch))
    rest = next(
        (
            row.rest - accrued
            for row in clearing(account_id=bill.account_id)
            if (row.month, row.currency) == (bill.month, bill.currency)
        ),
        Decimal(0),
    )
    if abs(rest) <= tolerances.invoice_tolerance(bill.line_count, bill.currency):
        accrued += rest
    amounts = {
        Kind.UPSTREAM_ACCRUED: accrued,
        Kind.UPSTREAM_COST: cost,
        Kind.DISPUTED: disputed,
        Kind.ROUNDING: EXACT.subtract(owed, EXACT.add(EXACT.add(accrued, cost), disputed)),
        Kind.PAYABLE: -owed,
    }
    entry = _post(bill, f"vendor_bill:{bill.uid}:approval", amounts, bill.currency, now)
    _post_other_currencies(bill, now)
    return entry


def ledger(amount: Decimal) -> Decimal:
    """Round half-even to the ledger's eight decimals, however large the amount."""
    return amount.quantize(LEDGER_QUANTUM, ROUND_HALF_EVEN, EXACT)


def round_minor(amount: Decimal, currency: str) -> Decimal:
    """Round half-even to the currency's minor unit, however large the amount."""
    return amount.quantize(minor_unit(currency), ROUND_HALF_EVEN, EXACT)


def _payable(bill: VendorBill, found: Split) -> tuple[Decimal, Decimal]:
    """Return what the invoice asks for, and what of it the lines do not explain."""
    if bill.header_total is None:
        return round_minor(found.total, bill.currency), Decimal(0)
    difference = EXACT.subtract(bill.header_total, found.total)
    if abs(difference) <= tolerances.invoice_tolerance(bill.line_count, bill.currency):
        return ledger(bill.header_total), Decimal(0)
    accepted = Finding.objects.filter(
        account=bill.account_id,
        month=bill.month,
        finding_class=Finding.Class.INVOICE_TOTAL_MISMATCH,
        state=Finding.State.ACCEPTED,
    ).exists()
    if accepted:
        return ledger(bill.header_total), difference
    return round_minor(found.total, bill.currency), Decimal(0)


def _post(
    bill: VendorBill, key: str, amounts: dict[Kind, Decimal], currency: str, now: datetime
) -> Entry | None:
    if any(abs(amount) >= LARGEST for amount in amounts.values()):
        raise TooLarge(_("The bill's amounts are too large for the ledger; look at its largest lines."))
    lines = [
        Line(kind=kind, amount=amount, provider_account=bill.account)
        for kind, amount in amounts.items()
        if amount
    ]
    if not lines:
        return None
    return post(
        key=key,
        effective_at=_effective(bill, now),
        description=_("Bill %(bill)s") % {"bill": bill},
        lines=lines,
        currency=currency,
        now=now,
    )


def _post_other_currencies(bill: VendorBill, now: datetime) -> None:
    """Post lines of another currency in theirs: postings never convert."""
    with connection.cursor() as cursor:
        cursor.execute(OTHER_CURRENCIES, {"bill": bill.pk, "currency": bill.currency})
        rows = cursor.fetchall()
    for currency, total, claimed in rows:
        owed, disputed = round_minor(total, currency), ledger(claimed)
        cost = ledger(total) - disputed
        amounts = {
            Kind.UPSTREAM_COST: cost,
            Kind.DISPUTED: disputed,
            Kind.ROUNDING: EXACT.subtract(owed, EXACT.add(cost, disputed)),
            Kind.PAYABLE: -owed,
        }
        _post(bill, f"vendor_bill:{bill.uid}:approval:{currency}", amounts, currency, now)


def _reverse_earlier(bill: VendorBill, now: datetime) -> None:
    earlier = VendorBill.objects.filter(account=bill.account_id, month=bill.month).exclude(pk=bill.pk)
    for uid in earlier.order_by("pk").values_list("uid", flat=True):
        entries = Entry.objects.filter(key__startswith=f"vendor_bill:{uid}:", reversed_by=None)
        for entry in entries.order_by("pk"):
            reverse(
                entry,
                description=_("Replaced by %(bill)s") % {"bill": bill},
                effective_at=entry.effective_at,
                now=now,
            )


def post_settlement(bill: VendorBill, finding: Finding, *, before: str, now: datetime) -> Entry | None:
    """Part: move a finding's amount between cost and dispute, after its bill was approved."""
    require_transaction()
    if finding.finding_class in NOT_ON_THE_BILL:
        return None
    amount = ledger(finding.amount)
    if not amount or Finding.State.DISPUTED not in (before, finding.state):
        return None
    claimed = amount if finding.state == Finding.State.DISPUTED else -amount
    prefix = f"vendor_bill:{bill.uid}:finding:{finding.uid}:"
    number = Entry.objects.filter(key__startswith=prefix).count() + 1
    return post(
        key=f"{prefix}{number}",
        effective_at=now,
        description=finding.summary[:200],
        lines=[
            Line(kind=Kind.DISPUTED, amount=claimed, provider_account=bill.account),
            Line(kind=Kind.UPSTREAM_COST, amount=-claimed, provider_account=bill.account),
        ],
        currency=finding.currency,
        now=now,
    )


def _effective(bill: VendorBill, now: datetime) -> datetime:
    """Return the last moment of the bill's month that is not in the future."""
    return min(month_start(next_month(bill.month)) - timedelta(microseconds=1), now)
