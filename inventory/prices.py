"""Offers and their prices, written as sets. Unchanged rows are not touched (P5).

What came is copied into a temporary table and compared with what is stored in one
statement; only the difference is written. See ``benchmarks/polling.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connection
from django.db.backends.utils import CursorWrapper

from inventory.models import Offer, Provider
from portal.common.transactions import require_transaction

RATE_CARD = "rate_card"
API = "api"

# numeric(20,8) holds more, but a price per hour above this is a unit mistake.
HIGHEST_PRICE = Decimal(1_000_000)
CHUNK = 5_000  # lines that are copied at once


class OfferRow(NamedTuple):
    """What is sold where; ``purchase`` and ``availability`` are values of :class:`Offer`'s choices.

    ``price`` is per hour of the whole instance in ``currency``, or None where it is not known.
    """

    instance_type_id: int
    region_id: int
    purchase: str
    availability: str = Offer.Availability.UNKNOWN
    zones: tuple[str, ...] = ()
    price: Decimal | None = None
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Teller:
    """The account whose poll tells about offers.

    An offer is told about by one account at a time. Another one takes it over only where
    that account is not among ``others`` (it went silent, or is disabled), or where it sees
    the offer in stock and that account does not.

    After a ``complete`` poll, the region's offers that it no longer lists are unavailable:
    those that the account told about, and where it is ``alone``, those that nobody does.
    """

    account_id: int
    others: tuple[int, ...] = ()
    complete: bool = False
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Written:
    """How many offers were added, how many changed their signal, and how many prices are new."""

    added: int
    changed: int
    prices: int


def lock_catalog(provider_id: int) -> Provider:
    """Part: serialise the writers of one provider's offers, so that they never deadlock."""
    require_transaction()
    return Provider.objects.select_for_update(no_key=True, of=("self",)).get(pk=provider_id)


def write_offers(
    *,
    rows: Sequence[OfferRow],
    regions: Collection[int],
    source: str,
    now: datetime,
    teller: Teller | None = None,
    only_missing: bool = False,
) -> Written:
    """Part: make these the offers of ``regions``, and their prices from ``now`` on.

    With a ``teller`` (a poll) availability and zones are written too, of the offers that
    it may tell about; without one (a rate card, which knows no stock) only new offers and
    prices are, with ``only_missing`` only to offers without a price. A row without a price
    keeps the stored one. Nothing is deleted: leases, prices and quotes refer to offers.
    Call :func:`lock_catalog` first.

    Where a complete poll no longer lists an offer, the price that an API told for it ends,
    unless the account's stock is confidential; one from a rate card stays. A changed price ends the old price point at ``now`` and
    begins a new one. A second price for the very moment at which the current one began
    replaces it, and so does one from before that moment, where a clock was put back: no
    period is ever empty, and none overlaps another.
    """
    require_transaction()
    values: dict[str, Any] = {
        "regions": sorted(regions),
        "account": teller.account_id if teller else None,
        "others": list(teller.others) if teller else [],
        "complete": teller is not None and teller.complete,
        "alone": teller is not None and teller.alone,
        "polled": teller is not None,
        "only_missing": only_missing,
        "source": source,
        "now": now,
    }
    with connection.cursor() as cursor:
        cursor.execute(CLEAR)
        cursor.execute(INCOMING)
        with cursor.copy("COPY incoming_offer FROM STDIN") as copy:
            for chunk in _lines(rows):
                copy.write(chunk)
        cursor.execute(DIFFERENT, values)
        if not cursor.rowcount:
            return Written(0, 0, 0)
        cursor.execute("ANALYZE changed_offer")
        cursor.execute(COUNT)
        added, changed, prices, repriced, ended = cursor.fetchone()
        if added:
            cursor.execute(ADD, values)
        if changed or repriced:
            cursor.execute(CHANGE, values)
        if repriced:
            _new_points(cursor, values, repriced)
        if ended:
            cursor.execute(END, values)
    return Written(added, changed, prices)


