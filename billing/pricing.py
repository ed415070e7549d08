"""What capacity costs: the one rule that applies, and the arithmetic that can be read a year later.

Prices are per GPU and hour, before tax, in the customer's currency; nothing is
converted. A rule in another currency than the customer's does not apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext as _

from billing.accounts import account_for
from billing.models import PriceRule
from inventory.models import Commitment, GpuModel, InstanceType, Node, Offer, Region
from leases.models import Lease
from leases.requests import CapacityRequest, region_id
from portal.accounts.models import Organization
from portal.common.errors import Conflict, InvalidInput
from portal.common.money import ledger

MICROSECONDS_PER_HOUR = Decimal(3_600_000_000)
LARGEST_TOTAL = Decimal(10) ** 11  # an order of magnitude below what numeric(20,8) can hold


class NoPrice(Conflict):
    """No price rule applies, or none whose cost is known."""

    code = "no-price"


@dataclass(frozen=True)
class PricedRequest:
    """A price and how it came about; ``arithmetic`` is JSON with every decimal as text."""

    rule: PriceRule | None  # None: staff set the rate
    rate_per_gpu_hour: Decimal
    total: Decimal  # before tax, eight decimals
    currency: str
    arithmetic: dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """What one node costs us per hour, and where that is from."""

    per_node_hour: Decimal
    basis: dict[str, Any]


def find_rule(
    *,
    organization: Organization,
    instance_type: InstanceType | None,
    gpu_model: GpuModel,
    region: Region | None,
    kind: str,
    hours: Decimal,
    at: datetime,
    currency: str | None = None,
) -> PriceRule | None:
    """Return the most specific rule in force at ``at``, or ``None``.

    Specificity is compared in this order: contract (the organization), segment, instance
    type, GPU model, region, lease kind, minimum duration; among equals the rule that
    came into force last wins. ``hours`` is the lease's duration. Where the instance type
    or region is not known (``None``), rules that name one do not apply.
    """
    rules = rules_in_force(
        organization=organization,
        kind=kind,
        hours=hours,
        at=at,
        currency=currency or account_for(organization).currency,
    ).filter(
        Q(instance_type=None) | Q(instance_type=instance_type),
        Q(gpu_model=None) | Q(gpu_model=gpu_model),
        Q(region=None) | Q(region=region),
    )
    return max(rules, key=specificity, default=None)


def rules_in_force(
    *, organization: Organization, kind: str, hours: Decimal, at: datetime, currency: str
) -> QuerySet[PriceRule]:
    """Return the rules that hold at ``at`` for an organization's leases of this kind and duration, whatever
    the machine."""
    return PriceRule.objects.filter(
        Q(organization=None) | Q(organization=organization),
        Q(segment="") | Q(segment=organization.segment),
        Q(lease_kind="") | Q(lease_kind=kind),
        min_hours__lte=hours,
        effective__contains=at,
        currency=currency,
    ).select_related("organization", "instance_type", "gpu_model", "region__provider")


def specificity(rule: PriceRule) -> tuple[Any, ...]:
    """Return the key by which the most specific of the rules that apply is the largest."""
    return (
        rule.organization_id is not None,
        rule.segment != "",
        rule.instance_type_id is not None,
        rule.gpu_model_id is not None,
        rule.region_id is not None,
        rule.lease_kind != "",
        rule.min_hours,
        rule.effective.lower,
        rule.pk,
    )


def wholesale_cost(*, request: CapacityRequest, region: Region | None, currency: str) -> Cost | None:
    """Return what a node for this request costs us per hour, in ``currency``.

    The mean over the commitments whose nodes we hold during the period (weighted by
    nodes), so that the price does not depend on which node is picked; where we hold
    none, the cheapest on-demand offer on sale now.
    """
    nodes = Node.objects.filter(
        commitment__currency=currency,
        instance_type__gpu_model__slug=request.gpu_model,
        instance_type__gpus_per_node=request.gpus_per_node,
        available__overlap=request.period,
    ).exclude(health=Node.Health.RETIRED)
    if region is not None:
        nodes = nodes.filter(region=region)
    held = {
        row["commitment"]: row["nodes"]
        for row in nodes.values("commitment").annotate(nodes=Count("pk")).order_by("commitment")
    }
    if held:
        commitments = list(Commitment.objects.filter(pk__in=held).order_by("pk"))
        weighted = sum(
            (commitment.cost_per_node_hour * held[commitment.pk] for commitment in commitments), Decimal(0)
        )
        return Cost(
            ledger(weighted / sum(held.values())),
            {
                "source": "commitments",
                "commitments": [
                    {
                        "uid": commitment.uid,
                        "nodes": held[commitment.pk],
                        "per_node_hour": text(commitment.cost_per_node_hour),
                    }
                    for commitment in commitments
                ],
            },
        )
    offers = Offer.objects.filter(
        purchase=Offer.Purchase.ON_DEMAND,
        price__isnull=False,
        currency=currency,
        instance_type__gpu_model__slug=request.gpu_model,
        instance_type__gpus_per_node=request.gpus_per_node,
    ).exclude(availability=Offer.Availability.UNAVAILABLE)
    if region is not None:
        offers = offers.filter(region=region)
    offer = offers.select_related("instance_type", "region__provider").order_by("price", "pk").first()
    if offer is None or offer.price is None:
        return None
    return Cost(
        offer.price,
        {
            "source": "offer",
            "offer": str(offer),
            "seen_at": offer.price_seen_at.isoformat() if offer.price_seen_at else None,
        },
    )


def gpu_hours(request: CapacityRequest) -> Decimal:
    """Return the request's GPU-hours, exact to the microsecond (unrounded quotient)."""
    return Decimal(_gpu_microseconds(request)) / MICROSECONDS_PER_HOUR


