"""Sparklines and charts over time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar

from django.utils import formats, timezone
from django.utils.translation import pgettext

from portal.dashboard.charts.scales import (
    YEAR_FROM,
    Format,
    Number,
    Tick,
    percent,
    plain,
    time_axis,
    value_axis,
    value_ticks,
)

Point = tuple[float, float]
LABEL_HEIGHT = 7.5  # of a plot, in per cent
MOST_POINTS = 240  # more than a chart has pixels to show; the rest is thinned out


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparkline:
    """A small line without axes, in a box of 100 by 30."""

    template_name: ClassVar[str] = "components/charts/sparkline.html"
    label: str
    line: str
    area: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Values at the chart's times; ``None`` leaves a gap."""

    label: str
    values: Sequence[Number | None]
    step: bool = False  # keeps each value until the next, as a capacity does


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One series, drawn in a box of 100 by 100."""

    label: str
    number: int  # 1 … 6: its colour
    line: str
    area: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EndLabel:
    """A line's name beside its end, in per cent of the plot from the top."""

    number: int
    text: str
    y: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the chart's table."""

    at: datetime
    texts: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeChart:
    """One or more series over time, with axes, points to read out, and a table."""

    template_name: ClassVar[str] = "components/charts/time.html"
    title: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    points: list[dict[str, Any]]
    rows: list[Row] = field(repr=False)
    labels: list[EndLabel] = field(default_factory=list)  # where there is room, instead of a legend

    @property
    def has_legend(self) -> bool:
        """Whether there is more than one line to tell apart."""
        return len(self.lines) > 1


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def smooth_path(points: Sequence[Point]) -> str:
    """Return an SVG path through ``points`` that never overshoots them.

    Monotone cubic interpolation, F. N. Fritsch and R. E. Carlson, SIAM J. Numer.
    Anal. 17 (1980): between two points the curve stays between their values, so it
    shows no peak that the data do not have.
    """
    if not points:
        return ""
    path = f"M{_n(points[0][0])} {_n(points[0][1])}"
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) if b[0] != a[0] else 0.0 for a, b in itertools.pairwise(points)]
    if not slopes:
        return path
    tangents = [slopes[0]]
    for before, after in itertools.pairwise(slopes):
        # The harmonic mean keeps |tangent| within three times the flatter slope.
        tangents.append(0.0 if before * after <= 0 else 2 * before * after / (before + after))
    tangents.append(slopes[-1])
    for i, (a, b) in enumerate(itertools.pairwise(points)):
        third = (b[0] - a[0]) / 3
        path += (
            f"C{_n(a[0] + third)} {_n(a[1] + tangents[i] * third)}"
            f" {_n(b[0] - third)} {_n(b[1] - tangents[i + 1] * third)}"
            f" {_n(b[0])} {_n(b[1])}"
        )
    return path


def step_path(points: Sequence[Point]) -> str:
    """Return an SVG path that keeps each value until the next point."""
    if not points:
        return ""
    path = f"M{_n(points[0][0])} {_n(points[0][1])}"
    for x, y in points[1:]:
        path += f"H{_n(x)}V{_n(y)}"
    return path


def _area(path: str, points: Sequence[Point], bottom: float) -> str:
    if len(points) < 2:
        return ""
    return f"{path}V{_n(bottom)}H{_n(points[0][0])}Z"


def sparkline(values: Sequence[Number], *, label: str) -> Sparkline | None:
    """Draw values at equal steps; ``label`` says what they are. ``None`` for fewer than two."""
    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        return None
    low, high = min(numbers), max(numbers)
    spread = (high - low) or 1.0
    last = len(numbers) - 1
    points = [(i / last * 100, 28 - (value - low) / spread * 26) for i, value in enumerate(numbers)]
    line = smooth_path(points)
    return Sparkline(label=label, line=line, area=_area(line, points, 30))


def thin_out(values: Sequence[float], most: int) -> list[int]:
    """Return the indexes of at most ``most`` points that keep the shape of the line.

    Largest-Triangle-Three-Buckets (S. Steinarsson, 2013): first and last stay, and of
    each bucket the point that spans the largest triangle with its neighbours.
    """
    count = len(values)
    if count <= most or most < 3:
        return list(range(count))
    kept = [0]
    width = (count - 2) / (most - 2)
    for bucket in range(most - 2):
        start = int(bucket * width) + 1
        end = int((bucket + 1) * width) + 1
        after = range(end, min(int((bucket + 2) * width) + 1, count)) or range(count - 1, count)
        mean_x = sum(after) / len(after)
        mean_y = sum(values[i] for i in after) / len(after)
        x0, y0 = kept[-1], values[kept[-1]]
        kept.append(
            max(
                range(start, end),
                key=lambda i: abs((x0 - mean_x) * (values[i] - y0) - (x0 - i) * (mean_y - y0)),
            )
        )
    kept.append(count - 1)
    return kept


