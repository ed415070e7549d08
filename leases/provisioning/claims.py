"""Claims: whoever calls a provider for a row holds it first, and records only while it does.

Claim a row (token and expiry) and commit; call; write the outcome where the token is
still ours. A worker that died is replaced once its claim has expired; one that was only
slow finds its token gone and records nothing.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from django.db.models import Q, QuerySet

from leases.models.machines import Claim
from portal.common.transactions import durable, require_transaction

# How long a provider's listing may still lack what a call has made. EC2 is eventually
# consistent: https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
LISTING_LAG = timedelta(minutes=2)
# The longest that one call may take with what the adapter reads before it: a few tries of
# 35 seconds each (inventory.providers.aws.session). Longer work extends its claim in between.
CALL_TIME = timedelta(minutes=3)
CLAIM = CALL_TIME + LISTING_LAG
# A sweep takes no further row after this long: beat has sent the next one, and tasks have a time limit.
SWEEP_TIME = timedelta(minutes=10)

Row = TypeVar("Row", bound=Claim)


class Clock:
    """The given ``now``, moving on with real time while calls take theirs."""

    def __init__(self, now: datetime) -> None:
        self.start = now
        self._began = time.monotonic()

    def __call__(self) -> datetime:
        return self.start + self.elapsed()

    def elapsed(self) -> timedelta:
        """Return how long this sweep has been at work."""
        return timedelta(seconds=time.monotonic() - self._began)

    def is_over(self) -> bool:
        """Tell whether this sweep has had its time, and takes no further row."""
        return self.elapsed() > SWEEP_TIME


@dataclass(frozen=True)
class Claimed(Generic[Row]):
    """A row as it was when we claimed it, and the proof that it is ours."""

    row: Row
    token: uuid.UUID

    def extend(self, clock: Clock, **columns: Any) -> bool:
        """Prolong the claim before the next call; ``False`` when somebody else took the row.

        Further ``columns`` are written in the same statement. After ``False`` the caller must stop: the new holder decides what happens to the row.
        """
        rows = type(self.row)._default_manager.filter(pk=self.row.pk, claim_token=self.token)
        return bool(rows.update(claim_expires_at=clock() + CLAIM, **columns))

    def still_ours(self) -> Row | None:
        """Part: return the row, locked and fresh, or ``None`` when somebody else took it."""
        require_transaction()
        rows = type(self.row)._default_manager.filter(pk=self.row.pk, claim_token=self.token)
        return rows.select_for_update(no_key=True, of=("self",)).first()


def unclaimed(now: datetime) -> Q:
    """Match rows that nobody holds, or whose holder had its time."""
    return Q(claim_expires_at=None) | Q(claim_expires_at__lte=now)


def claim_next(
    rows: QuerySet[Row], *, clock: Clock, prepare: Callable[[Row], dict[str, Any]] | None = None
) -> Claimed[Row] | None:
    """Claim the first row of ``rows`` that nobody holds, and commit; ``None`` when there is none.

    Also ``None`` when the sweep has had its time: the next one goes on.

    ``prepare`` returns further columns to set in the same statement, for example that a
    call is about to begin. The row is returned as it was before.
    """
    if clock.is_over():
        return None
    with durable():
        row = (
            rows.filter(unclaimed(clock()))
            .select_for_update(no_key=True, skip_locked=True, of=("self",))
            .first()
        )
        if row is None:
            return None
        token = uuid.uuid4()
        rows.model._default_manager.filter(pk=row.pk).update(
            claim_token=token, claim_expires_at=clock() + CLAIM, **(prepare(row) if prepare else {})
        )
        return Claimed(row, token)


def release(row: Claim) -> None:
    """Part: give a locked row back; the caller saves ``claim_token`` and ``claim_expires_at``."""
    require_transaction()
    row.claim_token = None
    row.claim_expires_at = None


def backoff(attempts: int, *, base: timedelta, longest: timedelta) -> timedelta:
    """Return how long to wait after this many attempts: doubling, bounded, with jitter.

    Half of the wait is random, so that rows which failed together do not return together.
    """
    doubled: timedelta = min(base * 2 ** min(max(attempts, 1) - 1, 20), longest)
    return doubled * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
