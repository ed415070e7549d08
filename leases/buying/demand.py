"""Where demand exceeds what we hold: searches without room, use of the fleet, capacity that ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

LOOK_BACK = timedelta(days=30)

# Wishes of the last 30 days whose window is not over. A wish is taken to begin as early as it may, or
# now; the most GPUs wanted at one moment is a sweep over those beginnings and ends. The same wish on
# several days is one wish: somebody who keeps looking does not want it twice.
DEMAND = """
WITH wishes AS (
    SELECT gpu_model_id, gpus_per_node, nodes, region_id, hours, earliest, latest,
           bool_or(one_fabric) AS one_fabric, sum(times) AS times, max(last_at) AS last_at
    FROM leases_unmetsearch
    WHERE last_at > %(now)s - %(back)s AND latest > %(now)s
    GROUP BY gpu_model_id, gpus_per_node, nodes, region_id, hours, earliest, latest
), spans AS (
    SELECT *, nodes::bigint * gpus_per_node AS gpus, greatest(earliest, %(now)s) AS begins,
           greatest(earliest, %(now)s) + hours * interval '1 hour' AS ends
    FROM wishes
), steps AS (
    SELECT gpu_model_id, at, sum(sum(change)) OVER (PARTITION BY gpu_model_id ORDER BY at) AS gpus
    FROM (SELECT gpu_model_id, begins AS at, gpus AS change FROM spans
          UNION ALL SELECT gpu_model_id, ends, -gpus FROM spans) changes
    GROUP BY gpu_model_id, at
), wanted AS (
    SELECT s.gpu_model_id, count(*) AS wishes, sum(s.times) AS times, sum(s.gpus * s.hours) AS gpu_hours,
           min(s.begins) AS first, max(s.ends) AS last, max(s.last_at) AS last_at,
           max(s.gpus_per_node) AS gpus_per_node, percentile_disc(0.5) WITHIN GROUP (ORDER BY s.hours) AS hours,
           (SELECT max(gpus) FROM steps WHERE steps.gpu_model_id = s.gpu_model_id) AS peak
    FROM spans s GROUP BY s.gpu_model_id
), nodes AS (
    SELECT t.gpu_model_id, t.gpus_per_node AS gpus, n.id, n.available FROM inventory_node n
    JOIN inventory_instancetype t ON t.id = n.instance_type_id
    WHERE n.health <> 'retired' AND upper(n.available) > %(now)s - %(back)s
), held AS (
    SELECT gpu_model_id,
           sum(gpus) FILTER (WHERE available @> %(now)s::timestamptz) AS now,
           sum(gpus) FILTER (WHERE available @> (%(now)s::timestamptz + %(ahead)s)) AS later,
           sum(gpus * {past}) AS past_seconds, sum(gpus * {coming}) AS coming_seconds
    FROM nodes n GROUP BY gpu_model_id
), leased AS (
    SELECT n.gpu_model_id, sum(n.gpus * {used_past}) AS past_seconds, sum(n.gpus * {used_coming}) AS coming_seconds
    FROM nodes n JOIN leases_allocation a ON a.node_id = n.id
    JOIN leases_lease l ON l.id = a.lease_id
    WHERE l.state IN ('scheduled', 'provisioning', 'active', 'ending', 'ended')
      AND a.period && tstzrange(%(now)s - %(back)s, %(now)s::timestamptz + %(ahead)s)
    GROUP BY n.gpu_model_id
)
SELECT g.id, g.slug, g.name, coalesce(w.wishes, 0), coalesce(w.times, 0), coalesce(w.peak, 0),
       coalesce(w.gpu_hours, 0), w.first, w.last, w.last_at, w.hours, w.gpus_per_node,
       coalesce(h.now, 0), coalesce(h.later, 0), coalesce(h.past_seconds, 0), coalesce(l.past_seconds, 0),
       coalesce(h.coming_seconds, 0), coalesce(l.coming_seconds, 0)
FROM inventory_gpumodel g
LEFT JOIN wanted w ON w.gpu_model_id = g.id
LEFT JOIN held h ON h.gpu_model_id = g.id
LEFT JOIN leased l ON l.gpu_model_id = g.id
WHERE w.wishes IS NOT NULL OR h.now IS NOT NULL OR h.coming_seconds > 0
ORDER BY coalesce(w.peak, 0) DESC, g.name
"""


def _seconds(column: str, start: str, end: str) -> str:
    span = f"({column} * tstzrange({start}, {end}, '[)'))"
    return f"coalesce(extract(epoch FROM upper({span}) - lower({span})), 0)"


_PAST = ("%(now)s - %(back)s", "%(now)s")
_COMING = ("%(now)s", "%(now)s::timestamptz + %(ahead)s")
STATEMENT = DEMAND.format(
    past=_seconds("n.available", *_PAST),
    coming=_seconds("n.available", *_COMING),
    used_past=_seconds("a.period", *_PAST),
    used_coming=_seconds("a.period", *_COMING),
)


@dataclass(frozen=True)
class Demand:
    """One GPU model: what was wanted in vain, and what we hold of it. GPUs are counted, not nodes.

    ``wishes`` are different searches of the last 30 days whose window is not over, asked
    ``times`` times; ``peak`` is the most GPUs that they want at one moment, ``gpu_hours``
    all they want. ``used`` and ``booked`` are shares (0 to 1) of the held GPU time of the
    last 30 days and of the time ahead; None where nothing is held.
    """

    gpu_model_id: int
    slug: str
    name: str
    wishes: int
    times: int
    peak: int
    gpu_hours: int
    first: datetime | None
    last: datetime | None
    last_at: datetime | None
    hours: int | None  # the length that half of the wishes do not exceed
    gpus_per_node: int | None
    held: int
    held_later: int
    used: float | None
    booked: float | None

    @property
    def ending(self) -> int:
        """GPUs that we hold now and no longer at the end of the time ahead."""
        return max(self.held - self.held_later, 0)


def demand(*, now: datetime, ahead: timedelta) -> list[Demand]:
    """Return each GPU model that was wanted in vain or is held, the most wanted first; one statement."""
    with connection.cursor() as cursor:
        values: dict[str, Any] = {"now": now, "back": LOOK_BACK, "ahead": ahead}
        cursor.execute(STATEMENT, values)
        return [_demand(row) for row in cursor.fetchall()]


def _demand(row: tuple[Any, ...]) -> Demand:
    (pk, slug, name, wishes, times, peak, gpu_hours, first, last, last_at, hours, per_node) = row[:12]
    held, later, held_past, used_past, held_coming, used_coming = row[12:]
    return Demand(
        gpu_model_id=pk,
        slug=slug,
        name=name,
        wishes=int(wishes),
        times=int(times),
        peak=int(peak),
        gpu_hours=int(gpu_hours),
        first=first,
        last=last,
        last_at=last_at,
        hours=hours,
        gpus_per_node=per_node,
        held=int(held),
        held_later=int(later),
        used=float(used_past / held_past) if held_past else None,
        booked=float(used_coming / held_coming) if held_coming else None,
    )
