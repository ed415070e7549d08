"""How long do the catalog's questions take with 100,000 offers and 1,000,000 price points?

    .venv/bin/python -m benchmarks.catalog

``product`` is the function that a page calls: ages, availability, what is confidential,
lowest prices with whose they are. ``limit`` is the plain statement that only finds the
prices, on the same rows, in turn, in one run. Offers are of 40 GPU models at twelve
clouds; the page is that of the model with most of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg

from benchmarks.fleet import _url, interleave, median, report, say, scratch

TABLES = (
    "provider",
    "region",
    "gpumodel",
    "instancetype",
    "provideraccount",
    "pollrun",
    "offer",
    "pricepoint",
)
FILL = """
INSERT INTO inventory_provider (slug, name, kind) SELECT 'cloud-' || i, 'Cloud ' || i, '' FROM generate_series(1, 12) i;
INSERT INTO inventory_region (provider_id, code, name)
    SELECT p.id, 'r-' || i, '' FROM inventory_provider p, generate_series(1, 40) i WHERE p.slug LIKE 'cloud-%';
INSERT INTO inventory_gpumodel (slug, name, vendor, memory_gib, family)
    SELECT 'model-' || i, 'Model ' || i, 'nvidia', 16 + 8 * (i % 20), '' FROM generate_series(1, 40) i;
INSERT INTO inventory_instancetype
    (provider_id, name, gpu_model_id, gpus_per_node, vcpus, memory_gib, interconnect, architecture)
    SELECT p.id, 't' || g.place || '-' || k, g.id, (ARRAY[1, 2, 4, 8])[1 + k % 4], 96, 1024, '', 'x86_64'
    FROM inventory_provider p, generate_series(1, 12) k,
        (SELECT id, row_number() OVER (ORDER BY id) AS place FROM inventory_gpumodel WHERE slug LIKE 'model-%') g
    WHERE p.slug LIKE 'cloud-%' AND k <= greatest(2, 13 - g.place);
INSERT INTO inventory_provideraccount
    (provider_id, name, account_id, options, delivery_probe, resale_allowed, stock_confidential, enabled,
     poll_interval, poll_failures)
    SELECT id, slug, '', '{}', 'ssh', true, slug = 'cloud-3', true, interval '15 min', 0
    FROM inventory_provider WHERE slug LIKE 'cloud-%';
INSERT INTO inventory_pollrun
    (account_id, region_id, state, started_at, finished_at, offers_seen, offers_written, prices_written,
     unknown_types, error)
    SELECT a.id, r.id, CASE WHEN i % 20 = 3 THEN 'failed' ELSE 'complete' END, now() - i * interval '15 min',
        now() - i * interval '15 min', 0, 0, 0, '[]', ''
    FROM inventory_provideraccount a JOIN inventory_region r ON r.provider_id = a.provider_id,
        generate_series(0, 600) i WHERE a.name LIKE 'cloud-%';
INSERT INTO inventory_offer
    (instance_type_id, region_id, purchase, price, currency, price_source, price_seen_at, availability, zones,
     first_seen_at, changed_at, account_id)
    SELECT t.id, r.id, u, (t.gpus_per_node * (2 + random() * 6))::numeric(20, 8), 'USD',
        CASE WHEN random() < 0.7 THEN 'api' ELSE 'rate_card' END, now() - random() * interval '200 days',
        (ARRAY['available', 'unavailable', 'unknown'])[1 + floor(random() * 3)], '{}', now() - interval '400 days',
        now(), a.id
    FROM inventory_instancetype t JOIN inventory_region r ON r.provider_id = t.provider_id
        JOIN inventory_provideraccount a ON a.provider_id = t.provider_id AND a.name LIKE 'cloud-%',
        unnest(ARRAY['on_demand', 'spot', 'reserved']) u
    ORDER BY random() LIMIT :offers;
INSERT INTO inventory_pricepoint (offer_id, price, currency, source, period)
    SELECT o.id, (o.price * (1 + 0.05 * i))::numeric(20, 8), 'USD', 'api',
        CASE WHEN i = 0 THEN tstzrange(now() - interval '10 days', NULL)
        ELSE tstzrange(now() - (30 * i + 10) * interval '1 day', now() - (30 * i - 20) * interval '1 day') END
    FROM inventory_offer o, generate_series(0, :points - 1) i WHERE o.price IS NOT NULL;
VACUUM ANALYZE
"""
LIST = """
SELECT t.gpu_model_id, o.purchase, o.currency, min(o.price / t.gpus_per_node)
FROM inventory_offer o JOIN inventory_instancetype t ON t.id = o.instance_type_id
WHERE o.price IS NOT NULL AND o.availability <> 'unavailable' GROUP BY 1, 2, 3
"""
PAGE = """
SELECT o.id, o.price / t.gpus_per_node FROM inventory_offer o
JOIN inventory_instancetype t ON t.id = o.instance_type_id
WHERE t.gpu_model_id = (SELECT id FROM inventory_gpumodel WHERE slug = %(model)s)
ORDER BY o.price / t.gpus_per_node LIMIT 50
"""
HISTORY = "SELECT * FROM inventory_pricepoint WHERE offer_id = ANY(%(ids)s) ORDER BY offer_id, lower(period)"
MODEL = "model-1"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--offers", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=10, help="price points of each offer")
    parser.add_argument("--runs", type=int, default=15, help="how often each is timed; the median counts")
    parser.add_argument("--seconds", type=float, default=60, help="at most so long per question")
    options = parser.parse_args()
    with scratch(nodes=10, allocations=20) as raw:
        fill(raw, options)
        measure(raw, options)


def fill(raw, options) -> None:
    say(f"filling: {options.offers:,} offers, {options.offers * options.points:,} price points")
    statements = FILL.replace(":offers", str(options.offers)).replace(":points", str(options.points))
    with psycopg.connect(_url("DATABASE_OWNER_URL", raw.info.dbname), autocommit=True) as owner:
        for table in TABLES:  # what is there was written with its ids
            owner.execute(
                f"SELECT setval(pg_get_serial_sequence('inventory_{table}', 'id'), coalesce(max(id), 0) + 1)"
                f" FROM inventory_{table}"
            )
        for statement in statements.split(";\n"):
            owner.execute(statement)


def measure(raw, options) -> None:
    from django.utils import timezone

    from inventory import market, price_history

    now = timezone.now()
    facts = {"offers": options.offers, "price_points": options.offers * options.points}

    def compare(name, product, statement, values) -> None:
        say(name)
        calls = [product, lambda: raw.execute(statement, values, prepare=False).fetchall()]
        times = interleave(calls, runs=options.runs, seconds=options.seconds)
        report(f"catalog: {name}", median(times[0]), median(times[1]), "ms", **facts)

    lowest = {(model.slug, low.purchase) for model in market.model_summaries(now=now) for low in model.lowest}
    assert len(lowest) == len(raw.execute(LIST).fetchall()), "Both must find every model and purchase option."
    compare("every model's lowest prices", lambda: market.model_summaries(now=now), LIST, {})
    values = {"model": MODEL}
    compare("a page of one model's offers", lambda: market.compare(gpu_model=MODEL), PAGE, values)
    best = price_history.cheapest_per_cloud(gpu_model=MODEL, purchase="spot", currency="USD")
    ids = [offer.id for offer in best]
    compare(
        "the history of six offers",
        lambda: price_history.history(offer_ids=ids, currency="USD"),
        HISTORY,
        {"ids": ids},
    )


if __name__ == "__main__":
    main()
