"""A bill's classes for people: one row and one stretch of a bar for each."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from django.utils.translation import gettext as _

from billing.models import BillLine, VendorBill
from portal.common.money import format_money

Class = BillLine.Class

EXPLAINED = (Class.MATCHED, Class.WITHIN_TOLERANCE)
OVERHEAD = (
    Class.COMMITMENT, Class.COMMITMENT_UNUSED, Class.ANCILLARY, Class.FEE, Class.TAX, Class.CREDIT, Class.CORRECTION,
)  # fmt: skip
ORDER = [*EXPLAINED, *OVERHEAD, *(name for name in Class if name not in (*EXPLAINED, *OVERHEAD))]


@dataclass(frozen=True)
class ClassRow:
    """One class of a bill."""

    name: str
    label: str
    lines: int
    cost: str
    share: str  # of all costs by size, credits counted as what they are worth
    width: str  # the same, in percent for a drawing
    series: int


@dataclass(frozen=True)
class Stretch:
    """A part of the bar: where it starts and how long it is, in percent."""

    label: str
    x: str
    width: str
    series: int
    share: str


def series_of(name: str) -> int:
    """Return the colour of a class: explained, overhead, or to be settled."""
    return 2 if name in EXPLAINED else 1 if name in OVERHEAD else 3


def _totals(bill: VendorBill) -> list[tuple[str, int, Decimal]]:
    """Return class, lines and cost as the last run stored them: lists must not sum a million lines."""
    return [(name, int(lines), Decimal(cost)) for name, (lines, cost) in bill.classes.items()]


def class_rows(bill: VendorBill) -> list[ClassRow]:
    """Return the bill's classes, what is explained first; the costs sum to the bill's total."""
    totals = _totals(bill)
    size = sum((abs(cost) for _name, _lines, cost in totals), Decimal(0)) or Decimal(1)
    labels = dict(Class.choices)
    rank = {str(name): place for place, name in enumerate(ORDER)}
    return [
        ClassRow(
            name=name,
            label=str(labels[name]),
            lines=lines,
            cost=format_money(cost, bill.currency),
            share=f"{abs(cost) / size * 100:.1f} %",
            width=f"{abs(cost) / size * 100:.3f}",
            series=series_of(name),
        )
        for name, lines, cost in sorted(totals, key=lambda row: rank[row[0]])
    ]


def bar(bill: VendorBill) -> list[Stretch]:
    """Return the bill as one bar of three stretches: explained, overhead, to be settled."""
    labels = {2: _("Explained"), 1: _("Commitments and overhead"), 3: _("Differences")}
    sizes = {series: Decimal(0) for series in labels}
    for name, _lines, cost in _totals(bill):
        sizes[series_of(name)] += abs(cost)
    size = sum(sizes.values(), Decimal(0)) or Decimal(1)
    stretches, start = [], Decimal(0)
    for series, label in labels.items():
        width = sizes[series] / size * 100
        stretches.append(Stretch(label, f"{start:.3f}", f"{width:.3f}", series, f"{width:.1f} %"))
        start += width
    return stretches
