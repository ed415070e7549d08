"""Axes: round numbers for values, round dates for time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import TypeAlias

from django.utils import formats
from django.utils.translation import pgettext

Number: TypeAlias = int | float | Decimal
Format: TypeAlias = Callable[[Number], str]

HOUR = timedelta(hours=1)
# Steps of a time axis in hours; from a day on they are whole local days.
STEPS = (1, 2, 3, 6, 12, 24, 48, 72, 96, 168, 336, 672, 1344, 2688, 8760)


# Beyond this, months are rounder than weeks; beyond that, their year must be said.
MONTHS_FROM = timedelta(days=120)
YEAR_FROM = timedelta(days=300)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: its text, and its place in per cent from the start (top or left)."""

    at: float
    text: str
    zero: bool = False  # the zero line of an axis that also goes below it


def plain(value: Number) -> str:
    """Write a number in the active locale, with up to two decimals."""
    size = abs(float(value))
    places = 0 if size == round(size) else (1 if size >= 10 else 2)
    return formats.number_format(value, decimal_pos=places, use_l10n=True, force_grouping=True)


def percent(value: float, low: float, high: float) -> float:
    """Return where ``value`` lies between ``low`` and ``high``, in per cent, rounded for markup."""
    return round((value - low) / (high - low) * 100, 3)


def value_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers that enclose ``low`` and ``high``."""
    if high - low <= 1e-6 * max(1.0, abs(low)):
        high = low + max(1.0, abs(low) * 1e-3)
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def value_axis(ticks: Sequence[float], write: Format) -> list[Tick]:
    """Return the ticks of a vertical axis, top first."""
    low, high = ticks[0], ticks[-1]
    return [
        Tick(round(100 - percent(t, low, high), 3), write(t), zero=t == 0 and low < 0)
        for t in reversed(ticks)
    ]


def _local_steps(start: datetime, end: datetime, hours: int, zone: tzinfo) -> Iterator[datetime]:
    # Wall-clock arithmetic from a local midnight: midnight stays midnight when the clocks change.
    wall = start.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if hours % 168 == 0:
        wall -= timedelta(days=wall.weekday())
    last = None
    while True:
        # Through UTC, so that a time that the clocks skip becomes the one after it.
        moment = wall.replace(tzinfo=zone).astimezone(UTC)
        if moment > end:
            return
        if moment >= start and moment != last:
            yield moment.astimezone(zone)
        last = moment
        wall += hours * HOUR


def _local_months(start: datetime, end: datetime, count: int, zone: tzinfo) -> Iterator[datetime]:
    first, last = start.astimezone(zone), end.astimezone(zone)
    months = (last.year - first.year) * 12 + last.month - first.month
    step = next((step for step in (1, 2, 3, 6, 12) if months / step <= count), 24)
    number = -(-(first.year * 12 + first.month - 1) // step) * step
    while (moment := datetime(number // 12, number % 12 + 1, 1, tzinfo=zone)) <= end:
        if moment >= start:
            yield moment
        number += step


def time_axis(start: datetime, end: datetime, zone: tzinfo, count: int = 8) -> list[Tick]:
    """Return at most about ``count`` ticks at round local times between two moments."""
    low, high = start.timestamp(), end.timestamp()
    if end - start > MONTHS_FROM:
        pattern = (
            pgettext("month and year format of django.utils.dateformat", "M Y")
            if end - start > YEAR_FROM
            else pgettext("month format of django.utils.dateformat", "M")
        )
        return [
            Tick(percent(moment.timestamp(), low, high), formats.date_format(moment, pattern))
            for moment in _local_months(start, end, count, zone)
        ]
    span = (end - start) / HOUR
    # From two days on, days say more than hours.
    fitting = (step for step in STEPS if span / step <= count and (step >= 24 or span <= 48))
    hours = next(fitting, STEPS[-1])
    pattern = (
        pgettext("short date format of django.utils.dateformat", "j M")
        if hours >= 24
        else pgettext("time format of django.utils.dateformat", "H:i")
    )
    return [
        Tick(percent(moment.timestamp(), low, high), formats.date_format(moment, pattern))
        for moment in _local_steps(start, end, hours, zone)
    ]
