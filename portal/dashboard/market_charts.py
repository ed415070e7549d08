"""The price history of a GPU model as a chart: one step line per offer, with gaps where it had no price."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from django.utils.translation import gettext as _

from inventory.price_history import ChartedOffer, PricePeriod
from portal.common.money import format_money
from portal.dashboard import charts

RANGES = {"30d": timedelta(days=30), "1y": timedelta(days=365)}


def price_chart(
    *,
    offers: Sequence[ChartedOffer],
    periods: Sequence[PricePeriod],
    since: datetime | None,
    now: datetime,
    currency: str,
) -> charts.TimeChart | None:
    """Draw what each offer cost per GPU-hour from ``since`` (None: the first price known) until ``now``.

    All prices are in ``currency``. ``None`` when no price is known.
    """
    if not periods:
        return None
    start = since or min(one.since for one in periods)
    moments = {start, now}
    by_offer: dict[int, list[PricePeriod]] = defaultdict(list)
    for one in periods:
        by_offer[one.offer_id].append(one)
        moments.update(at for at in (one.since, one.until) if at is not None and start < at < now)
    times = sorted(moments)
    clouds = [offer.provider_name for offer in offers]
    return charts.time_chart(
        title=_("Price per GPU-hour, %(currency)s") % {"currency": currency},
        times=times,
        series=[
            charts.Series(
                label=offer.provider_name
                if clouds.count(offer.provider_name) == 1
                else f"{offer.provider_name} {offer.region} {offer.instance_type}",
                values=_values(by_offer[offer.id], times),
                step=True,
            )
            for offer in offers
        ],
        write=lambda value: format_money(Decimal(value), currency, places=2),
        direct_labels=len(offers) > 1,
    )


def _values(periods: Sequence[PricePeriod], times: Sequence[datetime]) -> list[Decimal | None]:
    """Return the price in force at each time; both come ordered by time."""
    values: list[Decimal | None] = []
    index = 0
    for at in times:
        while index < len(periods) and (until := periods[index].until) is not None and until <= at:
            index += 1
        held = index < len(periods) and periods[index].since <= at
        values.append(periods[index].per_gpu_hour if held else None)
    return values
