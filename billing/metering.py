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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext

from django.db import connection
from django.db.models import Sum
from django.utils import timezone
from django.utils.translation import gettext as _

from billing import accounts, charges, ledger
from billing.models import BillingAccount, Charge, FundsHold, UsageRecord
from billing.pricing import MICROSECONDS_PER_HOUR, microseconds
from leases.models import Allocation, Lease, Term
from portal.common.money import LEDGER_QUANTUM
from portal.common.money import ledger as eight_decimals
from portal.common.periods import Period
from portal.common.periods import period as make_period
from portal.common.transactions import durable, require_transaction, retry_conflicts

log = logging.getLogger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


# What may be charged of allocation ``a``, whatever the time is now.
CHARGEABLE = """(
    tstzmultirange(coalesce(a.delivered * a.period, 'empty')) - coalesce(
        (SELECT range_agg(s.period) FROM leases_shortfall s WHERE s.allocation_id = a.id), '{}'
    )
)"""
# Allocations of leases whose funds are held, or were until a month ago: facts can come late.
CANDIDATES = """
    FROM billing_fundshold h
    JOIN leases_allocation a ON a.lease_id = h.lease_id
    WHERE (h.released_at IS NULL OR h.released_at > %(late)s)
        AND (%(lease)s::bigint IS NULL OR h.lease_id = %(lease)s::bigint)
        AND a.purpose = 'lease'
"""
# Each of these is answered by the index of the constraint that keeps records apart, so that it costs
# the same after a year of records as on the first day.
QUICK = f"""
    WITH candidates AS (
        SELECT a.id, a.lease_id, paid, least(upper(paid), %(now)s::timestamptz) AS until
        FROM (SELECT a.*, coalesce(a.delivered * a.period, 'empty') AS paid {CANDIDATES}) a
    )
    SELECT c.id FROM candidates c
    WHERE (  -- the last moment is neither charged nor missing
        c.until > lower(c.paid)
        AND NOT EXISTS (
            SELECT FROM billing_usagerecord u
            WHERE u.allocation_id = c.id AND u.period @> c.until - interval '1 microsecond'
        )
        AND NOT EXISTS (
            SELECT FROM leases_shortfall s
            WHERE s.allocation_id = c.id AND s.period @> c.until - interval '1 microsecond'
        )
    ) OR EXISTS (  -- something was charged that was not delivered
        SELECT FROM billing_usagerecord u
        WHERE u.allocation_id = c.id AND (
            isempty(c.paid) OR u.period && tstzrange(NULL, lower(c.paid)) OR u.period && tstzrange(upper(c.paid), NULL)
        )
    ) OR EXISTS (
        SELECT FROM leases_shortfall s JOIN billing_usagerecord u
            ON u.allocation_id = s.allocation_id AND u.period && s.period
        WHERE s.allocation_id = c.id
    )
    ORDER BY c.lease_id, c.id
"""  # noqa: S608 - put together from constants
THOROUGH = f"""
    SELECT a.id {CANDIDATES}
        AND {CHARGEABLE} * tstzmultirange(tstzrange(NULL, %(now)s::timestamptz)) <> coalesce(
            (SELECT range_agg(u.period) FROM billing_usagerecord u WHERE u.allocation_id = a.id), '{{}}'
        )
    ORDER BY a.lease_id, a.id
"""  # noqa: S608 - put together from constants
# Of one allocation: records that are not (wholly) chargeable, and chargeable time without a record.
DIFFERENCE = f"""
    WITH a AS (SELECT a.id, {CHARGEABLE} AS chargeable FROM leases_allocation a WHERE a.id = %(allocation)s)
    SELECT
        ARRAY(
            SELECT u.id FROM billing_usagerecord u
            WHERE u.allocation_id = a.id AND NOT a.chargeable @> u.period ORDER BY u.id
        ),
        a.chargeable * tstzmultirange(tstzrange(NULL, %(now)s::timestamptz)) - coalesce(
            (
                SELECT range_agg(u.period) FROM billing_usagerecord u
                WHERE u.allocation_id = a.id AND a.chargeable @> u.period
            ),
            '{{}}'
        )
    FROM a
"""  # noqa: S608 - put together from constants


def meter_due(*, now: datetime, thorough: bool = False) -> Metered:
    """Meter every allocation that has delivered time to charge; one transaction for each.

    Then release what is no longer needed of the funds of leases that are over. Safe
    twice at once. An allocation that fails is logged and does not stop the others.
    ``thorough`` compares all that was ever recorded, as before a month is invoiced.
    """
    total = Metered()
    for allocation_id in due(now=now, thorough=thorough):
        try:
            total += meter_allocation(allocation_id=allocation_id, now=now)
        except Exception:
            log.exception("metering_failed", extra={"allocation": allocation_id})
    release_finished(now=now)
    return total


