"""The rows of a provider's bill, made from what is recorded: machines, commitments, price points.

In the shape of AWS's FOCUS 1.0 export: one row per machine and hour, hours with six
decimals, costs with eleven, what a reservation left unused beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from inventory.models import Commitment, PricePoint, ProviderAccount
from inventory.providers.base import TAG_ALLOCATION, TAG_LEASE
from leases.models import Instance

COLUMNS = (
    "AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription",
    "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountCategory",
    "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountStatus", "CommitmentDiscountType",
    "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost",
    "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType",
    "ServiceCategory", "ServiceName", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags",
)  # fmt: skip
HOUR = timedelta(hours=1)
VOLUME_PRICE = Decimal("0.08")  # per GB and month
VOLUME_GB = 500


class Fault(StrEnum):
    """What can be wrong with a bill on purpose, named as the finding that it should cause."""

    AFTER_END = "orphan_tail"  # a machine billed after its lease ended
    WRONG_PRICE = "price_variance"
    NOBODY_LEASED = "orphan_unknown"
    BILLED_TWICE = "duplicate"


FOUR_FAULTS = (Fault.AFTER_END, Fault.WRONG_PRICE, Fault.NOBODY_LEASED, Fault.BILLED_TWICE)


@dataclass
class Planted:
    """One fault as planted: on which machine, on which lines of the file, worth how much."""

    fault: Fault
    resource_id: str
    lines: list[int] = field(default_factory=list)  # the header is line 1
    amount: Decimal = Decimal(0)  # what we would pay too much


@dataclass
class Row:
    values: dict[str, str]
    cost: Decimal
    planted: Planted | None = None


@dataclass(frozen=True)
class Machine:
    """A recorded machine with its run inside the month and the price that holds for it."""

    instance: Instance
    start: datetime
    end: datetime
    price: Decimal
    covered: str = ""  # the commitment whose payment covers its hours, where they cost nothing


class Maker:
    """The rows of one account's month without any fault."""

    def __init__(self, account: ProviderAccount, start: datetime, end: datetime, until: datetime) -> None:
        self.account, self.start, self.end, self.until = account, start, end, until
        self.machines = list(self._machines())

    def _machines(self) -> Iterator[Machine]:
        instances = (
            Instance.objects.filter(account=self.account, launched_at__lt=self.until)
            .exclude(ended_at__lte=self.start)
            .select_related(
                "allocation__lease",
                "allocation__node__commitment",
                "allocation__node__instance_type",
                "allocation__node__region",
                "allocation__node__zone",
            )
            .order_by("launched_at", "pk")
        )
        for instance in instances:
            start = max(instance.launched_at, self.start)
            end = min(instance.ended_at or self.until, self.until)
            commitment = instance.allocation.node.commitment
            if end <= start:
                continue
            if commitment is None:
                yield Machine(instance, start, end, self._on_demand_price(instance, start))
            elif commitment.payment == Commitment.Payment.HOURLY:
                yield Machine(instance, start, end, commitment.cost_per_node_hour)
            else:
                yield Machine(instance, start, end, Decimal(0), commitment.reservation_id or commitment.uid)

    def _on_demand_price(self, instance: Instance, at: datetime) -> Decimal:
        node = instance.allocation.node
        point = PricePoint.objects.filter(
            offer__instance_type=node.instance_type,
            offer__region=node.region,
            offer__purchase="on_demand",
            period__contains=at,
        ).first()
        if point is None:
            raise ValueError(f"No on-demand price of {node.instance_type} is known for {at}.")
        return point.price

    def machine_rows(self) -> Iterator[Row]:
        for machine in self.machines:
            yield from self.hours_of(machine, machine.start, machine.end)

    def hours_of(
        self, machine: Machine, start: datetime, end: datetime, *, resource_id: str = ""
    ) -> Iterator[Row]:
        """Yield one row per clock hour of ``[start, end)``, as AWS bills by the second."""
        hour = start.replace(minute=0, second=0, microsecond=0)
        while hour < end:
            ran = min(end, hour + HOUR) - max(start, hour)
            quantity = (Decimal(ran // timedelta(microseconds=1)) / 3_600_000_000).quantize(
                Decimal("0.000001")
            )
            if quantity:
                yield self.machine_row(machine, hour, quantity, machine.price, resource_id=resource_id)
            hour += HOUR

    def machine_row(
        self,
        machine: Machine,
        hour: datetime,
        quantity: Decimal,
        price: Decimal,
        *,
        resource_id: str = "",
    ) -> Row:
        instance = machine.instance
        node = instance.allocation.node
        lease = instance.allocation.lease
        tags = {TAG_LEASE: lease.uid if lease else "", TAG_ALLOCATION: str(instance.allocation_id)}
        return self._row(
            start=hour,
            end=hour + HOUR,
            cost=(quantity * price).quantize(Decimal("0.00000000001")),
            AvailabilityZone=node.zone.code,
            ChargeCategory="Usage",
            ChargeDescription=f"${price} per {node.instance_type} Instance Hour",
            ChargeFrequency="Usage-Based",
            ListUnitPrice=str(price),
            ContractedUnitPrice=str(price),
            PricingCategory="Committed" if machine.covered else "Standard",
            CommitmentDiscountId=machine.covered,
            CommitmentDiscountStatus="Used" if machine.covered else "",
            PricingQuantity=str(quantity),
            PricingUnit="Hours",
            RegionId=node.region.code,
            ResourceId=resource_id or instance.provider_id,
            ResourceType="instance",
            ServiceCategory="Compute",
            ServiceName="Amazon Elastic Compute Cloud",
            SkuId=code(node.instance_type.name, node.region.code),
            Tags="" if resource_id else json.dumps(tags),
        )

    def reservation_rows(self) -> Iterator[Row]:
        """Yield what commitments cost beside their machines' hours: the rest of the hours, or a fee."""
        for commitment in (
            Commitment.objects.filter(account=self.account, cancelled_at=None)
            .select_related("zone__region", "instance_type")
            .prefetch_related("deliveries", "nodes")
        ):
            held = [
                (nodes, max(begin, self.start), min(commitment.promised.upper, self.until))
                for nodes, begin in self._deliveries(commitment)
            ]
            if commitment.payment == Commitment.Payment.HOURLY:
                yield from self._unused_hours(commitment, held)
                continue
            hours = sum((nodes * hours_between(begin, end) for nodes, begin, end in held), Decimal(0))
            if commitment.payment == Commitment.Payment.UPFRONT:
                promised = commitment.promised
                if not self.start <= promised.lower < self.end:
                    continue
                hours = commitment.quantity * hours_between(promised.lower, promised.upper)
            if hours:
                yield self._reservation_row(commitment, self.start, self.until, hours, "Purchase")

    def _deliveries(self, commitment: Commitment) -> list[tuple[int, datetime]]:
        recorded = [(row.nodes, row.accepted_from) for row in commitment.deliveries.all()]
        return recorded or [(1, node.available.lower) for node in commitment.nodes.all()]

    def _unused_hours(
        self, commitment: Commitment, held: list[tuple[int, datetime, datetime]]
    ) -> Iterator[Row]:
        runs = [
            (machine.start, machine.end)
            for machine in self.machines
            if machine.instance.allocation.node.commitment_id == commitment.pk
        ]
        hour = self.start
        while hour < self.until:
            end = min(hour + HOUR, self.until)
            idle = sum(
                (nodes * hours_between(max(begin, hour), min(stop, end)) for nodes, begin, stop in held),
                Decimal(0),
            ) - sum((hours_between(max(begin, hour), min(stop, end)) for begin, stop in runs), Decimal(0))
            if idle > 0:
                yield self._reservation_row(commitment, hour, end, idle, "Usage")
            hour += HOUR

    def _reservation_row(
        self, commitment: Commitment, start: datetime, end: datetime, hours: Decimal, category: str
    ) -> Row:
        name = commitment.reservation_id or commitment.uid
        quantity = hours.quantize(Decimal("0.000001"))
        price = commitment.cost_per_node_hour
        unused = category == "Usage"
        what = "unused reservation hour" if unused else "reservation hour"
        return self._row(
            start=start,
            end=end,
            cost=(quantity * price).quantize(Decimal("0.00000000001")),
            ChargeCategory=category,
            ChargeDescription=f"${price} per {commitment.instance_type} {what}",
            ChargeFrequency="Usage-Based" if unused else "Recurring",
            CommitmentDiscountCategory="Usage",
            CommitmentDiscountId=name,
            CommitmentDiscountStatus="Unused" if unused else "",
            CommitmentDiscountType="Capacity Reservation",
            ListUnitPrice=str(price),
            ContractedUnitPrice=str(price),
            PricingCategory="Committed",
            PricingQuantity=str(quantity),
            PricingUnit="Hours",
            RegionId=commitment.zone.region.code,
            ResourceId=name,
            ResourceType="capacity-reservation",
            ServiceCategory="Compute",
            ServiceName="Amazon Elastic Compute Cloud",
            SkuId=code(commitment.instance_type.name, name),
        )

    def volume_rows(self) -> Iterator[Row]:
        """Yield the root volume of each machine for its part of the month."""
        month = hours_between(self.start, self.end)
        for machine in self.machines:
            quantity = (VOLUME_GB * hours_between(machine.start, machine.end) / month).quantize(
                Decimal("0.000001")
            )
            if not quantity:
                continue
            yield self._row(
                start=self.start,
                end=self.end,
                cost=(quantity * VOLUME_PRICE).quantize(Decimal("0.00000000001")),
                ChargeCategory="Usage",
                ChargeDescription=f"${VOLUME_PRICE} per GB-month of General Purpose (gp3) storage",
                ChargeFrequency="Usage-Based",
                PricingCategory="Standard",
                PricingQuantity=str(quantity),
                PricingUnit="GB-Months",
                RegionId=machine.instance.allocation.node.region.code,
                ResourceId=f"vol-{code(machine.instance.provider_id, 'root').lower()}",
                ServiceCategory="Storage",
                ServiceName="Amazon Elastic Compute Cloud",
                SkuId=code("gp3", machine.instance.allocation.node.region.code),
            )

    def _row(self, *, start: datetime, end: datetime, cost: Decimal, **values: str) -> Row:
        whose = self.account.account_id or self.account.name
        issuer = (
            "Amazon Web Services, Inc." if self.account.provider.slug == "aws" else self.account.provider.name
        )
        filled: dict[str, Any] = {
            **dict.fromkeys(COLUMNS, "NULL"),
            **{name: value or "NULL" for name, value in values.items()},
            "BilledCost": f"{cost:f}",
            "EffectiveCost": f"{cost:f}",
            "ListCost": f"{cost:f}",
            "ContractedCost": f"{cost:f}",
            "BillingAccountId": whose,
            "BillingAccountName": self.account.name,
            "SubAccountId": whose,
            "SubAccountName": self.account.name,
            "BillingCurrency": "USD",
            "BillingPeriodStart": utc_text(self.start),
            "BillingPeriodEnd": utc_text(self.end),
            "ChargePeriodStart": utc_text(start),
            "ChargePeriodEnd": utc_text(end),
            "InvoiceIssuerName": issuer,
            "ProviderName": self.account.provider.name,
            "PublisherName": issuer,
        }
        filled["SkuPriceId"] = f"{filled['SkuId']}.{code(filled['PricingUnit'], 'price')[:10]}"
        filled["ConsumedQuantity"], filled["ConsumedUnit"] = filled["PricingQuantity"], filled["PricingUnit"]
        return Row(filled, cost)


def hours_between(start: datetime, end: datetime) -> Decimal:
    return Decimal(max(end - start, timedelta()) // timedelta(microseconds=1)) / 3_600_000_000


def utc_text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def code(*parts: str) -> str:
    """Return sixteen letters and digits as AWS's SKU codes have, the same for the same parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16].upper()
