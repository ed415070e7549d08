"""What Nebius sells: presets of platforms, their prices by its calculator, and their stock by its advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from django.utils.translation import gettext as _
from nebius.api.nebius.billing.v1alpha1 import (
    CalculatorServiceClient,
    EstimateRequest,
    ListSpotPricesRequest,
    ResourceSpec,
    SpotPriceServiceClient,
)
from nebius.api.nebius.capacity.v1 import (
    ListResourceAdviceRequest,
    ResourceAdviceServiceClient,
    ResourceAdviceStatus,
)
from nebius.api.nebius.common.v1 import ResourceMetadata
from nebius.api.nebius.compute.v1 import (
    CreateInstanceRequest,
    InstanceSpec,
    ListPlatformsRequest,
    PlatformServiceClient,
    ResourcesSpec,
)

from inventory.providers.base import (
    Availability,
    Catalog,
    InstanceTypeInfo,
    OfferInfo,
    PurchaseOption,
    RegionInfo,
)
from inventory.providers.errors import BadAnswer
from inventory.providers.nebius.session import Session, understood

PLATFORMS, ESTIMATE = "list platforms", "estimate a price"
SPOT_PRICES, ADVICE = "list spot prices", "list resource advice"
Told = ResourceAdviceStatus.Availability
FRESH = Told.DataState.DATA_STATE_FRESH
# AvailabilityLevel of nebius.capacity.v1: "indicates the likelihood of a successful allocation".
LEVELS = {
    Told.AvailabilityLevel.AVAILABILITY_LEVEL_UNSPECIFIED: Availability.UNKNOWN,
    Told.AvailabilityLevel.AVAILABILITY_LEVEL_HIGH: Availability.AVAILABLE,
    Told.AvailabilityLevel.AVAILABILITY_LEVEL_MEDIUM: Availability.AVAILABLE,
    Told.AvailabilityLevel.AVAILABILITY_LEVEL_LOW: Availability.AVAILABLE,
    Told.AvailabilityLevel.AVAILABILITY_LEVEL_LIMIT_REACHED: Availability.UNAVAILABLE,
    Told.AvailabilityLevel.AVAILABILITY_LEVEL_UNKNOWN: Availability.UNKNOWN,
}
BEST = (Availability.AVAILABLE, Availability.UNKNOWN, Availability.UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Preset:
    """A size of a platform; its type's name is ``gpu-h100-sxm_8gpu-128vcpu-1600gb``."""

    platform: str
    name: str
    info: InstanceTypeInfo
    clusters: bool
    spot: bool


def read_regions(session: Session) -> list[RegionInfo]:
    """Return the regions that the account has a project in."""
    return [RegionInfo(code) for code in session.projects()]


def read_catalog(session: Session, region: str) -> Catalog:
    project = session.project(region)
    presets = list(read_presets(session, project))
    stock = read_stock(session, region)
    spot_prices = read_spot_prices(session, region) if any(preset.spot for preset in presets) else {}
    offers: list[OfferInfo] = []
    for preset in presets:
        available = stock.get((preset.platform, preset.name), {})
        offers.append(
            OfferInfo(
                instance_type=preset.info.name,
                region=region,
                price=estimate(session, project, preset),
                availability=available.get(PurchaseOption.ON_DEMAND, Availability.UNKNOWN),
            )
        )
        if preset.spot and preset.platform in spot_prices:
            per_gpu, currency = spot_prices[preset.platform]
            offers.append(
                OfferInfo(
                    instance_type=preset.info.name,
                    region=region,
                    purchase_option=PurchaseOption.SPOT,
                    price=per_gpu * preset.info.gpu_count,
                    currency=currency,
                    availability=available.get(PurchaseOption.SPOT, Availability.UNKNOWN),
                )
            )
    types = tuple(preset.info for preset in presets)
    return Catalog(region=RegionInfo(region), instance_types=types, offers=tuple(offers))


