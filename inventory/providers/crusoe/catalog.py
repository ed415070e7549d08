"""What Crusoe sells: VM types without prices, and how many of each are free where."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.base import (
    Availability,
    Catalog,
    InstanceTypeInfo,
    OfferInfo,
    RegionInfo,
    ZoneInfo,
)
from inventory.providers.crusoe.api import CrusoeApi
from inventory.providers.errors import BadAnswer, NotFound
from inventory.providers.fields import get

LOCATIONS, TYPES, CAPACITIES = "list locations", "list VM types", "list capacities"
ZONE = re.compile(r"-[a-z]$")  # us-east1-a is in us-east1, which is what has a price
MEMORY = re.compile(r"(\d{1,4}) ?GB\b", re.IGNORECASE)  # A100-PCIe-40GB
FABRICS = {"-ib.": "InfiniBand", "-roce.": "RoCE"}  # of types: h100-80gb-sxm-ib.8x


def region_of(location: str) -> str:
    return ZONE.sub("", location)


def read_regions(api: CrusoeApi, *, fresh: bool = False) -> dict[str, RegionInfo]:
    """Return regions by their code; a location of Crusoe's is a zone of ours."""
    zones: dict[str, list[ZoneInfo]] = defaultdict(list)
    for location in api.recent("/locations", action=LOCATIONS, fresh=fresh):
        if not isinstance(location, str) or not location:
            raise BadAnswer(_("%(action)s: a location is no text.") % {"action": LOCATIONS})
        zones[region_of(location)].append(ZoneInfo(location))
    return {code: RegionInfo(code=code, zones=tuple(found)) for code, found in sorted(zones.items())}


def read_catalog(api: CrusoeApi, region: str) -> Catalog:
    """Return every GPU type as an offer of a region, free there now or not.

    A type that no capacity is listed for may be sold out or never sold there.
    """
    known = read_regions(api)
    if region not in known:
        raise NotFound(_("Crusoe has no region “%(region)s”.") % {"region": region})
    free = free_by_type(api, region)
    types = [
        info
        for item in api.recent(api.path("compute", "vms", "types"), action=TYPES)
        if (info := instance_type(item)).gpu_count
    ]
    offers = [
        OfferInfo(
            instance_type=info.name,
            region=region,
            zones=tuple(sorted(free.get(info.name, {}))),
            availability=(
                Availability.AVAILABLE
                if any(quantity > 0 for quantity in free.get(info.name, {}).values())
                else Availability.UNAVAILABLE
            ),
        )
        for info in types
    ]
    return Catalog(region=known[region], instance_types=tuple(types), offers=tuple(offers))


def free_by_type(api: CrusoeApi, region: str, *, fresh: bool = False) -> dict[str, dict[str, int]]:
    """Return how many of each type are free now, by location of a region."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for item in api.recent("/capacities", action=CAPACITIES, fresh=fresh):
        location = get(item, "location", str, action=CAPACITIES)
        name = get(item, "type", str, action=CAPACITIES, default="")
        quantity = get(item, "quantity", int, action=CAPACITIES)
        if name and region_of(location) == region:
            found[name][location] = max(quantity, 0)
    return found


def instance_type(item: Mapping[str, Any]) -> InstanceTypeInfo:
    name = get(item, "product_name", str, action=TYPES)
    gpus = get(item, "num_gpu", int, action=TYPES)
    if gpus < 0:
        raise BadAnswer(
            _("%(action)s: %(type)s has %(n)s GPUs.") % {"action": TYPES, "type": name, "n": gpus}
        )
    gpu_name = get(item, "gpu_type", str, action=TYPES, default="") if gpus else ""
    memory = MEMORY.search(gpu_name)
    vendor = "amd" if gpu_name.upper().startswith("MI") else "nvidia"
    return InstanceTypeInfo(
        name=name,
        vcpus=max(get(item, "cpu_cores", int, action=TYPES), 0),
        memory_mib=max(get(item, "memory_gb", int, action=TYPES), 0) * 1024,
        gpu_vendor=vendor if gpus else "",
        gpu_name=gpu_name,
        gpu_count=gpus,
        gpu_memory_mib=int(memory[1]) * 1024 if memory else 0,
        network=next((fabric for mark, fabric in FABRICS.items() if mark in name), ""),
    )
