"""What EC2 sells: GPU instance types, the zones that offer them, and their prices.

EC2 does not say what is in stock, so availability stays unknown. Types with a fraction of
a GPU (``g6f``) are left out, since a node is the smallest unit that we promise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.aws import prices
from inventory.providers.aws.prices import Price, SpotPrice
from inventory.providers.aws.session import FILTER_VALUES, AwsSession
from inventory.providers.base import (
    Catalog,
    InstanceTypeInfo,
    OfferInfo,
    PurchaseOption,
    RegionInfo,
    ZoneInfo,
)
from inventory.providers.errors import BadAnswer
from inventory.providers.fields import get

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceTypeInfo.html
USAGE_CLASSES = {
    "on-demand": PurchaseOption.ON_DEMAND,
    "spot": PurchaseOption.SPOT,
    "capacity-block": PurchaseOption.RESERVED,
}
TYPES, OFFERINGS, ZONES = (
    "describe_instance_types",
    "describe_instance_type_offerings",
    "describe_availability_zones",
)


def read_catalog(session: AwsSession, region: str) -> Catalog:
    """Return one region's GPU types and offers; raises when any page is missing or malformed.

    With prices, what the price list or the spot market does not know is no offer.
    """
    types: list[InstanceTypeInfo] = []
    sold: dict[str, list[PurchaseOption]] = {}
    for item in session.pages(region, TYPES, "InstanceTypes"):
        info = instance_type(item)
        if info is not None:
            classes = get(item, "SupportedUsageClasses", list, action=TYPES, default=["on-demand"])
            types.append(info)
            sold[info.name] = [
                USAGE_CLASSES[each] for each in dict.fromkeys(classes) if each in USAGE_CLASSES
            ]
    zones = zones_by_type(session, region, sold)
    offered = {name: purchases for name, purchases in sold.items() if zones[name]}
    on_demand: dict[str, Price] | None = None
    spot: dict[str, SpotPrice] | None = None
    if session.reads_prices:
        on_demand = prices.on_demand(session, region, _with(offered, PurchaseOption.ON_DEMAND))
        spot = prices.spot(session, region, _with(offered, PurchaseOption.SPOT))
    offers = tuple(
        offer
        for name, purchases in offered.items()
        for purchase in purchases
        for offer in _offers(name, region, purchase, zones[name], on_demand, spot)
    )
    return Catalog(region=describe_region(session, region), instance_types=tuple(types), offers=offers)


def _with(offered: Mapping[str, list[PurchaseOption]], purchase: PurchaseOption) -> list[str]:
    return [name for name, purchases in offered.items() if purchase in purchases]


def _offers(
    name: str,
    region: str,
    purchase: PurchaseOption,
    zones: Iterable[str],
    on_demand: Mapping[str, Price] | None,
    spot: Mapping[str, SpotPrice] | None,
) -> Iterator[OfferInfo]:
    """Yield the offer of a type, with its price where we read prices; a block has one only when it is found."""
    price: Price | None = None
    if purchase == PurchaseOption.ON_DEMAND and on_demand is not None:
        if name not in on_demand:
            return
        price = on_demand[name]
    # An empty market is no market; then the offers stay without a price, and the poll says so.
    if purchase == PurchaseOption.SPOT and spot:
        if name not in spot:
            return
        price, zones = Price(spot[name].amount), spot[name].by_zone
    yield OfferInfo(
        instance_type=name,
        region=region,
        zones=tuple(sorted(zones)),
        purchase_option=purchase,
        price=price.amount if price else None,
        currency=price.currency if price else "USD",
    )


def describe_region(session: AwsSession, region: str) -> RegionInfo:
    in_region = [{"Name": "zone-type", "Values": ["availability-zone"]}]
    zones = session.pages(region, ZONES, "AvailabilityZones", Filters=in_region)
    return RegionInfo(
        code=region,
        zones=tuple(
            ZoneInfo(code=get(zone, "ZoneName", str, action=ZONES), name=zone.get("ZoneId", ""))
            for zone in zones
        ),
    )


def zones_by_type(session: AwsSession, region: str, names: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    ordered = sorted(names)
    for start in range(0, len(ordered), FILTER_VALUES):
        offerings = session.pages(
            region,
            OFFERINGS,
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": ordered[start : start + FILTER_VALUES]}],
        )
        for offering in offerings:
            zone = get(offering, "Location", str, action=OFFERINGS)
            found[get(offering, "InstanceType", str, action=OFFERINGS)].add(zone)
    return found


def instance_type(item: dict[str, Any]) -> InstanceTypeInfo | None:
    """Return a type with at least one whole GPU, or None for any other type."""
    gpus = (item.get("GpuInfo") or {}).get("Gpus") or []
    if not gpus or not gpus[0].get("Count"):
        return None
    gpu = gpus[0]
    try:
        return InstanceTypeInfo(
            name=item["InstanceType"],
            vcpus=int(item["VCpuInfo"]["DefaultVCpus"]),
            memory_mib=int(item["MemoryInfo"]["SizeInMiB"]),
            gpu_vendor=str(gpu["Manufacturer"]).lower(),
            gpu_name=str(gpu["Name"]),
            gpu_count=int(gpu["Count"]),
            gpu_memory_mib=int(gpu["MemoryInfo"]["SizeInMiB"]),
            network=network(item.get("NetworkInfo") or {}),
            architecture=((item.get("ProcessorInfo") or {}).get("SupportedArchitectures") or [""])[0],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(
            _("describe_instance_types: %(type)s lacks or garbles %(field)s.")
            % {"type": item.get("InstanceType", "?"), "field": error}
        ) from error


def network(info: dict[str, Any]) -> str:
    speed = str(info.get("NetworkPerformance") or "")
    return f"{speed}, EFA" if info.get("EfaSupported") else speed