def read_presets(session: Session, project: str) -> Iterator[Preset]:
    """Yield every preset with GPUs of the project's platforms."""
    client = PlatformServiceClient(session.sdk())
    for item in session.pages(client.list, ListPlatformsRequest, action=PLATFORMS, parent_id=project):
        with understood(PLATFORMS):
            platform, spec = str(item.metadata.name), item.spec
            presets = list(spec.presets)
            memory = int(spec.gpu_memory_gigabytes)
            spot = bool(item.status.allowed_for_preemptibles)
        for preset in presets:
            with understood(PLATFORMS):
                resources = preset.resources
                gpus, clusters = int(resources.gpu_count), bool(preset.allow_gpu_clustering)
                info = InstanceTypeInfo(
                    name=f"{platform}_{preset.name}",
                    vcpus=int(resources.vcpu_count),
                    memory_mib=int(resources.memory_gibibytes) * 1024,
                    gpu_vendor="nvidia",
                    gpu_name=platform,
                    gpu_count=gpus,
                    gpu_memory_mib=memory * 1024,
                )
                found = Preset(platform, str(preset.name), info, clusters, spot)
            if not platform or not found.name:
                raise BadAnswer(_("%(action)s: a platform has no name.") % {"action": PLATFORMS})
            if gpus:
                yield found


def estimate(session: Session, project: str, preset: Preset) -> Decimal:
    """Return Nebius's own price of an instance per hour, without its disk, in US dollars."""
    wanted = CreateInstanceRequest(
        metadata=ResourceMetadata(parent_id=project),
        spec=InstanceSpec(resources=ResourcesSpec(platform=preset.platform, preset=preset.name)),
    )
    answer = session.read(
        CalculatorServiceClient(session.sdk()).estimate,
        EstimateRequest(resource_spec=ResourceSpec(compute_instance_spec=wanted)),
        action=ESTIMATE,
    )
    with understood(ESTIMATE):
        general = answer.hourly_cost.general
        return _amount(general.total.cost if general is not None else "", ESTIMATE)


def read_spot_prices(session: Session, region: str) -> dict[str, tuple[Decimal, str]]:
    """Return price per GPU-hour and currency of each platform whose spot market is in the region."""
    found: dict[str, tuple[Decimal, str]] = {}
    client = SpotPriceServiceClient(session.sdk())
    for item in session.pages(client.list, ListSpotPricesRequest, action=SPOT_PRICES):
        with understood(SPOT_PRICES):
            if item.region == region:
                price = _amount(item.price.value, SPOT_PRICES)
                found[str(item.compute_instance.platform)] = price, str(item.price.currency).upper()
    return found


def read_stock(session: Session, region: str) -> dict[tuple[str, str], dict[PurchaseOption, Availability]]:
    """Return what Nebius advises for each platform and preset; nothing without a tenant.

    The same preset in another fabric is another advice: the best one counts.
    """
    tenant = session.text("tenant_id")
    found: dict[tuple[str, str], dict[PurchaseOption, Availability]] = {}
    if not tenant:
        return found
    client = ResourceAdviceServiceClient(session.sdk())
    for item in session.pages(client.list, ListResourceAdviceRequest, action=ADVICE, parent_id=tenant):
        with understood(ADVICE):
            details = item.spec.compute_instance
            if item.spec.region != region or details is None:
                continue
            told = found.setdefault((str(details.platform), str(details.preset.name)), {})
            for purchase, status in (
                (PurchaseOption.ON_DEMAND, item.status.on_demand),
                (PurchaseOption.SPOT, item.status.preemptible),
            ):
                told[purchase] = min(told.get(purchase, BEST[-1]), advised(status), key=BEST.index)
    return found


def advised(status: Any) -> Availability:
    """Return what an advice says now: old data says nothing, and neither does a level that is new to us."""
    if status.data_state != FRESH:
        return Availability.UNKNOWN
    level = LEVELS.get(status.availability_level, Availability.UNKNOWN)
    return Availability.UNAVAILABLE if level == Availability.AVAILABLE and not status.available else level


def _amount(value: Any, action: str) -> Decimal:
    try:
        number = Decimal(value)
    except (InvalidOperation, TypeError):
        number = Decimal("NaN")
    if not number.is_finite():
        raise BadAnswer(_("%(action)s: a price is no number.") % {"action": action})
    return number
