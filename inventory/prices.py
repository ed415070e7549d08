"""Offers and their prices, written as sets. Unchanged rows are not touched (P5)."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.backends.utils import CursorWrapper

from inventory.models import Offer, Provider
from portal.common.transactions import require_transaction

RATE_CARD = "rate_card"
API = "api"

# numeric(20,8) holds more, but a price per hour above this is a unit mistake.
HIGHEST_PRICE = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class OfferRow:
    """What is sold where; ``purchase`` and ``availability`` are values of :class:`Offer`'s choices."""

    instance_type_id: int
    region_id: int
    purchase: str
    availability: str = Offer.Availability.UNKNOWN
    zones: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[int, int, str]:
        return self.instance_type_id, self.region_id, self.purchase


@dataclass(frozen=True, slots=True)
class NewPrice:
    """A price per hour of the whole instance."""

    offer_id: int
    price: Decimal
    currency: str = "USD"


def lock_catalog(provider_id: int) -> Provider:
    """Part: serialise the writers of one provider's offers, so that they never deadlock."""
    require_transaction()
    return Provider.objects.select_for_update(no_key=True, of=("self",)).get(pk=provider_id)


def write_offers(*, rows: Sequence[OfferRow], signals: bool, now: datetime) -> int:
    """Part: insert new offers, and change those whose availability or zones differ.

    Without ``signals`` (a rate card knows no stock) existing offers are left alone.
    Returns how many rows were written. Call :func:`lock_catalog` first.
    """
    require_transaction()
    on_conflict = (
        """
        UPDATE SET availability = EXCLUDED.availability, zones = EXCLUDED.zones, changed_at = EXCLUDED.changed_at
        WHERE (o.availability, o.zones) IS DISTINCT FROM (EXCLUDED.availability, EXCLUDED.zones)
        """
        if signals
        else "NOTHING"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO inventory_offer AS o
                (instance_type_id, region_id, purchase, availability, zones,
                 currency, price_source, first_seen_at, changed_at)
            SELECT r.instance_type_id, r.region_id, r.purchase, r.availability, r.zones, 'USD', '', %(now)s, %(now)s
            FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(
                instance_type_id bigint, region_id bigint, purchase text, availability text, zones text[])
            ON CONFLICT (instance_type_id, region_id, purchase) DO {on_conflict}
            """,  # noqa: S608 - one of two texts above
            {"rows": json.dumps([asdict(row) for row in rows]), "now": now},
        )
        return int(cursor.rowcount)


def withdraw_others(*, region_id: int, seen: Collection[int], now: datetime) -> int:
    """Part: mark a region's offers unavailable that a complete poll no longer lists.

    Nothing is deleted: leases, prices and quotes refer to offers. Returns how many changed.
    """
    require_transaction()
    return (
        Offer.objects.filter(region_id=region_id)
        .exclude(pk__in=seen)
        .exclude(availability=Offer.Availability.UNAVAILABLE)
        .update(availability=Offer.Availability.UNAVAILABLE, changed_at=now)
    )


def offer_ids(rows: Sequence[OfferRow]) -> dict[tuple[int, int, str], int]:
    """Return the offers' ids by (instance type, region, purchase)."""
    offers = Offer.objects.filter(
        region_id__in={row.region_id for row in rows},
        instance_type_id__in={row.instance_type_id for row in rows},
    ).values_list("instance_type_id", "region_id", "purchase", "pk")
    return {(type_id, region_id, purchase): pk for type_id, region_id, purchase, pk in offers}


def set_prices(*, prices: Sequence[NewPrice], source: str, now: datetime) -> int:
    """Part: make these the offers' prices from ``now`` on; returns how many changed.

    A changed price ends the old price point at ``now`` and begins a new one. A second
    price for the very moment at which the current one began replaces it. Call
    :func:`lock_catalog` first.
    """
    require_transaction()
    changed = _changed(prices)
    if not changed:
        return 0
    values: dict[str, Any] = {
        "ids": [price.offer_id for price in changed],
        "prices": [price.price for price in changed],
        "currencies": [price.currency for price in changed],
        "source": source,
        "now": now,
    }
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE inventory_pricepoint SET period = tstzrange(lower(period), %(now)s, '[)')
            WHERE offer_id = ANY(%(ids)s) AND upper_inf(period) AND lower(period) < %(now)s
            """,
            values,
        )
        cursor.execute(
            f"""
            UPDATE inventory_pricepoint p SET price = n.price, currency = n.currency, source = %(source)s
            FROM {NEW} WHERE p.offer_id = n.offer_id AND upper_inf(p.period)
            """,  # noqa: S608 - a constant
            values,
        )
        if cursor.rowcount:
            _rejoin(cursor, values)
        cursor.execute(
            f"""
            INSERT INTO inventory_pricepoint (offer_id, price, currency, source, period)
            SELECT n.offer_id, n.price, n.currency, %(source)s, tstzrange(%(now)s, NULL, '[)') FROM {NEW}
            WHERE NOT EXISTS (
                SELECT FROM inventory_pricepoint p WHERE p.offer_id = n.offer_id AND upper_inf(p.period))
            """,  # noqa: S608 - a constant
            values,
        )
        cursor.execute(
            f"""
            UPDATE inventory_offer o SET price = n.price, currency = n.currency, price_source = %(source)s,
                price_seen_at = %(now)s, changed_at = %(now)s
            FROM {NEW} WHERE o.id = n.offer_id
            """,  # noqa: S608 - a constant
            values,
        )
    return len(changed)


def _rejoin(cursor: CursorWrapper, values: dict[str, Any]) -> None:
    """Undo a change that was replaced by the price before it: a price point is a change."""
    cursor.execute(
        """
        DELETE FROM inventory_pricepoint p USING inventory_pricepoint before
        WHERE p.offer_id = ANY(%(ids)s) AND upper_inf(p.period) AND before.offer_id = p.offer_id
            AND upper(before.period) = lower(p.period)
            AND (before.price, before.currency) = (p.price, p.currency)
        RETURNING before.id
        """,
        values,
    )
    reopened = [row[0] for row in cursor.fetchall()]
    cursor.execute(
        "UPDATE inventory_pricepoint SET period = tstzrange(lower(period), NULL, '[)') WHERE id = ANY(%s)",
        [reopened],
    )


NEW = (
    "unnest(%(ids)s::bigint[], %(prices)s::numeric[], %(currencies)s::text[]) AS n(offer_id, price, currency)"
)


def _changed(prices: Sequence[NewPrice]) -> list[NewPrice]:
    current = {
        pk: (price, currency)
        for pk, price, currency in Offer.objects.filter(
            pk__in=[price.offer_id for price in prices]
        ).values_list("pk", "price", "currency")
    }
    return [price for price in prices if current[price.offer_id] != (price.price, price.currency)]
