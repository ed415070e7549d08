"""Faults planted in a bill on purpose, so that the reconciliation can be held against them."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal

from portal.local.bill_rows import HOUR, Fault, Machine, Maker, Planted, Row, hours_between


def plant_faults(maker: Maker, rows: list[Row], faults: Counter[Fault], dice: random.Random) -> list[Planted]:
    planted: list[Planted] = []
    taken: set[str] = set()

    def choose(what: str, fits: list[Machine]) -> Machine:
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
                worth = [m for m in maker.machines if m.price * hours_between(m.start, m.end) > 1]
                machine = choose("a machine worth more than one dollar", worth)
                own = [row for row in rows if row.values["ResourceId"] == machine.instance.provider_id]
                own = [row for row in own if row.planted is None]
                plant = _price_wrongly if fault is Fault.WRONG_PRICE else _bill_twice
                planted.append(plant(maker, machine, own, dice))
    return planted


def _bill_after_end(maker: Maker, machine: Machine, rows: list[Row], dice: random.Random) -> Planted:
    found = Planted(Fault.AFTER_END, machine.instance.provider_id)
    start = machine.end.replace(minute=0, second=0, microsecond=0)
    start += HOUR if start < machine.end else timedelta()
    end = min(start + dice.randint(1, 30) * HOUR, maker.end)
    for row in maker.hours_of(machine, start, end):
        _add(found, row, row.cost)
        rows.append(row)
    return found


def _bill_unknown(maker: Maker, machine: Machine, rows: list[Row], dice: random.Random) -> Planted:
    found = Planted(Fault.NOBODY_LEASED, f"i-{dice.getrandbits(68):017x}")
    start = maker.start + dice.randrange(0, max(int(hours_between(maker.start, maker.until)) - 1, 1)) * HOUR
    end = min(start + dice.randint(1, 40) * HOUR, maker.end)
    for row in maker.hours_of(machine, start, end, resource_id=found.resource_id):
        _add(found, row, row.cost)
        rows.append(row)
    return found


def _price_wrongly(maker: Maker, machine: Machine, own: list[Row], dice: random.Random) -> Planted:
    found = Planted(Fault.WRONG_PRICE, machine.instance.provider_id)
    price = (machine.price * Decimal(dice.choice(("1.05", "1.15", "1.5")))).quantize(Decimal("0.0001"))
    for row in own:
        hour = datetime.fromisoformat(row.values["ChargePeriodStart"])
        wrong = maker.machine_row(machine, hour, Decimal(row.values["PricingQuantity"]), price)
        _add(found, row, wrong.cost - row.cost)
        row.values, row.cost = wrong.values, wrong.cost
    return found


def _bill_twice(maker: Maker, machine: Machine, own: list[Row], dice: random.Random) -> Planted:
    """Mark the dearest row, or another as dear; it is written a second time when all rows are in order."""
    found = Planted(Fault.BILLED_TWICE, machine.instance.provider_id)
    dearest = max(row.cost for row in own)
    row = dice.choice([row for row in own if row.cost == dearest])
    _add(found, row, row.cost)
    return found


def _add(found: Planted, row: Row, amount: Decimal) -> None:
    row.planted = found
    found.amount += amount
