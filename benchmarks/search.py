"""How fast is availability search, beside the raw SQL for the same question?

    .venv/bin/python benchmarks/search.py --nodes 10000 --allocations 900000

Prints one JSON line per question. ``limit`` is the shortest statement that answers it
for one instance type, on the product's own indexes, without lapsed holds, regions,
confidential stock or what each answer belongs to.
"""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fleet import GPU_MODEL, GPUS_PER_NODE, NOW, TYPE, interleave, median, report, say, scratch

DAY = timedelta(days=1)

FIXED = """
    SELECT count(*)
    FROM inventory_node n
    LEFT JOIN LATERAL (
        SELECT a.occupied_from FROM leases_allocation a
        WHERE a.node_id = n.id AND a.occupied_until > %(start)s ORDER BY a.occupied_until LIMIT 1
    ) a ON true
    WHERE n.instance_type_id = %(type)s AND n.health = 'healthy'
      AND n.available @> tstzrange(%(start)s, %(end)s + n.turnaround)
      AND (a.occupied_from IS NULL OR a.occupied_from >= %(end)s + n.turnaround)"""
# A node's gaps as ARCHITECTURE.md says, and the running sum over their ends.
FLEXIBLE = """
    WITH spans AS (
        SELECT greatest(lower(gap), %(earliest)s) AS first,
               least(upper(gap) - %(length)s - n.turnaround, %(latest)s) AS last
        FROM inventory_node n
        CROSS JOIN LATERAL unnest(tstzmultirange(n.available) - coalesce((
            SELECT range_agg(tstzrange(a.occupied_from, a.occupied_until)) FROM leases_allocation a
            WHERE a.node_id = n.id AND a.occupied_until > %(earliest)s AND a.occupied_until <= (
                SELECT b.occupied_until FROM leases_allocation b
                WHERE b.node_id = n.id AND b.occupied_until >= %(latest)s + %(length)s + n.turnaround
                ORDER BY b.occupied_until LIMIT 1)
            ), '{}')) gap
        WHERE n.instance_type_id = %(type)s AND n.health = 'healthy'
    ), steps AS (
        SELECT at, sum(sum(delta)) OVER (ORDER BY at) AS free
        FROM (
            SELECT first AS at, 1 AS delta FROM spans WHERE first <= last
            UNION ALL SELECT last, -1 FROM spans WHERE first <= last
        ) ends GROUP BY at
    )
    SELECT at, free FROM steps WHERE free >= %(nodes)s ORDER BY at"""
# The gaps alone, of every node, without what is counted from them.
CALENDAR = """
    SELECT n.instance_type_id, lower(gap), upper(gap)
    FROM inventory_node n
    CROSS JOIN LATERAL unnest(tstzmultirange(n.available) - coalesce((
        SELECT range_agg(tstzrange(a.occupied_from, a.occupied_until)) FROM leases_allocation a
        WHERE a.node_id = n.id AND a.occupied_until > %(start)s AND a.occupied_until <= (
            SELECT b.occupied_until FROM leases_allocation b
            WHERE b.node_id = n.id AND b.occupied_until >= %(end)s + n.turnaround
            ORDER BY b.occupied_until LIMIT 1)
        ), '{}')) gap
    WHERE n.health = 'healthy'"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=10_000, help="nodes, of ten instance types")
    parser.add_argument("--allocations", type=int, default=900_000)
    parser.add_argument("--runs", type=int, default=25, help="how often each is timed; the median counts")
    parser.add_argument("--seconds", type=float, default=60, help="at most so long per question")
    options = parser.parse_args()
    with scratch(nodes=options.nodes, allocations=options.allocations) as raw:
        measure(raw, options)


def measure(raw, options) -> None:
    from leases import search
    from portal.common.periods import period

    asked = {"gpu_model": GPU_MODEL, "gpus_per_node": GPUS_PER_NODE, "now": NOW}
    facts = {"nodes": options.nodes, "allocations": options.allocations, "of_one_type": options.nodes // 10}
    start, length = NOW + 3 * DAY, DAY
    window = {"type": TYPE, "start": start, "end": start + length}

    def compare(name, product, statement, values) -> None:
        say(name)
        calls = [product, lambda: raw.execute(statement, values, prepare=False).fetchall()]
        times = interleave(calls, runs=options.runs, seconds=options.seconds)
        report(f"search: {name}", median(times[0]), median(times[1]), "ms", **facts)

    def free(stack: str | None = None) -> int:
        return search.free_nodes(period=period(start, start + length), stack=stack, **asked)

    found = raw.execute(FIXED, window).fetchone()[0]
    assert free() == found, "The product and the raw statement must agree."
    compare("a fixed window", free, FIXED, window)

    map_everywhere("software")
    assert free("software") == found, "Software that is mapped everywhere leaves nothing out."
    compare("a fixed window, with software", lambda: free("software"), FIXED, window)

    quantity = max(1, found)
    flexible = {
        "type": TYPE,
        "earliest": NOW,
        "latest": NOW + 14 * DAY,
        "length": length,
        "nodes": quantity,
    }

    def starts():
        return search.find_starts(nodes=quantity, hours=24, earliest=NOW, latest=NOW + 14 * DAY, **asked)

    assert bool(starts()) == bool(raw.execute(FLEXIBLE, flexible).fetchall())
    compare("any start within two weeks", starts, FLEXIBLE, flexible)

    month = {"start": NOW, "end": NOW + 30 * DAY}
    compare(
        "the calendar of a month, all types",
        lambda: search.calendar(days=30, start=NOW, now=NOW),
        CALENDAR,
        month,
    )


def map_everywhere(slug: str) -> None:
    """Make a stack with an image at every provider."""
    from inventory.models import Provider, SoftwareStack, StackImage

    stack = SoftwareStack.objects.create(slug=slug, name=slug, operating_system="Ubuntu 24.04")
    StackImage.objects.bulk_create(
        StackImage(stack=stack, provider=provider, reference="image") for provider in Provider.objects.all()
    )


if __name__ == "__main__":
    main()
