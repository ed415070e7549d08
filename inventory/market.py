"""The market as customers may see it: what every cloud asks per GPU and hour, how that changed, how old it is.

Each question is one SQL statement, whatever the number of offers. Prices are the clouds'
list prices (from their APIs or rate cards): public, before tax, never converted. A price
is as old as its source: one from an API as the last complete poll of its region (P4), one
from a rate card as the card.

Availability comes from our accounts' polls. What a provider told an account whose stock is
confidential (``ProviderAccount.stock_confidential``) is ``UNDISCLOSED`` here, whatever it
says: it is neither shown, counted, filtered nor sorted by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import connection

from inventory.models import Offer, ProviderAccount
from portal.common.freshness import API, STALE_AFTER

UNDISCLOSED = "undisclosed"
PER_PAGE = 50

# Whether the availability of offer o, of type t, must not show: what a confidential account told, and what was
# told before accounts were kept by a cloud where one is confidential.
_CONFIDENTIAL = (
    "SELECT {} FROM inventory_provideraccount WHERE stock_confidential AND NOT %(show_confidential)s"
)
HIDDEN = (
    f"COALESCE(o.account_id = ANY(ARRAY({_CONFIDENTIAL.format('id')})),"
    f" t.provider_id = ANY(ARRAY({_CONFIDENTIAL.format('provider_id')})))"
)
# The last complete poll of an account in a region: poll_freshness answers it.
_LAST = """(SELECT p.finished_at FROM inventory_pollrun p
            WHERE p.account_id = {} AND p.region_id = {} AND p.state = 'complete'
            ORDER BY p.finished_at DESC LIMIT 1)"""
# How old the word on offer o is: of the account that told, or of any where none is kept.
POLLED_AT = f"""
    CASE WHEN o.account_id IS NOT NULL THEN {_LAST.format("o.account_id", "o.region_id")}
    ELSE (SELECT max({_LAST.format("a.id", "o.region_id")}) FROM inventory_provideraccount a
          WHERE a.provider_id = (SELECT provider_id FROM inventory_region WHERE id = o.region_id)) END"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Lowest:
    """The lowest price per GPU and hour among the clouds, for one purchase option and currency.

    ``unavailable``: every offer at a price is known to be sold out; this is then the
    lowest of those.
    """

    purchase: str
    currency: str
    per_gpu_hour: Decimal
    provider: str
    provider_name: str
    region: str
    price_at: datetime | None
    source: str
    unavailable: bool


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One GPU model over all clouds. ``newest`` and ``oldest`` are the ages of its prices.

    ``regions_available`` counts regions whose poll is recent and said so;
    ``signal_at`` is the latest such poll.
    """

    slug: str
    name: str
    vendor: str
    family: str
    memory_gib: int
    clouds: int
    regions: int
    regions_available: int
    regions_known: int
    signal_at: datetime | None
    newest: datetime | None
    newest_source: str
    oldest: datetime | None
    oldest_source: str
    lowest: tuple[Lowest, ...]

    def lowest_of(self, purchase: str, currency: str) -> Lowest | None:
        """Return the lowest price in ``currency``; in another one only where there is none in this."""
        found = [low for low in self.lowest if low.purchase == purchase]
        found.sort(key=lambda low: (low.currency != currency, low.currency))
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class MarketOffer:
    """One line of the comparison. ``price`` is per hour of the whole instance.

    ``price_since`` is when the current price began; ``previous`` is the one before, in
    ``previous_currency``, and ``changed_at`` when it ended. ``price_at`` and ``source`` say how old the price is,
    ``polled_at`` how old the availability.
    """

    id: int
    provider: str
    provider_name: str
    region: str
    region_name: str
    instance_type: str
    gpus_per_node: int
    vcpus: int | None
    memory_gib: int | None
    interconnect: str
    purchase: str
    currency: str
    price: Decimal | None
    per_gpu_hour: Decimal | None
    availability: str
    source: str
    price_at: datetime | None
    polled_at: datetime | None
    first_seen_at: datetime
    zones: tuple[str, ...]
    price_since: datetime | None
    previous: Decimal | None
    previous_currency: str | None
    changed_at: datetime | None

    @property
    def change(self) -> Decimal | None:
        """The change since the last price as a share of it, or None; never between currencies."""
        if self.price is None or not self.previous or self.previous_currency != self.currency:
            return None
        return self.price / self.previous - 1


def model_summaries(
    *,
    now: datetime,
    vendor: str = "",
    memory_gib: int = 0,
    provider: str = "",
    purchase: str = "",
    text: str = "",
    slug: str = "",
) -> list[ModelSummary]:
    """Return the GPU models that some cloud offers, each with its lowest prices, by name.

    ``memory_gib`` is the least memory of one GPU; ``text`` is looked for in the name,
    the slug, the family and the vendor. ``provider`` and ``purchase`` narrow the offers
    that are summed up. Empty means any.
    """
    statement = f"""
        WITH told AS MATERIALIZED (
            SELECT a.id AS account_id, r.id AS region_id, {_LAST.format("a.id", "r.id")} AS polled_at
            FROM inventory_provideraccount a JOIN inventory_region r ON r.provider_id = a.provider_id
        ), polls AS MATERIALIZED (
            SELECT account_id, region_id, polled_at FROM told WHERE polled_at IS NOT NULL
            UNION ALL
            SELECT 0, region_id, max(polled_at) FROM told GROUP BY region_id
        ), models AS MATERIALIZED (
            SELECT * FROM inventory_gpumodel g
            WHERE %(vendor)s IN ('', g.vendor) AND %(slug)s IN ('', g.slug) AND g.memory_gib >= %(memory)s
              AND (%(text)s = '' OR strpos(lower(concat_ws(' ', g.name, g.slug, g.family, g.vendor)), %(text)s) > 0)
        ), types AS MATERIALIZED (
            SELECT t.id, t.gpu_model_id, t.provider_id, t.gpus_per_node FROM inventory_instancetype t
            WHERE t.gpu_model_id IN (SELECT id FROM models)
              AND (%(provider)s = '' OR t.provider_id = (SELECT id FROM inventory_provider WHERE slug = %(provider)s))
        ), places AS (
            -- By region and who told: little enough to be hashed, and ages are the same within it.
            SELECT t.gpu_model_id, o.region_id, COALESCE(o.account_id, 0) AS account_id, {HIDDEN} AS hidden,
                   bool_or(o.availability = 'available') AS available,
                   bool_or(o.availability <> 'unknown') AS known,
                   min(o.price_seen_at) FILTER (WHERE o.price_source = 'api') AS oldest_api,
                   max(o.price_seen_at) FILTER (WHERE o.price_source = 'api') AS newest_api,
                   min(o.price_seen_at) FILTER (WHERE o.price_source <> 'api') AS oldest_card,
                   max(o.price_seen_at) FILTER (WHERE o.price_source <> 'api') AS newest_card
            FROM inventory_offer o JOIN types t ON t.id = o.instance_type_id
            WHERE %(purchase)s IN ('', o.purchase)
            GROUP BY 1, 2, 3, 4
        ), totals AS (
            SELECT gpu_model_id, count(DISTINCT r.provider_id) AS clouds, count(DISTINCT region_id) AS regions,
                   count(DISTINCT region_id) FILTER (WHERE available AND fresh) AS available,
                   count(DISTINCT region_id) FILTER (WHERE known AND fresh) AS known,
                   max(polled_at) FILTER (WHERE known AND fresh) AS signal_at,
                   min(GREATEST(oldest_api, CASE WHEN oldest_api IS NOT NULL THEN polled_at END)) AS oldest_api,
                   max(GREATEST(newest_api, CASE WHEN newest_api IS NOT NULL THEN polled_at END)) AS newest_api,
                   min(oldest_card) AS oldest_card, max(newest_card) AS newest_card
            FROM (
                SELECT places.*, polls.polled_at, polls.polled_at >= %(recent)s AND NOT hidden AS fresh
                FROM places LEFT JOIN polls USING (region_id, account_id)
            ) c JOIN inventory_region r ON r.id = c.region_id
            GROUP BY 1
        ), prices AS (
            SELECT o.instance_type_id, o.purchase, o.currency, min(o.price) AS any_best,
                   min(o.price) FILTER (WHERE o.availability <> 'unavailable' OR {HIDDEN}) AS best
            FROM inventory_offer o JOIN types t ON t.id = o.instance_type_id
            WHERE o.price IS NOT NULL AND %(purchase)s IN ('', o.purchase)
            GROUP BY 1, 2, 3
        ), winners AS (
            SELECT DISTINCT ON (t.gpu_model_id, c.purchase, c.currency)
                   t.gpu_model_id, t.id AS type_id, t.provider_id, c.purchase, c.currency,
                   COALESCE(c.best, c.any_best) AS price, COALESCE(c.best, c.any_best) / t.gpus_per_node AS per_gpu,
                   c.best IS NULL AS unavailable
            FROM prices c JOIN types t ON t.id = c.instance_type_id
            ORDER BY t.gpu_model_id, c.purchase, c.currency, c.best IS NULL, per_gpu, t.gpus_per_node DESC, t.id
        ), lows AS (
            SELECT w.*, p.slug AS provider, p.name AS provider_name, won.region, won.source,
                   CASE WHEN won.source = 'api' THEN GREATEST(won.polled_at, won.price_seen_at)
                        ELSE won.price_seen_at END AS price_at
            FROM winners w JOIN inventory_provider p ON p.id = w.provider_id CROSS JOIN LATERAL (
                SELECT r.code AS region, o.price_source AS source, o.price_seen_at, {POLLED_AT} AS polled_at
                FROM inventory_offer o JOIN types t ON t.id = o.instance_type_id
                JOIN inventory_region r ON r.id = o.region_id
                WHERE o.instance_type_id = w.type_id AND o.purchase = w.purchase AND o.currency = w.currency
                  AND o.price = w.price AND (w.unavailable OR o.availability <> 'unavailable' OR {HIDDEN})
                ORDER BY r.code LIMIT 1
            ) won
        )
        SELECT g.slug, g.name, g.vendor, g.family, g.memory_gib, n.clouds, n.regions, n.available, n.known,
               n.signal_at, GREATEST(n.newest_api, n.newest_card),
               CASE WHEN n.newest_card IS NULL OR n.newest_api >= n.newest_card THEN 'api' ELSE 'rate_card' END,
               LEAST(n.oldest_api, n.oldest_card),
               CASE WHEN n.oldest_card IS NULL OR n.oldest_api < n.oldest_card THEN 'api' ELSE 'rate_card' END,
               l.purchase, l.currency, l.per_gpu, l.provider, l.provider_name, l.region, l.price_at, l.source,
               l.unavailable
        FROM models g JOIN totals n ON n.gpu_model_id = g.id LEFT JOIN lows l ON l.gpu_model_id = g.id
        ORDER BY g.name, g.slug, l.purchase, l.currency"""  # noqa: S608 - fragments of this module, values as parameters
    found = rows(
        statement,
        vendor=vendor,
        memory=memory_gib,
        provider=provider,
        purchase=purchase,
        text=text.strip().lower(),
        slug=slug,
        recent=now - STALE_AFTER[API],
    )
    summaries: dict[str, list[Any]] = {}
    lowest: dict[str, list[Lowest]] = {}
    for row in found:
        summaries.setdefault(row[0], list(row[:14]))
        low = lowest.setdefault(row[0], [])
        if row[16] is not None:
            low.append(Lowest(*row[14:]))
    return [ModelSummary(*(*facts, tuple(lowest[slug]))) for slug, facts in summaries.items()]


# What a comparison can be ordered by; prices without a currency of their own first would mix them.
ORDERS = {
    "price": "f.per_gpu IS NULL, f.currency <> %(currency)s, f.currency, f.per_gpu, f.provider, f.region, f.id",
    "cloud": "f.provider_name, f.region, f.per_gpu, f.id",
    "size": "f.gpus_per_node DESC, f.per_gpu IS NULL, f.currency <> %(currency)s, f.currency, f.per_gpu, f.id",
    "region": "f.region, f.provider_name, f.per_gpu, f.id",
}


def compare(
    *,
    gpu_model: str,
    currency: str = "USD",
    provider: str = "",
    region: str = "",
    purchase: str = "",
    order: str = "price",
    limit: int = PER_PAGE,
    offset: int = 0,
) -> tuple[list[MarketOffer], int]:
    """Return one page of a GPU model's offers, and how many there are on all pages.

    ``currency`` comes first where prices are in several: they are ordered within each,
    never across. ``region`` is a code. ``order`` is one of ``ORDERS``.
    """
    statement = f"""
        WITH figures AS (
            SELECT o.id, o.region_id, o.account_id, t.provider_id, p.slug AS provider, p.name AS provider_name,
                   r.code AS region, r.name AS region_name, t.name AS instance_type, t.gpus_per_node, t.vcpus,
                   t.memory_gib, t.interconnect, o.purchase, o.currency, o.price,
                   o.price / t.gpus_per_node AS per_gpu
            FROM inventory_offer o JOIN inventory_instancetype t ON t.id = o.instance_type_id
            JOIN inventory_provider p ON p.id = t.provider_id JOIN inventory_region r ON r.id = o.region_id
            WHERE t.gpu_model_id = (SELECT id FROM inventory_gpumodel WHERE slug = %(gpu_model)s)
              AND %(provider)s IN ('', p.slug) AND %(region)s IN ('', r.code) AND %(purchase)s IN ('', o.purchase)
        ), page AS MATERIALIZED (
            SELECT f.*, count(*) OVER () AS total, row_number() OVER (ORDER BY {ORDERS[order]}) AS place
            FROM figures f ORDER BY place LIMIT %(limit)s OFFSET %(offset)s
        ), shown AS (
            SELECT f.*, o.price_source, o.price_seen_at, o.first_seen_at, {POLLED_AT} AS polled_at,
                   CASE WHEN {HIDDEN} THEN 'undisclosed' ELSE o.availability END AS availability,
                   CASE WHEN {HIDDEN} THEN ARRAY[]::varchar[] ELSE o.zones END AS zones
            FROM page f JOIN inventory_offer o ON o.id = f.id
            JOIN inventory_instancetype t ON t.id = o.instance_type_id
        )
        SELECT f.id, f.provider, f.provider_name, f.region, f.region_name, f.instance_type, f.gpus_per_node,
               f.vcpus, f.memory_gib, f.interconnect, f.purchase, f.currency, f.price, f.per_gpu, f.availability,
               f.price_source,
               CASE WHEN f.price_source = 'api' THEN GREATEST(f.polled_at, f.price_seen_at)
                    ELSE f.price_seen_at END,
               f.polled_at, f.first_seen_at, f.zones,
               (SELECT lower(h.period) FROM inventory_pricepoint h
                WHERE h.offer_id = f.id AND upper_inf(h.period)),
               before.price, before.currency, before.ended, f.total
        FROM shown f LEFT JOIN LATERAL (
            SELECT h.price, h.currency, upper(h.period) AS ended FROM inventory_pricepoint h
            WHERE h.offer_id = f.id AND NOT upper_inf(h.period) ORDER BY lower(h.period) DESC LIMIT 1
        ) before ON true
        ORDER BY f.place"""  # noqa: S608 - fragments of this module, values as parameters
    found = rows(
        statement,
        gpu_model=gpu_model,
        currency=currency,
        provider=provider,
        region=region,
        purchase=purchase,
        limit=limit,
        offset=offset,
    )
    offers = [MarketOffer(*(*row[:19], tuple(row[19]), *row[20:24])) for row in found]
    return offers, found[0][24] if found else 0


@dataclass(frozen=True, slots=True)
class Facets:
    """What a GPU model's offers can be narrowed by."""

    clouds: list[tuple[str, str]]
    regions: list[str]
    purchases: list[str]
    currencies: list[str]


