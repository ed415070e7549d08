"""When could it start: gaps between allocations, and a running sum over their ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils.translation import gettext as _

from leases.picking import LAPSED, NOT_LAPSED, parameters, rows, wanted
from portal.common.errors import InvalidInput
from portal.common.periods import aware_utc

# The gaps of node ``n`` inside [%(since)s, %(until)s): everything else may be cut off or left out.
# Of the allocations that end after ``to`` only the first can reach into the window.
GAPS = f"""
        CROSS JOIN LATERAL unnest(
            tstzmultirange(n.available) - COALESCE(
                (SELECT range_agg(tstzrange(a.occupied_from, a.occupied_until))
                 FROM leases_allocation a
                 WHERE a.node_id = n.id
                   AND a.occupied_until > %(since)s
                   AND a.occupied_until <= COALESCE(
                       (SELECT b.occupied_until FROM leases_allocation b
                        WHERE b.node_id = n.id AND b.occupied_until >= %(until)s + n.turnaround
                        ORDER BY b.occupied_until LIMIT 1), 'infinity')
                   AND {NOT_LAPSED}),
                '{{}}'::tstzmultirange)
        ) AS gap"""  # noqa: S608 - fragments of ours, values as parameters
NEAR = "n.available && tstzrange(%(since)s, %(until)s, '[]')"
TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Slot:
    """A stretch of possible starts in one region: any start from ``start`` to ``latest_start`` fits.

    ``end`` belongs to ``start``; ``nodes_free`` is how many nodes could serve that start.
    """

    start: datetime
    end: datetime
    region: str
    nodes_free: int
    latest_start: datetime


def show_confidential(confidential: bool | None) -> bool:
    """Return whether to count stock that a contract calls confidential: as said, else by the setting."""
    if confidential is None:
        return bool(getattr(settings, "SUBLET_SHOW_CONFIDENTIAL_STOCK", False))
    return confidential


def find_starts(
    *,
    gpu_model: str,
    gpus_per_node: int,
    nodes: int,
    hours: float,
    earliest: datetime,
    latest: datetime,
    region: str | None = None,
    one_fabric: bool = False,
    stack: str | None = None,
    now: datetime,
    confidential: bool | None = None,
) -> list[Slot]:
    """Return when ``nodes`` nodes could start for ``hours`` hours, from ``earliest`` to ``latest`` (UTC).

    Ordered by start, then region. Raises :class:`InvalidInput` naming the field.
    """
    if nodes < 1:
        raise InvalidInput(_("Ask for at least one node."), field="nodes")
    if not 0 < hours <= 5 * 366 * 24:
        raise InvalidInput(_("The duration must be more than zero and at most five years."), field="hours")
    earliest = max(aware_utc(earliest, field="earliest"), now)
    latest = aware_utc(latest, field="latest")
    if latest < earliest:
        raise InvalidInput(
            _("The latest start must not be before the earliest, nor in the past."), field="latest"
        )
    by_fabric = one_fabric and nodes > 1
    length = timedelta(hours=hours)
    statement = f"""
        WITH {LAPSED}, spans AS (
            SELECT n.region_id, {"n.fabric_id" if by_fabric else "0"} AS together,
                   GREATEST(lower(gap), %(since)s) AS first,
                   LEAST(upper(gap) - %(length)s - n.turnaround, %(latest)s) AS last
            FROM inventory_node n {GAPS}
            WHERE {wanted(region=region, confidential=show_confidential(confidential), stack=stack)}
              AND {NEAR} {"AND n.fabric_id IS NOT NULL" if by_fabric else ""}
        ), ends AS (
            SELECT region_id, together, first AS at, 1 AS delta FROM spans WHERE first <= last
            UNION ALL
            SELECT region_id, together, last + %(tick)s, -1 FROM spans WHERE first <= last
        ), steps AS (
            SELECT region_id, together, at,
                   sum(sum(delta)) OVER (PARTITION BY region_id, together ORDER BY at) AS free
            FROM ends GROUP BY region_id, together, at
        ), marked AS (
            SELECT *, free >= %(nodes)s AS fits,
                   lag(free >= %(nodes)s, 1, FALSE) OVER (PARTITION BY region_id, together ORDER BY at) AS fitted
            FROM steps
        ), turns AS (
            SELECT *, lead(at) OVER (PARTITION BY region_id, together ORDER BY at) AS until
            FROM marked WHERE fits <> fitted
        )
        SELECT t.at, t.until - %(tick)s, p.slug || '/' || r.code, t.free
        FROM turns t
        JOIN inventory_region r ON r.id = t.region_id JOIN inventory_provider p ON p.id = r.provider_id
        WHERE t.fits ORDER BY t.at, p.slug, r.code"""  # noqa: S608 - fragments of ours, values as parameters
    found = rows(
        statement,
        parameters(
            gpu_model=gpu_model,
            gpus_per_node=gpus_per_node,
            region=region,
            stack=stack,
            nodes=nodes,
            length=length,
            tick=TICK,
            latest=latest,
            now=now,
            since=earliest,
            until=latest + length,
        ),
    )
    slots = [Slot(at, at + length, name, int(free), last) for at, last, name, free in found]
    return _merged(slots) if by_fabric else slots


def _merged(slots: list[Slot]) -> list[Slot]:
    """Join the stretches of a region's fabrics that touch each other; they come ordered by start."""
    merged: list[Slot] = []
    open_at: dict[str, int] = {}
    for slot in slots:
        index = open_at.get(slot.region)
        if index is not None and slot.start <= merged[index].latest_start + TICK:
            before = merged[index]
            merged[index] = Slot(
                before.start,
                before.end,
                before.region,
                max(before.nodes_free, slot.nodes_free) if slot.start == before.start else before.nodes_free,
                max(before.latest_start, slot.latest_start),
            )
        else:
            open_at[slot.region] = len(merged)
            merged.append(slot)
    return merged