def microseconds(length: timedelta) -> int:
    """Return a length of time in whole microseconds: exact, where ``total_seconds()`` is a float."""
    return length // timedelta(microseconds=1)


def _gpu_microseconds(request: CapacityRequest) -> int:
    return microseconds(request.duration) * request.nodes * request.gpus_per_node


def amount_for(*, rate: Decimal, gpu_microseconds: int) -> Decimal:
    """Return rate per GPU-hour × GPU-time, rounded half-even to eight decimals once."""
    with localcontext(prec=60):  # the product must be exact before the one rounding
        return ledger(rate * gpu_microseconds / MICROSECONDS_PER_HOUR)


def price(
    request: CapacityRequest,
    organization: Organization,
    now: datetime,
    *,
    kind: str = Lease.Kind.FIXED,
    instance_type: InstanceType | None = None,
    region: Region | None = None,
    currency: str | None = None,
    rate_override: Decimal | None = None,
) -> PricedRequest:
    """Price a cleaned request for an organization by the rules in force at ``now``.

    ``instance_type`` and ``region`` are those of the nodes that were picked; before a
    pick the request's own region and the only instance type there is are used.
    ``rate_override`` (per GPU-hour) replaces the rule's rate and is kept beside it.
    Raises :class:`NoPrice` when no rule applies or a mark-up has no cost to start from.
    """
    currency = currency or account_for(organization).currency
    gpu_model = GpuModel.objects.get(slug=request.gpu_model)
    if region is None and request.region:
        region = Region.objects.select_related("provider").get(pk=region_id(request.region))
    if instance_type is None:
        instance_type = _only_type(request, region)
    rule = find_rule(
        organization=organization,
        instance_type=instance_type,
        gpu_model=gpu_model,
        region=region,
        kind=kind,
        hours=Decimal(microseconds(request.duration)) / MICROSECONDS_PER_HOUR,
        at=now,
        currency=currency,
    )
    cost = wholesale_cost(request=request, region=region, currency=currency)
    listed = rate(rule, cost.per_node_hour if cost else None, request.gpus_per_node)
    if rate_override is None and listed is None:
        raise NoPrice(
            _("There is no price for %(nodes)s × %(gpus)s %(model)s yet. Ask us for a quote.")
            % {"nodes": request.nodes, "gpus": request.gpus_per_node, "model": gpu_model.name}
        )
    charged = listed if rate_override is None else ledger(rate_override)
    assert charged is not None
    total = amount_for(rate=charged, gpu_microseconds=_gpu_microseconds(request))
    if total >= LARGEST_TOTAL:
        raise InvalidInput(_("This is more than we can quote at once. Ask for less."), field="nodes")
    arithmetic: dict[str, Any] = {
        "request": request.as_dict(),
        "priced_at": now.isoformat(),
        "rule": describe_rule(rule) if rule else None,
        "cost": (
            {
                **cost.basis,
                "per_node_hour": text(cost.per_node_hour),
                "per_gpu_hour": text(ledger(cost.per_node_hour / request.gpus_per_node)),
            }
            if cost
            else None
        ),
        "list_rate_per_gpu_hour": None if listed is None else text(listed),
        "rate_per_gpu_hour": text(charged),
        "gpus": request.nodes * request.gpus_per_node,
        "seconds": text(Decimal(microseconds(request.duration)) / 1_000_000),
        "gpu_hours": text(ledger(gpu_hours(request))),
        "total": text(total),
        "currency": currency,
        "formula": "total = rate_per_gpu_hour × gpus × seconds / 3600",
    }
    return PricedRequest(
        rule=None if rate_override is not None else rule,
        rate_per_gpu_hour=charged,
        total=total,
        currency=currency,
        arithmetic=arithmetic,
    )


def _only_type(request: CapacityRequest, region: Region | None) -> InstanceType | None:
    """Return the instance type that any node for this request has, if there is just one we hold."""
    nodes = Node.objects.filter(
        instance_type__gpu_model__slug=request.gpu_model,
        instance_type__gpus_per_node=request.gpus_per_node,
        available__overlap=request.period,
    )
    if region is not None:
        nodes = nodes.filter(region=region)
    found = list(nodes.order_by().values_list("instance_type", flat=True).distinct()[:2])
    return InstanceType.objects.get(pk=found[0]) if len(found) == 1 else None


def rate(rule: PriceRule | None, per_node_hour: Decimal | None, gpus_per_node: int) -> Decimal | None:
    """Return the rule's price per GPU-hour, from what a node costs us; None where that is not known."""
    if rule is None:
        return None
    if rule.kind == PriceRule.Kind.FIXED:
        return rule.amount
    return None if per_node_hour is None else ledger(per_node_hour / gpus_per_node * (1 + rule.amount))


def describe_rule(rule: PriceRule) -> dict[str, Any]:
    """Return what the rule said when it was used; the rule itself may change later."""
    return {
        "id": rule.pk,
        "name": rule.name,
        "kind": rule.kind,
        "amount": text(rule.amount),
        "effective_from": rule.effective.lower.isoformat(),
        "scope": {
            "organization": rule.organization.uid if rule.organization else None,
            "segment": rule.segment or None,
            "instance_type": rule.instance_type.name if rule.instance_type else None,
            "gpu_model": rule.gpu_model.slug if rule.gpu_model else None,
            "region": str(rule.region) if rule.region else None,
            "lease_kind": rule.lease_kind or None,
            "min_hours": rule.min_hours,
        },
    }


def text(value: Decimal) -> str:
    """Return a decimal as plain text without trailing zeros or an exponent: ``2.19``."""
    written = f"{value:f}"
    return written.rstrip("0").rstrip(".") if "." in written else written
