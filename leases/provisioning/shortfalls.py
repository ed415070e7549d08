"""A node that is given and not delivered: since when, why, and that the customer was told."""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext as _

from leases import moving
from leases.models import Allocation, Lease, Shortfall
from portal.common.periods import Period
from portal.common.transactions import require_transaction


def open_for(
    *,
    lease: Lease,
    allocation: Allocation,
    cause: Shortfall.Cause,
    detail: str,
    now: datetime,
    since: datetime,
) -> None:
    """Part: open the allocation's shortfall, or note another cause of the open one. The lease is locked.

    ``detail`` is a sentence that the customer may read: no provider's name, no error text.
    What is known already is not told again. Nothing is owed once the allocation is over.
    """
    require_transaction()
    known = Shortfall.objects.filter(allocation=allocation, cause=cause, closed_at=None)
    if since < allocation.period.upper and not known.exists():
        moving.open_shortfall(
            lease,
            Period(since, allocation.period.upper, "[)"),
            cause=cause,
            detail=detail,
            now=now,
            node_pk=allocation.node_id,
            allocation=allocation,
        )


def close_for(*, lease: Lease, allocation: Allocation, now: datetime) -> None:
    """Part: end the allocation's open shortfall, if any: the node is delivered. The lease is locked."""
    require_transaction()
    for shortfall in Shortfall.objects.filter(allocation=allocation, closed_at=None):
        moving.close_shortfall(shortfall, lease, now=now, message=_("The missing server is delivered."))


def close_all(*, lease: Lease, at: datetime) -> None:
    """Part: end every open shortfall of a lease that is over. The lease is locked."""
    require_transaction()
    Shortfall.objects.filter(lease=lease).close(at=at)