def facets(*, gpu_model: str) -> Facets:
    """Return the clouds (slug and name), regions and purchase options of a model's offers, and the
    currencies of their prices."""
    found = rows(
        """
        SELECT DISTINCT p.slug, p.name, r.code, o.purchase, CASE WHEN o.price IS NOT NULL THEN o.currency END
        FROM inventory_offer o
        JOIN inventory_instancetype t ON t.id = o.instance_type_id
        JOIN inventory_provider p ON p.id = t.provider_id JOIN inventory_region r ON r.id = o.region_id
        WHERE t.gpu_model_id = (SELECT id FROM inventory_gpumodel WHERE slug = %(gpu_model)s)""",
        gpu_model=gpu_model,
    )
    return Facets(
        clouds=sorted({(row[0], row[1]) for row in found}, key=lambda cloud: cloud[1].lower()),
        regions=sorted({row[2] for row in found}),
        purchases=[value for value in Offer.Purchase.values if value in {row[3] for row in found}],
        currencies=sorted({row[4] for row in found if row[4]}),
    )


def undisclosed(offers: Iterable[Offer]) -> frozenset[int]:
    """Return the ids of the offers whose availability customers must not see, by the rule of this module."""
    if show_confidential():
        return frozenset()
    accounts = ProviderAccount.objects.filter(stock_confidential=True).values_list("pk", "provider")
    secret, providers = set(), set()
    for account, provider in accounts:
        secret.add(account)
        providers.add(provider)
    return frozenset(
        offer.pk
        for offer in offers
        if (offer.account_id in secret if offer.account_id else offer.instance_type.provider_id in providers)
    )


def show_confidential() -> bool:
    """Return whether this site shows customers what contracts call confidential (never by default)."""
    return bool(getattr(settings, "SUBLET_SHOW_CONFIDENTIAL_STOCK", False))


def rows(statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """Run one statement with these parameters, and with whether stock may be shown, and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, {**values, "show_confidential": show_confidential()})
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found
