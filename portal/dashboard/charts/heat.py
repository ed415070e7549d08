"""The calendar: a table with a number in every cell, and a colour that repeats it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from django.utils import formats
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from portal.dashboard.charts.scales import plain

LEVELS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatRow:
    """One line of the calendar: a value for each day (``None``: not sold that day).

    ``urls`` makes cells links; ``capacity`` is what a full cell would be, by default
    the largest value of the whole map.
    """

    label: str
    values: Sequence[int | None]
    note: str = ""
    urls: Sequence[str] = ()
    capacity: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatDay:
    """A column: ``weekday`` and ``day`` are shown, ``full`` is read out."""

    day: date
    weekday: str
    number: str
    month: str  # only where a month begins
    full: str
    weekend: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatCell:
    """A number, its level from 0 to 5, and where it leads."""

    text: str
    level: int
    url: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnRow:
    """A line of the table."""

    label: str
    note: str
    cells: list[HeatCell]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """The calendar as a table."""

    template_name: ClassVar[str] = "components/charts/heat.html"
    title: str
    low_text: str
    high_text: str
    days: list[HeatDay]
    rows: list[DrawnRow]
    levels: range = range(LEVELS + 1)


def level(value: int, capacity: int) -> int:
    """Return 0 for nothing, else 1 to 5 by the share of ``capacity``."""
    if value <= 0:
        return 0
    share = min(1.0, value / max(1, capacity))
    return min(LEVELS, 1 + int(share * LEVELS * 0.999999))


def heat_map(
    *,
    title: str,
    days: Sequence[date],
    rows: Sequence[HeatRow],
    low_text: str = "",
    high_text: str = "",
    sentence: str = "",
) -> HeatMap | None:
    """Draw a calendar; ``None`` without rows or days.

    ``sentence`` is what a cell says aloud, with ``%(row)s``, ``%(day)s`` and
    ``%(value)s``. Raises ``ValueError`` when a row has not one value for each day.
    """
    if not days or not rows:
        return None
    sentence = sentence or _("%(row)s, %(day)s: %(value)s free")
    largest = max((value or 0 for row in rows for value in row.values), default=0)
    columns = [
        HeatDay(
            day=day,
            weekday=formats.date_format(day, "D")[:1],
            number=str(day.day),
            month=formats.date_format(day, "M") if index == 0 or day.day == 1 else "",
            full=formats.date_format(day, pgettext("full date format of django.utils.dateformat", "l j F Y")),
            weekend=day.weekday() >= 5,
        )
        for index, day in enumerate(days)
    ]
    drawn = []
    for row in rows:
        if len(row.values) != len(days):
            raise ValueError(f"row {row.label!r} has {len(row.values)} values for {len(days)} days")
        cells = []
        for index, (column, value) in enumerate(zip(columns, row.values, strict=True)):
            text = "–" if value is None else plain(value)
            cells.append(
                HeatCell(
                    text=text,
                    level=level(value or 0, row.capacity or largest),
                    url=row.urls[index] if index < len(row.urls) else "",
                    label=sentence % {"row": row.label, "day": column.full, "value": text},
                )
            )
        drawn.append(DrawnRow(label=row.label, note=row.note, cells=cells))
    return HeatMap(
        title=title,
        low_text=low_text or _("Full"),
        high_text=high_text or _("Wide open"),
        days=columns,
        rows=drawn,
    )
