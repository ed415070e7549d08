"""What was spent and used, for charts and lease pages. Days are UTC; money in the account's currency."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from django.db import connection
from django.db.models import Sum
from django.utils import timezone

from billing.models import Charge, Quote
from billing.pricing import amount_for
from leases.models import Lease, Term
from portal.accounts.models import Organization, Project
from portal.common.money import ledger
from portal.common.periods import Period


@dataclass(frozen=True)
class Day:
    """One UTC day: money before tax, or GPU-hours."""

    day: date
    value: Decimal


def spend_by_day(
    *, organization: Organization, start: date, end: date, project: Project | None = None
) -> list[Day]:
    """Return what was charged for each UTC day from ``start`` to ``end``, both included.

    A charge that spans days is shared out by time; credits and what was taken back
    count on the days they are about. Days without charges are there with zero.
    """
    return _by_day("c.amount", organization=organization, start=start, end=end, project=project)


def gpu_hours_by_day(
    *, organization: Organization, start: date, end: date, project: Project | None = None
) -> list[Day]:
    """Return the charged GPU-hours of each UTC day from ``start`` to ``end``, both included."""
    return _by_day(
        "CASE WHEN c.unit = 'gpu_second' THEN c.quantity / 3600 ELSE 0 END",
        organization=organization,
        start=start,
        end=end,
        project=project,
    )


def _by_day(
    value: str, *, organization: Organization, start: date, end: date, project: Project | None
) -> list[Day]:
    # No charge is longer than a month: usage is split at its end. So the index by beginning serves.
    first = datetime(start.year, start.month, start.day, tzinfo=UTC)
    after = datetime(end.year, end.month, end.day, tzinfo=UTC) + timedelta(days=1)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT (d.starts AT TIME ZONE 'UTC')::date, coalesce(sum(
                {value} * extract(epoch FROM upper(c.period * d.day) - lower(c.period * d.day))
                / extract(epoch FROM upper(c.period) - lower(c.period))
            ), 0)
            FROM (
                SELECT starts, tstzrange(starts, starts + interval '24 hours') AS day
                FROM generate_series(%(first)s::timestamptz, %(last)s::timestamptz, interval '24 hours') starts
            ) d
            LEFT JOIN billing_charge c
                ON c.organization_id = %(organization)s AND c.period && d.day
                AND c.started_at >= %(first)s::timestamptz - interval '31 days'
                AND c.started_at < %(after)s::timestamptz
                AND (%(project)s::bigint IS NULL OR c.project_id = %(project)s::bigint)
            GROUP BY d.starts ORDER BY d.starts
            """,  # noqa: S608 - the only inserted text is one of the two expressions above
            {
                "first": first,
                "last": after - timedelta(days=1),
                "after": after,
                "organization": organization.pk,
                "project": project.pk if project else None,
            },
        )
        return [Day(day, ledger(value)) for day, value in cursor.fetchall()]


@dataclass(frozen=True)
class LeaseCost:
    """What a lease has cost and will cost, before tax."""

    charged: Decimal  # recorded charges less credits
    to_come: Decimal  # if everything still promised is delivered from now on
    currency: str
    quoted: Decimal | None

    @property
    def expected(self) -> Decimal:
        """What the lease will have cost at its end."""
        return self.charged + self.to_come


def lease_cost(lease: Lease, *, now: datetime | None = None) -> LeaseCost:
    """Return what the lease was charged so far and what its rest costs at its rate.

    The rest is each node's paid period after ``now``, and what was delivered and is not
    metered yet; a lease that is over has no rest but the latter.
    """
    now = now or timezone.now()
    charged = Charge.objects.filter(lease=lease).aggregate(sum=Sum("amount"))["sum"] or Decimal(0)
    term = Term.objects.filter(lease=lease).order_by("period").first()
    quote = Quote.objects.filter(lease=lease, kind=Quote.Kind.BOOKING).order_by("-pk").first()
    to_come = Decimal(0)
    if term is not None and term.rate_per_gpu_hour is not None:
        to_come = amount_for(
            rate=term.rate_per_gpu_hour,
            gpu_microseconds=_time_to_come(lease, term.period, now=now) * term.gpus_per_node,
        )
    return LeaseCost(
        charged=charged,
        to_come=to_come,
        currency=term.currency if term else "USD",
        quoted=quote.total if quote else None,
    )


def _time_to_come(lease: Lease, whole: Period, *, now: datetime) -> int:
    """Return the node-microseconds that are promised and still to be charged."""
    future = (
        Lease.State.HELD,
        Lease.State.AWAITING,
        Lease.State.SCHEDULED,
        Lease.State.PROVISIONING,
        Lease.State.ACTIVE,
    )
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT coalesce(sum(extract(epoch FROM upper(p) - lower(p))), 0)
            FROM leases_allocation a, unnest(
                tstzmultirange(
                    coalesce(a.delivered * a.period * tstzrange(NULL, %(now)s::timestamptz), 'empty'),
                    CASE WHEN %(runs)s THEN a.period * tstzrange(%(now)s::timestamptz, NULL) ELSE 'empty' END
                )
                - coalesce(
                    (SELECT range_agg(u.period) FROM billing_usagerecord u WHERE u.allocation_id = a.id),
                    '{}'::tstzmultirange
                )
                - coalesce(
                    (SELECT range_agg(s.period) FROM leases_shortfall s
                     WHERE s.allocation_id = a.id AND s.closed_at IS NOT NULL),
                    '{}'::tstzmultirange
                )
            ) p
            WHERE a.lease_id = %(lease)s
            """,
            {"now": now, "lease": lease.pk, "runs": lease.state in future},
        )
        (seconds,) = cursor.fetchone()
    return int(seconds * 1_000_000)
