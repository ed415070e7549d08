"""The SQL that finds free nodes: shared by search, which looks, and booking, which locks.

Time is ``timestamptz``; every fragment takes named parameters. A node is *wanted* when
its type and region fit, the software that was asked for has an image there, and it may
be promised (C6): healthy, and held under a commitment. It is *free* for a window when the first allocation that ends after the
window's start begins after the window and the node's own turnaround. Allocations of a
node never overlap (C1), so one probe of ``allocation_neighbours`` answers that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from inventory.software import has_image
from leases.errors import ShortPick
from leases.models import Lease
from leases.requests import CapacityRequest

# Leases that wait beyond their deadline: a handful, found by a partial index.
LAPSED = """
    lapsed AS MATERIALIZED (
        SELECT id FROM leases_lease WHERE state IN ('held', 'awaiting') AND deadline <= %(now)s
    )
"""
# A maintenance allocation has no lease; NOT IN would turn its NULL into "unknown".
NOT_LAPSED = "(a.lease_id IN (SELECT id FROM lapsed)) IS NOT TRUE"

REGION = (
    "(SELECT r.id FROM inventory_region r JOIN inventory_provider p ON p.id = r.provider_id"
    " WHERE r.code = %(region_code)s AND %(region_provider)s IN ('', p.slug))"
)


def wanted(
    *, gpu_model: bool = True, region: str | None, confidential: bool = True, stack: str | None
) -> str:
    """Return the conditions on node ``n`` that make it one of those asked for."""
    conditions = ["n.health = 'healthy'", "n.commitment_id IS NOT NULL"]
    if gpu_model:
        conditions.append(
            "n.instance_type_id = ANY(ARRAY("
            "SELECT t.id FROM inventory_instancetype t JOIN inventory_gpumodel g ON g.id = t.gpu_model_id"
            " WHERE g.slug = %(gpu_model)s AND t.gpus_per_node = %(gpus_per_node)s))"
        )
    if region:
        conditions.append(f"n.region_id = ANY(ARRAY{REGION})")
    if stack:
        conditions.append(
            has_image(type_id="n.instance_type_id", region_id="n.region_id", one_gpu_model=gpu_model)
        )
    if not confidential:
        conditions.append(
            "NOT EXISTS (SELECT FROM inventory_provideraccount c"
            " WHERE c.id = n.account_id AND c.stock_confidential)"
        )
    return "\n          AND ".join(conditions)


def parameters(
    *,
    gpu_model: str = "",
    gpus_per_node: int = 0,
    region: str | None = None,
    stack: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the parameters of :func:`wanted`, and ``more``."""
    provider, _slash, code = (region or "").rpartition("/")
    return {
        "gpu_model": gpu_model,
        "gpus_per_node": gpus_per_node,
        "region_code": code,
        "region_provider": provider,
        "stack": stack or "",
        **more,
    }


def following(*, but_lapsed: bool) -> str:
    """Return the lateral join that finds the first allocation that ends after ``%(start)s``."""
    return f"""
        LEFT JOIN LATERAL (
            SELECT a.occupied_from FROM leases_allocation a
            WHERE a.node_id = n.id AND a.occupied_until > %(start)s
              {"AND " + NOT_LAPSED if but_lapsed else ""}
            ORDER BY a.occupied_until LIMIT 1
        ) following ON true"""  # noqa: S608 - fragments of this module, values as parameters


PRECEDING = """
        LEFT JOIN LATERAL (
            SELECT a.occupied_until FROM leases_allocation a
            WHERE a.node_id = n.id AND a.occupied_until <= %(start)s
            ORDER BY a.occupied_until DESC LIMIT 1
        ) preceding ON true"""
FREE = """
          n.available @> tstzrange(%(start)s, %(end)s + n.turnaround)
          AND (following.occupied_from IS NULL OR following.occupied_from >= %(end)s + n.turnaround)"""


# Open turnovers: the machine of the last tenant may still be there (C7).
LATE = """late AS MATERIALIZED (
            SELECT a.node_id FROM leases_turnover t JOIN leases_allocation a ON a.id = t.allocation_id
            WHERE t.completed_at IS NULL
        ), """
SOON = timedelta(hours=2)
# Picked beyond the quantity, because others may have locked the best: more than clients at once.
SPARE = 64