def _runs(points: Sequence[Point | None], xs: Sequence[float], *, step: bool) -> list[list[Point]]:
    """Split at the gaps. A step holds until the moment at which its value is no longer known."""
    runs: list[list[Point]] = [[]]
    for point, x in zip(points, xs, strict=True):
        if point is not None:
            runs[-1].append(point)
        elif runs[-1]:
            if step:
                runs[-1].append((x, runs[-1][-1][1]))
            runs.append([])
    return [run for run in runs if run]


def _end_labels(ends: Sequence[tuple[int, str, float]]) -> list[EndLabel]:
    """Return the labels from top to bottom, moved apart so that none covers another."""
    labels: list[EndLabel] = []
    lowest = -LABEL_HEIGHT
    for number, text, y in sorted(ends, key=lambda end: end[2]):
        lowest = max(y, lowest + LABEL_HEIGHT)
        labels.append(EndLabel(number=number, text=text, y=round(lowest, 2)))
    limit = 100.0
    for index in range(len(labels) - 1, -1, -1):  # what ran out at the bottom moves up again
        if labels[index].y <= limit:
            break
        labels[index] = replace(labels[index], y=round(limit, 2))
        limit -= LABEL_HEIGHT
    return labels


def time_chart(
    *,
    title: str,
    times: Sequence[datetime],
    series: Sequence[Series],
    write: Format = plain,
    floor: float | None = 0,
    zone: tzinfo | None = None,
    direct_labels: bool = False,
) -> TimeChart | None:
    """Draw series over ``times`` (aware, ascending). ``None`` when there is nothing to draw.

    ``floor`` is the least value on the axis unless a value lies below it; ``None``
    starts near the least value, for numbers such as prices whose zero is far away.
    ``write`` formats values. Times are shown in ``zone``, by default the person's.
    ``direct_labels`` names each line at its end.
    """
    zone = zone or timezone.get_current_timezone()
    known = [float(value) for one in series for value in one.values if value is not None]
    if len(times) < 2 or not known:
        return None
    keep = thin_out(
        [sum(float(one.values[i] or 0) for one in series) for i in range(len(times))], MOST_POINTS
    )
    times = [times[i] for i in keep]

    low = min(known) if floor is None else min(floor, min(known))
    ticks = value_ticks(low, max(known))
    start, end = times[0].timestamp(), times[-1].timestamp()
    xs = [percent(at.timestamp(), start, end) for at in times]

    def y(value: Number | None) -> float | None:
        return None if value is None else round(100 - percent(float(value), ticks[0], ticks[-1]), 3)

    lines, ends = [], []
    for number, one in enumerate(series, start=1):
        places = [y(one.values[i]) for i in keep]
        points_or_gaps = [None if py is None else (px, py) for px, py in zip(xs, places, strict=True)]
        runs = _runs(points_or_gaps, xs, step=one.step)
        paths = [step_path(run) if one.step else smooth_path(run) for run in runs]
        if runs:
            ends.append((number, one.label, runs[-1][-1][1]))
        lines.append(
            Line(
                label=one.label,
                number=number,
                line="".join(paths),
                area="".join(_area(path, run, 100) for path, run in zip(paths, runs, strict=True)),
            )
        )

    whole_days = all(at.astimezone(zone).strftime("%H%M") == "0000" for at in times[:3])
    pattern = (
        pgettext("short date format of django.utils.dateformat", "j M")
        if whole_days and times[-1] - times[0] <= YEAR_FROM
        else pgettext("date format of django.utils.dateformat", "j M Y")
        if times[-1] - times[0] > YEAR_FROM
        else pgettext("short date and time format of django.utils.dateformat", "j M, H:i")
    )
    points, rows = [], []
    for place, i, at in zip(xs, keep, times, strict=True):
        values = [one.values[i] for one in series]
        texts = ["–" if value is None else write(value) for value in values]
        named = (
            [f"{one.label} {text}" for one, text in zip(series, texts, strict=True)]
            if len(series) > 1
            else texts
        )
        text = f"{formats.date_format(at.astimezone(zone), pattern)} · {' · '.join(named)}"
        points.append({"x": place, "y": [y(value) for value in values], "text": text})
        rows.append(Row(at=at.astimezone(UTC), texts=texts))
    return TimeChart(
        title=title,
        lines=lines,
        x_ticks=time_axis(times[0], times[-1], zone),
        y_ticks=value_axis(ticks, write),
        points=points,
        rows=rows,
        labels=_end_labels(ends) if direct_labels else [],
    )
