"""Metering: every delivered second of every allocation is charged once (M5).

What may be charged is computed from the facts each time: the allocation's delivered
time inside its paid period, up to now, less its shortfalls. What is recorded is
compared with it. Missing time becomes usage records, split at month boundaries (UTC);
a record that turns out wrong (a machine that ended earlier than was known) is taken
back whole, and its right part recorded anew. So metering can run at any time, late,
often, or twice at once, and ends at the same seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import connection
from django.db.models import Sum
from django.utils import timezone
from django.utils.translation import gettext as _

from billing import accounts, charges, ledger
from billing.models import BillingAccount, Charge, FundsHold, UsageRecord
from billing.pricing import amount_for, microseconds
from leases.models import Allocation, Lease, Shortfall, Term
from portal.common.money import ledger as eight_decimals
from portal.common.periods import Period, overlap
from portal.common.periods import period as make_period
from portal.common.transactions import durable, require_transaction, retry_conflicts

log = logging.getLogger(__name__)

LATE_FACTS = timedelta(days=35)
FINAL = (Lease.State.ENDED, Lease.State.CANCELLED, Lease.State.FAILED, Lease.State.LAPSED)


@dataclass(frozen=True)
class Metered:
    """What one run did: records written and taken back, and GPU-seconds added (net)."""

    records: int = 0
    taken_back: int = 0
    gpu_seconds: Decimal = Decimal(0)

    def __add__(self, other: Metered) -> Metered:
        return Metered(
            self.records + other.records,
            self.taken_back + other.taken_back,
            self.gpu_seconds + other.gpu_seconds,
        )


def meter_due(*, now: datetime) -> Metered:
    """Meter every allocation that has delivered time to charge; one transaction for each.

    Then release what is no longer needed of the funds of leases that are over. Safe
    twice at once. An allocation that fails is logged and does not stop the others.
    """
    total = Metered()
    for allocation_id in due(now=now):
        try:
            total += meter_allocation(allocation_id=allocation_id, now=now)
        except Exception:
            log.exception("metering_failed", extra={"allocation": allocation_id})
    release_finished(now=now)
    return total


def due(*, now: datetime | None, lease_id: int | None = None) -> list[int]:
    """Return the allocations whose recorded time differs from what was delivered until ``now``.

    ``None`` means until the end, whatever the time is. One statement over the leases
    whose funds are held, or were until a month ago: facts can come late.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH metered AS (
                SELECT a.id, a.lease_id, coalesce(
                    a.delivered * a.period * tstzrange(NULL, %(now)s::timestamptz), 'empty'
                ) AS delivered
                FROM billing_fundshold h
                JOIN leases_allocation a ON a.lease_id = h.lease_id
                WHERE (h.released_at IS NULL OR h.released_at > %(late)s)
                    AND (%(lease)s::bigint IS NULL OR h.lease_id = %(lease)s::bigint)
                    AND a.purpose = 'lease'
            )
            SELECT m.id FROM metered m
            WHERE tstzmultirange(m.delivered) - coalesce(
                (SELECT range_agg(s.period) FROM leases_shortfall s WHERE s.allocation_id = m.id),
                '{}'::tstzmultirange
            ) <> coalesce(
                (SELECT range_agg(u.period) FROM billing_usagerecord u WHERE u.allocation_id = m.id),
                '{}'::tstzmultirange
            )
            ORDER BY m.lease_id, m.id
            """,
            {"now": now, "late": (now or timezone.now()) - LATE_FACTS, "lease": lease_id},
        )
        return [row[0] for row in cursor.fetchall()]


def meter_allocation(*, allocation_id: int, now: datetime) -> Metered:
    """Charge an allocation's delivered time until ``now`` (UTC) that is not charged yet.

    Usage record, charge, ledger entry, funds hold and what is owed change together.
    Amount = rate per GPU-hour × GPUs × seconds / 3600, to eight decimals, per record.
    Does nothing for an allocation without a lease or a rate.
    """

    def attempt() -> Metered:
        with durable():
            allocation = (
                Allocation.objects.select_related("lease__organization")
                .filter(pk=allocation_id, lease__isnull=False)
                .first()
            )
            if allocation is None or allocation.lease is None:
                return Metered()
            account = accounts.lock_account(allocation.lease.organization)
            hold = accounts.lock_hold(allocation.lease.pk)
            return _meter(account, allocation, hold=hold, now=now)

    return retry_conflicts(attempt)


def _meter(
    account: BillingAccount, allocation: Allocation, *, hold: FundsHold | None, now: datetime
) -> Metered:
    """Part: meter one allocation whose wallet is locked, which also keeps a twin out."""
    require_transaction()
    # FOR SHARE: nobody changes what was delivered while we charge it. (Django writes no such lock.)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM leases_allocation WHERE id = %s FOR SHARE", [allocation.pk])
    allocation.refresh_from_db(fields=["delivered", "period"])
    chargeable = _chargeable(allocation, now=now)
    records = list(
        UsageRecord.objects.filter(allocation=allocation).select_related("charge__entry", "charge__lease")
    )
    wrong = [record for record in records if not any(_contains(piece, record.period) for piece in chargeable)]
    # A clock that stands before our last run is no reason to take time back.
    wrong = [record for record in wrong if record.period.upper <= now or _undelivered(allocation, record)]
    taken = Decimal(0)
    for record in wrong:
        charges.take_back(account, record.charge, now=now, hold=hold)
        taken += record.charge.quantity
        record.delete()
    kept = [record.period for record in records if record not in wrong]
    done = Metered(taken_back=len(wrong), gpu_seconds=-taken)
    for piece in _subtract(chargeable, kept):
        for part in split_months(piece):
            done += _record(account, allocation, part, hold=hold, now=now)
    return done


def _chargeable(allocation: Allocation, *, now: datetime) -> list[Period]:
    """Return the delivered time inside the paid period until ``now``, less the allocation's shortfalls."""
    if allocation.delivered is None:
        return []
    start = max(allocation.delivered.lower, allocation.period.lower)
    ends = [allocation.period.upper, now]
    if allocation.delivered.upper is not None:
        ends.append(allocation.delivered.upper)
    if start >= min(ends):
        return []
    missing = Shortfall.objects.filter(allocation=allocation).values_list("period", flat=True)
    return _subtract([make_period(start, min(ends))], missing)


