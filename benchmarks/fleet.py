"""A scratch database with a fleet, its leases and their allocations: set-based SQL, dropped at the end.

Nodes are of ten instance types, in one region, on fabrics of sixteen. Each has as many
allocations as the total asks for, in slots of four days, half of them past: 18 to 83
hours long with gaps between them. Three nodes in a row share a lease; one lease in 6,000
is a hold that has lapsed.

PostgreSQL and Valkey are started for the run (durable, as in production), or those of
``DATABASE_URL``, ``DATABASE_OWNER_URL``, ``DATABASE_SUPERUSER_URL`` and ``REDIS_URL`` are used.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

BASE_DIR = Path(__file__).resolve().parent.parent

NOW = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
TYPES = 10
SLOT = timedelta(days=4)
TYPE = 3  # the instance type that is asked for
GPU_MODEL, GPUS_PER_NODE = "bench-2", 8

FILL = """
SET session_replication_role = replica;  -- no trigger of a foreign key for rows that are right
SET synchronous_commit = off;
ALTER TABLE leases_allocation DROP CONSTRAINT no_two_allocations_of_a_node;
DROP INDEX allocation_neighbours;
DROP INDEX {lease_index};

INSERT INTO accounts_organization
    (id, uid, name, segment, state, country, billing_email, billing_address, tax_id, created_at)
SELECT 1, 'org_bench', 'Benchmark', 'lab', 'approved', '', '', '', '', '{now}';
INSERT INTO inventory_provider (id, slug, name, kind) VALUES (1, 'bench', 'Benchmark', '');
INSERT INTO inventory_region (id, provider_id, code, name) VALUES (1, 1, 'one', '');
INSERT INTO inventory_zone (id, region_id, code) VALUES (1, 1, 'one-a');
INSERT INTO inventory_provideraccount
    (id, provider_id, name, account_id, options, delivery_probe, resale_allowed, stock_confidential, enabled,
     poll_interval, poll_failures)
VALUES (1, 1, 'Benchmark', '', '{{}}', 'ssh', true, false, true, '15 minutes', 0);
INSERT INTO inventory_gpumodel (id, slug, name, vendor, memory_gib, family)
SELECT t, 'bench-' || t - 1, 'Benchmark ' || t - 1, 'nvidia', 80, '' FROM generate_series(1, {types}) t;
INSERT INTO inventory_instancetype (id, provider_id, name, gpu_model_id, gpus_per_node, interconnect, architecture)
SELECT t, 1, 'type-' || t, t, 8, '', 'x86_64' FROM generate_series(1, {types}) t;
INSERT INTO inventory_commitment
    (id, uid, account_id, zone_id, instance_type_id, reservation_id, quantity, promised, payment,
     cost_per_node_hour, currency, cutoff, turnaround, fabric_size, note, created_at)
SELECT t, 'com_' || t, 1, 1, t, '', {nodes}, {available}, 'monthly', 16, 'USD', '30 minutes', '30 minutes', 16,
       '', '{now}'
FROM generate_series(1, {types}) t;
INSERT INTO inventory_fabric (id, zone_id, name)
SELECT f, 1, 'fabric-' || f FROM generate_series(1, {nodes} / 16 + 1) f;
INSERT INTO inventory_node
    (id, name, account_id, commitment_id, instance_type_id, region_id, zone_id, fabric_id, available,
     turnaround, health, health_note, created_at)
SELECT n, 'node-' || n, 1, t, t, 1, 1, (n - 1) / 16 + 1, {available}, '30 minutes', 'healthy', '', '{now}'
FROM (SELECT n, (n - 1) * {types} / {nodes} + 1 AS t FROM generate_series(1, {nodes}) n) nodes;

-- Slot s of a group of three nodes: when it starts and how long it takes, the same in every run.
CREATE TEMPORARY TABLE slots AS
SELECT g, s, g * {slots} + s + 1 AS lease,
       '{now}'::timestamptz + (s - {slots} / 2) * interval '4 days'
           + (g * 7919 % 96 + (g + s) % 12) * interval '1 hour' AS start,
       (18 + (g * 31 + s * 17) % 66) * interval '1 hour' AS length
FROM generate_series(0, ({nodes} - 1) / 3) g, generate_series(0, {slots} - 1) s;
INSERT INTO leases_lease
    (id, uid, organization_id, name, kind, state, state_changed_at, deadline, one_fabric, image,
     allowed_addresses, created_at)
SELECT lease, 'lse_' || lease, 1, 'lease', 'fixed',
       CASE WHEN start + length <= '{now}' THEN 'ended' WHEN start <= '{now}' THEN 'active'
            WHEN lease % 6000 = 0 THEN 'held' ELSE 'scheduled' END,
       '{now}', CASE WHEN start > '{now}' AND lease % 6000 = 0 THEN {deadline} END, false, '', '{{}}', '{now}'
