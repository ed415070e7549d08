"""What offers cost since they were first seen, for charts. Prices are per GPU and hour, before tax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from inventory.market import HIDDEN, rows
from inventory.models import Offer


@dataclass(frozen=True, slots=True)
class ChartedOffer:
    """An offer whose history is drawn, in words."""

    id: int
    provider: str
    provider_name: str
    region: str
    instance_type: str
    gpus_per_node: int
    currency: str
    per_gpu_hour: Decimal | None


@dataclass(frozen=True, slots=True)
class PricePeriod:
    """What an offer cost per GPU and hour while it did; ``until`` is None for the price of now."""

    offer_id: int
    per_gpu_hour: Decimal
    currency: str
    source: str
    since: datetime
    until: datetime | None


def cheapest_per_cloud(
    *, gpu_model: str, purchase: str, currency: str, region: str = "", most: int = 6
) -> list[ChartedOffer]:
    """Return each cloud's cheapest offer in ``currency`` today, cheapest first; sold-out ones last."""
    statement = f"""
        WITH best AS (
            SELECT DISTINCT ON (t.provider_id) o.id, t.provider_id, o.region_id, t.name, t.gpus_per_node,
                   o.currency, o.price / t.gpus_per_node AS per_gpu
            FROM inventory_offer o JOIN inventory_instancetype t ON t.id = o.instance_type_id
            JOIN inventory_region r ON r.id = o.region_id
            WHERE t.gpu_model_id = (SELECT id FROM inventory_gpumodel WHERE slug = %(gpu_model)s)
              AND o.purchase = %(purchase)s AND o.currency = %(currency)s AND o.price IS NOT NULL
              AND %(region)s IN ('', r.code)
            ORDER BY t.provider_id, (o.availability = 'unavailable' AND NOT {HIDDEN}),
                     o.price / t.gpus_per_node, t.gpus_per_node DESC, r.code, o.id
        )
        SELECT b.id, p.slug, p.name, r.code, b.name, b.gpus_per_node, b.currency, b.per_gpu
        FROM best b
        JOIN inventory_provider p ON p.id = b.provider_id JOIN inventory_region r ON r.id = b.region_id
        ORDER BY b.per_gpu, p.slug LIMIT %(most)s"""  # noqa: S608 - fragments of ours, values as parameters
    found = rows(
        statement, gpu_model=gpu_model, purchase=purchase, currency=currency, region=region, most=most
    )
    return [ChartedOffer(*row) for row in found]


def chosen_offers(*, gpu_model: str, ids: Sequence[int], currency: str) -> list[ChartedOffer]:
    """Return these offers of the model that are priced in ``currency``, in the order of ``ids``."""
    offers = Offer.objects.filter(pk__in=ids, instance_type__gpu_model__slug=gpu_model, currency=currency)
    charted = {
        offer.pk: ChartedOffer(
            offer.pk,
            offer.instance_type.provider.slug,
            offer.instance_type.provider.name,
            offer.region.code,
            offer.instance_type.name,
            offer.instance_type.gpus_per_node,
            offer.currency,
            None if offer.price is None else offer.price / offer.instance_type.gpus_per_node,
        )
        for offer in offers.select_related("instance_type__provider", "region")
    }
    return [charted[pk] for pk in ids if pk in charted]


def history(*, offer_ids: Sequence[int], currency: str, since: datetime | None = None) -> list[PricePeriod]:
    """Return what these offers cost since ``since`` (None: first seen), per GPU, by offer and time.

    Between two periods of an offer that do not touch, it had no price that we know:
    it was withdrawn, or nobody has told us.
    """
    found = rows(
        """
        SELECT h.offer_id, h.price / t.gpus_per_node, h.currency, h.source, lower(h.period), upper(h.period)
        FROM inventory_pricepoint h
        JOIN inventory_offer o ON o.id = h.offer_id JOIN inventory_instancetype t ON t.id = o.instance_type_id
        WHERE h.offer_id = ANY(%(ids)s) AND h.currency = %(currency)s
          AND (%(since)s::timestamptz IS NULL OR upper_inf(h.period) OR upper(h.period) > %(since)s)
        ORDER BY h.offer_id, lower(h.period)""",
        ids=list(offer_ids),
        currency=currency,
        since=since,
    )
    return [PricePeriod(*row) for row in found]
