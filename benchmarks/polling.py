"""How long does it take to store 100,000 offers and prices, beside plain COPY and an upsert?

    .venv/bin/python benchmarks/polling.py --offers 100000

``product`` is ``poll_account`` with an adapter that answers from memory: every value is
checked, and only what differs is written. ``limit`` is COPY of the same rows into a
temporary table and one upsert of offers and price points from it: into the product's own
tables, with their indexes and constraints, in one transaction, and from lines that were
written before. For a poll in which nothing or little changes the limit is the same COPY
and upsert over rows that are there. Both commit durably, in turn, in one run.

The last part starts real workers, and polls one account and then ten of a cloud that
takes its time: the wall time of ten is that of one where none waits for another.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg

from benchmarks.fleet import BASE_DIR, NOW, _url, median, report, say, scratch

PURCHASES = ("on_demand", "spot")
ZONES = ("a", "b", "c")

LIMIT = (
    """
    CREATE TEMP TABLE plain (
        instance_type_id bigint, region_id bigint, purchase text, availability text, zones varchar[],
        price numeric(20,8), currency text
    ) ON COMMIT DROP
    """,
    "COPY plain FROM STDIN",
    """
    INSERT INTO inventory_offer
        (instance_type_id, region_id, purchase, availability, zones, account_id, price, currency,
         price_source, price_seen_at, first_seen_at, changed_at)
    SELECT instance_type_id, region_id, purchase, availability, zones, 2, price, currency, 'api', now(), now(), now()
    FROM plain
    ON CONFLICT (instance_type_id, region_id, purchase) DO UPDATE SET
        availability = EXCLUDED.availability, zones = EXCLUDED.zones, price = EXCLUDED.price,
        price_seen_at = EXCLUDED.price_seen_at, changed_at = EXCLUDED.changed_at
    """,
    """
    UPDATE inventory_pricepoint SET period = tstzrange(lower(period), now()) WHERE upper_inf(period)
    """,
    """
    INSERT INTO inventory_pricepoint (offer_id, price, currency, source, period)
    SELECT o.id, p.price, p.currency, 'api', tstzrange(now(), NULL)
    FROM plain p JOIN inventory_offer o USING (instance_type_id, region_id, purchase)
    """,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--offers", type=int, default=100_000, help="of one account, in all regions")
    parser.add_argument("--regions", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3, help="of each; the median counts")
    parser.add_argument("--accounts", type=int, default=10, help="polled in parallel")
    parser.add_argument("--only", choices=("writes", "parallel"), help="leave the other part out")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds for each region of those")
    options = parser.parse_args()
    with scratch(nodes=10, allocations=20) as raw:
        if options.only != "parallel":
            measure(raw, options)
        if options.only != "writes":
            parallel(options)


def measure(raw, options) -> None:
    from benchmarks.polling_cloud import MemoryCloud, use
    from inventory.polling import poll_account

    use()
    types = max(1, options.offers // options.regions // len(PURCHASES))
    offers = types * options.regions * len(PURCHASES)
    prepare(types, options.regions)
    say(f"{offers:,} offers: {types:,} types x {len(PURCHASES)} x {options.regions} regions")
    first, second, third, fourth = (answers(types, options.regions, part) for part in (0, 0, 0.01, 1))
    files = {part: lines(raw, types, options.regions, part) for part in (0, 0.01, 1)}
    polls = iter(range(1, 10_000))

    def poll(answer) -> Callable[[], tuple[int, int]]:
        def product() -> tuple[int, int]:
            MemoryCloud.answers = answer
            runs = poll_account(account_id=2, now=NOW + timedelta(hours=next(polls)))
            assert all(run.state == "complete" for run in runs), runs[0].error
            assert len(runs) == options.regions
            return sum(run.offers_written for run in runs), sum(run.prices_written for run in runs)

        return product

    def upsert(part: float) -> Callable[[], None]:
        def limit() -> None:
            with raw.transaction(), raw.cursor() as cursor:
                for statement in LIMIT:
                    if statement.startswith("COPY"):
                        with cursor.copy(statement) as copy:
                            for chunk in files[part]:
                                copy.write(chunk)
                    else:
                        cursor.execute(statement)

        return limit

    stages = (
        ("first poll", poll(first), (0, offers), upsert(0)),
        ("unchanged poll", poll(second), (0, 0), upsert(0)),
        ("1 % of prices changed", poll(third), None, upsert(0.01)),
        ("every price changed", poll(fourth), None, upsert(1)),
    )
    product: dict[str, list[float]] = {name: [] for name, *_ in stages}
    limit: dict[str, list[float]] = {name: [] for name, *_ in stages}
    written, dead = {}, {}
    for run in range(options.runs + 1):
        say(f"run {run}")
        order = (1, 2) if run % 2 else (2, 1)
        for who in order:
            empty()
            for name, ours, _expected, plain in stages:
                settle()
                before = counts()
                started = time.perf_counter()
                found = ours() if who == 1 else plain()
                took = time.perf_counter() - started
                if who == 1:
                    written[name], dead[name] = found, counts() - before
                if run:  # the first warms caches
                    (product if who == 1 else limit)[name].append(took)
    assert dead["unchanged poll"] == 0, "an unchanged poll wrote rows"
    base = median(limit["first poll"])
    for name, *_ in stages:
        report(
            f"polling: {name}",
            median(product[name]),
            median(limit[name]),
            "seconds",
            to_first_limit=round(median(product[name]) / base, 2),
            offers=offers,
            regions=options.regions,
            offers_written=written[name][0],
            prices_written=written[name][1],
            rows_touched=dead[name],
        )
    say(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def prepare(types: int, regions: int) -> None:
    """Make a provider with so many instance types and regions, and its account (id 2)."""
    with superuser() as connection:
        connection.execute(
            f"""
            INSERT INTO inventory_provider (id, slug, name, kind) VALUES (2, 'memory', 'Memory', 'memory');
            INSERT INTO inventory_region (id, provider_id, code, name)
            SELECT 1000 + r, 2, 'region-' || r, '' FROM generate_series(0, {regions} - 1) r;
            INSERT INTO inventory_instancetype
                (id, provider_id, name, gpu_model_id, gpus_per_node, vcpus, memory_gib, interconnect, architecture)
            SELECT 100000 + t, 2, 'gpu-' || t, 1, 8, 64, 512, '', 'x86_64' FROM generate_series(0, {types} - 1) t;
            """
        )
    from inventory.models import ProviderAccount
    from portal.common.crypto import encrypt

    ProviderAccount.objects.create(
        pk=2, provider_id=2, name="memory", credentials=encrypt({"key": "an-example-key"})
    )


def price(number: int, purchase: int, part: float) -> Decimal:
    changed = part == 1 or (part and (number * 7 + purchase) % round(1 / part) == 0)
    cents = 100 + number * 13 % 90_000 + purchase * 7 + (1 if changed else 0)
    return Decimal(cents).scaleb(-2)


def answers(types: int, regions: int, part: float):
    """Return each region's catalog; ``part`` of the prices are one cent higher."""
    from inventory.providers.base import (
        Availability,
        Catalog,
        InstanceTypeInfo,
        OfferInfo,
        PurchaseOption,
        RegionInfo,
        ZoneInfo,
    )

    infos = tuple(InstanceTypeInfo(f"gpu-{t}", 64, 512 * 1024, "nvidia", "X", 8, 81920) for t in range(types))
    found = {}
    for region in range(regions):
        code = f"region-{region}"
        zones = tuple(f"{code}{zone}" for zone in ZONES)
        found[code] = Catalog(
            region=RegionInfo(code, zones=tuple(ZoneInfo(zone) for zone in zones)),
            instance_types=infos,
            offers=tuple(
                OfferInfo(
                    instance_type=info.name,
                    region=code,
                    zones=tuple(zones),
                    purchase_option=PurchaseOption(purchase),
                    price=price(t, place, part),
                    availability=Availability.AVAILABLE,
                )
                for t, info in enumerate(infos)
                for place, purchase in enumerate(PURCHASES)
            ),
        )
    return found