def rows(statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def _in_the_way(request: CapacityRequest) -> str:
    """Return the query of the lapsed leases that have nodes where the request could be served (C5)."""
    return f"""
        SELECT l.id FROM leases_lease l
        WHERE l.state IN ('held', 'awaiting') AND l.deadline <= %(now)s
          AND EXISTS (
            SELECT FROM leases_allocation a JOIN inventory_node n ON n.id = a.node_id
            WHERE a.lease_id = l.id AND a.occupied_until > %(start)s
              AND a.occupied_from < %(end)s + n.turnaround
              AND {wanted(region=request.region, stack=request.stack)})
        ORDER BY l.id"""  # noqa: S608 - fragments of this module, values as parameters


def lapsed_in_the_way(request: CapacityRequest, *, now: datetime) -> list[int]:
    """Return the lapsed leases that have nodes where the request could be served, by pk (C5)."""
    return [pk for (pk,) in rows(_in_the_way(request), _of(request, now=now))]


def pick(request: CapacityRequest, *, now: datetime, among: Sequence[int] | None = None) -> list[int]:
    """Part: lock and return the best nodes that are free and that nobody else has locked.

    ``request.nodes`` of one region, of one fabric where one suffices (always,
    where the request demands it). First those whose last machine is known to be gone
    (C7), then those in whose gap the period leaves the least (longest gaps stay whole),
    then those whose fabric has the fewest others free. ``among`` narrows the choice, for
    example to nodes that the caller has locked. Raises :class:`ShortPick` when there are
    fewer, or when lapsed holds lie in the way of a better choice: it names those.
    """
    values = _of(request, now=now, among=list(among or ()), quantity=request.nodes, spare=SPARE)
    found = rows(_pick_statement(request, now=now, narrowed=among is not None), values)
    if len(found) < request.nodes:
        raise ShortPick(lapsed_in_the_way(request, now=now))
    if found[0][1]:
        raise ShortPick(found[0][1])
    return [pk for pk, _lapsed in found]


def _pick_statement(request: CapacityRequest, *, now: datetime, narrowed: bool) -> str:
    # A start further ahead than any turnaround gives the machine before it time to end.
    soon = request.start < now + SOON
    late = LATE if soon else ""
    group = (
        "TRUE"
        if request.nodes == 1
        else "f.region_id = g.region_id AND (g.fabric_id IS NULL OR g.fabric_id = f.fabric_id)"
    )
    return f"""
        WITH {late}free AS MATERIALIZED (
            SELECT n.id, n.region_id, n.fabric_id,
                   {"n.id IN (SELECT node_id FROM late)" if soon else "FALSE"} AS late,
                   LEAST(upper(n.available), following.occupied_from)
                   - GREATEST(lower(n.available), preceding.occupied_until, %(now)s) AS gap,
                   count(*) OVER (PARTITION BY n.fabric_id) AS together
            FROM inventory_node n {following(but_lapsed=False)} {PRECEDING}
            WHERE {wanted(region=request.region, stack=request.stack)}
              {"AND n.id = ANY(%(among)s)" if narrowed else ""}
              AND {FREE}
        ), {"" if request.nodes == 1 else _group(request)}
        best AS MATERIALIZED (
            SELECT f.id, row_number() OVER (ORDER BY f.late, {"" if request.nodes == 1 else "f.together DESC, "}f.gap, f.together, f.id) AS place
            FROM free f {"" if request.nodes == 1 else ", chosen g"}
            WHERE {group}
            ORDER BY place LIMIT %(quantity)s + %(spare)s
        )
        SELECT n.id, ARRAY({_in_the_way(request)})
        FROM best JOIN inventory_node n ON n.id = best.id
        ORDER BY best.place LIMIT %(quantity)s
        FOR NO KEY UPDATE OF n SKIP LOCKED"""  # noqa: S608 - fragments of this module, values as parameters


def _group(request: CapacityRequest) -> str:
    """Return the CTE ``chosen``: the tightest fabric that suffices, else the tightest region."""
    anywhere = """
                UNION ALL
                SELECT region_id, NULL, count(*), 2 FROM free GROUP BY region_id HAVING count(*) >= %(quantity)s"""
    return f"""chosen AS MATERIALIZED (
            SELECT region_id, fabric_id FROM (
                SELECT region_id, fabric_id, count(*) AS size, 1 AS rank
                FROM free WHERE fabric_id IS NOT NULL
                GROUP BY region_id, fabric_id HAVING count(*) >= %(quantity)s
                {"" if request.one_fabric else anywhere}
            ) groups
            ORDER BY rank, size, region_id, fabric_id LIMIT 1
        ),"""  # noqa: S608 - fragments of this module, values as parameters


def free(request: CapacityRequest, *, now: datetime, lock: bool = False) -> list[int]:
    """Return every node that looks free, in pk order; ``lock`` (a part) also locks them, *waiting*."""
    statement = f"""
        SELECT n.id
        FROM inventory_node n {following(but_lapsed=False)}
        WHERE {wanted(region=request.region, stack=request.stack)}
          AND {FREE}
        ORDER BY n.id
        {"FOR NO KEY UPDATE OF n" if lock else ""}"""  # noqa: S608 - fragments of this module, values as parameters
    return [pk for (pk,) in rows(statement, _of(request, now=now))]


def give(lease: str) -> str:
    """Return the INSERT that gives the locked nodes ``%(nodes)s`` to a lease, where they are still free.

    ``lease`` is an SQL expression for its id. The statement's snapshot is newer than the
    locks, so it sees what was booked between the pick's snapshot and its locks, and
    reads ``available`` and the turnaround as they are now.
    """
    return f"""
        INSERT INTO leases_allocation
            (node_id, node_available, period, occupied, purpose, lease_id, note, created_at)
        SELECT n.id, n.available, tstzrange(%(start)s, %(end)s),
               tstzrange(%(start)s, %(end)s + n.turnaround), 'lease', {lease}, '', %(now)s
        FROM inventory_node n {following(but_lapsed=False)}
        WHERE n.id = ANY(%(nodes)s) AND n.health = 'healthy'
          AND {FREE}"""  # noqa: S608 - fragments of this module, values as parameters


def insert_allocations(
    request: CapacityRequest, *, lease_pk: int, node_pks: Sequence[int], now: datetime
) -> int:
    """Part: give the locked nodes to a lease that exists; return how many were still free."""
    with connection.cursor() as cursor:
        cursor.execute(give("%(lease)s"), _of(request, now=now, lease=lease_pk, nodes=list(node_pks)))
        return int(cursor.rowcount)


def insert_lease(lease: Lease, request: CapacityRequest, *, node_pks: Sequence[int], now: datetime) -> int:
    """Part: write a held lease, its term and its allocations; return how many nodes were still free.

    One statement, since a booking's cost is its round trips.
    """
    region = (
        "(SELECT n.region_id FROM inventory_node n WHERE n.id = (%(nodes)s)[1])"
        if request.region
        else "NULL::bigint"
    )
    statement = f"""
        WITH lease AS (
            INSERT INTO leases_lease
                (uid, organization_id, project_id, name, kind, state, state_changed_at, deadline, one_fabric,
                 image, stack_id, allowed_addresses, created_by_id, created_at)
            VALUES
                (%(uid)s, %(organization)s, %(project)s, %(name)s, %(kind)s, 'held', %(now)s, %(deadline)s,
                 %(one_fabric)s, %(image)s, %(stack_id)s, %(addresses)s::varchar[], %(created_by)s, %(now)s)
            RETURNING id
        ), term AS (
            INSERT INTO leases_term
                (lease_id, period, nodes, gpu_model_id, region_id, gpus_per_node, currency, quote_uid)
            SELECT lease.id, tstzrange(%(start)s, %(end)s), %(quantity)s,
                   (SELECT g.id FROM inventory_gpumodel g WHERE g.slug = %(gpu_model)s),
                   {region},
                   %(gpus_per_node)s, %(currency)s, ''
            FROM lease
        ), given AS ({give("(SELECT id FROM lease)")} RETURNING node_id)
        SELECT lease.id, (SELECT count(*) FROM given) FROM lease"""  # noqa: S608 - fragments of this module
    values = _of(
        request,
        now=now,
        nodes=list(node_pks),
        quantity=request.nodes,
        uid=lease.uid,
        organization=lease.organization_id,
        project=lease.project_id,
        name=lease.name,
        kind=str(lease.kind),
        deadline=lease.deadline,
        one_fabric=lease.one_fabric,
        image=lease.image,
        stack_id=lease.stack_id,
        addresses=lease.allowed_addresses,
        created_by=lease.created_by_id,
        currency=settings.SUBLET_CURRENCY,
    )
    lease.pk, given = rows(statement, values)[0]
    lease._state.adding = False
    lease._state.db = connection.alias
    return int(given)


def _of(request: CapacityRequest, **more: Any) -> dict[str, Any]:
    return parameters(
        gpu_model=request.gpu_model,
        gpus_per_node=request.gpus_per_node,
        region=request.region,
        stack=request.stack,
        start=request.start,
        end=request.end,
        **more,
    )
