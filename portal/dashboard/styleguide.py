"""Every component on one page, with plausible example data. Local mode only.

It is where a component is looked at while it is made, and the page that the
browser tests check for accessibility and for the content security policy.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from portal.common.money import format_money
from portal.common.states import STATES
from portal.dashboard import charts

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)  # examples do not move


class ExampleForm(forms.Form):
    """One field of each kind, bound to an input that has errors."""

    gpu_model = forms.ChoiceField(
        label="GPU", choices=[("h100", "H100 SXM 80 GB"), ("h200", "H200 141 GB"), ("b200", "B200 192 GB")]
    )
    nodes = forms.IntegerField(label="Nodes", min_value=1, help_text="Each has 8 GPUs.")
    start = forms.DateTimeField(
        label="Start",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        help_text="In your time zone.",
    )
    purchase_order = forms.CharField(label="Purchase order", required=False)
    addresses = forms.CharField(
        label="Addresses that may connect",
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="One IPv4 or IPv6 network a line, for example 203.0.113.0/24.",
    )
    billing = forms.ChoiceField(
        label="Pay",
        choices=[("wallet", "From the wallet, as used"), ("invoice", "By monthly invoice")],
        widget=forms.RadioSelect,
    )
    one_fabric = forms.BooleanField(
        label="All nodes on one fabric", required=False, help_text="Needed for training across nodes."
    )

    def clean_nodes(self) -> int:
        """Refuse what the example wants refused."""
        nodes: int = self.cleaned_data["nodes"]
        if nodes > 64:
            raise forms.ValidationError(
                "At most 64 nodes are free then. Ask for fewer, or look at other dates."
            )
        return nodes


def _wave(count: int, base: float, swing: float, seed: int) -> list[float]:
    """Return values that look like measurements, always the same for a seed."""
    return [
        round(
            base
            + swing * math.sin((i + seed) / 5.3)
            + swing * 0.45 * math.sin((i * 1.7 + seed) / 2.1)
            + swing * 0.18 * math.sin(i * 5.1 + seed),
            1,
        )
        for i in range(count)
    ]


def _calendar() -> charts.HeatMap | None:
    days = [date(2026, 11, 22) + timedelta(days=i) for i in range(28)]
    rows = []
    for number, (label, note, capacity) in enumerate(
        [
            ("H100 SXM", "80 GB", 96),
            ("H200", "141 GB", 96),
            ("B200", "192 GB", 64),
            ("A100", "80 GB", 144),
            ("L40S", "48 GB", 64),
        ]
    ):
        values = [
            max(0, min(capacity, int(v))) for v in _wave(28, capacity * 0.42, capacity * 0.5, number * 7)
        ]
        urls = [f"?from={day}" for day in days]
        rows.append(charts.HeatRow(label=label, note=note, values=values, urls=urls, capacity=capacity))
    return charts.heat_map(title="Free GPUs, next 28 days", days=days, rows=rows)


def _timeline() -> charts.Timeline | None:
    def at(days: float) -> datetime:
        return NOW + timedelta(days=days)

    bars = [
        charts.TimelineBar(
            label="train-llm-07", note="64 × H100 SXM", start=at(-6), end=at(15), state="active", url="#"
        ),
        charts.TimelineBar(
            label="eval-cluster", note="8 × H200", start=at(-14), end=at(4), state="active", url="#"
        ),
        charts.TimelineBar(
            label="vision-finetune", note="16 × A100", start=at(6), end=at(18), state="awaiting", url="#"
        ),
        charts.TimelineBar(
            label="bio-folding", note="32 × B200", start=at(12), end=at(40), state="scheduled", url="#"
        ),
        charts.TimelineBar(
            label="inference-eu", note="24 × L40S", start=at(-30), end=at(90), state="active", url="#"
        ),
        charts.TimelineBar(
            label="ablation-sweep", note="8 × H100 SXM", start=at(-12), end=at(-4), state="ended", url="#"
        ),
    ]
    return charts.lease_timeline(title="Leases, six weeks", bars=bars, start=at(-10), end=at(32), now=NOW)


def _spend() -> charts.BarChart | None:
    bars = []
    for i in range(30):
        day = date(2026, 10, 24) + timedelta(days=i)
        usage = Decimal(str(_wave(30, 9800, 2600, 3)[i])).quantize(Decimal("0.01"))
        storage = Decimal(str(_wave(30, 1500, 420, 11)[i])).quantize(Decimal("0.01"))
        credit = Decimal("-1250.00") if i == 17 else Decimal(0)
        bars.append(charts.Bar(label=f"{day.day} {day:%b}", values=[usage, storage, credit]))
    return charts.bar_chart(
        title="Spend by day",
        label_heading="Day",
        categories=["On lease", "Pass-through", "Credits"],
        bars=bars,
        write=lambda value: format_money(Decimal(value), "USD", places=0),
    )


def _context(request: HttpRequest) -> dict[str, Any]:
    days = [NOW.replace(hour=0, minute=0) - timedelta(days=55 - i) for i in range(56)]
    trend = {key: _wave(30, 50, 9, seed) for seed, key in enumerate(("gpus", "use", "spend", "price"))}
    form = ExampleForm(
        {"gpu_model": "h100", "nodes": "80", "start": "", "addresses": "203.0.113.0/24", "billing": "wallet"}
        if request.GET.get("form") != "new"
        else None
    )
    return {
        "now": NOW,
        "soon": datetime.now(UTC) + timedelta(minutes=14, seconds=52),
        "past": NOW - timedelta(hours=1),
        "states": list(STATES),
        "sparklines": {
            key: charts.sparkline(values, label=_("Trend of the last 30 days"))
            for key, values in trend.items()
        },
        "calendar": _calendar(),
        "timeline": _timeline(),
        "spend": _spend(),
        "utilization": charts.time_chart(
            title="GPUs in use and leased",
            times=days,
            series=[
                charts.Series(label="In use", values=[min(512, v) for v in _wave(56, 410, 70, 2)]),
                charts.Series(label="Leased", values=[448 if i < 20 else 512 for i in range(56)], step=True),
            ],
        ),
        "form": form,
        "ssh_command": "ssh -i ~/.ssh/sublet ubuntu@203.0.113.17",
        "tabs": [
            {"label": "Overview", "url": "#", "current": True},
            {"label": "Machines", "url": "#machines", "count": 8},
            {"label": "Events", "url": "#events", "count": 14},
            {"label": "Cost", "url": "#cost"},
        ],
        "leases": [
            ("train-llm-07", "active", "H100 SXM", 64, Decimal("67891.20")),
            ("eval-cluster", "active", "H200", 8, Decimal("11481.60")),
            ("vision-finetune", "awaiting", "A100", 16, Decimal("0")),
            ("bio-folding", "scheduled", "B200", 32, Decimal("0")),
            ("ablation-sweep", "ended", "H100 SXM", 8, Decimal("3363.84")),
        ],
    }


def show(request: HttpRequest) -> HttpResponse:
    """Show every component."""
    messages.success(request, _("Your lease is booked. We will tell you when it starts."))
    return render(request, "styleguide.html", _context(request))
