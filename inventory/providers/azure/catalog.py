"""What Azure sells: virtual machine sizes with GPUs, where, and at what retail price.

Resource SKUs say how many GPUs a size has, but not which: the size's name says that, and
:mod:`inventory.gpu_names` reads it. They also say what this subscription may not use
(https://learn.microsoft.com/en-us/azure/azure-resource-manager/troubleshooting/error-sku-not-available);
that, and a quota below one machine, is *unavailable*. Nothing says what is in stock, so
all else is *unknown*. Sizes with a fraction of a GPU are left out, since a node is the
smallest unit that we promise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.azure.prices import read_prices
from inventory.providers.azure.session import COMPUTE, REGION, SKUS, AzureSession
from inventory.providers.base import (
    Availability,
    Catalog,
    InstanceTypeInfo,
    OfferInfo,
    PurchaseOption,
    RegionInfo,
    ZoneInfo,
)
from inventory.providers.errors import BadAnswer, ProviderError
from inventory.providers.fields import get

ARCHITECTURES = {"x64": "x86_64", "Arm64": "arm64"}
MACHINES = "virtualMachines"
# A vCPU quota of all spot machines together; sizes have one of their own for on demand.
SPOT_QUOTA = "lowprioritycores"


@dataclass(frozen=True, slots=True)
class Size:
    """A size in one region, as this subscription may use it.

    ``zones`` are those where it may; without any, Azure places it in the region.
    """

    info: InstanceTypeInfo
    family: str
    zones: tuple[str, ...]
    refused: bool
    spot: bool


def read_catalog(session: AzureSession, region: str) -> Catalog:
    """Return one region's GPU sizes and offers; raises when any page is missing or malformed."""
    if not REGION.fullmatch(region):
        raise ProviderError(
            _("“%(region)s” is no region of Azure: write a code such as “eastus”.") % {"region": region}
        )
    sizes = list(read_sizes(session, region))
    limits = read_limits(session, region) if sizes else {}
    prices = read_prices(session, region, [size.info.name for size in sizes])
    offers = []
    for size in sizes:
        for option in (PurchaseOption.ON_DEMAND, PurchaseOption.SPOT):
            # What has no retail price is not sold to everybody, and so it is no offer.
            price = prices.get((size.info.name.lower(), option))
            if price is None or (option == PurchaseOption.SPOT and not size.spot):
                continue
            quota = SPOT_QUOTA if option == PurchaseOption.SPOT else size.family.lower()
            refused = size.refused or limits.get(quota, size.info.vcpus) < size.info.vcpus
            offers.append(
                OfferInfo(
                    instance_type=size.info.name,
                    region=region,
                    zones=size.zones or (region,),
                    purchase_option=option,
                    price=price.amount,
                    currency=price.currency,
                    availability=Availability.UNAVAILABLE if refused else Availability.UNKNOWN,
                )
            )
    zones = sorted({zone for offer in offers for zone in offer.zones})
    return Catalog(
        region=RegionInfo(code=region, zones=tuple(ZoneInfo(code=zone) for zone in zones)),
        instance_types=tuple(size.info for size in sizes),
        offers=tuple(offers),
    )


def read_sizes(session: AzureSession, region: str) -> Iterator[Size]:
    action = "Resource SKUs"
    path = session.subscription_path("/providers/Microsoft.Compute/skus")
    listing = session.list(path, SKUS, action=action, **{"$filter": f"location eq '{region}'"})
    for item in listing:
        if get(item, "resourceType", str, action=action) != MACHINES:
            continue
        if region not in {_code(code) for code in get(item, "locations", list, action=action, default=[])}:
            continue
        size = _size(item, region, action)
        if size is not None:
            yield size


def read_limits(session: AzureSession, region: str) -> dict[str, int]:
    """Return the subscription's vCPU limits in a region, by family in lower case."""
    action = "Usages"
    limits = {}
    path = session.subscription_path(f"/providers/Microsoft.Compute/locations/{region}/usages")
    for item in session.list(path, COMPUTE, action=action):
        name = get(item, "name.value", str, action=action)
        limits[name.lower()] = get(item, "limit", int, action=action)
    return limits


def _size(item: Any, region: str, action: str) -> Size | None:
    """Return a size with at least one whole GPU, or None for any other."""
    name = get(item, "name", str, action=action)
    capabilities = {
        str(each.get("name")): str(each.get("value"))
        for each in get(item, "capabilities", list, action=action, default=[])
        if isinstance(each, Mapping)
    }
    gpus = _number(capabilities.get("GPUs", "0"), name, "GPUs")
    if gpus < 1 or gpus != gpus.to_integral_value():
        return None
    vcpus = capabilities.get("vCPUsAvailable") or capabilities.get("vCPUs", "")
    memory = _number(capabilities.get("MemoryGB", ""), name, "MemoryGB") * 1024
    architecture = capabilities.get("CpuArchitectureType", "x64")
    zones, refused = _places(item, region, action)
    return Size(
        info=InstanceTypeInfo(
            name=name,
            vcpus=int(_number(vcpus, name, "vCPUs")),
            memory_mib=int(memory),
            gpu_name=name,
            gpu_count=int(gpus),
            network="RDMA" if capabilities.get("RdmaEnabled") == "True" else "",
            architecture=ARCHITECTURES.get(architecture, architecture),
        ),
        family=get(item, "family", str, action=action, default=""),
        zones=zones,
        refused=refused,
        spot=capabilities.get("LowPriorityCapable") == "True",
    )


def _places(item: Any, region: str, action: str) -> tuple[tuple[str, ...], bool]:
    """Return the zones where a size may be used, and whether it is refused in the whole region."""
    zones: set[str] = set()
    for place in get(item, "locationInfo", list, action=action, default=[]):
        if _code(get(place, "location", str, action=action, default="")) == region:
            zones.update(str(zone) for zone in get(place, "zones", list, action=action, default=[]))
    refused = False
    for restriction in get(item, "restrictions", list, action=action, default=[]):
        # Reasons are NotAvailableForSubscription and QuotaId: both mean that a launch is refused.
        kind = get(restriction, "type", str, action=action, default="")
        info = get(restriction, "restrictionInfo", dict, action=action, default={})
        if kind == "Location":
            values = get(restriction, "values", list, action=action, default=[])
            refused = refused or region in {_code(value) for value in values}
        elif kind == "Zone":
            zones -= {str(zone) for zone in info.get("zones") or []}
    # With every zone refused it can still be had without naming one.
    return tuple(sorted(zones)), refused


def _code(text: Any) -> str:
    return str(text).replace(" ", "").lower()


def _number(text: str, size: str, field: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or not 0 <= number < 10**7:
        raise BadAnswer(
            _("Resource SKUs: %(size)s lacks or garbles %(field)s.") % {"size": size, "field": field}
        )
    return number
