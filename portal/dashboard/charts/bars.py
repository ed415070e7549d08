"""Stacked bars: spend by day and kind, use by project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from portal.dashboard.charts.scales import Format, Number, Tick, percent, plain, value_axis, value_ticks

MOST_LABELS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar: its text and its values in the order of the chart's categories."""

    label: str
    values: Sequence[Number]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of a bar, in per cent of the plot."""

    number: int  # 1 … 6: its colour
    y: float
    height: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnBar:
    """A bar in its place, in per cent of the plot."""

    x: float
    width: float
    segments: list[Segment]


@dataclass(frozen=True, kw_only=True, slots=True)
class BarRow:
    """One row of the chart's table: a text for each category, and the total."""

    label: str
    texts: list[str]
    total: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BarChart:
    """Stacked bars with axes, points to read out, and a table."""

    template_name: ClassVar[str] = "components/charts/bars.html"
    title: str
    label_heading: str
    categories: list[tuple[int, str]]
    bars: list[DrawnBar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    points: list[dict[str, Any]]
    rows: list[BarRow] = field(repr=False)

    @property
    def has_legend(self) -> bool:
        """Whether there is more than one category to tell apart."""
        return len(self.categories) > 1


def bar_chart(
    *,
    title: str,
    categories: Sequence[str],
    bars: Sequence[Bar],
    write: Format = plain,
    write_axis: Format | None = None,
    label_heading: str = "",
) -> BarChart | None:
    """Draw stacked bars. ``None`` when every value is zero or there is no bar.

    Values are stacked in the order of ``categories`` (six colours at most); a
    negative one, such as a credit, is drawn below zero. ``write_axis`` formats the
    axis where that is shorter than ``write``.
    """
    if not bars or not any(value for bar in bars for value in bar.values):
        return None
    highs = [sum(float(value) for value in bar.values if value > 0) for bar in bars]
    lows = [sum(float(value) for value in bar.values if value < 0) for bar in bars]
    ticks = value_ticks(min(0.0, *lows) if lows else 0.0, max(0.0, *highs))
    slot = 100 / len(bars)
    gap = 0.3 if len(bars) <= 40 else 0.15

    drawn, points, rows = [], [], []
    for index, bar in enumerate(bars):
        up = down = 0.0
        segments = []
        for number, value in enumerate(bar.values, start=1):
            size = float(value)
            if not size:
                continue
            low, high = (up, up + size) if size > 0 else (down + size, down)
            up, down = (high, down) if size > 0 else (up, low)
            top = 100 - percent(high, ticks[0], ticks[-1])
            bottom = 100 - percent(low, ticks[0], ticks[-1])
            segments.append(Segment(number=min(number, 6), y=round(top, 3), height=round(bottom - top, 3)))
        x = slot * (index + gap / 2)
        drawn.append(DrawnBar(x=round(x, 3), width=round(slot * (1 - gap), 3), segments=segments))

        total = write(sum(bar.values))
        texts = [write(value) for value in bar.values]
        parts = [
            f"{name} {text}" for name, text, value in zip(categories, texts, bar.values, strict=True) if value
        ]
        detail = f" ({', '.join(parts)})" if len(parts) > 1 else ""
        points.append(
            {"x": round(slot * (index + 0.5), 3), "y": [], "text": f"{bar.label} · {total}{detail}"}
        )
        rows.append(BarRow(label=bar.label, texts=texts, total=total))

    every = -(-len(bars) // MOST_LABELS)
    return BarChart(
        title=title,
        label_heading=label_heading,
        categories=[(min(number, 6), name) for number, name in enumerate(categories, start=1)],
        bars=drawn,
        x_ticks=[Tick(round(slot * (i + 0.5), 3), bars[i].label) for i in range(0, len(bars), every)],
        y_ticks=value_axis(ticks, write_axis or write),
        points=points,
        rows=rows,
    )
