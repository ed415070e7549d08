"""Retail prices of machines, without credentials: what anybody pays by the hour.

https://learn.microsoft.com/en-us/rest/api/cost-management/retail-prices/azure-retail-prices.
A size has many rows: Linux and Windows, on demand, spot and low priority (an older kind of
spot, for Batch), for development and test, for cloud services, by reservation. Only the
Linux hour on demand and on spot is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from django.utils.translation import gettext as _

from inventory.providers.azure.session import AzureSession
from inventory.providers.base import PurchaseOption
from inventory.providers.errors import BadAnswer
from inventory.providers.fields import get, moment

VERSION = "2023-01-01-preview"
PATH = "/api/retail/prices"
ACTION = "Retail Prices"
# Every size with a GPU is of the N series; the filter saves nine of ten pages.
GPU_SIZES = "Standard_N"
HOUR = "1 Hour"
# https://learn.microsoft.com/en-us/azure/cloud-services-extended-support/: machines of another service.
OTHER_PRODUCTS = ("CloudServices", "Cloud Services", "Dedicated Host")


@dataclass(frozen=True, slots=True)
class RetailPrice:
    """Per hour of the whole machine; an amount that no price can be is refused with the poll."""

    amount: Decimal
    currency: str
    since: datetime


def read_prices(
    session: AzureSession, region: str, names: Sequence[str]
) -> dict[tuple[str, PurchaseOption], RetailPrice]:
    """Return a region's prices by size in lower case and purchase option."""
    if not names:
        return {}
    query = (
        f"serviceName eq 'Virtual Machines' and armRegionName eq '{region}' and priceType eq 'Consumption'"
    )
    if all(name.startswith(GPU_SIZES) for name in names):
        query += f" and contains(armSkuName, '{GPU_SIZES}')"
    found: dict[tuple[str, PurchaseOption], RetailPrice] = {}
    rows = session.prices.pages(
        PATH,
        action=ACTION,
        params={"api-version": VERSION, "currencyCode": "'USD'", "$filter": query},
        items=lambda document: document.get("Items") if isinstance(document, Mapping) else None,
        following=lambda document: _following(session, document.get("NextPageLink")),
    )
    wanted = {name.lower() for name in names}
    for row in rows:
        option = _option(row, region)
        name = get(row, "armSkuName", str, action=ACTION, default="").lower()
        if option is None or name not in wanted:
            continue
        price = RetailPrice(
            amount=get(row, "retailPrice", Decimal, action=ACTION),
            currency=get(row, "currencyCode", str, action=ACTION),
            since=moment(row.get("effectiveStartDate")) or datetime.min.replace(tzinfo=UTC),
        )
        found[name, option] = _better(found.get((name, option)), price)
    return found


def _better(known: RetailPrice | None, price: RetailPrice) -> RetailPrice:
    """Return the later of two rows for one thing; of one day, the dearer: we never promise too cheaply."""
    if known is None:
        return price
    return max(known, price, key=lambda each: (each.since, each.amount))


def _option(row: Any, region: str) -> PurchaseOption | None:
    """Return how a row is bought, or None for one that is not a Linux machine by the hour."""
    texts = {
        name: get(row, name, str, action=ACTION, default="")
        for name in ("type", "unitOfMeasure", "productName", "skuName", "meterName", "armRegionName")
    }
    if texts["type"] != "Consumption" or texts["unitOfMeasure"] != HOUR:
        return None
    if texts["armRegionName"].lower() != region or get(
        row, "tierMinimumUnits", Decimal, action=ACTION, default=Decimal(0)
    ):
        return None
    product = texts["productName"]
    if product.endswith("Windows") or any(other in product for other in OTHER_PRODUCTS):
        return None
    kinds = {text.rpartition(" ")[2] for text in (texts["skuName"], texts["meterName"])}
    if "Priority" in kinds or "Expired" in kinds:  # “… Low Priority”
        return None
    return PurchaseOption.SPOT if "Spot" in kinds else PurchaseOption.ON_DEMAND


def _following(session: AzureSession, link: Any) -> str | None:
    """Return path and query of the next page; its link spells out the port that ours leaves out."""
    if not link:
        return None
    parts, home = urlsplit(str(link)), urlsplit(session.prices.base_url)
    if parts.hostname != home.hostname or parts.path != PATH:
        raise BadAnswer(_("%(action)s: the next page is at another host.") % {"action": ACTION})
    return f"{parts.path}?{parts.query}"
