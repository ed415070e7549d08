"""How many bookings a second, beside raw SQL that writes the same rows?

    .venv/bin/python benchmarks/booking.py --nodes 10000 --allocations 900000

One client books one node (then eight) for a day at random times within the fleet's
bookings. ``limit`` is one raw transaction with the same choice of nodes and the same
rows: lease, term, allocations, event and outbox row. ``statements`` counts the
product's; it is the same for every fleet. Both commit durably, in turn, in one run.
"""

from __future__ import annotations

import argparse
import random
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fleet import GPU_MODEL, GPUS_PER_NODE, NOW, TYPE, interleave, median, report, say, scratch

HOUR = timedelta(hours=1)

PICK = """
    SELECT n.id
    FROM inventory_node n
    LEFT JOIN LATERAL (
        SELECT a.occupied_from FROM leases_allocation a
        WHERE a.node_id = n.id AND a.occupied_until > %(start)s ORDER BY a.occupied_until LIMIT 1
    ) next ON true
    LEFT JOIN LATERAL (
        SELECT a.occupied_until FROM leases_allocation a
        WHERE a.node_id = n.id AND a.occupied_until <= %(start)s ORDER BY a.occupied_until DESC LIMIT 1
    ) last ON true
    WHERE n.instance_type_id = %(type)s AND n.health = 'healthy'
      AND n.available @> tstzrange(%(start)s, %(end)s + n.turnaround)
      AND (next.occupied_from IS NULL OR next.occupied_from >= %(end)s + n.turnaround)
    ORDER BY least(upper(n.available), next.occupied_from) - greatest(lower(n.available), last.occupied_until)
    LIMIT %(nodes)s FOR NO KEY UPDATE OF n SKIP LOCKED"""
LEASE = """
    INSERT INTO leases_lease
        (uid, organization_id, name, kind, state, state_changed_at, deadline, one_fabric, image,
         allowed_addresses, created_at)
    VALUES (%s, 1, 'raw', 'fixed', 'held', %s, %s, false, '', '{}', %s) RETURNING id"""
TERM = """
    INSERT INTO leases_term (lease_id, period, nodes, gpu_model_id, gpus_per_node, currency, quote_uid)
    VALUES (%s, tstzrange(%s, %s), %s, %s, 8, 'USD', '')"""
ALLOCATIONS = """
    INSERT INTO leases_allocation
        (node_id, node_available, period, occupied, purpose, lease_id, note, created_at)
    SELECT id, available, tstzrange(%s, %s), tstzrange(%s, %s + turnaround), 'lease', %s, '', %s
    FROM inventory_node WHERE id = ANY(%s)"""
EVENT = """
    INSERT INTO accounts_event
        (at, kind, organization_id, actor_label, subject_type, subject_id, before, after, message)
    VALUES (%s, 'lease.held', 1, 'system', 'lease', %s, '{}', '{"state": "held"}', '') RETURNING id"""
OUTBOX = "INSERT INTO accounts_outbox (event_id) VALUES (%s)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=10_000, help="nodes, of ten instance types")
    parser.add_argument("--allocations", type=int, default=900_000)
    parser.add_argument("--runs", type=int, default=200, help="bookings of each; the median counts")
    parser.add_argument("--seconds", type=float, default=90, help="at most so long per size of lease")
    options = parser.parse_args()
    with scratch(nodes=options.nodes, allocations=options.allocations) as raw:
        for wanted in (1, 8):
            measure(raw, options, wanted)


def measure(raw, options, wanted: int) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from leases import booking
    from leases.errors import NotEnoughCapacity
    from leases.requests import CapacityRequest
    from portal.accounts.models import Organization

    organization = Organization.objects.get(pk=1)
    moments = random.Random(wanted)
    last = options.allocations // options.nodes * 48 - 96  # hours until the fleet's bookings end
    deadline = NOW + HOUR

    def some_time():
        start = NOW + moments.randrange(24, max(25, last)) * HOUR
        return start, start + 24 * HOUR

    def product() -> bool:
        start, end = some_time()
        request = CapacityRequest(
            gpu_model=GPU_MODEL, gpus_per_node=GPUS_PER_NODE, nodes=wanted, start=start, end=end
        )
        try:
            booking.hold(
                request=request,
                organization=organization,
                name="product",
                actor=None,
                now=NOW,
                expires_at=deadline,
            )
        except NotEnoughCapacity:
            return False
        return True

    def limit() -> bool:
        start, end = some_time()
        with raw.transaction():
            values = {"type": TYPE, "start": start, "end": end, "nodes": wanted}
            nodes = [row[0] for row in raw.execute(PICK, values)]
            if len(nodes) < wanted:
                return False
            uid = f"lse_raw{moments.getrandbits(64)}"
            lease = raw.execute(LEASE, [uid, NOW, deadline, NOW]).fetchone()[0]
            raw.execute(TERM, [lease, start, end, wanted, TYPE])
            raw.execute(ALLOCATIONS, [start, end, start, end, lease, NOW, nodes])
            event = raw.execute(EVENT, [NOW, uid]).fetchone()[0]
            raw.execute(OUTBOX, [event])
        return True

    product()  # lapses the holds that lie in the way once
    with CaptureQueriesContext(connection) as captured:
        product()
    say(f"booking {wanted} of {options.nodes:,} nodes")
    times = interleave([product, limit], runs=options.runs, seconds=options.seconds)
    report(
        f"booking: {wanted} node{'s' if wanted > 1 else ''}",
        1000 / median(times[0]),
        1000 / median(times[1]),
        "bookings/s",
        nodes=options.nodes,
        allocations=options.allocations,
        statements=len(captured),
        product_ms=round(median(times[0]), 2),
        limit_ms=round(median(times[1]), 2),
        bookings=len(times[0]),
    )


if __name__ == "__main__":
    main()
