"""Events of machines: what the customer reads, and what only staff should see."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from leases.models import Lease
from portal.accounts import events
from portal.accounts.models import Event, User
from portal.common.transactions import require_transaction

DAILY = timedelta(days=1)


def tell_customer(
    *,
    lease: Lease,
    kind: str,
    message: str,
    now: datetime,
    actor: User | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Part: append an event that the lease's organization sees, in its timeline and by mail."""
    events.record(
        kind=kind,
        organization=lease.organization,
        subject_type="lease",
        subject_id=lease.uid,
        now=now,
        actor=actor,
        before=before,
        after=after,
        message=message,
    )


def tell_staff(
    *,
    kind: str,
    subject_type: str,
    subject_id: str,
    message: str,
    now: datetime,
    after: dict[str, Any] | None = None,
    quiet: timedelta | None = None,
) -> None:
    """Part: append an event without an organization, which only staff see.

    With ``quiet`` nothing is written where this subject had such an event within that time:
    what is tried again every minute is said once in a while.
    """
    require_transaction()
    seen = Event.objects.filter(
        subject_type=subject_type, subject_id=subject_id, kind=kind, organization=None
    )
    if quiet is not None and seen.filter(at__gt=now - quiet).exists():
        return
    events.record(
        kind=kind, subject_type=subject_type, subject_id=subject_id, now=now, after=after, message=message
    )