def _new_points(cursor: CursorWrapper, values: dict[str, Any], repriced: int) -> None:
    cursor.execute(CLOSE, values)
    usual = cursor.rowcount == repriced  # else some had no price, or one that began at this moment or later
    if not usual:
        cursor.execute(REPLACE, values)
    cursor.execute(BEGIN, values)
    if not usual:
        cursor.execute(REJOIN)
        reopened = [row[0] for row in cursor.fetchall()]
        cursor.execute(REOPEN, [reopened])


def _lines(rows: Iterable[OfferRow]) -> Iterator[str]:
    """Yield the rows in COPY's text format, some thousand lines at a time."""
    arrays: dict[tuple[str, ...], str] = {}
    lines: list[str] = []
    for type_id, region_id, purchase, availability, zones, price, currency in rows:
        array = arrays.get(zones)
        if array is None:
            array = arrays[zones] = _array(zones)
        amount = "\\N" if price is None else price
        lines.append(f"{type_id}\t{region_id}\t{purchase}\t{availability}\t{array}\t{amount}\t{currency}\n")
        if len(lines) == CHUNK:
            yield "".join(lines)
            lines.clear()
    yield "".join(lines)


def _array(texts: Collection[str]) -> str:
    """Return an array of text as COPY reads it: quoted for the array, then escaped for COPY."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    array = "{" + ",".join(f'"{text}"' for text in quoted) + "}"
    return array.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


# Several cards may be stored in one transaction, each with tables of its own.
CLEAR = "DROP TABLE IF EXISTS pg_temp.incoming_offer, pg_temp.changed_offer"
INCOMING = """
CREATE TEMP TABLE incoming_offer (
    instance_type_id bigint, region_id bigint, purchase text, availability text, zones varchar[],
    price numeric(20,8), currency text
) ON COMMIT DROP
"""

# A signal in stock outranks one out of stock, and that one outranks not knowing.
RANK = "array_position(ARRAY['unknown', 'unavailable', 'available'], {}.availability::text)"

# Where a cloud lists only what is in stock, a price that ends tells about stock.
DISCLOSED = "NOT (SELECT stock_confidential FROM inventory_provideraccount WHERE id = %(account)s)"

# A full join, because it is never planned as a loop over both sides, whatever the statistics say.
DIFFERENT = f"""
CREATE TEMP TABLE changed_offer ON COMMIT DROP AS
SELECT * FROM (
    SELECT n.*, o.id, n.purchase IS NULL AS gone,
        n.purchase IS NULL AND o.price_source = 'api' AND {DISCLOSED} AS ended,
        %(polled)s AND (o.id IS NULL OR (o.availability, o.zones, o.account_id)
            IS DISTINCT FROM (n.availability, n.zones, %(account)s::bigint)) AS signal,
        n.price IS NOT NULL AND (o.price IS NULL OR NOT %(only_missing)s)
            AND (o.price, o.currency) IS DISTINCT FROM (n.price, n.currency) AS priced,
        o.price IS NULL AS unpriced
    FROM incoming_offer n
    FULL JOIN (SELECT * FROM inventory_offer WHERE region_id = ANY(%(regions)s)) AS o
        ON o.instance_type_id = n.instance_type_id AND o.region_id = n.region_id AND o.purchase = n.purchase
    WHERE CASE
        WHEN n.purchase IS NULL THEN %(complete)s AND (
            o.availability <> 'unavailable' OR (o.price_source = 'api' AND {DISCLOSED})) AND (
            o.account_id = %(account)s OR (%(alone)s AND (o.account_id IS NULL OR NOT EXISTS (
                SELECT FROM inventory_provideraccount a WHERE a.id = o.account_id AND a.enabled))))
        ELSE NOT %(polled)s OR o.id IS NULL OR o.account_id IS NULL OR o.account_id = %(account)s
            OR o.account_id <> ALL(%(others)s::bigint[]) OR {RANK.format("n")} > {RANK.format("o")}
    END
) AS compared
WHERE id IS NULL OR gone OR signal OR priced
"""  # noqa: S608 - constants

COUNT = """
SELECT count(*) FILTER (WHERE id IS NULL), count(*) FILTER (WHERE id IS NOT NULL AND (signal OR gone)),
    count(*) FILTER (WHERE priced), count(*) FILTER (WHERE id IS NOT NULL AND priced),
    count(*) FILTER (WHERE ended)
