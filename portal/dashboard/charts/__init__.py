"""Charts as data: pure functions from numbers to shapes, drawn by templates as SVG.

No script is needed to see them, no inline style is used (the policy forbids it),
and every chart carries its numbers as a table. Coordinates are percentages, so a
chart fits any width; texts are HTML and keep their size.

Numbers are turned into ``float`` only to find their place on the page. What is
written is formatted from the number as given, so money stays ``Decimal``.
"""

from portal.dashboard.charts.bars import Bar, BarChart, bar_chart
from portal.dashboard.charts.heat import HeatMap, HeatRow, heat_map
from portal.dashboard.charts.lines import Series, Sparkline, TimeChart, sparkline, time_chart
from portal.dashboard.charts.timeline import Timeline, TimelineBar, lease_timeline

__all__ = [
    "Bar",
    "BarChart",
    "HeatMap",
    "HeatRow",
    "Series",
    "Sparkline",
    "TimeChart",
    "Timeline",
    "TimelineBar",
    "bar_chart",
    "heat_map",
    "lease_timeline",
    "sparkline",
    "time_chart",
]