def lines(raw, types: int, regions: int, part: float) -> list[str]:
    """Return the same rows in COPY's text format, in parts of 5,000 lines."""
    rows = [
        f"{100000 + t}\t{1000 + region}\t{purchase}\tavailable\t"
        f"{{{','.join(f'region-{region}{zone}' for zone in ZONES)}}}\t{price(t, place, part)}\tUSD\n"
        for region in range(regions)
        for t in range(types)
        for place, purchase in enumerate(PURCHASES)
    ]
    return ["".join(rows[at : at + 5000]) for at in range(0, len(rows), 5000)]


@contextmanager
def superuser() -> Iterator[psycopg.Connection]:
    database = urlsplit(os.environ["DATABASE_URL"]).path.strip("/")
    with psycopg.connect(_url("DATABASE_SUPERUSER_URL", database), autocommit=True) as connection:
        yield connection


def empty() -> None:
    with superuser() as connection:
        connection.execute("TRUNCATE inventory_pricepoint, inventory_offer, inventory_pollrun")


def settle() -> None:
    """Let no stage pay for the one before it."""
    with superuser() as connection:
        connection.execute("VACUUM ANALYZE inventory_offer")
        connection.execute("VACUUM ANALYZE inventory_pricepoint")
        connection.execute("CHECKPOINT")


