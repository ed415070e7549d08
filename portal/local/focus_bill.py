"""Write the bill that a provider would send: for the demo, and for tests that plant faults in it.

The rows are made from what is recorded (machines, commitments, price points) in the shape
of AWS's FOCUS 1.0 export: one row per machine and hour, hours with six decimals, costs
with eleven, what a reservation left unused beside them. Faults are planted on purpose and
returned, so that the reconciliation can be held against them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, BinaryIO

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


@dataclass(frozen=True)
class WrittenBill:
    """What was written."""

    lines: int
    total: Decimal
    planted: list[Planted]


@dataclass
class _Row:
    values: dict[str, str]
    cost: Decimal
    planted: Planted | None = None


@dataclass(frozen=True)
class _Machine:
    """A recorded machine with its run inside the month and the price that holds for it."""

    instance: Instance
    start: datetime
    end: datetime
    price: Decimal
    covered: str = ""  # the commitment whose payment covers its hours, where they cost nothing


def write_focus_bill(
    *,
    account: ProviderAccount,
    month: date,
    faults: Iterable[Fault] = (),
    file: BinaryIO,
    now: datetime | None = None,
    seed: int = 1,
) -> WrittenBill:
    """Write ``account``'s bill for ``month`` (UTC) to ``file`` as FOCUS 1.0 CSV, in the account's currency USD.

    Machines that still run are billed until ``now``, or the month's end. Each of ``faults``
    is planted once per mention, on machines of their own as long as there are enough;
    the same ``seed`` plants them in the same places. Raises ``ValueError`` when the month
    has no machine that a fault could be planted on.
    """
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    until = min(end, now or end)
    maker = _Maker(account, start, end, until)
    rows = [*maker.machine_rows(), *maker.reservation_rows(), *maker.volume_rows()]
    planted = _plant(maker, rows, Counter(faults), random.Random(seed))  # noqa: S311 - a demo's dice
    rows.sort(key=lambda row: (row.values["ChargePeriodStart"], row.values["ResourceId"]))
    repeated = [row for row in rows if row.planted and row.planted.fault is Fault.BILLED_TWICE]
    rows += [_Row(dict(row.values), row.cost, row.planted) for row in repeated]
    for row in repeated:
        row.planted = None  # the first of the two is right
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, row in enumerate(rows, start=2):
        writer.writerow(row.values)
        if row.planted is not None:
            row.planted.lines.append(number)
    text.detach()
    return WrittenBill(len(rows), sum((row.cost for row in rows), Decimal(0)), planted)


class _Maker:
    """The rows of one account's month without any fault."""

    def __init__(self, account: ProviderAccount, start: datetime, end: datetime, until: datetime) -> None:
        self.account, self.start, self.end, self.until = account, start, end, until
        self.machines = list(self._machines())

    def _machines(self) -> Iterator[_Machine]:
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
                yield _Machine(instance, start, end, self._on_demand_price(instance, start))
            elif commitment.payment == Commitment.Payment.HOURLY:
                yield _Machine(instance, start, end, commitment.cost_per_node_hour)
            else:
                yield _Machine(instance, start, end, Decimal(0), commitment.reservation_id or commitment.uid)

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

    def machine_rows(self) -> Iterator[_Row]:
        for machine in self.machines:
            yield from self.hours_of(machine, machine.start, machine.end)

    def hours_of(
        self, machine: _Machine, start: datetime, end: datetime, *, resource_id: str = ""
    ) -> Iterator[_Row]:
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
        machine: _Machine,
        hour: datetime,
        quantity: Decimal,
        price: Decimal,
        *,
        resource_id: str = "",
    ) -> _Row:
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
            SkuId=_code(node.instance_type.name, node.region.code),
            Tags="" if resource_id else json.dumps(tags),
        )

    def reservation_rows(self) -> Iterator[_Row]:
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
            hours = sum((nodes * _hours(begin, end) for nodes, begin, end in held), Decimal(0))
            if commitment.payment == Commitment.Payment.UPFRONT:
                promised = commitment.promised
                if not self.start <= promised.lower < self.end:
                    continue
                hours = commitment.quantity * _hours(promised.lower, promised.upper)
            if hours:
                yield self._reservation_row(commitment, self.start, self.until, hours, "Purchase")

    def _deliveries(self, commitment: Commitment) -> list[tuple[int, datetime]]:
        recorded = [(row.nodes, row.accepted_from) for row in commitment.deliveries.all()]
        return recorded or [(1, node.available.lower) for node in commitment.nodes.all()]

    def _unused_hours(
        self, commitment: Commitment, held: list[tuple[int, datetime, datetime]]
    ) -> Iterator[_Row]:
        runs = [
            (machine.start, machine.end)
            for machine in self.machines
            if machine.instance.allocation.node.commitment_id == commitment.pk
        ]
        hour = self.start
        while hour < self.until:
            end = min(hour + HOUR, self.until)
            idle = sum(
                (nodes * _hours(max(begin, hour), min(stop, end)) for nodes, begin, stop in held), Decimal(0)
            ) - sum((_hours(max(begin, hour), min(stop, end)) for begin, stop in runs), Decimal(0))
            if idle > 0:
                yield self._reservation_row(commitment, hour, end, idle, "Usage")
            hour += HOUR

    def _reservation_row(
        self, commitment: Commitment, start: datetime, end: datetime, hours: Decimal, category: str
    ) -> _Row:
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
            SkuId=_code(commitment.instance_type.name, name),
        )

    def volume_rows(self) -> Iterator[_Row]:
        """Yield the root volume of each machine for its part of the month."""
        month = _hours(self.start, self.end)
        for machine in self.machines:
            quantity = (VOLUME_GB * _hours(machine.start, machine.end) / month).quantize(Decimal("0.000001"))
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
                ResourceId=f"vol-{_code(machine.instance.provider_id, 'root').lower()}",
                ServiceCategory="Storage",
                ServiceName="Amazon Elastic Compute Cloud",
                SkuId=_code("gp3", machine.instance.allocation.node.region.code),
            )

    def _row(self, *, start: datetime, end: datetime, cost: Decimal, **values: str) -> _Row:
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
            "BillingPeriodStart": _time(self.start),
            "BillingPeriodEnd": _time(self.end),
            "ChargePeriodStart": _time(start),
            "ChargePeriodEnd": _time(end),
            "InvoiceIssuerName": issuer,
            "ProviderName": self.account.provider.name,
            "PublisherName": issuer,
        }
        filled["SkuPriceId"] = f"{filled['SkuId']}.{_code(filled['PricingUnit'], 'price')[:10]}"
        filled["ConsumedQuantity"], filled["ConsumedUnit"] = filled["PricingQuantity"], filled["PricingUnit"]
        return _Row(filled, cost)


