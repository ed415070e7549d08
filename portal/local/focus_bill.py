"""Write the bill that a provider would send: for the demo, and for tests that plant faults in it."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import BinaryIO

from inventory.models import ProviderAccount
from portal.local.bill_faults import plant_faults
from portal.local.bill_rows import COLUMNS, FOUR_FAULTS, Fault, Maker, Planted, Row

__all__ = ["COLUMNS", "FOUR_FAULTS", "Fault", "Planted", "WrittenBill", "write_focus_bill"]


@dataclass(frozen=True)
class WrittenBill:
    """What was written."""

    lines: int
    total: Decimal
    planted: list[Planted]


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
    maker = Maker(account, start, end, until)
    rows = [*maker.machine_rows(), *maker.reservation_rows(), *maker.volume_rows()]
    planted = plant_faults(maker, rows, Counter(faults), random.Random(seed))  # noqa: S311 - a demo's dice
    rows.sort(key=lambda row: (row.values["ChargePeriodStart"], row.values["ResourceId"]))
    repeated = [row for row in rows if row.planted and row.planted.fault is Fault.BILLED_TWICE]
    rows += [Row(dict(row.values), row.cost, row.planted) for row in repeated]
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
