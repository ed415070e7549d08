"""What we expect to owe providers for a month, before their bills say it.

Commitments cost their held nodes' hours whether used or not; machines on demand cost
their hours at the price that held. Posted as upstream cost against upstream accrued;
approving the bill clears the accrual, and what does not clear is listed (V5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import Sum

from billing.ledger import Kind, Line, month_start, next_month, post
from billing.models import UpstreamAccrual
from billing.vendor.locks import lock_month
from billing.vendor.statements import HELD, hours
from inventory.models import ProviderAccount
from portal.common.money import ledger
from portal.common.transactions import durable, require_transaction

# Each expected cost with its arithmetic: hours times price.
EXPECTED = f"""
WITH held AS ({HELD}),
month AS (SELECT tstzrange(%(start)s, greatest(%(start)s, %(until)s)) AS period)
SELECT c.currency, 'commitment' AS kind, c.uid AS name, t.name AS type_name,
       sum(h.nodes * {hours("(h.period * m.period)")}) AS hours, c.cost_per_node_hour AS price
FROM inventory_commitment c
JOIN held h ON h.commitment_id = c.id
JOIN inventory_instancetype t ON t.id = c.instance_type_id
CROSS JOIN month m
WHERE c.account_id = %(account)s AND h.period && m.period
GROUP BY c.currency, c.uid, t.name, c.cost_per_node_hour
UNION ALL
SELECT p.currency, 'machine', i.provider_id, t.name,
       {hours("(tstzrange(i.launched_at, greatest(coalesce(i.ended_at, %(until)s), i.launched_at)) * m.period * p.period)")},
       p.price
FROM leases_instance i
JOIN leases_allocation a ON a.id = i.allocation_id
JOIN inventory_node n ON n.id = a.node_id AND n.commitment_id IS NULL
JOIN inventory_instancetype t ON t.id = n.instance_type_id
JOIN inventory_offer o ON o.instance_type_id = n.instance_type_id AND o.region_id = n.region_id
    AND o.purchase = 'on_demand'
CROSS JOIN month m
JOIN inventory_pricepoint p ON p.offer_id = o.id AND p.period && m.period
WHERE i.account_id = %(account)s
  AND tstzrange(i.launched_at, greatest(coalesce(i.ended_at, %(until)s), i.launched_at)) && (m.period * p.period)
ORDER BY 1, 2, 3
"""  # noqa: S608 - built from this package's own constants; every value is a parameter

# Every posting on the accrued account, by the month that it is about; a reversal counts where its entry did.
BY_MONTH = """
SELECT l.provider_account_id AS account, p.currency, coalesce(u.month, b.month) AS month,
       -coalesce(sum(p.amount) FILTER (WHERE u.id IS NOT NULL), 0) AS accrued,
       coalesce(sum(p.amount) FILTER (WHERE u.id IS NULL), 0) AS billed
FROM billing_posting p
JOIN billing_ledgeraccount l ON l.id = p.account_id AND l.kind = 'upstream_accrued'
JOIN billing_entry e ON e.id = p.entry_id
LEFT JOIN billing_entry o ON o.id = e.reverses_id
LEFT JOIN billing_upstreamaccrual u ON u.entry_id = e.id
LEFT JOIN billing_vendorbill b ON split_part(coalesce(o.key, e.key), ':', 1) = 'vendor_bill'
    AND b.uid = split_part(coalesce(o.key, e.key), ':', 2)
GROUP BY 1, 2, 3 ORDER BY 3, 1, 2
"""


@dataclass(frozen=True)
class Clearing:
    """An account's month: accrued, cleared by approved bills, and the rest between them."""

    account_id: int
    month: date | None  # None: a posting that belongs to no month, which audit reports
    currency: str
    accrued: Decimal
    billed: Decimal

    @property
    def rest(self) -> Decimal:
        return self.accrued - self.billed


def accrue_month(*, month: date, now: datetime, account_id: int | None = None) -> list[UpstreamAccrual]:
    """Accrue what providers will bill for ``month`` (any day of it, UTC) until ``now``.

    One entry per account and currency; running it again posts only what changed since, so
    it can run every day. Returns the accruals that were posted now.
    """
    month = month.replace(day=1)
    accounts = ProviderAccount.objects.order_by("pk")
    if account_id is not None:
        accounts = accounts.filter(pk=account_id)
    posted: list[UpstreamAccrual] = []
    for account in accounts:
        with durable():
            lock_month(account_id=account.pk, month=month)
            posted += accrue(account, month=month, now=now)
    return posted


def accrue(account: ProviderAccount, *, month: date, now: datetime) -> list[UpstreamAccrual]:
    """Part: post the difference between what is expected now and what was accrued, under the month's lock."""
    require_transaction()
    end = month_start(next_month(month))
    until = min(end, now)
    if until <= month_start(month):
        return []
    expected = _expected(account, month, until)
    known = {
        row["currency"]: row["total"]
        for row in UpstreamAccrual.objects.filter(account=account, month=month)
        .values("currency")
        .annotate(total=Sum("amount"))
        .order_by("currency")
    }
    posted = []
    for currency in sorted(expected.keys() | known.keys()):
        lines = expected.get(currency, [])
        total = sum((Decimal(line["amount"]) for line in lines), Decimal(0))
        change = total - known.get(currency, Decimal(0))
        if change:
            posted.append(_post(account, month, currency, change, total, lines, until, now))
    return posted


def _post(
    account: ProviderAccount,
    month: date,
    currency: str,
    change: Decimal,
    total: Decimal,
    lines: list[dict[str, str]],
    until: datetime,
    now: datetime,
) -> UpstreamAccrual:
    revision = UpstreamAccrual.objects.filter(account=account, month=month, currency=currency).count() + 1
    entry = post(
        key=f"accrual:{account.pk}:{month:%Y-%m}:{currency}:{revision}",
        effective_at=until - timedelta(microseconds=1),  # the last moment that it is about
        description=f"Upstream cost of {account.name}, {month:%Y-%m}",
        lines=[
            Line(kind=Kind.UPSTREAM_COST, amount=change, provider_account=account),
            Line(kind=Kind.UPSTREAM_ACCRUED, amount=-change, provider_account=account),
        ],
        currency=currency,
        now=now,
    )
    return UpstreamAccrual.objects.create(
        account=account,
        month=month,
        currency=currency,
        revision=revision,
        amount=change,
        expected=total,
        breakdown=lines,
        entry=entry,
        created_at=now,
    )


def _expected(account: ProviderAccount, month: date, until: datetime) -> dict[str, list[dict[str, str]]]:
    """Return per currency what is expected, each line with its hours, price and amount as text."""
    found: dict[str, list[dict[str, str]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(EXPECTED, {"account": account.pk, "start": month_start(month), "until": until})
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    for currency, kind, name, type_name, hours_, price in rows:
        amount = ledger(hours_ * price)
        if amount:
            found.setdefault(currency, []).append(
                {
                    "kind": kind,
                    "name": name,
                    "type": type_name,
                    "hours": f"{hours_.normalize():f}",
                    "price": f"{price.normalize():f}",
                    "amount": f"{amount:f}",
                }
            )
    return found


def clearing(*, account_id: int | None = None) -> list[Clearing]:
    """Return what was accrued, billed and is left, per account, month and currency (V5)."""
    with connection.cursor() as cursor:
        cursor.execute(BY_MONTH)
        rows = [Clearing(row[0], row[2], row[1], row[3], row[4]) for row in cursor.fetchall()]
    return [row for row in rows if account_id is None or row.account_id == account_id]