def counts() -> int:
    """Return how many rows of offers and price points were ever inserted, updated or deleted."""
    from django.db import connection as products

    with products.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")  # what the poll did may wait for a second
    with superuser() as connection:
        connection.execute("SELECT pg_stat_clear_snapshot()")
        row = connection.execute(
            """
            SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables
            WHERE relname IN ('inventory_offer', 'inventory_pricepoint')
            """
        ).fetchone()
    return int(row[0])


def parallel(options) -> None:
    """Poll one account, then all at once, through a worker with a thread for each."""
    from django.db import connections

    from inventory.models import PollRun, ProviderAccount
    from inventory.tasks import poll_due
    from portal.celery import app
    from portal.common.crypto import encrypt

    regions = [f"slow-{number}" for number in range(4)]
    ProviderAccount.objects.update(enabled=False)
    with superuser() as connection:
        connection.execute(
            """
            INSERT INTO inventory_provider (id, slug, name, kind)
            SELECT 100 + n, 'slow-' || n, 'Slow ' || n, 'memory' FROM generate_series(1, %(n)s) n
            """,
            {"n": options.accounts},
        )
        # Rows that were filled in carry ids that the sequences do not know of.
        for table in ("region", "provideraccount"):
            connection.execute(f"SELECT setval(pg_get_serial_sequence('inventory_{table}', 'id'), 10000)")
    accounts = [
        ProviderAccount.objects.create(
            provider_id=100 + number,
            name=f"slow {number}",
            enabled=False,
            credentials=encrypt({"key": "an-example-key"}),
            options={"regions": regions, "latency": options.latency},
        )
        for number in range(1, options.accounts + 1)
    ]
    app.conf.broker_url = os.environ["REDIS_URL"]
    say(f"starting a worker with {options.accounts} threads")
    worker = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.polling_cloud",
            "--pool",
            "threads",
            "--concurrency",
            str(options.accounts),
        ],
        cwd=BASE_DIR,
        start_new_session=True,
    )

    def poll(count: int) -> float:
        chosen = [account.pk for account in accounts[:count]]
        ProviderAccount.objects.filter(pk__in=chosen).update(enabled=True, next_poll_at=None)
        before = PollRun.objects.exclude(finished_at=None).count()
        started = time.perf_counter()
        poll_due()
        while PollRun.objects.exclude(finished_at=None).count() < before + count * len(regions):
            if worker.poll() is not None or time.perf_counter() - started > 120:
                raise RuntimeError("The workers did not poll.")
            time.sleep(0.02)
        took = time.perf_counter() - started
        while ProviderAccount.objects.exclude(claim_token=None).exists():
            time.sleep(0.02)
        ProviderAccount.objects.update(enabled=False)
        return took

    try:
        poll(options.accounts)  # the workers come up, and load what they need
        alone = [poll(1) for _run in range(options.runs)]
        together = [poll(options.accounts) for _run in range(options.runs)]
    finally:
        worker.terminate()
        worker.wait(30)
        connections.close_all()
    report(
        f"polling: {options.accounts} accounts at once beside one",
        median(together),
        median(alone),
        "seconds",
        regions_each=len(regions),
        latency=options.latency,
        one_after_another=round(median(alone) * options.accounts, 2),
    )


if __name__ == "__main__":
    main()
