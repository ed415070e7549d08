"""What EC2 sells: GPU instance types and the zones that offer them.

EC2 has no price or stock in these calls: prices come from a rate card, availability
stays unknown. Types with a fraction of a GPU (``g6f``) are left out, since a node is
the smallest unit that we promise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext as _

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

USAGE_CLASSES = {
    "on-demand": PurchaseOption.ON_DEMAND,
    "spot": PurchaseOption.SPOT,
    "capacity-block": PurchaseOption.RESERVED,
}


def read_catalog(session: AwsSession, region: str) -> Catalog:
    """Return one region's GPU types and offers; raises when any page is missing or malformed."""
    types: list[InstanceTypeInfo] = []
    classes: dict[str, list[str]] = {}
    for item in session.pages(region, "describe_instance_types", "InstanceTypes"):
        info = instance_type(item)
        if info is not None:
            types.append(info)
            classes[info.name] = list(item.get("SupportedUsageClasses") or ["on-demand"])
    zones = zones_by_type(session, region, classes)
    offers = tuple(
        OfferInfo(
            instance_type=info.name,
            region=region,
            zones=tuple(sorted(zones[info.name])),
            purchase_option=USAGE_CLASSES[usage],
        )
        for info in types
        for usage in classes[info.name]
        if usage in USAGE_CLASSES and zones[info.name]
    )
    return Catalog(region=describe_region(session, region), instance_types=tuple(types), offers=offers)


def describe_region(session: AwsSession, region: str) -> RegionInfo:
    listing = {"Filters": [{"Name": "zone-type", "Values": ["availability-zone"]}]}
    zones = session.pages(region, "describe_availability_zones", "AvailabilityZones", **listing)
    return RegionInfo(
        code=region,
        zones=tuple(ZoneInfo(code=zone["ZoneName"], name=zone.get("ZoneId", "")) for zone in zones),
    )


def zones_by_type(session: AwsSession, region: str, names: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    ordered = sorted(names)
    for start in range(0, len(ordered), FILTER_VALUES):
        offerings = session.pages(
            region,
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": ordered[start : start + FILTER_VALUES]}],
        )
        for offering in offerings:
            found[offering["InstanceType"]].add(offering["Location"])
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
