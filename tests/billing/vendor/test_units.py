"""Units of bills in hours."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.vendor.units import in_hours, measure


@pytest.mark.parametrize(
    ("unit", "measures", "hours"),
    [
        ("Hours", "time", "1"),
        ("hour", "time", "1"),
        ("Hrs", "time", "1"),
        ("1 Hour", "time", "1"),
        ("1 1 Hour", "time", "1"),  # Azure
        ("100 Hours", "time", "100"),
        ("Instance-Hours", "time", "1"),
        ("Seconds", "time", "0.000277777778"),
        ("Minutes", "time", "0.016666666667"),
        ("Days", "time", "24"),
        ("GPU-Hours", "gpu", None),
        ("vCPU-Hours", "part", None),
        ("OCPU Per Hour", "part", None),
        ("Gigabyte Per Hour", "part", None),
        ("GiB-Hours", "part", None),
        ("GB", "other", None),
        ("GB-Months", "other", None),
        ("Units/Hour", "other", None),
        ("LCU-Hours", "other", None),
        ("Requests", "other", None),
        ("Wombats", "", None),
        ("", "", None),
    ],
)
def test_units_that_bills_write(unit: str, measures: str, hours: str | None) -> None:
    kind, by, over = measure(unit)
    assert kind == measures
    if hours is not None:
        assert in_hours(Decimal(1), by, over) == Decimal(hours)


def test_hours_stay_as_they_are_written() -> None:
    assert str(in_hours(Decimal("0.29611100000"), Decimal(1), Decimal(1))) == "0.29611100000"
    assert in_hours(Decimal(1066), *measure("Seconds")[1:]) == Decimal("0.296111111111")