# --- faults ---------------------------------------------------------------------------------------


def _plant(maker: _Maker, rows: list[_Row], faults: Counter[Fault], dice: random.Random) -> list[Planted]:
    planted: list[Planted] = []
    taken: set[str] = set()

    def choose(what: str, fits: list[_Machine]) -> _Machine:
        free = [machine for machine in fits if machine.instance.provider_id not in taken] or fits
        if not free:
            raise ValueError(f"The month has no machine to plant this fault on: {what}.")
        machine = dice.choice(free)
        taken.add(machine.instance.provider_id)
        return machine

    for fault in Fault:  # in the order of their definition, so that a seed means one bill
        for _number in range(faults[fault]):
            if fault is Fault.AFTER_END:
                fits = [
                    machine
                    for machine in maker.machines
                    if machine.instance.ended_at and machine.end < maker.end - 2 * HOUR and machine.price
                ]
                machine = choose("a machine that ended two hours before the month", fits)
                planted.append(_bill_after_end(maker, machine, rows, dice))
            elif fault is Fault.NOBODY_LEASED:
                machine = choose("any machine with a price", [m for m in maker.machines if m.price])
                taken.discard(machine.instance.provider_id)  # only its type is borrowed
                planted.append(_bill_unknown(maker, machine, rows, dice))
            else:
                worth = [m for m in maker.machines if m.price * _hours(m.start, m.end) > 1]
                machine = choose("a machine worth more than one dollar", worth)
                own = [row for row in rows if row.values["ResourceId"] == machine.instance.provider_id]
                own = [row for row in own if row.planted is None]
                plant = _price_wrongly if fault is Fault.WRONG_PRICE else _bill_twice
                planted.append(plant(maker, machine, own, dice))
    return planted


def _bill_after_end(maker: _Maker, machine: _Machine, rows: list[_Row], dice: random.Random) -> Planted:
    found = Planted(Fault.AFTER_END, machine.instance.provider_id)
    start = machine.end.replace(minute=0, second=0, microsecond=0)
    start += HOUR if start < machine.end else timedelta()
    end = min(start + dice.randint(1, 30) * HOUR, maker.end)
    for row in maker.hours_of(machine, start, end):
        _add(found, row, row.cost)
        rows.append(row)
    return found


def _bill_unknown(maker: _Maker, machine: _Machine, rows: list[_Row], dice: random.Random) -> Planted:
    found = Planted(Fault.NOBODY_LEASED, f"i-{dice.getrandbits(68):017x}")
    start = maker.start + dice.randrange(0, max(int(_hours(maker.start, maker.until)) - 1, 1)) * HOUR
    end = min(start + dice.randint(1, 40) * HOUR, maker.end)
    for row in maker.hours_of(machine, start, end, resource_id=found.resource_id):
        _add(found, row, row.cost)
        rows.append(row)
    return found


def _price_wrongly(maker: _Maker, machine: _Machine, own: list[_Row], dice: random.Random) -> Planted:
    found = Planted(Fault.WRONG_PRICE, machine.instance.provider_id)
    price = (machine.price * Decimal(dice.choice(("1.05", "1.15", "1.5")))).quantize(Decimal("0.0001"))
    for row in own:
        hour = datetime.fromisoformat(row.values["ChargePeriodStart"])
        wrong = maker.machine_row(machine, hour, Decimal(row.values["PricingQuantity"]), price)
        _add(found, row, wrong.cost - row.cost)
        row.values, row.cost = wrong.values, wrong.cost
    return found


def _bill_twice(maker: _Maker, machine: _Machine, own: list[_Row], dice: random.Random) -> Planted:
    """Mark the dearest row, or another as dear; it is written a second time when all rows are in order."""
    found = Planted(Fault.BILLED_TWICE, machine.instance.provider_id)
    dearest = max(row.cost for row in own)
    row = dice.choice([row for row in own if row.cost == dearest])
    _add(found, row, row.cost)
    return found


def _add(found: Planted, row: _Row, amount: Decimal) -> None:
    row.planted = found
    found.amount += amount


def _hours(start: datetime, end: datetime) -> Decimal:
    return Decimal(max(end - start, timedelta()) // timedelta(microseconds=1)) / 3_600_000_000


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _code(*parts: str) -> str:
    """Return sixteen letters and digits as AWS's SKU codes have, the same for the same parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16].upper()
