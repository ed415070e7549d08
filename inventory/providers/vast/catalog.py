"""What the market offers now: hosts with a price each, told apart by country and kind of machine.

A type is what several hosts have in common: ``8x H100 SXM 80GB``. Processors, memory and
disks differ from host to host, so a type says nothing about them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.base import (
    Availability,
    Catalog,
    InstanceTypeInfo,
    OfferInfo,
    PurchaseOption,
    RegionInfo,
)
from inventory.providers.errors import BadAnswer
from inventory.providers.fields import get
from inventory.providers.vast.api import VastApi

SEARCH = "search offers"
# More offers than that in one country are no answer: Vast has a few thousand in all.
MOST_OFFERS = 10_000
TYPES = {PurchaseOption.ON_DEMAND: "ondemand", PurchaseOption.SPOT: "bid"}
CENTS = Decimal("0.00000001")
# "Atlantis, AT"; instances may say "California, United States" instead.
PLACE = re.compile(r"(?:.*,\s*)?([A-Z]{2})")
TYPE_NAME = re.compile(r"([1-9]\d{0,3})x (.+) (\d{1,5})GB")
# What GPUs are sold as. Drivers and error correction leave up to 7 % less: an L40S says 46,068 MB.
NOMINAL_GB = (4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 180, 192, 256, 288)
TOLERANCE = 0.07


@dataclass(frozen=True, slots=True)
class Ask:
    """One offer of one host. ``price`` is in US dollars per hour, with the disk; a bid's without."""

    id: int
    region: str
    type: str
    gpu_name: str
    gpus: int
    memory_gb: int
    price: Decimal
    spot: bool
    amd: bool


def read_regions(api: VastApi) -> list[RegionInfo]:
    """Return the configured countries, or all in which something is for rent now."""
    codes = api.configured_regions() or sorted({ask.region for ask in search(api)})
    return [RegionInfo(code=code) for code in codes]


def read_catalog(api: VastApi, region: str) -> Catalog:
    """Return the lowest price of each type in a country, on demand and as a bid.

    Types that somebody else rented everywhere are not listed: the next poll finds them
    unavailable. Where nothing is for rent, what is rented out now is told as unavailable.
    """
    types: dict[str, InstanceTypeInfo] = {}
    offers: list[OfferInfo] = []
    for purchase in TYPES:
        cheapest = lowest(search(api, region=region, purchase=purchase))
        availability = Availability.AVAILABLE
        if not cheapest and purchase == PurchaseOption.ON_DEMAND:
            cheapest = lowest(search(api, region=region, rentable=False))
            availability = Availability.UNAVAILABLE
        for name, ask in sorted(cheapest.items()):
            types[name] = InstanceTypeInfo(
                name=name,
                vcpus=0,
                memory_mib=0,
                gpu_vendor="amd" if ask.amd else "nvidia",
                gpu_name=ask.gpu_name,
                gpu_count=ask.gpus,
                gpu_memory_mib=ask.memory_gb * 1024,
            )
            offers.append(
                OfferInfo(
                    instance_type=name,
                    region=region,
                    purchase_option=purchase,
                    price=ask.price.quantize(CENTS, ROUND_HALF_EVEN),
                    availability=availability,
                )
            )
    return Catalog(region=RegionInfo(region), instance_types=tuple(types.values()), offers=tuple(offers))


def lowest(asks: Iterable[Ask]) -> dict[str, Ask]:
    """Return the cheapest ask of each type; the lower id of two with one price."""
    found: dict[str, Ask] = {}
    for ask in asks:
        known = found.get(ask.type)
        if known is None or (ask.price, ask.id) < (known.price, known.id):
            found[ask.type] = ask
    return found


def search(
    api: VastApi,
    *,
    region: str = "",
    purchase: PurchaseOption = PurchaseOption.ON_DEMAND,
    rentable: bool = True,
    gpus: int = 0,
) -> list[Ask]:
    """Return what hosts offer, completely or not at all; changes nothing."""
    body: dict[str, Any] = {
        "limit": MOST_OFFERS,
        "type": TYPES[purchase],
        "verified": {"eq": True},
        "rentable": {"eq": rentable},
        "rented": {"eq": False},
        # Without ports of its own a machine has no address for SSH.
        "direct_port_count": {"gte": 1},
        "allocated_storage": api.disk_gb(),
        # The document wants two.
        "order": [["dph_total", "asc"], ["id", "asc"]],
    }
    if region:
        body["geolocation"] = {"in": [region]}
    if gpus:
        body["num_gpus"] = {"in": [gpus]}
    if not api.flag("parts_of_machines"):
        body["gpu_frac"] = {"gte": 0.999}
    if api.flag("datacenter_only"):
        body["datacenter"] = {"eq": True}
    if (reliability := api.number("min_reliability", least=Decimal(0), most=Decimal(1))) is not None:
        body["reliability"] = {"gte": float(reliability)}
    if (days := api.number("min_days", least=Decimal(0), most=Decimal(3650))) is not None:
        body["duration"] = {"gte": float(days * 86_400)}
    answer = api.read("/api/v0/bundles", action=SEARCH, limit="search", method="POST", json=body)
    found = get(answer, "offers", list, action=SEARCH)
    if len(found) >= MOST_OFFERS:
        raise BadAnswer(
            _("%(action)s: there are more than %(n)s offers, and the rest is missing.")
            % {"action": SEARCH, "n": MOST_OFFERS}
        )
    return [ask for ask in _asks(api, found, purchase, rentable) if not region or ask.region == region]


def _asks(api: VastApi, items: list[Any], purchase: PurchaseOption, rentable: bool) -> Iterator[Ask]:
    whole = not api.flag("parts_of_machines")
    for item in items:
        place = country(get(item, "geolocation", str, action=SEARCH, default=""))
        gpus = get(item, "num_gpus", int, action=SEARCH)
        # What was asked for is looked at again: a filter that Vast ignores must not cost money.
        if not place or gpus < 1 or get(item, "verification", str, action=SEARCH, default="") != "verified":
            continue
        if whole and get(item, "gpu_frac", Decimal, action=SEARCH) < Decimal("0.999"):
            continue
        if get(item, "rentable", bool, action=SEARCH, default=rentable) != rentable:
            continue
        name = get(item, "gpu_name", str, action=SEARCH).replace("_", " ").strip()
        memory = nominal_gb(get(item, "gpu_ram", Decimal, action=SEARCH))
        spot = purchase == PurchaseOption.SPOT
        yield Ask(
            id=get(item, "id", int, action=SEARCH),
            region=place,
            type=f"{gpus}x {name} {memory}GB",
            gpu_name=name,
            gpus=gpus,
            memory_gb=memory,
            price=get(item, "min_bid" if spot else "dph_total", Decimal, action=SEARCH),
            spot=spot,
            amd=get(item, "gpu_arch", str, action=SEARCH, default="nvidia") == "amd",
        )


def country(geolocation: str) -> str:
    """Return the two letters of a country, or "" where a place is written otherwise."""
    match = PLACE.fullmatch(geolocation.strip())
    return match[1] if match else ""


def nominal_gb(megabytes: Decimal) -> int:
    """Return the memory of a GPU as it is sold, in GB; the plain figure where none is near."""
    if not 0 < megabytes < 10_000_000:
        raise BadAnswer(_("%(action)s: a GPU has no memory that is one.") % {"action": SEARCH})
    said = float(megabytes) / 1024
    near = min(NOMINAL_GB, key=lambda nominal: abs(nominal - said))
    return near if abs(near - said) <= near * TOLERANCE else max(1, round(said))