FROM slots;
INSERT INTO leases_term (lease_id, period, nodes, gpu_model_id, gpus_per_node, currency, quote_uid)
SELECT lease, tstzrange(start, start + length), least(3, {nodes} - g * 3), n.instance_type_id, 8, 'USD', ''
FROM slots JOIN inventory_node n ON n.id = g * 3 + 1;
INSERT INTO leases_allocation
    (node_id, node_available, period, occupied, purpose, lease_id, note, created_at)
SELECT n.id, n.available, tstzrange(start, start + length), tstzrange(start, start + length + n.turnaround),
       'lease', lease, '', '{now}'
FROM slots JOIN inventory_node n ON (n.id - 1) / 3 = g
ORDER BY start, n.id;

ALTER TABLE leases_allocation ADD CONSTRAINT no_two_allocations_of_a_node
    EXCLUDE USING gist (node_id WITH =, occupied WITH &&);
{neighbours};
SELECT setval(pg_get_serial_sequence('leases_lease', 'id'), max(id)) FROM leases_lease;
SELECT setval(pg_get_serial_sequence('inventory_node', 'id'), max(id)) FROM inventory_node;
CREATE INDEX {lease_index} ON leases_allocation (lease_id);
"""


def _url(variable: str, database: str) -> str:
    return urlunsplit(urlsplit(os.environ[variable])._replace(path=f"/{database}"))


def _fill(database: str, *, nodes: int, allocations: int) -> None:
    slots = max(2, allocations // nodes)
    now = NOW.isoformat()
    half = SLOT * (slots // 2 + 10)
    available = f"tstzrange('{(NOW - half).isoformat()}', '{(NOW + half).isoformat()}')"
    with psycopg.connect(_url("DATABASE_SUPERUSER_URL", database), autocommit=True) as connection:
        names = dict(
            connection.execute(
                "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'leases_allocation'"
            ).fetchall()
        )
        statements = FILL.format(
            now=now,
            types=TYPES,
            nodes=nodes,
            slots=slots,
            available=available,
            deadline=f"'{now}'::timestamptz - interval '5 minutes'",
            neighbours=names["allocation_neighbours"],
            lease_index=next(name for name, text in names.items() if text.endswith("(lease_id)")),
        )
        for statement in statements.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute("VACUUM ANALYZE")


@contextmanager
def scratch(*, nodes: int, allocations: int) -> Iterator[psycopg.Connection[Any]]:
    """Yield a plain connection, as the product's role, to a filled database that Django uses too."""
    from portal.local.addresses import home_of
    from portal.local.services import Services

    os.environ["SUBLET_LOCAL"] = "1"
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    services = Services(home_of(BASE_DIR) / "bench", cloud=False)
    name = f"bench_{os.getpid()}"
    try:
        os.environ.update(services.start().environment())
        with psycopg.connect(os.environ["DATABASE_SUPERUSER_URL"], autocommit=True) as superuser:
            superuser.execute(f"CREATE DATABASE {name} OWNER sublet_owner")
            try:
                say("migrating")
                with psycopg.connect(_url("DATABASE_SUPERUSER_URL", name), autocommit=True) as connection:
                    connection.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
                environment = {
                    **os.environ,
                    "DATABASE_URL": _url("DATABASE_URL", name),
                    "DATABASE_OWNER_URL": _url("DATABASE_OWNER_URL", name),
                }
                subprocess.run(
                    [sys.executable, "manage.py", "migrate", "--noinput", "--verbosity", "0"],
                    cwd=BASE_DIR,
                    env=environment,
                    check=True,
                )
                say(f"filling: {nodes:,} nodes, {allocations:,} allocations")
                _fill(name, nodes=nodes, allocations=allocations)
                os.environ.update(environment)
                _use_django()
                with psycopg.connect(_url("DATABASE_URL", name), autocommit=True) as connection:
                    yield connection
            finally:
                _leave_django()
                superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        services.stop()


def _use_django() -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()


def _leave_django() -> None:
    from django.apps import apps
    from django.db import connections

    if apps.ready:
        connections.close_all()


def interleave(calls: Sequence[Callable[[], object]], *, runs: int, seconds: float) -> list[list[float]]:
    """Time the calls in turn, ``runs`` times or for ``seconds``; return each one's milliseconds.

    A call that returns ``False`` had nothing to measure.
    """
    times: list[list[float]] = [[] for _call in calls]
    until = time.monotonic() + seconds
    for run in range(runs + 1):
        for number in range(len(calls)):
            place = (number + run) % len(calls)  # nobody is always first
            started = time.perf_counter()
            counts = calls[place]() is not False
            if run and counts:  # the first run warms caches
                times[place].append((time.perf_counter() - started) * 1000)
        if run > 2 and time.monotonic() > until:
            break
    return times


def report(benchmark: str, product: float, limit: float, unit: str, **facts: object) -> None:
    """Print one JSON line."""
    line = {
        "benchmark": benchmark,
        "product": round(product, 2),
        "limit": round(limit, 2),
        "ratio": round(product / limit, 2),
        "unit": unit,
    }
    print(json.dumps({**line, **facts}), flush=True)


def median(times: Sequence[float]) -> float:
    return statistics.median(times)


def say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)
