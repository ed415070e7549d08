"""Leases on a dated axis, with a line for now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import ClassVar

from django.utils import timezone

from portal.common import states
from portal.dashboard.charts.scales import Tick, percent, time_axis


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineBar:
    """What is drawn on one line: a period and the state that gives it its colour."""

    label: str
    start: datetime
    end: datetime
    state: str
    note: str = ""
    url: str = ""
    state_label: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineRow:
    """A bar in its place, in per cent of the axis."""

    label: str
    note: str
    url: str
    start: datetime
    end: datetime
    state: str
    state_label: str
    tone: str
    dashed: bool  # promised, not yet sure
    x: float
    width: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """Rows over one axis."""

    template_name: ClassVar[str] = "components/charts/timeline.html"
    title: str
    start: datetime
    end: datetime
    rows: list[TimelineRow]
    ticks: list[Tick]
    now: float | None  # in per cent; None when outside the axis


def lease_timeline(
    *,
    title: str,
    bars: Sequence[TimelineBar],
    start: datetime,
    end: datetime,
    now: datetime,
    zone: tzinfo | None = None,
) -> Timeline | None:
    """Draw the bars that touch ``[start, end)``, in the given order; ``None`` when none does.

    All times are aware; the axis is labelled in ``zone``, by default the person's.
    Raises ``ValueError`` when ``end`` is not after ``start``.
    """
    if end <= start:
        raise ValueError("the end must be after the start")
    low, high = start.timestamp(), end.timestamp()
    rows = []
    for bar in bars:
        if bar.end <= start or bar.start >= end:
            continue
        x = percent(max(bar.start, start).timestamp(), low, high)
        right = percent(min(bar.end, end).timestamp(), low, high)
        rows.append(
            TimelineRow(
                label=bar.label,
                note=bar.note,
                url=bar.url,
                start=bar.start,
                end=bar.end,
                state=bar.state,
                state_label=bar.state_label or states.label_of(bar.state),
                tone=states.tone_of(bar.state),
                dashed=bar.state in {"held", "awaiting"},
                x=x,
                width=max(0.4, round(right - x, 3)),
            )
        )
    if not rows:
        return None
    return Timeline(
        title=title,
        start=start,
        end=end,
        rows=rows,
        ticks=time_axis(start, end, zone or timezone.get_current_timezone()),
        now=percent(now.timestamp(), low, high) if start <= now < end else None,
    )
