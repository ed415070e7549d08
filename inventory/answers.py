"""Check what a provider answered before any of it is believed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from inventory.models import InstanceType, Offer, Region
from inventory.new_types import learn_types
from inventory.prices import HIGHEST_PRICE, OfferRow
from inventory.providers.base import (
    Capability,
    Catalog,
    InstanceTypeInfo,
    OfferInfo,
    PurchaseOption,
    ZoneInfo,
)
from inventory.providers.errors import BadAnswer
from portal.common.money import ledger
from portal.common.text import one_line

SHOWN = 5  # problems that a person can read at once
MOST_UNKNOWN = 100  # spellings that one run keeps
MOST_OFFERS = 1_000_000  # of one region: more is a loop, not a market
LONGEST_CODE = 60  # of a region or a zone, as stored
LONGEST_NAME = 80  # of an instance type, as stored
LARGEST_COUNT = 2**31 - 1

PURCHASES = frozenset(Offer.Purchase.values)
AVAILABILITIES = frozenset(Offer.Availability.values)
CURRENCY = "USD"  # unless the account's options name another


@dataclass(frozen=True, slots=True)
class CheckedCatalog:
    """What of an answer can be used. With any problem it is partial and withdraws nothing.

    Prices of ``offers`` are per hour of the whole instance, None where the API has none.
    """

    region: Region
    zones: tuple[str, ...]
    offers: tuple[OfferRow, ...]
    seen: int
    # id, vcpus and memory_gib of known types where they differ; None where the provider says nothing
    details: tuple[dict[str, int | None], ...]
    unknown_types: tuple[str, ...]
    problems: Problems

    @property
    def complete(self) -> bool:
        return not self.problems.count


class Problems:
    """Sentences for people: all are counted, and the first of them kept."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, sentence: str) -> None:
        self.count += 1
        if len(self._first) < SHOWN:
            self._first.append(sentence)

    def text(self) -> str:
        """Return them as lines, at most five and how many more there are."""
        lines = list(self._first)
        if more := self.count - len(lines):
            lines.append(ngettext("and %(n)s more.", "and %(n)s more.", more) % {"n": more})
        return "\n".join(lines)


def check_catalog(
    answer: Catalog,
    *,
    region: Region,
    capabilities: Collection[Capability],
    currency: str = CURRENCY,
    now: datetime,
) -> CheckedCatalog:
    """Return the usable part of an answer and a sentence for everything else.

    Instance types that are new to us are added where their GPU is known
    (:func:`inventory.new_types.learn_types`, in a transaction of its own). The others are
    listed as the provider spells them, and never guessed; types without a whole GPU are
    left out without a word. Prices in
    another ``currency`` than the account is billed in are not believed. Raises
    :class:`~inventory.providers.errors.BadAnswer` for what is no catalog at all: an
    adapter may come from another package, and nothing about its values is sure.
    """
    _catalog_shape(answer)
    problems = Problems()
    types = _Types(region, problems)
    for info in answer.instance_types:
        types.add(info)
    learned = learn_types(listed=types.new.values(), provider_id=region.provider_id, now=now)
    unknown = set(learned.unknown)
    types.usable.update(learned.added)
    reader = _Offers(region, types, PRICED in capabilities, currency, problems)
    for offer in answer.offers:
        reader.add(offer)
    unknown |= reader.unlisted
    if not answer.offers:
        problems.add(_("The provider listed no offers at all; the last ones stay."))
    return CheckedCatalog(
        region=region,
        zones=_zones(answer.region.zones, problems),
        offers=reader.agreed(),
        seen=len(answer.offers),
        details=tuple(types.details),
        unknown_types=tuple(sorted(unknown)[:MOST_UNKNOWN]),
        problems=problems,
    )


PRICED = Capability.PRICES


