"""Near misses: what could be booked instead. Values only; prices are for billing to add."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from inventory.software import offered_instead
from leases.gaps import find_starts, show_confidential
from leases.picking import FREE, LAPSED, following, parameters, rows, wanted
from leases.requests import FURTHEST, CapacityRequest

HOUR = timedelta(hours=1)
BACK, AHEAD = timedelta(days=14), timedelta(days=28)
MOST_OTHERS = 3

# A group is one region, or one fabric where the request demands one; its nodes' ends, latest first.
Group = tuple[str, list[datetime]]


@dataclass(frozen=True)
class Alternative:
    """A request that fits now, and how it differs from the one that does not."""

    kind: str  # shorter, longer, fewer, later, earlier, other_region, other_gpu, other_stack
    gpu_model: str
    gpus_per_node: int
    nodes: int
    start: datetime
    end: datetime
    region: str | None
    one_fabric: bool = False
    stack: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON facts; times in ISO 8601, UTC."""
        return {
            "kind": self.kind,
            "gpu_model": self.gpu_model,
            "gpus_per_node": self.gpus_per_node,
            "nodes": self.nodes,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "region": self.region,
            "one_fabric": self.one_fabric,
            "stack": self.stack,
        }

    def request(self) -> CapacityRequest:
        """Return the request to book this alternative."""
        return CapacityRequest(
            gpu_model=self.gpu_model,
            gpus_per_node=self.gpus_per_node,
            nodes=self.nodes,
            start=self.start,
            end=self.end,
            region=self.region,
            one_fabric=self.one_fabric,
            stack=self.stack,
        )


def near_misses(
    request: CapacityRequest, now: datetime, *, confidential: bool | None = None
) -> list[Alternative]:
    """Return requests like this one that fit at this moment: three statements, nearest first.

    Later or earlier (within weeks), shorter, fewer nodes, fewer nodes for as many
    node-hours (``longer``), another region, another GPU with at least as many GPUs; all
    with the software that was asked for, and with one more statement, other software.
    """
    shown = show_confidential(confidential)
    groups = _free_from_start(request, now=now, confidential=shown)
    found = [
        *_other_times(request, now=now, confidential=shown),
        _shorter(request, groups),
        _fewer(request, groups),
        _longer(request, groups),
        *_others(request, now=now, confidential=shown),
        *_other_stacks(request, now=now, confidential=shown),
    ]
    return [alternative for alternative in found if alternative is not None]


def _like(request: CapacityRequest, kind: str, **changes: Any) -> Alternative:
    changed = replace(request, **changes)
    return Alternative(
        kind=kind,
        gpu_model=changed.gpu_model,
        gpus_per_node=changed.gpus_per_node,
        nodes=changed.nodes,
        start=changed.start,
        end=changed.end,
        region=changed.region,
        one_fabric=changed.one_fabric and changed.nodes > 1,
        stack=changed.stack,
    )


def _by_fabric(request: CapacityRequest) -> bool:
    return request.one_fabric and request.nodes > 1


def _free_from_start(request: CapacityRequest, *, now: datetime, confidential: bool) -> list[Group]:
    """Return, per group, until when each node that is free at the start stays free, latest first."""
    by_fabric = _by_fabric(request)
    # A node without a fabric shares none, and is a group by itself.
    group = (
        "n.region_id, n.fabric_id, CASE WHEN n.fabric_id IS NULL THEN n.id END"
        if by_fabric
        else "n.region_id"
    )
    statement = f"""
        WITH {LAPSED}
        SELECT p.slug || '/' || r.code, free.ends
        FROM (
            SELECT n.region_id, (array_agg(e.at ORDER BY e.at DESC))[1:%(quantity)s] AS ends
            FROM inventory_node n {following(but_lapsed=True)}
            CROSS JOIN LATERAL (
                SELECT LEAST(upper(n.available), following.occupied_from) - n.turnaround AS at) e
            WHERE {wanted(region=request.region, confidential=confidential, stack=request.stack)}
              AND n.available @> %(start)s::timestamptz AND e.at > %(start)s
            GROUP BY {group}
        ) free
        JOIN inventory_region r ON r.id = free.region_id JOIN inventory_provider p ON p.id = r.provider_id
        ORDER BY 1"""  # noqa: S608 - fragments of ours, values as parameters
    values = parameters(
        gpu_model=request.gpu_model,
        gpus_per_node=request.gpus_per_node,
        region=request.region,
        stack=request.stack,
        start=request.start,
        quantity=request.nodes,
        now=now,
    )
    return [(region, list(ends)) for region, ends in rows(statement, values)]


def _shorter(request: CapacityRequest, groups: list[Group]) -> Alternative | None:
    """The same nodes from the same start, for as many whole hours as they stay free."""
    ends = [(ends[request.nodes - 1], region) for region, ends in groups if len(ends) >= request.nodes]
    if not ends:
        return None
    until, region = max(ends)
    end = request.start + (until - request.start) // HOUR * HOUR
    if not request.start < end < request.end:
        return None
    return _like(request, "shorter", end=end, region=region)


def _fewer(request: CapacityRequest, groups: list[Group]) -> Alternative | None:
    counts = [(sum(end >= request.end for end in ends), region) for region, ends in groups]
    nodes, region = max(counts, default=(0, ""))
    return _like(request, "fewer", nodes=nodes, region=region) if 0 < nodes < request.nodes else None


