"""What a machine costs by the hour: the SKUs of its cores, memory, GPUs and local SSDs together.

https://cloud.google.com/billing/docs/reference/rest/v1/services.skus/list. These are list
prices; what an account pays under a contract belongs in the commitment. A machine of
which one part has no SKU in a region has no price there, never a part of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.base import PurchaseOption
from inventory.providers.errors import BadAnswer
from inventory.providers.fields import get
from inventory.providers.gcp import skus
from inventory.providers.gcp.session import GcpSession, document

SERVICE = "services/6F81-5844-456A"  # Compute Engine
ACTION = "Cloud Billing"
PAGE = "5000"
USAGE = {"OnDemand", "Preemptible"}
NANO = Decimal(10) ** 9
# Google's month: https://cloud.google.com/compute/vm-instance-pricing
HOURS_OF_MONTH = 730
GIB_PER_GB = Decimal(1024**3) / Decimal(10**9)
# What of a unit an hour of one core, GPU or GiB is, as dividend and divisor.
UNITS: Mapping[str, tuple[Decimal, Decimal]] = {
    "h": (Decimal(1), Decimal(1)),
    "GiBy.h": (Decimal(1), Decimal(1)),
    "GBy.h": (GIB_PER_GB, Decimal(1)),
    "GiBy.mo": (Decimal(1), Decimal(HOURS_OF_MONTH)),
    "GBy.mo": (GIB_PER_GB, Decimal(HOURS_OF_MONTH)),
}
HOURLY = {"h"}


class PriceList:
    """Prices of parts by name, region and whether on spot: the price of a unit, and the unit."""

    def __init__(self, currency: str) -> None:
        self.currency = currency
        self._found: dict[tuple[str, str, bool], tuple[Decimal, str]] = {}

    def add(self, sku: Any) -> None:
        """Take one SKU, unless it is no part of a machine with GPUs."""
        text = get(sku, "description", str, action=ACTION, default="")
        part = skus.read_description(text)
        if part is None or get(sku, "category.usageType", str, action=ACTION, default="") not in USAGE:
            return
        name, spot = part
        # Spot SKUs of some kinds are filed under OnDemand, so the words decide; never the other way.
        spot = spot or get(sku, "category.usageType", str, action=ACTION) == "Preemptible"
        price = _unit_price(sku, text, self.currency)
        if price is None:
            return
        for region in get(sku, "serviceRegions", list, action=ACTION, default=[]):
            key = (name, str(region), spot)
            known = self._found.get(key)
            # Of two the dearer counts: we never promise too cheaply.
            if known is None or _hourly(*known) < _hourly(*price):
                self._found[key] = price

    def machine(
        self,
        name: str,
        *,
        region: str,
        option: PurchaseOption,
        vcpus: int,
        memory_mib: int,
        accelerators: Mapping[str, int],
        local_ssds: int = 0,
    ) -> Decimal | None:
        """Return the price of one machine per hour, or None where one of its parts is not listed."""
        parts = skus.parts_of(name)
        if parts is None:
            return None
        wanted: list[tuple[tuple[str, ...], Decimal, bool]] = []
        if parts.core:
            wanted.append(((parts.core,), Decimal(vcpus), True))
            wanted.append(((parts.memory,), Decimal(memory_mib) / 1024, False))
        for accelerator, count in accelerators.items():
            wanted.append((parts.gpus.get(accelerator, ()), Decimal(count), True))
        if local_ssds:
            wanted.append(((skus.LOCAL_SSD,), Decimal(local_ssds * skus.LOCAL_SSD_GIB), False))
        total = Decimal(0)
        for names, amount, hourly in wanted:
            found = [
                each
                for one in names
                if (each := self._found.get((one, region, option == PurchaseOption.SPOT))) is not None
                and (each[1] in HOURLY) == hourly
            ]
            if not found:
                return None
            price, unit = max(found, key=lambda each: _hourly(*each))
            # The division comes last, so that nothing is rounded that need not be.
            multiply, divide = UNITS[unit]
            total += price * amount * multiply / divide
        return total


def read(session: GcpSession) -> PriceList:
    """Return the whole price list, read at most once in two minutes."""
    return session.once("prices", lambda: _read(session))


def _read(session: GcpSession) -> PriceList:
    currency = session.currency()
    found = PriceList(currency)
    rows = session.billing.pages(
        f"/v1/{SERVICE}/skus",
        action=ACTION,
        params={"pageSize": PAGE, "currencyCode": currency},
        items=lambda page: document(page, ACTION).get("skus", []),
        following=lambda page: (
            {"pageToken": token}
            if (token := get(page, "nextPageToken", str, action=ACTION, default=""))
            else None
        ),
    )
    for row in rows:
        found.add(row)
    return found


def _hourly(price: Decimal, unit: str) -> Decimal:
    multiply, divide = UNITS[unit]
    return price * multiply / divide


def _unit_price(sku: Any, text: str, currency: str) -> tuple[Decimal, str] | None:
    """Return the price of one unit as the latest version states it, or None where it states none."""
    versions = get(sku, "pricingInfo", list, action=ACTION, default=[])
    if not versions:
        return None
    unit = get(versions[-1], "pricingExpression.usageUnit", str, action=ACTION)
    if unit not in UNITS:
        return None
    for tier in get(versions[-1], "pricingExpression.tieredRates", list, action=ACTION, default=[]):
        # Tiers of later amounts are discounts for all that a month uses; no machine is priced so.
        if get(tier, "startUsageAmount", Decimal, action=ACTION, default=Decimal(0)):
            continue
        code = get(tier, "unitPrice.currencyCode", str, action=ACTION)
        units = get(tier, "unitPrice.units", Decimal, action=ACTION, default=Decimal(0))
        nanos = get(tier, "unitPrice.nanos", Decimal, action=ACTION, default=Decimal(0))
        price = units + nanos / NANO
        if code != currency:
            raise BadAnswer(
                _("%(action)s: prices in %(theirs)s were not asked for.")
                % {"action": ACTION, "theirs": code[:10]}
            )
        if price < 0 or units * nanos < 0:
            raise BadAnswer(
                _("%(action)s: “%(sku)s” has a price below zero.") % {"action": ACTION, "sku": text[:100]}
            )
        return price, unit
    return None
