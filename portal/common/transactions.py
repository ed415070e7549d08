"""Who owns the transaction.

A *public* function opens its own with :func:`durable`; a *part* demands an open
one with :func:`require_transaction` and gets locked rows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import OperationalError, connection, transaction
from django.db.transaction import Atomic
from django.db.utils import IntegrityError

T = TypeVar("T")

# https://www.postgresql.org/docs/current/errcodes-appendix.html
RETRYABLE = {
    "40001": "serialization_failure",
    "40P01": "deadlock_detected",
    "23P01": "exclusion_violation",
}


def durable() -> Atomic:
    """Open the transaction that a public function owns; it never nests."""
    return transaction.atomic(durable=True)


def require_transaction() -> None:
    """Raise unless a transaction is open: parts write only inside their caller's."""
    if not connection.in_atomic_block:
        raise RuntimeError(
            "This part must run inside the caller's transaction: call the public function instead."
        )


def sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's five-character code behind a Django database error, or ''."""
    return str(getattr(error.__cause__, "sqlstate", "") or "")


def retry_conflicts(attempt: Callable[[], T], *, tries: int = 8) -> T:
    """Call ``attempt`` (a whole transaction) again after a conflict, at most ``tries`` times.

    Retries exclusion violations, deadlocks and serialization failures, each after a
    short random pause; the last error is raised unchanged.
    """
    for number in range(1, tries + 1):
        try:
            return attempt()
        except (IntegrityError, OperationalError) as error:
            if sqlstate(error) not in RETRYABLE or number == tries:
                raise
            time.sleep(random.uniform(0, 0.02 * number))  # noqa: S311
    raise AssertionError("unreachable")
