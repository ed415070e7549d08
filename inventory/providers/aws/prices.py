"""What EC2 charges in one region: on demand by the Price List, spot by its price history.

Every amount is per hour of the whole instance with Linux.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.aws.session import FILTER_VALUES, AwsSession
from inventory.providers.errors import BadAnswer
from inventory.providers.fields import get

# The Price List answers in three regions, for all:
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
NEAREST = {"eu-": "eu-central-1", "me-": "eu-central-1", "af-": "eu-central-1", "ap-": "ap-south-1"}
PRICE_LIST = "us-east-1"

# A Linux instance on shared hardware, without software that costs extra, and not the price of
# capacity that is reserved elsewhere:
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/price-list-query-api-find-services-products.html
WANTED = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
GPU_FAMILY = ("instanceFamily", "GPU instance")
ACTION = "get_products"
LINUX = "Linux/UNIX"
# The price that holds now changed before this, and is always returned. More than nothing, for a
# clock of ours that is ahead: a start in the future is refused.
HISTORY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Price:
    amount: Decimal
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class SpotPrice:
    """The lowest price of a region now, and what each zone charges."""

    amount: Decimal
    by_zone: Mapping[str, Decimal]


def on_demand(session: AwsSession, region: str, names: Collection[str]) -> dict[str, Price]:
    """Return the on-demand price of each type of a region's catalog.

    One that the list lacks is not sold on demand there. Raises :class:`BadAnswer` where the
    list knows no price at all for the region.
    """
    prices = listed(session, region, names)
    if names and not prices:
        raise BadAnswer(
            _("%(action)s: the price list has no price for %(region)s.")
            % {"action": ACTION, "region": region}
        )
    return prices


def listed(session: AwsSession, region: str, names: Collection[str]) -> dict[str, Price]:
    """Return the on-demand prices that are known: of GPU instances at once, then of each other type by name."""
    wanted = set(names)
    prices = _prices(session, region, wanted, GPU_FAMILY) if len(wanted) > 1 else {}
    for name in sorted(wanted - prices.keys()):
        prices |= _prices(session, region, {name}, ("instanceType", name))
    return prices


def _prices(session: AwsSession, region: str, names: set[str], narrowed: tuple[str, str]) -> dict[str, Price]:
    fields = {**WANTED, "regionCode": region, narrowed[0]: narrowed[1]}
    near = next((code for start, code in NEAREST.items() if region.startswith(start)), PRICE_LIST)
    texts = session.pages(
        near,
        ACTION,
        "PriceList",
        service="pricing",
        ServiceCode="AmazonEC2",
        FormatVersion="aws_v1",
        Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in fields.items()],
    )
    prices: dict[str, Price] = {}
    for text in texts:
        for name, price in _product(text, fields):
            if name not in names:
                continue
            if prices.setdefault(name, price) != price:
                raise BadAnswer(_("%(action)s: %(type)s has two prices.") % {"action": ACTION, "type": name})
    return prices


def _product(text: Any, fields: Mapping[str, str]) -> Iterator[tuple[str, Price]]:
    """Yield a product's type and hourly price; nothing for one that was not asked for."""
    try:
        # Items are JSON in a string.
        product = json.loads(text, parse_float=Decimal)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadAnswer(_("%(action)s: a product is no JSON.") % {"action": ACTION}) from error
    attributes = get(product, "product.attributes", dict, action=ACTION)
    if any(attributes.get(field, value) != value for field, value in fields.items()):
        return
    name = get(attributes, "instanceType", str, action=ACTION)
    terms = [
        term
        for term in get(product, "terms.OnDemand", dict, action=ACTION).values()
        if isinstance(term, dict)
    ]
    # A price that changes may be listed with its successor, which holds from its own day on.
    today = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    terms.sort(key=lambda term: str(term.get("effectiveDate") or ""))
    begun = [term for term in terms if str(term.get("effectiveDate") or "") <= today]
    for term in begun[-1:] or terms[:1]:
        for dimension in get(term, "priceDimensions", dict, action=ACTION).values():
            if get(dimension, "unit", str, action=ACTION) == "Hrs":
                yield name, _amount(get(dimension, "pricePerUnit", dict, action=ACTION))


def _amount(per_unit: dict[str, Any]) -> Price:
    currency = "USD" if "USD" in per_unit else next(iter(per_unit), "USD")
    return Price(get(per_unit, currency, Decimal, action=ACTION), currency)


def spot(session: AwsSession, region: str, names: Collection[str]) -> dict[str, SpotPrice]:
    """Return what spot instances of these types cost now; a type without a price is not sold so."""
    action, ordered = "describe_spot_price_history", sorted(names)
    newest: dict[tuple[str, str], tuple[datetime, Decimal]] = {}
    for start in range(0, len(ordered), FILTER_VALUES):
        points = session.pages(
            region,
            action,
            "SpotPriceHistory",
            InstanceTypes=ordered[start : start + FILTER_VALUES],
            ProductDescriptions=[LINUX],
            StartTime=datetime.now(UTC) - HISTORY,
        )
        for point in points:
            key = (
                get(point, "InstanceType", str, action=action),
                get(point, "AvailabilityZone", str, action=action),
            )
            at = get(point, "Timestamp", datetime, action=action)
            amount = get(point, "SpotPrice", Decimal, action=action)
            if key not in newest or at > newest[key][0]:
                newest[key] = (at, amount)
    zones: dict[str, dict[str, Decimal]] = defaultdict(dict)
    for (name, zone), (_at, amount) in newest.items():
        zones[name][zone] = amount
    return {name: SpotPrice(min(each.values()), each) for name, each in zones.items()}