FROM changed_offer
"""

ADD = """
WITH added AS (
    INSERT INTO inventory_offer
        (instance_type_id, region_id, purchase, availability, zones, account_id, price, currency,
         price_source, price_seen_at, first_seen_at, changed_at)
    SELECT instance_type_id, region_id, purchase, availability, zones, %(account)s, price, currency,
        CASE WHEN price IS NULL THEN '' ELSE %(source)s END, CASE WHEN price IS NOT NULL THEN %(now)s::timestamptz END,
        %(now)s, %(now)s
    FROM changed_offer WHERE id IS NULL
    RETURNING id, price, currency
)
INSERT INTO inventory_pricepoint (offer_id, price, currency, source, period)
SELECT id, price, currency, %(source)s, tstzrange(%(now)s, NULL, '[)') FROM added WHERE price IS NOT NULL
"""

CHANGE = """
UPDATE inventory_offer o SET
    availability = CASE WHEN c.gone THEN 'unavailable' WHEN c.signal THEN c.availability ELSE o.availability END,
    zones = CASE WHEN c.signal AND NOT c.gone THEN c.zones ELSE o.zones END,
    account_id = CASE WHEN c.signal OR c.gone THEN %(account)s ELSE o.account_id END,
    price = CASE WHEN c.priced THEN c.price WHEN NOT c.ended THEN o.price END,
    currency = CASE WHEN c.priced THEN c.currency ELSE o.currency END,
    price_source = CASE WHEN c.priced THEN %(source)s WHEN c.ended THEN '' ELSE o.price_source END,
    price_seen_at = CASE WHEN c.priced THEN %(now)s WHEN NOT c.ended THEN o.price_seen_at END,
    changed_at = %(now)s
FROM changed_offer c WHERE o.id = c.id
"""

CLOSE = """
UPDATE inventory_pricepoint p SET period = tstzrange(lower(p.period), %(now)s, '[)')
FROM changed_offer c
WHERE p.offer_id = c.id AND c.priced AND upper_inf(p.period) AND lower(p.period) < %(now)s
"""

REPLACE = """
UPDATE inventory_pricepoint p SET price = c.price, currency = c.currency, source = %(source)s
FROM changed_offer c WHERE p.offer_id = c.id AND c.priced AND upper_inf(p.period)
"""

# Undo a change that leads back to the price before it at the same moment: a price point is a change.
REJOIN = """
DELETE FROM inventory_pricepoint p USING inventory_pricepoint before, changed_offer c
WHERE p.offer_id = c.id AND c.priced AND upper_inf(p.period) AND before.offer_id = p.offer_id
    AND upper(before.period) = lower(p.period)
    AND (before.price, before.currency) = (p.price, p.currency)
RETURNING before.id
"""
REOPEN = "UPDATE inventory_pricepoint SET period = tstzrange(lower(period), NULL, '[)') WHERE id = ANY(%s)"

# An offer without a price may have had one, which ended after ``now`` where a clock was put back.
BEGIN = """
INSERT INTO inventory_pricepoint (offer_id, price, currency, source, period)
SELECT c.id, c.price, c.currency, %(source)s, tstzrange(
    CASE WHEN c.unpriced THEN greatest(%(now)s::timestamptz,
        (SELECT max(upper(p.period)) FROM inventory_pricepoint p WHERE p.offer_id = c.id))
    ELSE %(now)s END, NULL, '[)')
FROM changed_offer c
WHERE c.id IS NOT NULL AND c.priced AND NOT EXISTS (
    SELECT FROM inventory_pricepoint p WHERE p.offer_id = c.id AND upper_inf(p.period))
"""

# The prices of withdrawn offers; one that began at this very moment never held.
END = """
WITH never AS (
    DELETE FROM inventory_pricepoint p USING changed_offer c
    WHERE p.offer_id = c.id AND c.ended AND upper_inf(p.period) AND lower(p.period) >= %(now)s
)
UPDATE inventory_pricepoint p SET period = tstzrange(lower(p.period), %(now)s, '[)')
FROM changed_offer c
WHERE p.offer_id = c.id AND c.ended AND upper_inf(p.period) AND lower(p.period) < %(now)s
"""