def _longer(request: CapacityRequest, groups: list[Group]) -> Alternative | None:
    """As many node-hours on fewer nodes, from the same start."""
    for nodes in range(request.nodes - 1, 0, -1):
        hours = -(-(request.duration * request.nodes) // (HOUR * nodes))
        end = request.start + hours * HOUR
        if end - request.start > FURTHEST:
            return None
        for region, ends in groups:
            if len(ends) >= nodes and ends[nodes - 1] >= end:
                return _like(request, "longer", nodes=nodes, end=end, region=region)
    return None


def _other_times(request: CapacityRequest, *, now: datetime, confidential: bool) -> list[Alternative]:
    slots = find_starts(
        gpu_model=request.gpu_model,
        gpus_per_node=request.gpus_per_node,
        nodes=request.nodes,
        hours=request.hours,
        earliest=max(now, request.start - BACK),
        latest=max(now, request.start + AHEAD),
        region=request.region,
        one_fabric=request.one_fabric,
        stack=request.stack,
        now=now,
        confidential=confidential,
    )
    found = []
    later = [(slot.start, slot.region) for slot in slots if slot.start > request.start]
    if later:
        start, region = min(later)
        found.append(_like(request, "later", start=start, end=start + request.duration, region=region))
    earlier = [
        (max(slot.start, _whole_hour(slot.latest_start)), slot.region)
        for slot in slots
        if slot.latest_start < request.start
    ]
    if earlier:
        start, region = max(earlier)
        found.append(_like(request, "earlier", start=start, end=start + request.duration, region=region))
    return found


def _whole_hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _others(request: CapacityRequest, *, now: datetime, confidential: bool) -> list[Alternative]:
    """The same period in other regions, or on other GPUs with at least as many GPUs in all."""
    together = "COALESCE(n.fabric_id, -n.id)" if _by_fabric(request) else "n.region_id"
    statement = f"""
        WITH {LAPSED}
        SELECT g.slug, g.memory_gib, t.gpus_per_node, p.slug || '/' || r.code, max(free.nodes)
        FROM (
            SELECT n.instance_type_id, n.region_id, count(*) AS nodes
            FROM inventory_node n {following(but_lapsed=True)}
            WHERE {wanted(gpu_model=False, region=None, confidential=confidential, stack=request.stack)}
              AND {FREE}
            GROUP BY n.instance_type_id, n.region_id, {together}
        ) free
        JOIN inventory_instancetype t ON t.id = free.instance_type_id
        JOIN inventory_gpumodel g ON g.id = t.gpu_model_id
        JOIN inventory_region r ON r.id = free.region_id JOIN inventory_provider p ON p.id = r.provider_id
        GROUP BY 1, 2, 3, 4 ORDER BY 1, 3, 4"""  # noqa: S608 - fragments of ours, values as parameters
    found = rows(statement, parameters(stack=request.stack, now=now, start=request.start, end=request.end))
    regions: list[tuple[int, Alternative]] = []
    models: list[tuple[tuple[bool, bool, int], Alternative]] = []
    gpus = request.nodes * request.gpus_per_node
    memory = next((row[1] for row in found if row[0] == request.gpu_model), None)
    for slug, gib, per_node, region, free in found:
        nodes = -(-gpus // per_node)
        if (slug, per_node) == (request.gpu_model, request.gpus_per_node):
            if request.region and free >= request.nodes and not _same(region, request.region):
                regions.append((-free, _like(request, "other_region", region=region)))
        elif free >= nodes:
            other = _like(
                request, "other_gpu", gpu_model=slug, gpus_per_node=per_node, nodes=nodes, region=region
            )
            elsewhere = bool(request.region) and not _same(region, request.region or "")
            models.append(((elsewhere, slug != request.gpu_model, abs(gib - (memory or gib))), other))
    regions.sort(key=lambda pair: (pair[0], pair[1].region or ""))
    models.sort(key=lambda pair: (*pair[0], pair[1].gpu_model, pair[1].gpus_per_node, pair[1].region or ""))
    best_per_model: dict[tuple[str, int], Alternative] = {}
    for _rank, alternative in models:
        best_per_model.setdefault((alternative.gpu_model, alternative.gpus_per_node), alternative)
    return [
        *[alternative for _rank, alternative in regions[:MOST_OTHERS]],
        *list(best_per_model.values())[:MOST_OTHERS],
    ]


def _other_stacks(request: CapacityRequest, *, now: datetime, confidential: bool) -> list[Alternative]:
    """The very same on nodes that have other software, in the order of the stacks."""
    if not request.stack:
        return []
    together = "COALESCE(n.fabric_id, -n.id)" if _by_fabric(request) else "n.region_id"
    statement = f"""
        WITH {LAPSED}, images AS MATERIALIZED ({offered_instead()})
        SELECT s.slug
        FROM inventory_node n {following(but_lapsed=True)}
        JOIN images i ON i.enabled AND i.type_id = n.instance_type_id AND i.region_id = n.region_id
        JOIN inventory_softwarestack s ON s.id = i.stack_id
        WHERE {wanted(region=request.region, confidential=confidential, stack=None)}
          AND {FREE}
        GROUP BY s.id, n.region_id, {together} HAVING count(*) >= %(quantity)s
        ORDER BY s.position, s.name, s.id"""  # noqa: S608 - fragments of ours, values as parameters
    values = parameters(
        gpu_model=request.gpu_model,
        gpus_per_node=request.gpus_per_node,
        region=request.region,
        stack=request.stack,
        start=request.start,
        end=request.end,
        quantity=request.nodes,
        now=now,
    )
    slugs = dict.fromkeys(slug for (slug,) in rows(statement, values))
    return [_like(request, "other_stack", stack=slug) for slug in slugs][:MOST_OTHERS]


def _same(region: str, asked: str) -> bool:
    return region == asked or region.rpartition("/")[2] == asked
