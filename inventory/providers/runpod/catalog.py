"""What RunPod sells: GPUs by the hour, some number of one kind to a pod, in stock by data center."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.base import Availability, Catalog, InstanceTypeInfo, OfferInfo, RegionInfo
from inventory.providers.errors import NotFound, ProviderError
from inventory.providers.fields import get
from inventory.providers.runpod.api import RunPodApi

GPUS, CENTERS = "list GPU types", "list data centers"  # as in RunPod's own documentation
SIZES = (1, 2, 4, 8)
MOST_GPUS = 64
# AvailabilityLevel of the document; a level that it does not list is unknown.
LEVELS = {
    "NONE": Availability.UNAVAILABLE,
    "LOW": Availability.AVAILABLE,
    "MEDIUM": Availability.AVAILABLE,
    "HIGH": Availability.AVAILABLE,
}
TYPE = re.compile(r"(.+) x([1-9][0-9]?)")


def type_name(gpu: str, count: int) -> str:
    """Return our name of a pod's shape, RunPod having none: ``NVIDIA H100 80GB HBM3 x8``."""
    return f"{gpu} x{count}"


def parse_type(name: str) -> tuple[str, int]:
    """Return GPU id and number of a shape. Raises :class:`ProviderError` for any other name."""
    match = TYPE.fullmatch(name)
    if match is None:
        raise ProviderError(
            _("“%(name)s” is no type at RunPod: it must end with the number of GPUs, as in “%(example)s”.")
            % {"name": name, "example": type_name("NVIDIA H100 80GB HBM3", 8)}
        )
    return match[1], int(match[2])


def read_regions(api: RunPodApi, *, fresh: bool = False) -> list[RegionInfo]:
    return [
        RegionInfo(
            code=get(item, "id", str, action=CENTERS), name=get(item, "name", str, action=CENTERS, default="")
        )
        for item in _centers(api, fresh=fresh)
    ]


def _centers(api: RunPodApi, *, fresh: bool = False) -> list[Any]:
    path, params = "/v2/catalog/datacenters", {"include": "GPU_AVAILABILITY"}
    return api.read_recent(path, "dataCenters", action=CENTERS, params=params, fresh=fresh)


def read_catalog(api: RunPodApi, region: str) -> Catalog:
    """Return every GPU type of a data center in every size that is sold.

    Stock is asked for by size: eight free GPUs may be on eight machines. A GPU that the
    data center has, but not in this number now, is unavailable there.
    """
    centers = {get(item, "id", str, action=CENTERS): item for item in _centers(api)}
    if region not in centers:
        raise NotFound(_("RunPod has no data center “%(region)s”.") % {"region": region})
    center = centers[region]
    here = {
        get(item, "id", str, action=CENTERS)
        for item in get(center, "gpuAvailability", list, action=CENTERS, default=[])
    }
    types: list[InstanceTypeInfo] = []
    offers: list[OfferInfo] = []
    for count in api.options.numbers("gpus_per_pod", SIZES, least=1, most=MOST_GPUS):
        params = {"include": "AVAILABILITY", "product": "POD", "count": count, "cloud": api.cloud}
        for item in api.read_recent("/v2/catalog/gpus", "gpus", action=GPUS, params=params):
            if offer := _offer(item, count, region, here, api.cloud.lower()):
                types.append(_instance_type(item, count))
                offers.append(offer)
    name = get(center, "name", str, action=CENTERS, default="")
    return Catalog(RegionInfo(code=region, name=name), tuple(types), tuple(offers))


def _offer(
    item: Mapping[str, Any], count: int, region: str, here: Collection[str], cloud: str
) -> OfferInfo | None:
    """Return a GPU type's offer of this size in a data center; None where it is not sold like that."""
    gpu = get(item, "id", str, action=GPUS)
    levels = {
        get(place, "id", str, action=GPUS): get(place, "availability", str, action=GPUS)
        for place in get(item, "dataCenters", list, action=GPUS, default=[])
    }
    sold = get(item, cloud, bool, action=GPUS) and count <= get(item, f"maxCount.{cloud}", int, action=GPUS)
    if not sold or (region not in levels and gpu not in here):
        return None
    return OfferInfo(
        instance_type=type_name(gpu, count),
        region=region,
        price=get(item, f"price.{cloud}", Decimal, action=GPUS) * count,
        availability=LEVELS.get(levels.get(region, "NONE"), Availability.UNKNOWN),
    )


def _instance_type(item: Mapping[str, Any], count: int) -> InstanceTypeInfo:
    """Return a shape. RunPod states no vCPUs and no memory before a pod runs."""
    gpu = get(item, "id", str, action=GPUS)
    vendor = get(item, "manufacturer", str, action=GPUS, default="").lower()
    return InstanceTypeInfo(
        name=type_name(gpu, count),
        vcpus=0,
        memory_mib=0,
        gpu_vendor=vendor if vendor != "unknown" else "",
        gpu_name=gpu,
        gpu_count=count,
        gpu_memory_mib=max(get(item, "memory", int, action=GPUS), 0) * 1024,
    )
