"""Charts are shapes computed from numbers: they show what is there and nothing else."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.template.loader import render_to_string
from hypothesis import given
from hypothesis import strategies as st

from portal.common.money import format_money
from portal.dashboard import charts
from portal.dashboard.charts.heat import level
from portal.dashboard.charts.lines import smooth_path, step_path, thin_out
from portal.dashboard.charts.scales import time_axis, value_ticks

START = datetime(2026, 11, 1, tzinfo=UTC)
DUBLIN = ZoneInfo("Europe/Dublin")


def draw(chart: object) -> str:
    return render_to_string(chart.template_name, {"chart": chart})  # type: ignore[attr-defined]


def hours(count: int, step: int = 24) -> list[datetime]:
    return [START + timedelta(hours=step * i) for i in range(count)]


# --- scales ---------------------------------------------------------------------------------------


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_value_ticks_enclose_the_values_in_few_even_steps(low, spread):
    ticks = value_ticks(low, low + spread)
    assert ticks[0] <= low + 1e-6 * max(1, abs(low), spread)
    assert ticks[-1] >= low + spread - 1e-6 * max(1, abs(low + spread))
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_value_ticks_are_round():
    assert value_ticks(0, 512) == [0, 200, 400, 600]
    assert value_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]


def test_days_on_the_axis_are_the_persons_midnights_also_when_the_clocks_change():
    # Summer time ended in Dublin on 25 October 2026: the days around it have 23, 24 or 25 hours.
    start = datetime(2026, 10, 23, 23, tzinfo=UTC)
    ticks = time_axis(start, start + timedelta(days=4), DUBLIN)
    assert [tick.text for tick in ticks] == ["24 Oct", "25 Oct", "26 Oct", "27 Oct"]
    gaps = [b.at - a.at for a, b in itertools.pairwise(ticks)]
    assert gaps[1] > gaps[0]  # the 25th has 25 hours


def test_a_skipped_hour_is_not_on_the_axis():
    # In Dublin 01:00 to 02:00 did not exist on 29 March 2026.
    start = datetime(2026, 3, 29, 0, tzinfo=UTC)
    texts = [tick.text for tick in time_axis(start, start + timedelta(hours=5), DUBLIN)]
    assert texts == ["00:00", "02:00", "03:00", "04:00", "05:00", "06:00"]


@pytest.mark.parametrize(
    ("days", "texts"),
    [
        (119, ["23 Nov", "21 Dec", "18 Jan", "15 Feb"]),
        (200, ["Nov", "Dec", "Jan", "Feb", "Mar", "Apr", "May"]),
        (365, ["Nov 2026", "Jan 2027", "Mar 2027", "May 2027", "Jul 2027", "Sep 2027", "Nov 2027"]),
        (900, ["Jan 2027", "Jul 2027", "Jan 2028", "Jul 2028", "Jan 2029"]),
    ],
)
def test_a_long_axis_shows_months_and_then_their_year(days, texts):
    ticks = time_axis(START, START + timedelta(days=days), UTC)
    assert [tick.text for tick in ticks] == texts
    assert all(0 <= tick.at <= 100 for tick in ticks)


def test_months_on_the_axis_begin_at_the_persons_midnight():
    start = datetime(2026, 10, 31, 23, tzinfo=UTC)  # midnight in Dublin is UTC's in winter
    first = time_axis(start, start + timedelta(days=150), DUBLIN)[0]
    assert first.text == "Nov"
    assert first.at > 0


def test_a_short_axis_shows_hours_in_the_zone():
    ticks = time_axis(START, START + timedelta(hours=6), ZoneInfo("Asia/Kolkata"))
    assert ticks
    assert all(re.fullmatch(r"\d\d:30|\d\d:00", tick.text) for tick in ticks)


# --- lines ----------------------------------------------------------------------------------------


def test_a_smooth_line_never_leaves_the_values_between_two_points():
    points = [(0.0, 90.0), (10.0, 10.0), (20.0, 10.0), (30.0, 80.0), (40.0, 79.0)]
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", smooth_path(points))]
    heights = numbers[1::2]
    assert min(heights) >= 10
    assert max(heights) <= 90
    # between the two equal points, the line is flat
    assert heights[4:7] == [10, 10, 10]


def test_a_step_line_keeps_each_value_until_the_next():
    assert step_path([(0, 50), (10, 20), (20, 70)]) == "M0 50H10V20H20V70"


def test_a_sparkline_needs_two_values():
    assert charts.sparkline([], label="x") is None
    assert charts.sparkline([1], label="x") is None
    flat = charts.sparkline([5, 5, 5], label="flat")
    assert flat is not None
    assert "nan" not in flat.line


def test_thinning_keeps_the_ends_and_the_peak():
    values = [1.0] * 5000
    values[3217] = 99.0
    kept = thin_out(values, 240)
    assert len(kept) == 240
    assert kept[0] == 0
    assert kept[-1] == 4999
    assert 3217 in kept
    assert kept == sorted(set(kept))


def test_a_time_chart_with_nothing_to_draw_is_none():
    assert charts.time_chart(title="x", times=[], series=[]) is None
    empty = charts.Series(label="a", values=[None, None])
    assert charts.time_chart(title="x", times=hours(2), series=[empty]) is None


def test_a_gap_in_the_values_is_a_gap_in_the_line():
    chart = charts.time_chart(
        title="x", times=hours(5), series=[charts.Series(label="a", values=[1, 2, None, 4, 5])]
    )
    assert chart is not None
    assert chart.lines[0].line.count("M") == 2
    assert chart.points[2]["y"] == [None]
    assert chart.rows[2].texts == ["–"]


def test_a_step_holds_until_its_value_is_no_longer_known():
    series = charts.Series(label="a", values=[1, 2, None, 4, 4], step=True)
    chart = charts.time_chart(title="x", times=hours(5), series=[series])
    assert chart is not None
    # 1 from 0 to 25 %, 2 from there to 50 %, and from 75 % on 4.
    assert re.findall(r"[MHV][\d.]+", chart.lines[0].line) == [
        "M0",
        "H25",
        "V50",
        "H50",
        "V50",
        "M75",
        "H100",
        "V0",
    ]


def test_names_at_the_ends_of_lines_never_cover_each_other():
    values = [5, 5, 5.1, 0, 0.1, 9]
    series = [charts.Series(label=f"s{i}", values=[1, value]) for i, value in enumerate(values)]
    chart = charts.time_chart(title="x", times=hours(2), series=series, direct_labels=True)
    assert chart is not None
    places = [label.y for label in chart.labels]
    assert chart.labels[0].text == "s5"
    assert all(b - a >= 7.4 for a, b in itertools.pairwise(places))
    assert places[0] >= 0 and places[-1] <= 100
    markup = draw(chart)
    assert all(f">s{i}</text>" in markup for i in range(6))
    assert "sb-legend--spare" in markup  # the legend stands in where there is no room


def test_a_name_stands_where_a_line_ended_before_the_others():
    series = [charts.Series(label="gone", values=[8, None]), charts.Series(label="here", values=[2, 2])]
    chart = charts.time_chart(title="x", times=hours(2), series=series, direct_labels=True)
    assert chart is not None
    assert [label.text for label in chart.labels] == ["gone", "here"]


def test_a_time_chart_says_its_numbers_exactly_as_given():
    cents = Decimal("1234567.89")
    chart = charts.time_chart(
        title="Spend",
        times=hours(2),
        series=[charts.Series(label="Spend", values=[Decimal(0), cents])],
        write=lambda value: format_money(Decimal(value), "USD"),
        zone=UTC,
    )
    assert chart is not None
    assert chart.points[1]["text"] == "2 Nov · $1,234,567.89"
    html = draw(chart)
    assert html.count("$1,234,567.89") == 2  # to read out, and in the table


def test_several_series_get_a_legend_and_names_in_the_tip():
    series = [
        charts.Series(label="In use", values=[1, 2]),
        charts.Series(label="Leased", values=[3, 3], step=True),
    ]
    chart = charts.time_chart(title="GPUs", times=hours(2), series=series, zone=UTC)
    assert chart is not None
    assert chart.has_legend
    assert chart.points[0]["text"] == "1 Nov · In use 1 · Leased 3"
    assert "H100V" in chart.lines[1].line


# --- bars -----------------------------------------------------------------------------------------


def test_bars_stack_upwards_and_credits_hang_below_zero():
    chart = charts.bar_chart(
        title="Spend",
        categories=["Usage", "Storage", "Credit"],
        bars=[charts.Bar(label="1 Nov", values=[60, 40, 0]), charts.Bar(label="2 Nov", values=[20, 0, -50])],
    )
    assert chart is not None
    usage, storage = chart.bars[0].segments
    assert storage.y + storage.height == pytest.approx(usage.y, abs=0.01)
    zero = next(tick.at for tick in chart.y_ticks if tick.zero)
    assert usage.y + usage.height == pytest.approx(zero, abs=0.01)
    credit = chart.bars[1].segments[1]
    assert credit.y == pytest.approx(zero, abs=0.01)
    assert chart.rows[1].total == "-30"


def test_bars_of_nothing_are_none():
    assert charts.bar_chart(title="x", categories=["a"], bars=[]) is None
    assert charts.bar_chart(title="x", categories=["a"], bars=[charts.Bar(label="1", values=[0])]) is None


def test_many_bars_get_few_labels():
    bars = [charts.Bar(label=f"d{i}", values=[i + 1]) for i in range(90)]
    chart = charts.bar_chart(title="x", categories=["a"], bars=bars)
    assert chart is not None
    assert len(chart.x_ticks) <= 8


# --- heat map -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "capacity", "expected"),
    [(0, 10, 0), (1, 100, 1), (20, 100, 1), (21, 100, 2), (100, 100, 5), (150, 100, 5), (3, 0, 5)],
)
def test_levels(value, capacity, expected):
    assert level(value, capacity) == expected


def test_every_cell_has_its_number_its_level_and_a_name():
    days = [date(2026, 11, 30), date(2026, 12, 1)]
    chart = charts.heat_map(
        title="Free GPUs",
        days=days,
        rows=[charts.HeatRow(label="H100", values=[64, None], urls=["/a", ""], capacity=64)],
    )
    assert chart is not None
    html = draw(chart)
    assert '<a href="/a" aria-label="H100, Monday 30 November 2026: 64 free"' in html
    assert "sb-level-5" in html
    assert ">–<" in html
    assert [day.month for day in chart.days] == ["Nov", "Dec"]


def test_a_row_must_have_one_value_for_each_day():
    with pytest.raises(ValueError, match="1 values for 2 days"):
        charts.heat_map(
            title="x", days=[date(2026, 1, 1), date(2026, 1, 2)], rows=[charts.HeatRow(label="a", values=[1])]
        )


# --- timeline -------------------------------------------------------------------------------------


def bar(start_day: float, end_day: float, state: str = "active") -> charts.TimelineBar:
    return charts.TimelineBar(
        label="train",
        start=START + timedelta(days=start_day),
        end=START + timedelta(days=end_day),
        state=state,
    )


def timeline(bars: list[charts.TimelineBar]) -> charts.Timeline | None:
    return charts.lease_timeline(
        title="Leases", bars=bars, start=START, end=START + timedelta(days=10), now=START + timedelta(days=5)
    )


def test_bars_are_cut_at_the_axis_and_what_lies_outside_is_left_out():
    chart = timeline([bar(-5, 5), bar(8, 20), bar(-3, 0), bar(10, 12)])
    assert chart is not None
    assert [(row.x, row.width) for row in chart.rows] == [(0, 50), (80, 20)]
    assert chart.now == 50
    assert timeline([bar(-3, 0)]) is None


def test_a_very_short_lease_can_still_be_seen():
    chart = timeline([bar(5, 5.0001)])
    assert chart is not None
    assert chart.rows[0].width > 0.3


def test_a_timeline_needs_an_axis():
    with pytest.raises(ValueError, match="after the start"):
        charts.lease_timeline(title="x", bars=[], start=START, end=START, now=START)


def test_no_chart_writes_an_inline_style_or_a_comma_for_a_decimal_point(settings):
    settings.LANGUAGE_CODE = "de"
    drawn = [
        timeline([bar(1, 3.3, "awaiting")]),
        charts.time_chart(title="x", times=hours(3), series=[charts.Series(label="a", values=[1.5, 2, 3])]),
        charts.bar_chart(title="x", categories=["a"], bars=[charts.Bar(label="1", values=[1.5])] * 3),
        charts.heat_map(title="x", days=[date(2026, 1, 1)], rows=[charts.HeatRow(label="a", values=[1])]),
        charts.sparkline([1, 2.5, 3], label="x"),
    ]
    for one in drawn:
        html = draw(one)
        assert " style=" not in html
        assert not re.search(r'(?:x|y|x1|x2|y1|y2|width|height)="\d+,\d', html)


def test_labels_are_escaped():
    evil = "<script>alert(1)</script>"
    chart = charts.time_chart(
        title=evil, times=hours(2), series=[charts.Series(label=evil, values=[1, 2])] * 2
    )
    html = draw(chart)
    assert evil not in html
