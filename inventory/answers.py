"""Check what a provider answered before any of it is believed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from inventory.models import InstanceType, Offer, Region
from inventory.prices import HIGHEST_PRICE, OfferRow
from inventory.providers.base import Capability, Catalog, InstanceTypeInfo, OfferInfo
from portal.common.money import ledger

SHOWN = 5  # problems that a person can read at once


@dataclass(frozen=True, slots=True)
class PricedOffer:
    """A checked offer; ``price`` per hour of the whole instance is None where the API has none."""

    row: OfferRow
    price: Decimal | None
    currency: str


@dataclass(frozen=True, slots=True)
class CheckedCatalog:
    """What of an answer can be used. With any problem it is partial and withdraws nothing."""

    region: Region
    zones: tuple[str, ...]
    offers: tuple[PricedOffer, ...]
    seen: int
    details: tuple[dict[str, int], ...]  # id, vcpus and memory_gib of known types
    unknown_types: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.problems

    def error(self) -> str:
        """Return the problems as lines for people, at most five."""
        lines = list(self.problems[:SHOWN])
        if more := len(self.problems) - len(lines):
            lines.append(ngettext("and %(n)s more.", "and %(n)s more.", more) % {"n": more})
        return "\n".join(lines)


def check_catalog(answer: Catalog, *, region: Region, capabilities: Collection[Capability]) -> CheckedCatalog:
    """Return the usable part of an answer and a sentence for everything else.

    Instance types that the catalog does not know are listed as the provider spells
    them, and never guessed: staff add the type, and the next poll knows it.
    """
    known = {item.name: item for item in InstanceType.objects.filter(provider_id=region.provider_id)}
    problems: list[str] = []
    unknown: list[str] = []
    usable: dict[str, InstanceType] = {}
    details: list[dict[str, int]] = []
    for info in answer.instance_types:
        item = known.get(info.name)
        if item is None:
            unknown.append(_spelled(info))
        elif item.gpus_per_node != info.gpu_count:
            problems.append(
                _("%(type)s: the provider says %(theirs)s GPUs, our catalog %(ours)s.")
                % {"type": info.name, "theirs": info.gpu_count, "ours": item.gpus_per_node}
            )
        else:
            usable[info.name] = item
            details.append({"id": item.pk, "vcpus": info.vcpus, "memory_gib": info.memory_mib // 1024})

    offers: dict[tuple[int, int, str], PricedOffer] = {}
    for offer in answer.offers:
        if offer.instance_type in usable:
            checked = _offer(offer, usable[offer.instance_type], region, capabilities, problems)
            if checked and checked.row.key in offers:
                problems.append(_("%(offer)s is listed twice.") % {"offer": _name(offer)})
            elif checked:
                offers[checked.row.key] = checked
        elif offer.instance_type not in known and not any(
            info.name == offer.instance_type for info in answer.instance_types
        ):
            unknown.append(offer.instance_type)
    if not answer.offers:
        problems.append(_("The provider listed no offers at all; the last ones stay."))
    return CheckedCatalog(
        region=region,
        zones=tuple(sorted({zone.code for zone in answer.region.zones})),
        offers=tuple(offers.values()),
        seen=len(answer.offers),
        details=tuple(details),
        unknown_types=tuple(sorted(set(unknown))),
        problems=tuple(problems),
    )


def _offer(
    offer: OfferInfo,
    item: InstanceType,
    region: Region,
    capabilities: Collection[Capability],
    problems: list[str],
) -> PricedOffer | None:
    problem = ""
    price: Any = offer.price
    if offer.region != region.code:
        problem = _("is for region %(other)s") % {"other": offer.region}
    elif offer.purchase_option not in Offer.Purchase.values:
        problem = _("has the unknown purchase option “%(text)s”") % {"text": offer.purchase_option}
    elif offer.availability not in Offer.Availability.values:
        problem = _("has the unknown availability “%(text)s”") % {"text": offer.availability}
    elif price is None:
        if Capability.PRICES in capabilities:
            problem = _("has no price")
    elif not isinstance(price, Decimal) or not price.is_finite():
        problem = _("has a price that is not a number: %(price)s") % {"price": price}
    elif not 0 < price < HIGHEST_PRICE or not ledger(price):
        problem = _("has an impossible price: %(price)s") % {"price": price}
    elif not (offer.currency.isascii() and offer.currency.isalpha() and len(offer.currency) == 3):
        problem = _("has the unknown currency “%(text)s”") % {"text": offer.currency}
    if problem:
        problems.append(_("%(offer)s %(problem)s.") % {"offer": _name(offer), "problem": problem})
        return None
    return PricedOffer(
        row=OfferRow(
            instance_type_id=item.pk,
            region_id=region.pk,
            purchase=str(offer.purchase_option),
            availability=str(offer.availability),
            zones=tuple(sorted(set(offer.zones))),
        ),
        price=ledger(price) if price is not None else None,
        currency=offer.currency.upper(),
    )


def _name(offer: OfferInfo) -> str:
    return f"{offer.instance_type} ({offer.purchase_option})"


def _spelled(info: InstanceTypeInfo) -> str:
    return f"{info.name}: {info.gpu_count} × {info.gpu_vendor} {info.gpu_name}, {info.gpu_memory_mib} MiB"
