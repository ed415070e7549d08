"""One writer at a time for an account's month of bills."""

from __future__ import annotations

from datetime import date

from django.db import connection

from portal.common.transactions import require_transaction

# Any number that nothing else in the product uses for advisory locks.
_BILLS = 0x62696C6C


def lock_month(*, account_id: int, month: date) -> None:
    """Part: wait for, and keep until commit, the right to change this account's month.

    Landing, classifying, settling, accruing and approving all take it first, before any
    row lock: there may be no bill yet whose row could be locked.
    """
    require_transaction()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(%s, %s)",
            [_BILLS, (account_id * 4096 + month.year % 340 * 12 + month.month) % 2**31],
        )
