"""Our price beside buying direct: what an organization would pay for each kind of node that we hold.

The same rules and the same arithmetic as a quote (:func:`billing.pricing.price`), for
all kinds at once. Prices are per GPU and hour, before tax, in the organization's
currency; nothing is converted, and prices in two currencies are never compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Count, Min

from billing.accounts import account_for
from billing.models import PriceRule
from billing.pricing import rate, rules_in_force, specificity
from inventory.models import GpuModel, Node, Offer, Region
from leases import search as capacity
from leases.models import Lease
from portal.accounts.models import Organization
from portal.common.money import ledger
from portal.common.periods import Period, period

DEFAULT_HOURS = 7 * 24  # what the search asks for as well


@dataclass(frozen=True, slots=True)
class OurOffer:
    """What we hold of one GPU model, node size and region, for leases of ``hours`` that start now.

    ``per_gpu_hour`` is None where no price rule applies: then only a person can quote.
    ``gpus_free`` could start now and stay for all of ``hours``.
    """

    gpu_model: str
    gpus_per_node: int
    region: str  # provider/code
    hours: int
    per_gpu_hour: Decimal | None
    currency: str
    nodes_held: int
    gpus_free: int


@dataclass(frozen=True, slots=True)
class OurModel:
    """All that we hold of one GPU model, cheapest first; ``lowest`` is our lowest price per GPU-hour."""

    offers: tuple[OurOffer, ...]

    @property
    def lowest(self) -> OurOffer | None:
        """The cheapest kind; of several at one price, the one with most GPUs free."""
        return next((offer for offer in self.offers if offer.per_gpu_hour is not None), None)

    @property
    def gpus_free(self) -> int:
        return sum(offer.gpus_free for offer in self.offers)


def our_offers(
    *, organization: Organization, hours: int = DEFAULT_HOURS, now: datetime
) -> dict[str, OurModel]:
    """Return what we hold by GPU model slug, priced for this organization and ``hours`` from ``now``.

    Stock that a contract calls confidential is left out. The number of statements does
    not depend on how much we hold.
    """
    wanted = period(now, now + timedelta(hours=hours))
    held = capacity.free_by_kind(period=wanted, now=now)
    if not held:
        return {}
    currency = account_for(organization).currency
    rules = list(
        rules_in_force(
            organization=organization, kind=Lease.Kind.FIXED, hours=Decimal(hours), at=now, currency=currency
        )
    )
    costs = _Costs(wanted, currency)
    models = dict(GpuModel.objects.values_list("slug", "pk"))
    regions = {
        f"{provider}/{code}": pk
        for provider, code, pk in Region.objects.values_list("provider__slug", "code", "pk")
    }
    found: dict[str, list[OurOffer]] = defaultdict(list)
    for kind in held:
        model, region = models[kind.gpu_model], regions[kind.region]
        key = (model, kind.gpus_per_node, region)
        rule = _rule(rules, instance_type=costs.only_type(key), gpu_model=model, region=region)
        found[kind.gpu_model].append(
            OurOffer(
                gpu_model=kind.gpu_model,
                gpus_per_node=kind.gpus_per_node,
                region=kind.region,
                hours=hours,
                per_gpu_hour=rate(rule, costs.per_node_hour(key), kind.gpus_per_node),
                currency=currency,
                nodes_held=kind.nodes_held,
                gpus_free=kind.gpus_free,
            )
        )
    return {slug: OurModel(tuple(sorted(offers, key=_cheapest))) for slug, offers in found.items()}


def difference(ours: Decimal, direct: Decimal) -> Decimal:
    """Return how much more (or, negative, less) ours is than buying direct, as a share of direct."""
    return ours / direct - 1


def _cheapest(offer: OurOffer) -> tuple[bool, Decimal, int, str]:
    return (
        offer.per_gpu_hour is None,
        offer.per_gpu_hour or Decimal(0),
        -offer.gpus_free,
        offer.region,
    )


def _rule(
    rules: Iterable[PriceRule], *, instance_type: int | None, gpu_model: int, region: int
) -> PriceRule | None:
    return max(
        (
            rule
            for rule in rules
            if rule.instance_type_id in (None, instance_type)
            and rule.gpu_model_id in (None, gpu_model)
            and rule.region_id in (None, region)
        ),
        key=specificity,
        default=None,
    )


Kind = tuple[int, int, int]  # GPU model, GPUs per node, region


@dataclass(slots=True)
class _Held:
    types: set[int] = field(default_factory=set)
    nodes: int = 0
    cost: Decimal = Decimal(0)


class _Costs:
    """What a node of each kind costs us per hour, as ``pricing.wholesale_cost`` says it for one."""

    def __init__(self, wanted: Period, currency: str) -> None:
        self.currency = currency
        self.held: dict[Kind, _Held] = defaultdict(_Held)
        self.offers: dict[Kind, Decimal] | None = None
        rows = (
            Node.objects.filter(available__overlap=wanted)
            .values_list(
                "instance_type__gpu_model",
                "instance_type__gpus_per_node",
                "region",
                "instance_type",
                "health",
                "commitment__currency",
                "commitment__cost_per_node_hour",
            )
            .annotate(nodes=Count("pk"))
            .order_by()
        )
        for model, size, region, kind, health, currency_, cost, nodes in rows:
            held = self.held[model, size, region]
            held.types.add(kind)
            if health != Node.Health.RETIRED and currency_ == currency:
                held.nodes += nodes
                held.cost += cost * nodes

    def only_type(self, kind: Kind) -> int | None:
        """Return the instance type that any node of the kind has, if there is just one."""
        types = self.held[kind].types
        return next(iter(types)) if len(types) == 1 else None

    def per_node_hour(self, kind: Kind) -> Decimal | None:
        """Return the mean over our commitments; where none is in the currency, the cheapest offer's price."""
        held = self.held[kind]
        if held.nodes:
            return ledger(held.cost / held.nodes)
        if self.offers is None:
            self.offers = self._cheapest_offers()
        return self.offers.get(kind)

    def _cheapest_offers(self) -> dict[Kind, Decimal]:
        rows = (
            Offer.objects.filter(
                purchase=Offer.Purchase.ON_DEMAND,
                price__isnull=False,
                currency=self.currency,
                region__in={region for _model, _size, region in self.held},
            )
            .exclude(availability=Offer.Availability.UNAVAILABLE)
            .values_list("instance_type__gpu_model", "instance_type__gpus_per_node", "region")
            .annotate(lowest=Min("price"))
            .order_by()
        )
        return {(model, size, region): lowest for model, size, region, lowest in rows}