def due(*, now: datetime | None, lease_id: int | None = None, thorough: bool = False) -> list[int]:
    """Return the allocations whose recorded time differs from what was delivered until ``now``.

    ``None`` means until the end, whatever the time is. The quick way misses a gap before
    time that is charged or missing; the lease's end, and the ``thorough`` way, find it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            THOROUGH if thorough else QUICK,
            {"now": now, "late": (now or timezone.now()) - LATE_FACTS, "lease": lease_id},
        )
        return [row[0] for row in cursor.fetchall()]


def meter_allocation(*, allocation_id: int, now: datetime) -> Metered:
    """Charge an allocation's delivered time until ``now`` (UTC) that is not charged yet.

    Usage record, charge, ledger entry, funds hold and what is owed change together.
    Amount = rate per GPU-hour × GPUs × seconds / 3600, to eight decimals.
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
    wrong, missing = _difference(allocation.pk, now=now)
    taken = Decimal(0)
    for record in UsageRecord.objects.filter(pk__in=wrong).select_related("charge__entry", "charge__lease"):
        charges.take_back(account, record.charge, now=now, hold=hold)
        taken += record.charge.quantity
        record.delete()
    done = Metered(taken_back=len(wrong), gpu_seconds=-taken)
    earlier = _taken_back(allocation) if missing else 0
    for piece in missing:
        for part in split_months(piece):
            done += _record(account, allocation, part, hold=hold, now=now, earlier=earlier)
    return done


def _difference(allocation_id: int, *, now: datetime) -> tuple[list[int], list[Period]]:
    """Part: return the records that are wrong, and the time until ``now`` that has none.

    A record beyond ``now`` is not wrong: a clock behind the last run takes nothing back.
    """
    with connection.cursor() as cursor:
        # FOR SHARE: nobody changes what was delivered while we charge it. (Django writes no such lock.)
        cursor.execute("SELECT FROM leases_allocation WHERE id = %s FOR SHARE", [allocation_id])
        cursor.execute(DIFFERENCE, {"allocation": allocation_id, "now": now})
        row = cursor.fetchone()
    if row is None:  # released meanwhile, and so never delivered
        return [], []
    return row[0], [make_period(piece.lower, piece.upper) for piece in row[1]]


def _taken_back(allocation: Allocation) -> int:
    """Return how many of the allocation's charges have no usage record any more."""
    charged = Charge.objects.filter(kind=Charge.Kind.USAGE, source__startswith=f"usage:{allocation.pk}:")
    return charged.filter(usage_record=None).count()


def _record(
    account: BillingAccount,
    allocation: Allocation,
    part: Period,
    *,
    hold: FundsHold | None,
    now: datetime,
    earlier: int,
) -> Metered:
    """Part: write one usage record with its charge; ``earlier`` records of the allocation were taken back."""
    lease = allocation.lease
    assert lease is not None
    term = Term.objects.select_related("gpu_model").filter(lease=lease, period__contains=part.lower).first()
    if term is None or term.rate_per_gpu_hour is None:
        return Metered()
    gpu_microseconds = microseconds(part.upper - part.lower) * term.gpus_per_node
    quantity = Decimal(gpu_microseconds) / 1_000_000
    # The same start is charged again after its record was taken back.
    source = f"usage:{allocation.pk}:{part.lower.astimezone(UTC).isoformat()}"
    if earlier:
        source += f":{earlier}"
    charge = charges.add_charge(
        account,
        kind=Charge.Kind.USAGE,
        source=source,
        description=_("%(lease)s: %(gpus)s × %(model)s")
        % {"lease": lease.name, "gpus": term.gpus_per_node, "model": term.gpu_model.name},
        lease=lease,
        period=part,
        quantity=quantity,
        unit=charges.GPU_SECOND,
        unit_price=term.rate_per_gpu_hour,
        amount=_amount(part, rate=term.rate_per_gpu_hour * term.gpus_per_node),
        effective_at=part.lower,
        now=now,
        hold=hold,
    )
    UsageRecord.objects.create(allocation=allocation, period=part, gpus=term.gpus_per_node, charge=charge)
    return Metered(records=1, gpu_seconds=quantity)


def _amount(part: Period, *, rate: Decimal) -> Decimal:
    """Return rate per hour × time to eight decimals, as the difference of two meter readings.

    Each reading is what the time since 1970 would cost, cut to eight decimals. So the
    sum over neighbouring records is the same to the last digit however often metering
    ran in between, and a period whose cost needs no rounding costs exactly that.
    """
    with localcontext(prec=60):
        start, end = (
            (rate * microseconds(moment - EPOCH) / MICROSECONDS_PER_HOUR).quantize(
                LEDGER_QUANTUM, rounding=ROUND_FLOOR
            )
            for moment in (part.lower, part.upper)
        )
        return end - start


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
            if locked is not None and not due(now=None, lease_id=hold.lease_id, thorough=True):
                released += settle_hold(account, locked, now=now)
    return released


def settle_hold(account: BillingAccount, hold: FundsHold, *, now: datetime) -> bool:
    """Part: reserve for a lease that is over only the tax on its unbilled charges; tell if that is nothing."""
    unbilled = Charge.objects.filter(lease=hold.lease_id, invoice_line=None).aggregate(sum=Sum("amount"))
    keep = eight_decimals((unbilled["sum"] or Decimal(0)) * hold.tax_rate)
    # One that was used up to the last cent is released too, or it would be looked at for ever.
    if keep < hold.remaining or not keep:
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
