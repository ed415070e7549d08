"""The dates of the rate cards that ship with Sublet, and the older prices that ship beside them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

from inventory.models import Offer, PricePoint, Provider
from inventory.prices import RATE_CARD, lock_catalog
from portal.common.periods import Period
from portal.common.transactions import require_transaction

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Older:
    """A list price per hour of the whole instance, on demand, in US dollars, from ``since`` (00:00 UTC) on.

    ``until`` is when the cloud changed it; None where the shipped card still has it.
    """

    region: str
    instance_type: str
    price: Decimal
    since: datetime
    until: datetime | None


def card_date(provider: str) -> datetime | None:
    """Return the day (00:00 UTC) whose prices a provider's shipped card holds, where it is known."""
    with (DATA / "cards.csv").open(encoding="utf-8", newline="") as file:
        dates = {row["provider"]: row["of"] for row in csv.DictReader(file)}
    return _midnight(dates[provider]) if provider in dates else None


def older_prices(provider: str) -> list[Older]:
    """Return what ships of a provider's older prices; nothing for most."""
    path = DATA / "history" / f"{provider}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Older(
                row["region"],
                row["instance_type"],
                Decimal(row["usd_per_hour"]),
                _midnight(row["since"]),
                _midnight(row["until"]) if row["until"] else None,
            )
            for row in csv.DictReader(file)
        ]


def add_older_prices(*, provider: Provider) -> int:
    """Part: put shipped older prices before the first price known of an offer; return how many.

    Only before prices that ship too: where the first one is a poll's or another card's,
    nobody knows what lay between. Doing it again changes nothing.
    """
    require_transaction()
    older, of = older_prices(provider.slug), card_date(provider.slug)
    if not older or of is None:
        return 0
    lock_catalog(provider.pk)
    offers = {
        (region, kind): pk
        for region, kind, pk in Offer.objects.filter(
            region__provider=provider, purchase=Offer.Purchase.ON_DEMAND, currency="USD"
        ).values_list("region__code", "instance_type__name", "pk")
    }
    first: dict[int, PricePoint] = {}
    for point in PricePoint.objects.filter(offer__in=offers.values()).order_by("offer", "-period"):
        first[point.offer_id] = point
    added: list[PricePoint] = []
    for one in older:
        known = first.get(offers.get((one.region, one.instance_type), 0))
        if known is None or known.source != RATE_CARD or known.period.lower != of or one.since >= of:
            continue
        if one.until is not None:
            period = Period(one.since, min(one.until, of), "[)")
            added.append(
                PricePoint(
                    offer_id=known.offer_id, price=one.price, currency="USD", source=RATE_CARD, period=period
                )
            )
        elif known.price == one.price and known.currency == "USD":
            # The same price: a price point is a change, so this one began earlier.
            known.period = Period(one.since, known.period.upper, "[)")
            known.save(update_fields=["period"])
            added.append(known)
    PricePoint.objects.bulk_create([point for point in added if point.pk is None])
    return len(added)


def _midnight(day: str) -> datetime:
    return datetime.combine(date.fromisoformat(day), time(), UTC)
