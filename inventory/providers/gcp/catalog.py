"""What Google Cloud sells: machine types that have their GPUs built in, where, and for how much.

A type's ``accelerators`` say which GPUs it has. Types to which GPUs are attached as wanted
(``n1``) have none there and are left out, since a node is a whole machine. Each zone of a
region is read completely.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

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
from inventory.providers.gcp import prices
from inventory.providers.gcp.session import REGION, GcpSession, document, last

log = logging.getLogger(__name__)

ARCHITECTURES = {"X86_64": "x86_64", "ARM64": "arm64"}
# Not to be launched any more: https://cloud.google.com/compute/docs/reference/rest/v1/machineTypes
OVER = {"OBSOLETE", "DELETED"}
LARGEST = 2**31 - 1

# What a score for one machine means. Google gives a likelihood from 0 to 1 and no threshold
# (https://cloud.google.com/compute/docs/instances/view-vm-availability); these are ours.
LIKELY, UNLIKELY = Decimal("0.5"), Decimal("0.1")


@dataclass(slots=True)
class MachineType:
    info: InstanceTypeInfo
    accelerators: Mapping[str, int]
    local_ssds: int
    zones: set[str] = field(default_factory=set)


def read_catalog(session: GcpSession, region: str) -> Catalog:
    """Return one region's GPU machine types and offers; raises when any page is missing or malformed.

    What the price list does not know in the region is a type without an offer.
    """
    zones = zones_of(session, region)
    types = _types(session, zones)
    listed = prices.read(session) if types else None
    offers = []
    for name, each in sorted(types.items()):
        for option in (PurchaseOption.ON_DEMAND, PurchaseOption.SPOT):
            assert listed is not None
            price = listed.machine(
                name,
                region=region,
                option=option,
                vcpus=each.info.vcpus,
                memory_mib=each.info.memory_mib,
                accelerators=each.accelerators,
                local_ssds=each.local_ssds,
            )
            if price is None:
                log.debug(
                    "gcp_machine_without_price", extra={"type": name, "region": region, "option": option}
                )
                continue
            advised = option == PurchaseOption.SPOT and session.flag("capacity_advice")
            offers.append(
                OfferInfo(
                    instance_type=name,
                    region=region,
                    zones=tuple(sorted(each.zones)),
                    purchase_option=option,
                    price=price,
                    currency=listed.currency,
                    availability=_advice(session, region, name) if advised else Availability.UNKNOWN,
                )
            )
    return Catalog(
        region=RegionInfo(code=region, zones=tuple(ZoneInfo(code=zone) for zone in zones)),
        instance_types=tuple(types[name].info for name in sorted(types)),
        offers=tuple(offers),
    )


def regions(session: GcpSession) -> list[RegionInfo]:
    """Return the configured regions, or all of the project; zones come with the catalog."""
    if codes := session.configured_regions():
        return [RegionInfo(code=code) for code in codes]
    action = _("Listing regions")
    return [
        RegionInfo(code=get(item, "name", str, action=action))
        for item in session.listing("regions", action=action)
    ]


def zones_of(session: GcpSession, region: str) -> list[str]:
    """Return the zones of a region by name."""
    if not REGION.fullmatch(region):
        raise ProviderError(
            _("“%(region)s” is no region of Google Cloud: write a code such as “us-central1”.")
            % {"region": region}
        )
    action = _("Reading a region")
    found = get(session.get(f"regions/{region}", action=action), "zones", list, action=action, default=[])
    zones = sorted({last(url) for url in found})
    if not all(zone.startswith(f"{region}-") for zone in zones):
        raise BadAnswer(_("%(action)s: a zone is not in it.") % {"action": action})
    return zones


def _types(session: GcpSession, zones: list[str]) -> dict[str, MachineType]:
    action = _("Listing machine types")
    found: dict[str, MachineType] = {}
    places: dict[str, set[str]] = defaultdict(set)
    for zone in zones:
        for item in session.listing(f"zones/{zone}/machineTypes", action=action):
            each = _machine_type(document(item, action), action)
            if each is not None:
                found.setdefault(each.info.name, each)
                places[each.info.name].add(zone)
    for name, each in found.items():
        each.zones = places[name]
    return found


def _machine_type(item: Any, action: str) -> MachineType | None:
    """Return a type with built-in GPUs, or None for any other."""
    if get(item, "deprecated.state", str, action=action, default="") in OVER:
        return None
    accelerators: dict[str, int] = {}
    for each in get(item, "accelerators", list, action=action, default=[]):
        name = get(each, "guestAcceleratorType", str, action=action)
        accelerators[name] = accelerators.get(name, 0) + _count(each, "guestAcceleratorCount", action)
    total = sum(accelerators.values())
    if not total:
        return None
    architecture = get(item, "architecture", str, action=action, default="")
    return MachineType(
        info=InstanceTypeInfo(
            name=get(item, "name", str, action=action),
            vcpus=_count(item, "guestCpus", action),
            memory_mib=_count(item, "memoryMb", action),
            gpu_name=next(iter(accelerators)),
            gpu_count=total,
            architecture=ARCHITECTURES.get(architecture, ""),
        ),
        accelerators=accelerators,
        local_ssds=get(item, "bundledLocalSsds.partitionCount", int, action=action, default=0),
    )


def _count(item: Any, name: str, action: str) -> int:
    number = get(item, name, int, action=action)
    if not 0 <= number <= LARGEST:
        raise BadAnswer(
            _("%(action)s: “%(field)s” is %(n)s, which cannot be.")
            % {"action": action, "field": name, "n": str(number)[:20]}
        )
    return number


def _advice(session: GcpSession, region: str, machine_type: str) -> Availability:
    """Return how easily one spot machine is had in a region; unknown where Google does not say."""
    action = _("Capacity advice")
    try:
        answer = session.ask(
            f"regions/{region}/advice/capacity",
            {
                "size": 1,
                "distributionPolicy": {"targetShape": "ANY_SINGLE_ZONE"},
                "instanceFlexibilityPolicy": {
                    "instanceSelections": {"wanted": {"machineTypes": [machine_type]}}
                },
                "instanceProperties": {"scheduling": {"provisioningModel": "SPOT"}},
            },
            action=action,
        )
        scores = [
            score
            for each in get(answer, "recommendations", list, action=action, default=[])
            if (score := get(each, "scores.obtainability", Decimal, action=action, default=None)) is not None
        ]
    except ProviderError as error:
        # It is advice about types that Google chooses: without it the catalog is as good as before.
        log.info("gcp_no_capacity_advice", extra={"type": machine_type, "error": str(error)})
        return Availability.UNKNOWN
    if not scores:
        return Availability.UNKNOWN
    if max(scores) >= LIKELY:
        return Availability.AVAILABLE
    return Availability.UNAVAILABLE if max(scores) < UNLIKELY else Availability.UNKNOWN
