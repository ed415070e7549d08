"""A node that is given and not delivered: since when, why, and that the customer was told."""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext as _

from leases.models import Allocation, Lease, Shortfall
from portal.accounts import events
from portal.common.periods import Period
from portal.common.transactions import require_transaction


def open_for(
    *,
    lease: Lease,
    allocation: Allocation,
    cause: Shortfall.Cause,
    detail: str,
    now: datetime,
    since: datetime | None = None,
) -> Shortfall | None:
    """Part: open the allocation's shortfall, or keep the open one and note its latest cause.

    The lease is locked. ``detail`` is a sentence that the customer may read: no provider's
    name, no error text. Opening one and learning another cause each tell the customer by an
    event. Returns ``None`` when the allocation is over, since nothing is owed any more.
    """
    require_transaction()
    start, end = since or now, allocation.period.upper
    if start >= end:
        return None
    shortfall = Shortfall.objects.filter(allocation=allocation, closed_at=None).first()
    if shortfall is not None and shortfall.cause == cause:
        return shortfall
    before = {"cause": shortfall.cause} if shortfall else {}
    if shortfall is None:
        shortfall = Shortfall(lease=lease, allocation=allocation, period=Period(start, end, "[)"))
    shortfall.cause, shortfall.detail, shortfall.told_at = cause, detail, now
    shortfall.save()
    events.record(
        kind="lease.shortfall_opened" if not before else "lease.shortfall_changed",
        organization=lease.organization,
        subject_type="lease",
        subject_id=lease.uid,
        now=now,
        before=before,
        after={"cause": str(cause), "since": shortfall.period.lower.isoformat(), "node": allocation.node_id},
        message=detail,
    )
    return shortfall


def close_for(*, lease: Lease, allocation: Allocation, now: datetime) -> None:
    """Part: close the allocation's open shortfall, if any: the node is delivered. The lease is locked."""
    require_transaction()
    if not Shortfall.objects.filter(allocation=allocation).close(at=now):
        return
    events.record(
        kind="lease.shortfall_closed",
        organization=lease.organization,
        subject_type="lease",
        subject_id=lease.uid,
        now=now,
        after={"node": allocation.node_id},
        message=_("The missing node is delivered."),
    )


def close_all(*, lease: Lease, at: datetime) -> None:
    """Part: close every open shortfall of a lease that is over. The lease is locked."""
    require_transaction()
    Shortfall.objects.filter(lease=lease).close(at=at)
