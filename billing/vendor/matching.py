"""Put every line of a bill into exactly one class, by what we leased, ran and agreed to pay.

Set-based: a few statements over temporary tables, whatever the number of lines. The
statements are in :mod:`billing.vendor.statements` and :mod:`billing.vendor.verdicts`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db import connection
from django.utils.translation import gettext as _

from billing.models import VendorBill
from billing.vendor import differences, statements, tolerances, verdicts
from billing.vendor.locks import lock_month
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict, NotFound
from portal.common.money import minor_unit
from portal.common.transactions import durable

TABLES = ("vendor_machine", "vendor_commitment", "vendor_price", "vendor_match", "vendor_line")


class BillSettled(Conflict):
    """The bill is approved or replaced: its classes no longer change."""

    code = "bill-settled"


def classify(*, bill_id: int, now: datetime, actor: User | None = None) -> VendorBill:
    """Classify the bill's lines and bring its findings up to date (V1, V3).

    Safe to run again at any time: unchanged facts change nothing. A machine that still
    runs counts as running until ``now``. Raises :class:`NotFound` for an unknown bill
    and :class:`BillSettled` for one that is approved or was replaced.
    """
    known = VendorBill.objects.filter(pk=bill_id).first()
    if known is None:
        raise NotFound(_("There is no such bill."))
    with durable():
        lock_month(account_id=known.account_id, month=known.month)
        bill = (
            VendorBill.objects.select_for_update(no_key=True, of=("self",))
            .select_related("account")
            .get(pk=bill_id)
        )
        if bill.state not in (VendorBill.State.LANDED, VendorBill.State.CLASSIFIED):
            raise BillSettled(
                _("This bill is %(state)s; its lines keep their classes.")
                % {"state": str(bill.get_state_display()).lower()}
            )
        with connection.cursor() as cursor:
            _match(cursor, bill, now)
            changes = differences.sync(cursor, bill, now=now)
            cursor.execute(verdicts.STORE, {"bill": bill.pk, "account": bill.account_id, "month": bill.month})
            _check_total(cursor, bill)
            cursor.execute(f"DROP TABLE {', '.join(TABLES)}")
        first_time = bill.state == VendorBill.State.LANDED
        classes = {name: [lines, f"{cost:f}"] for name, lines, cost in class_totals(bill)}
        if first_time or classes != bill.classes:
            bill.state = VendorBill.State.CLASSIFIED
            bill.classes = classes
            bill.save(update_fields=["state", "classes"])
        if first_time or changes.any():
            events.record(
                kind="vendor_bill.classified",
                subject_type="vendor_bill",
                subject_id=bill.uid,
                actor=actor,
                now=now,
                after={
                    "classes": classes,
                    "findings": changes.as_dict(),
                },
            )
    return bill


def class_totals(bill: VendorBill) -> list[tuple[str, int, Decimal]]:
    """Return class, lines and exact cost of each class; the costs sum to the bill's total (V1).

    What is in another currency has the class FX and counts as zero here, as it does in the total.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT line_class, count(*), coalesce(sum(cost) FILTER (WHERE currency = %s), 0)"
            " FROM billing_billline WHERE bill_id = %s GROUP BY 1 ORDER BY 1",
            [bill.currency, bill.pk],
        )
        return [(str(name), int(lines), Decimal(cost)) for name, lines, cost in cursor.fetchall()]


def _match(cursor: Any, bill: VendorBill, now: datetime) -> None:
    facts: dict[str, Any] = {
        "bill": bill.pk,
        "account": bill.account_id,
        "currency": bill.currency,
        "month_start": datetime(bill.month.year, bill.month.month, 1, tzinfo=UTC),
        "now": now,
        "quantity_hours": tolerances.QUANTITY_HOURS,
        "quantity_share": tolerances.QUANTITY_SHARE,
        "price_share": tolerances.PRICE_SHARE,
        "line_amount": tolerances.LINE_AMOUNT,
        "minor_digits": -int(minor_unit(bill.currency).adjusted()),
    }
    for statement in (*statements.IN_ORDER, *verdicts.IN_ORDER):
        cursor.execute(statement, facts)


def _check_total(cursor: Any, bill: VendorBill) -> None:
    """Crash rather than commit a bill whose classes do not add up to it (V1)."""
    cursor.execute(verdicts.TOTAL, {"bill": bill.pk, "currency": bill.currency})
    lines, unclassified, total = cursor.fetchone()
    if unclassified or lines != bill.line_count or total != bill.total:
        raise AssertionError(
            f"Bill {bill.uid}: {unclassified} of {lines} lines are in no class, "
            f"and they sum to {total} instead of {bill.total}."
        )