def _catalog_shape(answer: Any) -> None:
    if not isinstance(answer, Catalog):
        raise BadAnswer(
            _("The adapter answered a %(kind)s instead of a catalog.") % {"kind": type(answer).__name__}
        )
    for name in ("instance_types", "offers"):
        items = getattr(answer, name)
        if not isinstance(items, list | tuple):
            raise BadAnswer(
                _("The adapter’s catalog has a %(kind)s as its %(field)s.")
                % {"kind": type(items).__name__, "field": name}
            )
        if len(items) > MOST_OFFERS:
            raise BadAnswer(
                _("The provider listed %(n)s %(field)s in one region: that is no answer.")
                % {"n": len(items), "field": name}
            )


def is_code(value: object) -> bool:
    """Return whether a value can be stored as the code of a region or a zone."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_CODE
        and value.isprintable()
        and value.strip() == value
    )


def _zones(zones: Any, problems: Problems) -> tuple[str, ...]:
    codes: set[str] = set()
    for zone in zones if isinstance(zones, list | tuple) else ():
        if isinstance(zone, ZoneInfo) and is_code(zone.code):
            codes.add(zone.code)
        else:
            problems.add(
                _("The zone “%(text)s” is not one.") % {"text": one_line(getattr(zone, "code", zone))}
            )
    return tuple(sorted(codes))


class _Types:
    """The instance types of one answer beside ours."""

    def __init__(self, region: Region, problems: Problems) -> None:
        rows = InstanceType.objects.filter(provider_id=region.provider_id).values_list(
            "name", "pk", "gpus_per_node", "vcpus", "memory_gib"
        )
        self.known: dict[str, tuple[int, int, int | None, int | None]] = {
            name: (pk, gpus, vcpus, memory) for name, pk, gpus, vcpus, memory in rows
        }
        self.usable: dict[str, int] = {}
        self.new: dict[str, InstanceTypeInfo] = {}
        self.listed: dict[str, Any] = {}
        self.details: list[dict[str, int | None]] = []
        self.problems = problems

    def add(self, info: Any) -> None:
        if problem := _type_problem(info):
            name = one_line(getattr(info, "name", info))
            self.problems.add(_("Instance type %(type)s %(problem)s.") % {"type": name, "problem": problem})
            if isinstance(getattr(info, "name", None), str):
                self.listed[info.name] = None
            return
        if info.name in self.listed:
            if self.listed[info.name] != info:
                self.problems.add(
                    _("Instance type %(type)s is listed twice, and differently.") % {"type": info.name}
                )
                self.usable.pop(info.name, None)
                self.new.pop(info.name, None)
            return
        self.listed[info.name] = info
        ours = self.known.get(info.name)
        if ours is None:
            self.new[info.name] = info
            return
        pk, gpus, vcpus, memory = ours
        if gpus != info.gpu_count:
            self.problems.add(
                _("%(type)s: the provider says %(theirs)s GPUs, our catalog %(ours)s.")
                % {"type": info.name, "theirs": info.gpu_count, "ours": gpus}
            )
            return
        self.usable[info.name] = pk
        theirs = info.vcpus or vcpus, info.memory_mib // 1024 or memory
        if (vcpus, memory) != theirs:
            self.details.append({"id": pk, "vcpus": theirs[0], "memory_gib": theirs[1]})


def _type_problem(info: Any) -> str:
    if not isinstance(info, InstanceTypeInfo):
        return _("is a %(kind)s instead of an instance type") % {"kind": type(info).__name__}
    if not isinstance(info.name, str) or not info.name.strip():
        return _("has no name")
    if len(info.name) > LONGEST_NAME or not info.name.isprintable():
        return _("has a name that is none")
    if not all(
        isinstance(text, str) for text in (info.gpu_vendor, info.gpu_name, info.network, info.architecture)
    ):
        return _("has a description that is not text")
    for field in ("gpu_count", "vcpus", "memory_mib", "gpu_memory_mib"):
        value = getattr(info, field)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_COUNT:
            return _("has a %(field)s that is no count: %(value)s") % {
                "field": field,
                "value": one_line(value),
            }
    return ""


class _Offers:
    """The offers of one answer, each checked by itself; a bad one never hides the others."""

    def __init__(
        self, region: Region, types: _Types, priced: bool, currency: str, problems: Problems
    ) -> None:
        self.code, self.region_id = region.code, region.pk
        self.types, self.priced, self.currency = types, priced, currency
        self.problems = problems
        self.unlisted: set[str] = set()
        self._rows: dict[tuple[int, str], OfferRow] = {}
        self._contradicted: set[tuple[int, str]] = set()
        self._zones: dict[Any, tuple[str, ...] | None] = {(): ()}  # few, and the same for thousands of offers

    def add(self, offer: Any) -> None:
        try:
            problem = self._add(offer)
        except Exception as error:  # noqa: BLE001 - values of any kind may come from an adapter's package
            problem = _("cannot be read (%(error)s)") % {"error": type(error).__name__}
        if problem:
            self.problems.add(_("%(offer)s %(problem)s.") % {"offer": _name(offer), "problem": problem})

    def _add(self, offer: Any) -> str:
        if not isinstance(offer, OfferInfo):
            return _("is not an offer")
        type_id = self.types.usable.get(offer.instance_type)
        if type_id is None:
            if offer.instance_type not in self.types.listed and offer.instance_type not in self.types.known:
                self.unlisted.add(one_line(offer.instance_type))
            return ""
        if offer.region != self.code:
            return _("is for region %(other)s") % {"other": one_line(offer.region)}
        if offer.purchase_option not in PURCHASES:
            return _("has the unknown purchase option “%(text)s”") % {"text": one_line(offer.purchase_option)}
        if offer.availability not in AVAILABILITIES:
            return _("has the unknown availability “%(text)s”") % {"text": one_line(offer.availability)}
        try:
            zones = self._zones[offer.zones]
        except KeyError:
            zones = self._zones[offer.zones] = _codes(offer.zones)
        if zones is None:
            return _("has zones that are none")
        price = offer.price
        if price is None:
            # What is reserved for a time is priced when it is looked for: base.CapacityOffering.
            if self.priced and offer.purchase_option != PurchaseOption.RESERVED:
                return _("has no price")
        elif not isinstance(price, Decimal) or not price.is_finite():
            return _("has a price that is not a number: %(price)s") % {"price": one_line(price)}
        elif not 0 < price < HIGHEST_PRICE or not (price := ledger(price)):
            return _("has an impossible price: %(price)s") % {"price": one_line(offer.price)}
        elif offer.currency != self.currency and str(offer.currency).upper() != self.currency:
            return _(
                "is priced in “%(theirs)s”, but the account is billed in %(ours)s: "
                "if that changed, set “currency” in the account’s options"
            ) % {"theirs": one_line(offer.currency), "ours": self.currency}
        purchase = str(offer.purchase_option)
        row = OfferRow(
            type_id, self.region_id, purchase, str(offer.availability), zones, price, self.currency
        )
        key = (type_id, purchase)
        earlier = self._rows.setdefault(key, row)
        if earlier is not row:
            if earlier == row:
                return _("is listed twice")
            self._contradicted.add(key)
            return _("is listed twice, and differently")
        return ""

    def agreed(self) -> tuple[OfferRow, ...]:
        """Return the offers about which the answer does not contradict itself."""
        if not self._contradicted:
            return tuple(self._rows.values())
        return tuple(row for key, row in self._rows.items() if key not in self._contradicted)


def _codes(zones: Any) -> tuple[str, ...] | None:
    if not isinstance(zones, tuple) or not all(is_code(zone) for zone in zones):
        return None
    return tuple(sorted(set(zones)))


def _name(offer: Any) -> str:
    if not isinstance(offer, OfferInfo):
        return one_line(offer)
    return f"{one_line(offer.instance_type)} ({one_line(offer.purchase_option)})"
