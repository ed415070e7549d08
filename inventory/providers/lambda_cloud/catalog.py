"""What Lambda sells: one price for all regions, and where a type is in stock now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.base import Availability, Catalog, InstanceTypeInfo, OfferInfo, RegionInfo
from inventory.providers.errors import BadAnswer, NotFound
from inventory.providers.fields import get
from inventory.providers.lambda_cloud.api import LambdaApi

REGIONS, TYPES = "list regions", "list instance types"  # as in Lambda's own documentation
MEMORY = re.compile(r"\((\d{1,4}) ?GB\b")  # H100 (80 GB SXM5)


def read_regions(api: LambdaApi, *, fresh: bool = False) -> list[RegionInfo]:
    items = api.read_recent("/regions", action=REGIONS, kind=list, fresh=fresh)
    return [
        RegionInfo(
            code=get(item, "name", str, action=REGIONS),
            name=get(item, "description", str, action=REGIONS, default=""),
        )
        for item in items
    ]


def read_catalog(api: LambdaApi, region: str) -> Catalog:
    """Return all GPU types as offers of a region, in stock or not.

    Lambda lists the regions in which a type has capacity now. Where a type is not listed
    it may be sold out or never sold there: the API does not tell the two apart.
    """
    known = {info.code: info for info in read_regions(api)}
    if region not in known:
        raise NotFound(_("Lambda has no region “%(region)s”.") % {"region": region})
    types: list[InstanceTypeInfo] = []
    offers: list[OfferInfo] = []
    for item in api.read_recent("/instance-types", action=TYPES, kind=dict).values():
        info, price = instance_type(get(item, "instance_type", dict, action=TYPES))
        stocked = {
            get(place, "name", str, action=TYPES)
            for place in get(item, "regions_with_capacity_available", list, action=TYPES)
        }
        if not info.gpu_count:
            continue
        types.append(info)
        offers.append(
            OfferInfo(
                instance_type=info.name,
                region=region,
                price=price,
                availability=Availability.AVAILABLE if region in stocked else Availability.UNAVAILABLE,
            )
        )
    return Catalog(region=known[region], instance_types=tuple(types), offers=tuple(offers))


def instance_type(item: Mapping[str, Any]) -> tuple[InstanceTypeInfo, Decimal]:
    """Return a type and its price in US dollars per hour of the whole instance."""
    name = get(item, "name", str, action=TYPES)
    gpu_name = get(item, "gpu_description", str, action=TYPES)
    gpus = get(item, "specs.gpus", int, action=TYPES)
    memory = MEMORY.search(gpu_name)
    cents = get(item, "price_cents_per_hour", Decimal, action=TYPES)
    if gpus < 0:
        raise BadAnswer(
            _("%(action)s: %(type)s has %(n)s GPUs.") % {"action": TYPES, "type": name, "n": gpus}
        )
    info = InstanceTypeInfo(
        name=name,
        vcpus=get(item, "specs.vcpus", int, action=TYPES),
        memory_mib=get(item, "specs.memory_gib", int, action=TYPES) * 1024,
        gpu_vendor="nvidia" if gpus else "",
        gpu_name=gpu_name if gpus else "",
        gpu_count=gpus,
        gpu_memory_mib=int(memory[1]) * 1024 if memory and gpus else 0,
    )
    return info, cents / 100
