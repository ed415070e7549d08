"""What staff look at first: fleet utilization, margin, expiring commitments, polls, findings, orphans."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import Count, Max, Q, Sum
from django.db.models.functions import Coalesce
from django.utils.translation import gettext as _

from billing.models import Charge, Finding
from inventory.models import Commitment, GpuSpelling, Node, PollRun, ProviderAccount
from leases.models import LaunchIntent, Lease, Orphan, Shortfall
from leases.software import nodes_without_image
from portal.accounts.models import Organization

EXPIRING = timedelta(days=60)

# Seconds of node time that we held and that leases had, per day, from the rows that promise them.
UTILIZATION = """
WITH days AS (
    SELECT day, tstzrange(day, day + interval '1 day', '[)') AS period
    FROM generate_series(%(start)s::timestamptz, %(end)s::timestamptz - interval '1 day', interval '1 day') day
),
held AS (
    SELECT d.day, sum(extract(epoch FROM upper(n.available * d.period) - lower(n.available * d.period))) AS seconds
    FROM days d JOIN inventory_node n ON n.available && d.period AND n.commitment_id IS NOT NULL
    GROUP BY d.day
),
leased AS (
    SELECT d.day, sum(extract(epoch FROM upper(a.period * d.period) - lower(a.period * d.period))) AS seconds
    FROM days d
    JOIN leases_allocation a ON a.period && d.period
    JOIN leases_lease l ON l.id = a.lease_id
    JOIN inventory_node n ON n.id = a.node_id AND n.commitment_id IS NOT NULL
    WHERE l.state IN ('scheduled', 'provisioning', 'active', 'ending', 'ended')
    GROUP BY d.day
)
SELECT d.day, coalesce(h.seconds, 0), coalesce(l.seconds, 0)
FROM days d LEFT JOIN held h USING (day) LEFT JOIN leased l USING (day)
ORDER BY d.day
"""


@dataclass(frozen=True)
class DayUse:
    """Node-hours that we held and that were leased on one UTC day."""

    day: datetime
    held: Decimal
    leased: Decimal

    @property
    def percent(self) -> float | None:
        """Leased of held, in per cent; ``None`` where nothing was held."""
        return float(self.leased / self.held * 100) if self.held else None


def utilization(*, start: datetime, end: datetime) -> list[DayUse]:
    """Return the committed fleet's use per UTC day within ``[start, end)``, in one statement."""
    with connection.cursor() as cursor:
        cursor.execute(UTILIZATION, {"start": start, "end": end})
        return [
            DayUse(day.astimezone(UTC), Decimal(held) / 3600, Decimal(leased) / 3600)
            for day, held, leased in cursor.fetchall()
        ]


@dataclass(frozen=True)
class Margin:
    """Revenue earned and committed capacity's cost of the same days, in one currency."""

    revenue: Decimal
    cost: Decimal
    currency: str

    @property
    def amount(self) -> Decimal:
        """Revenue less cost."""
        return self.revenue - self.cost

    @property
    def percent(self) -> Decimal | None:
        """The margin as a share of revenue, in per cent."""
        return self.amount / self.revenue * 100 if self.revenue else None


def margin(*, start: datetime, end: datetime, currency: str) -> Margin:
    """Compare what was charged with what the commitments cost, within ``[start, end)`` (UTC).

    Cost is nodes' held time at their commitment's price, used or not: an idle node costs
    the same. Other currencies are left out, never converted.
    """
    revenue = Charge.objects.filter(started_at__gte=start, started_at__lt=end, currency=currency).aggregate(
        sum=Coalesce(Sum("amount"), Decimal(0))
    )["sum"]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT coalesce(sum(c.cost_per_node_hour
                * extract(epoch FROM upper(n.available * w.period) - lower(n.available * w.period)) / 3600), 0)
            FROM (SELECT tstzrange(%s, %s, '[)') AS period) w
            JOIN inventory_node n ON n.available && w.period
            JOIN inventory_commitment c ON c.id = n.commitment_id AND c.currency = %s
            """,
            [start, end, currency],
        )
        cost = Decimal(cursor.fetchone()[0])
    return Margin(revenue, cost, currency)


def expiring_commitments(*, now: datetime) -> list[Commitment]:
    """Return commitments that end, or whose notice date comes, within sixty days."""
    soon = now + EXPIRING
    return list(
        Commitment.objects.filter(cancelled_at=None, promised__endswith__gt=now)
        .filter(
            Q(promised__endswith__lte=soon) | Q(notice_date__gte=now.date(), notice_date__lte=soon.date())
        )
        .select_related("account", "instance_type", "zone")
        .order_by("promised")
    )


def poll_health(*, now: datetime) -> list[dict[str, Any]]:
    """Return each polled account with its last complete poll and its last error."""
    rows = []
    for account in (
        ProviderAccount.objects.filter(enabled=True)
        .exclude(provider__kind="")
        .annotate(complete=Max("poll_runs__finished_at", filter=Q(poll_runs__state=PollRun.State.COMPLETE)))
        .order_by("name")
    ):
        last = account.poll_runs.first()
        late = account.complete is None or now - account.complete > 3 * account.poll_interval
        bad = last is not None and last.state in (PollRun.State.FAILED, PollRun.State.PARTIAL)
        stopped = account.circuit_opened_at is not None
        rows.append(
            {
                "account": account,
                "complete": account.complete,
                "state": "failed" if bad or stopped else "pending" if late else "healthy",
                "label": _("Stopped")
                if stopped
                else _("Failed")
                if bad
                else _("Late")
                if late
                else _("On time"),
                "error": last.error if last and bad else "",
            }
        )
    return rows


def to_do(*, now: datetime) -> dict[str, int]:
    """Return the counts of what someone must look at."""
    return {
        "findings": Finding.objects.filter(state=Finding.State.OPEN).count(),
        "shortfalls": Shortfall.objects.filter(
            closed_at=None,
            lease__state__in=("provisioning", "active"),
            period__startswith__lte=now,
        ).count(),
        "orphans": Orphan.objects.filter(state=Orphan.State.SEEN).count(),
        "failed_launches": LaunchIntent.objects.filter(
            state=LaunchIntent.State.FAILED, allocation__lease__state__in=("provisioning", "active")
        ).count(),
        "no_image": nodes_without_image(now=now),
        "pending_customers": Organization.objects.filter(state=Organization.State.PENDING).count(),
        "unknown_gpus": GpuSpelling.objects.filter(gpu_model=None, ignored=False).count(),
        "awaiting_funds": Lease.objects.filter(state=Lease.State.AWAITING).count(),
    }


def nodes_by_health() -> dict[str, int]:
    """Return how many committed nodes are in each health."""
    rows = Node.objects.exclude(commitment=None).values("health").annotate(n=Count("pk")).order_by()
    return {row["health"]: row["n"] for row in rows}


def month_start(day: date) -> datetime:
    """Return the first moment of a day's month, UTC."""
    return datetime(day.year, day.month, 1, tzinfo=UTC)