def _undelivered(allocation: Allocation, record: UsageRecord) -> bool:
    """Tell whether a record reaches outside of what was delivered, whatever the time is now."""
    if allocation.delivered is None:
        return True
    ends = [end for end in (allocation.delivered.upper, allocation.period.upper) if end is not None]
    if record.period.lower < max(allocation.delivered.lower, allocation.period.lower):
        return True
    if record.period.upper > min(ends):
        return True
    return Shortfall.objects.filter(allocation=allocation, period__overlap=record.period).exists()


def _record(
    account: BillingAccount,
    allocation: Allocation,
    part: Period,
    *,
    hold: FundsHold | None,
    now: datetime,
) -> Metered:
    """Part: write one usage record with its charge."""
    lease = allocation.lease
    assert lease is not None
    term = Term.objects.select_related("gpu_model").filter(lease=lease, period__contains=part.lower).first()
    if term is None or term.rate_per_gpu_hour is None:
        return Metered()
    gpu_microseconds = microseconds(part.upper - part.lower) * term.gpus_per_node
    quantity = Decimal(gpu_microseconds) / 1_000_000
    # The same start is charged again after its record was taken back.
    source = f"usage:{allocation.pk}:{part.lower.astimezone(UTC).isoformat()}"
    earlier = Charge.objects.filter(source__startswith=source).count()
    charge = charges.add_charge(
        account,
        kind=Charge.Kind.USAGE,
        source=f"{source}:{earlier}" if earlier else source,
        description=_("%(lease)s: %(gpus)s × %(model)s")
        % {"lease": lease.name, "gpus": term.gpus_per_node, "model": term.gpu_model.name},
        lease=lease,
        period=part,
        quantity=quantity,
        unit=charges.GPU_SECOND,
        unit_price=term.rate_per_gpu_hour,
        amount=amount_for(rate=term.rate_per_gpu_hour, gpu_microseconds=gpu_microseconds),
        effective_at=part.lower,
        now=now,
        hold=hold,
    )
    UsageRecord.objects.create(allocation=allocation, period=part, gpus=term.gpus_per_node, charge=charge)
    return Metered(records=1, gpu_seconds=quantity)


def release_finished(*, now: datetime) -> int:
    """Release the funds of leases that are over and metered to their end; return how many.

    The tax on what they have used and not been invoiced yet stays reserved.
    """
    released = 0
    over = FundsHold.objects.filter(released_at=None, lease__state__in=FINAL)
    for hold in over.select_related("account__organization").order_by("account", "lease"):
        with durable():
            account = accounts.lock_account(hold.account.organization)
            locked = accounts.lock_hold(hold.lease_id)
            # Until its very end, not until ``now``: once released, nothing looks at the lease every hour.
            if locked is not None and not due(now=None, lease_id=hold.lease_id):
                released += settle_hold(account, locked, now=now)
    return released


def settle_hold(account: BillingAccount, hold: FundsHold, *, now: datetime) -> bool:
    """Part: reserve for a lease that is over only the tax on its unbilled charges; tell if that is nothing."""
    unbilled = Charge.objects.filter(lease=hold.lease_id, invoice_line=None).aggregate(sum=Sum("amount"))
    keep = eight_decimals((unbilled["sum"] or Decimal(0)) * hold.tax_rate)
    if keep < hold.remaining:
        accounts.shrink_hold(account, hold, to=keep, now=now)
    return hold.released_at is not None


def split_months(whole: Period) -> list[Period]:
    """Split a period at the boundaries of UTC months."""
    parts = []
    start = whole.lower
    while start < whole.upper:
        boundary = ledger.month_start(ledger.next_month(ledger.month_of(start)))
        end = min(boundary, whole.upper)
        parts.append(make_period(start, end))
        start = end
    return parts


def _contains(outer: Period, inner: Period) -> bool:
    return bool(outer.lower <= inner.lower and inner.upper <= outer.upper)


def _subtract(pieces: Iterable[Period], holes: Iterable[Period]) -> list[Period]:
    """Return the parts of ``pieces`` that no hole covers, in order of time."""
    left = list(pieces)
    for hole in sorted(holes, key=lambda hole: hole.lower):
        rest = []
        for piece in left:
            if overlap(piece, hole) is None:
                rest.append(piece)
                continue
            if piece.lower < hole.lower:
                rest.append(make_period(piece.lower, hole.lower))
            if hole.upper < piece.upper:
                rest.append(make_period(hole.upper, piece.upper))
        left = rest
    return sorted(left, key=lambda piece: piece.lower)
