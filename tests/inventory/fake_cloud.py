"""A cloud that answers what a test tells it to; it keeps no state and fakes no database of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar

from inventory.models import InstanceType, Offer, PricePoint, Zone
from inventory.providers.base import (
    AccountIdentity,
    Availability,
    Capability,
    Catalog,
    CredentialField,
    InstanceTypeInfo,
    OfferInfo,
    PurchaseOption,
    RegionInfo,
    ZoneInfo,
)

H100 = InstanceTypeInfo("p5.48xlarge", 192, 2048 * 1024, "nvidia", "H100", 8, 81920)
A100 = InstanceTypeInfo("p4d.24xlarge", 96, 1152 * 1024, "nvidia", "A100", 8, 40960)


def offer(name: str = "p5.48xlarge", price: Any = "55.04", **fields: Any) -> OfferInfo:
    values: dict[str, Any] = {
        "region": "us-east-1",
        "zones": ("us-east-1a",),
        "purchase_option": PurchaseOption.ON_DEMAND,
        "availability": Availability.AVAILABLE,
    }
    amount = Decimal(price) if isinstance(price, str) else price
    return OfferInfo(instance_type=name, price=amount, **{**values, **fields})


def catalog(*offers: OfferInfo, types: tuple[InstanceTypeInfo, ...] = (H100, A100)) -> Catalog:
    region = RegionInfo("us-east-1", zones=(ZoneInfo("us-east-1a"),))
    return Catalog(region=region, instance_types=types, offers=offers)


class FakeCloud:
    """``answers`` maps a region to a catalog, an exception to raise, or a function that answers.

    ``listing`` is what :meth:`regions` returns or raises instead of those regions.
    """

    kind: ClassVar[str] = "fake"
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.PRICES, Capability.AVAILABILITY})
    credential_fields: ClassVar[tuple[CredentialField, ...]] = (
        CredentialField("access_key_id", "Key"),
        CredentialField("secret_access_key", "Secret"),
    )
    answers: ClassVar[dict[str, Any]] = {}
    listing: ClassVar[Any] = None
    regions_at_once: ClassVar[int] = 1
    during: ClassVar[Callable[[], None] | None] = None

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.credentials, self.settings = credentials, settings

    def test_connection(self) -> AccountIdentity:
        return AccountIdentity(account=self.credentials["access_key_id"])

    def regions(self) -> Any:
        if isinstance(self.listing, Exception):
            raise self.listing
        if self.listing is not None:
            return self.listing
        return [RegionInfo(code) for code in self.answers]

    def offers(self, region: str) -> Any:
        if hook := type(self).during:
            hook()
        answer = self.answers[region]
        if isinstance(answer, Exception):
            raise answer
        return answer(region) if callable(answer) else answer


def stored() -> dict[str, list[Any]]:
    """Everything that a poll can write, but for its own run."""
    return {
        "offers": list(Offer.objects.order_by("pk").values()),
        "prices": list(PricePoint.objects.order_by("pk").values()),
        "types": list(InstanceType.objects.order_by("pk").values()),
        "zones": list(Zone.objects.order_by("pk").values()),
    }


def the_offer(purchase: str = "on_demand", name: str = "p5.48xlarge") -> Offer:
    return Offer.objects.get(instance_type__name=name, region__code="us-east-1", purchase=purchase)
