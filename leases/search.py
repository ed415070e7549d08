"""Availability: what is free when. Each question is one SQL statement, whatever the number of nodes.

A node's gaps are its ``available`` minus everything allocated on it. A lease of length
``d`` on a node with turnaround ``w`` can start anywhere in ``[a, b - d - w]`` of a gap
``[a, b)``. A running sum over those intervals' ends gives, for every possible start,
how many nodes can serve it (:mod:`leases.gaps`). Lapsed holds do not count as allocated.

Numbers are for one region (one fabric, where asked): a lease never spreads over two.
Stock that a provider account calls confidential can be booked, but is not counted
unless ``confidential`` says so (for staff).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from django.utils.translation import gettext as _

from leases.alternatives import Alternative, near_misses
from leases.gaps import GAPS, NEAR, Slot, find_starts, show_confidential
from leases.picking import FREE, LAPSED, following, parameters, rows, wanted
from leases.requests import CapacityRequest
from portal.common.errors import InvalidInput
from portal.common.periods import Period, aware_utc

__all__ = [
    "Alternative",
    "CalendarDay",
    "CalendarRow",
    "FreeKind",
    "Slot",
    "calendar",
    "find_starts",
    "fits",
    "free_by_kind",
    "free_nodes",
    "near_misses",
]

DAY = timedelta(days=1)
MOST_DAYS = 400


def free_nodes(
    *,
    gpu_model: str,
    gpus_per_node: int,
    period: Period,
    region: str | None = None,
    one_fabric: bool = False,
    stack: str | None = None,
    now: datetime,
    confidential: bool | None = None,
) -> int:
    """Return how many nodes one lease could have for the whole period.

    Without a region: in the region (with ``one_fabric``, on the fabric) that has most.
    """
    group = "n.region_id"
    if one_fabric:  # a node without a fabric shares none
        group += ", n.fabric_id, CASE WHEN n.fabric_id IS NULL THEN n.id END"
    statement = f"""
        WITH {LAPSED}
        SELECT COALESCE(max(nodes), 0) FROM (
            SELECT count(*) AS nodes
            FROM inventory_node n {following(but_lapsed=True)}
            WHERE {wanted(region=region, confidential=show_confidential(confidential), stack=stack)}
              AND {FREE}
            GROUP BY {group}
        ) groups"""  # noqa: S608 - fragments of ours, values as parameters
    values = parameters(
        gpu_model=gpu_model,
        gpus_per_node=gpus_per_node,
        region=region,
        stack=stack,
        start=period.lower,
        end=period.upper,
        now=now,
    )
    return int(rows(statement, values)[0][0])


def fits(request: CapacityRequest, *, now: datetime) -> bool:
    """Return whether the request could be booked as things stand, confidential stock included."""
    return request.nodes <= free_nodes(
        gpu_model=request.gpu_model,
        gpus_per_node=request.gpus_per_node,
        period=request.period,
        region=request.region,
        one_fabric=request.one_fabric and request.nodes > 1,
        stack=request.stack,
        now=now,
        confidential=True,
    )


@dataclass(frozen=True)
class FreeKind:
    """What we hold of one GPU model, node size and region: nodes, and how many are free."""

    gpu_model: str
    gpus_per_node: int
    region: str
    nodes_held: int
    nodes_free: int

    @property
    def gpus_free(self) -> int:
        return self.nodes_free * self.gpus_per_node


def free_by_kind(*, period: Period, now: datetime, confidential: bool | None = None) -> list[FreeKind]:
    """Return, per GPU model, node size and region, the nodes we hold and those free for all of ``period``.

    Held are healthy nodes that can be promised at some time from the period's start on.
    """
    statement = f"""
        WITH {LAPSED}
        SELECT g.slug, t.gpus_per_node, p.slug || '/' || r.code, count(*), count(*) FILTER (WHERE {FREE})
        FROM inventory_node n
        JOIN inventory_instancetype t ON t.id = n.instance_type_id
        JOIN inventory_gpumodel g ON g.id = t.gpu_model_id
        JOIN inventory_region r ON r.id = n.region_id JOIN inventory_provider p ON p.id = r.provider_id
        {following(but_lapsed=True)}
        WHERE {wanted(gpu_model=False, region=None, stack=None, confidential=show_confidential(confidential))}
          AND upper(n.available) > %(start)s
        GROUP BY 1, 2, 3 ORDER BY 1, 2 DESC, 3"""  # noqa: S608 - fragments of ours, values as parameters
    values = parameters(start=period.lower, end=period.upper, now=now)
    return [FreeKind(*row) for row in rows(statement, values)]


@dataclass(frozen=True)
class CalendarDay:
    """``start`` and 24 hours: how many nodes are free for all of it, of how many that we hold."""

    start: datetime
    nodes_free: int
    nodes_held: int


@dataclass(frozen=True)
class CalendarRow:
    """One line of the heat map."""

    gpu_model: str
    gpu_name: str
    gpus_per_node: int
    region: str
    days: tuple[CalendarDay, ...]

    def gpus_free(self, day: int) -> int:
        """Return the number of GPUs free for the whole day with this index."""
        return self.days[day].nodes_free * self.gpus_per_node


def calendar(
    *,
    days: int,
    start: datetime,
    region: str | None = None,
    stack: str | None = None,
    now: datetime,
    confidential: bool | None = None,
) -> list[CalendarRow]:
    """Return, per GPU model, node size and region, what is free on each of ``days`` days from ``start``.

    A day is 24 hours from ``start`` (give midnight in the reader's zone). It counts for
    a node that could be leased for the whole of it, turnaround included; of a day that
    has begun, the rest counts; days past are 0. With ``stack`` only nodes that have an
    image of it count. Raises :class:`InvalidInput`.
    """
    if not 1 <= days <= MOST_DAYS:
        raise InvalidInput(_("Ask for 1 to %(most)s days.") % {"most": MOST_DAYS}, field="days")
    start = aware_utc(start, field="start")
    # Day numbers: of the first day that begins in a span, and of the first that does not end in it.
    first_day = "ceil(extract(epoch FROM {} - %(start)s) / 86400)::int"
    end_day = "floor(extract(epoch FROM {} - %(start)s) / 86400)::int"
    today = "floor(extract(epoch FROM %(since)s - %(start)s) / 86400)::int"
    since = f"CASE WHEN lower({{0}}) <= %(since)s THEN {today} ELSE {first_day.format('lower({0})')} END"
    statement = f"""
        WITH {LAPSED}, nodes AS MATERIALIZED (
            SELECT n.id, n.instance_type_id, n.region_id, n.available, n.turnaround
            FROM inventory_node n
            WHERE {wanted(gpu_model=False, region=region, confidential=show_confidential(confidential), stack=stack)}
              AND {NEAR}
        ), spans AS (
            SELECT n.instance_type_id, n.region_id, 1 AS free, 0 AS held,
                   {since.format("gap")} AS first, {end_day.format("upper(gap) - n.turnaround")} AS last
            FROM nodes n {GAPS}
            UNION ALL
            SELECT n.instance_type_id, n.region_id, 0, 1,
                   {since.format("n.available")}, {end_day.format("upper(n.available) - n.turnaround")}
            FROM nodes n
        ), ends AS (
            SELECT instance_type_id, region_id, first AS day, free, held FROM spans WHERE first < last
            UNION ALL
            SELECT instance_type_id, region_id, last, -free, -held FROM spans WHERE first < last
        ), changes AS MATERIALIZED (
            SELECT instance_type_id, region_id, day, sum(free) AS free, sum(held) AS held
            FROM ends GROUP BY instance_type_id, region_id, day
            UNION ALL
            SELECT kind.instance_type_id, kind.region_id, day, 0, 0
            FROM (SELECT DISTINCT instance_type_id, region_id FROM nodes) kind,
                 generate_series(0, %(days)s - 1) AS day
        ), steps AS (
            SELECT g.slug, g.name, t.gpus_per_node, p.slug || '/' || r.code AS region, c.day,
                   sum(c.free) AS free, sum(c.held) AS held
            FROM changes c
            JOIN inventory_instancetype t ON t.id = c.instance_type_id
            JOIN inventory_gpumodel g ON g.id = t.gpu_model_id
            JOIN inventory_region r ON r.id = c.region_id JOIN inventory_provider p ON p.id = r.provider_id
            GROUP BY 1, 2, 3, 4, 5
        ), sums AS (
            SELECT slug, name, gpus_per_node, region, day,
                   sum(free) OVER line AS free, sum(held) OVER line AS held
            FROM steps WINDOW line AS (PARTITION BY slug, gpus_per_node, region ORDER BY day)
        )
        SELECT slug, name, gpus_per_node, region, day, free, held
        FROM sums WHERE day BETWEEN 0 AND %(days)s - 1
        ORDER BY name, gpus_per_node DESC, region, day"""  # noqa: S608 - fragments of ours, values as parameters
    found = rows(
        statement,
        parameters(
            region=region,
            stack=stack,
            days=days,
            start=start,
            now=now,
            since=max(start, now),
            until=max(start + days * DAY, now),
        ),
    )
    return [
        CalendarRow(
            gpu_model=slug,
            gpu_name=name,
            gpus_per_node=per_node,
            region=where,
            days=tuple(CalendarDay(start + row[4] * DAY, int(row[5]), int(row[6])) for row in line),
        )
        for (slug, name, per_node, where), line in groupby(found, key=lambda row: row[:4])
    ]
