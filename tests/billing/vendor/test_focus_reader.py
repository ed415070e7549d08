"""FOCUS CSV files: what is read, and what is refused with its line and column."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.vendor.csv_file import LIMITS, BadBillFile, Limits
from billing.vendor.focus import MANDATORY, FocusLine, FocusReader
from tests.billing.vendor.fleet import COLUMNS, csv_file, row

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "billing"
SAMPLE = SHARED / "focus" / "focus_sample_1000.csv"
EXAMPLES = SHARED / "focus_spec_examples"
needs_sample = pytest.mark.skipif(not SAMPLE.exists(), reason=f"{SAMPLE} is not here")
needs_examples = pytest.mark.skipif(not EXAMPLES.exists(), reason=f"{EXAMPLES} is not here")


def read(*rows: dict[str, str], columns: Any = COLUMNS, limits: Limits = LIMITS) -> list[FocusLine]:
    return list(FocusReader(csv_file(rows, columns), limits=limits))


def errors_of(file: bytes, limits: Limits = LIMITS) -> list[tuple[int, str, str]]:
    with pytest.raises(BadBillFile) as refused:
        list(FocusReader(io.BytesIO(file), limits=limits))
    return [(error.line, error.column, error.message) for error in refused.value.errors]


def text(*rows: dict[str, str], columns: Any = COLUMNS) -> bytes:
    return csv_file(rows, columns).getvalue()


@needs_sample
def test_the_official_sample_is_read_exactly() -> None:
    with SAMPLE.open("rb") as file:
        reader = FocusReader(file)
        lines = list(reader)
    assert reader.version == "FOCUS 1.0"
    assert (len(lines), lines[0].ordinal, lines[-1].ordinal) == (1000, 2, 1001)
    first = lines[0]
    assert str(first.cost) == "8.0000E-7"  # 0.00000080000: every digit kept
    assert first.start == datetime(2024, 9, 18, 22, tzinfo=UTC)  # a space and no zone: UTC
    assert first.tags == "{}"  # the text NULL
    assert {line.category for line in lines} == {"usage", "adjustment", "credit"}
    gpus = [line for line in lines if "g5.4xlarge" in line.description]
    assert len(gpus) == 8
    assert {line.hours for line in gpus} >= {Decimal("0.29611100000"), Decimal("1.00000000000")}
    assert all(line.cost == (line.quantity or 0) * Decimal("1.624") for line in gpus)


@needs_sample
def test_records_are_the_file_letter_for_letter() -> None:
    with SAMPLE.open("rb") as file:
        records = list(FocusReader(file).records())
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    assert [text for _ordinal, text in records] == lines[1:]


@needs_examples
def test_the_specifications_worked_examples_are_read() -> None:
    assume = dict.fromkeys(MANDATORY, "") | {"BillingCurrency": "USD", "ServiceCategory": "Compute"}
    found = {}
    for path in sorted(EXAMPLES.glob("*.csv")):
        with path.open("rb") as file:
            try:
                found[path.stem] = [
                    (line.category, line.commitment_status) for line in FocusReader(file, assume=assume)
                ]
            except BadBillFile as refused:
                found[path.stem] = [str(refused)]
    assert found == {
        "commitment_discount_purchase_scenario_1": [("purchase", "")],
        # the specification's third row ends at thirty o'clock
        "commitment_discount_purchase_scenario_2": [
            "Line 4, ChargePeriodEnd: “2023-02-01T30:00:00Z” is no time; write 2026-11-01T00:00:00Z."
        ],
        "commitment_discount_usage_scenario_1": [("usage", "used")],
        "commitment_discount_usage_scenario_2": [("usage", "unused")],
        "one_hundred_percent_utilization_without_commitment_discount_flexibility": [
            ("purchase", ""),
            ("usage", "used"),
        ],
    }


@pytest.mark.parametrize(
    ("columns", "version"),
    [
        (MANDATORY, "FOCUS 1.0"),
        ((*MANDATORY, "SkuMeter"), "FOCUS 1.1"),
        ((*MANDATORY, "SkuMeter", "InvoiceId"), "FOCUS 1.2"),
        ((*MANDATORY, "InvoiceId", "ServiceProviderName", "x_Own", "InvoiceDetailId"), "FOCUS 1.3+"),
    ],
)
def test_versions_are_told_apart_and_unknown_columns_passed_over(columns: Any, version: str) -> None:
    reader = FocusReader(csv_file([row()], columns))
    assert reader.version == version
    assert len(list(reader)) == 1


def test_later_names_stand_in_for_columns_that_were_renamed() -> None:
    columns = [
        {"ProviderName": "ServiceProviderName", "PublisherName": "HostProviderName"}.get(name, name)
        for name in MANDATORY
    ]
    assert len(read(row(), columns=columns)) == 1


@pytest.mark.parametrize("missing", MANDATORY)
def test_a_missing_mandatory_column_is_named(missing: str) -> None:
    columns = [name for name in COLUMNS if name != missing]
    assert [error[:2] for error in errors_of(text(row(), columns=columns))] == [(1, missing)]


def test_every_spelling_that_real_exports_have() -> None:
    columns = [name.upper() if name == "SkuId" else name for name in COLUMNS]
    values = row(
        ChargeCategory="uSaGe",
        ChargePeriodStart="2026-11-02 00:00:00",
        ChargePeriodEnd="2026-11-02T02:00:00+01:00",
        BillingCurrency="usd",
        ResourceId="NULL",
        PricingQuantity="null",
        PricingUnit="NULL",
        ConsumedQuantity="3600",
        ConsumedUnit="Seconds",
        Tags='[{"key": "sublet:lease", "value": "lse_1"}]',
        ChargeClass="Correction",
    )
    values["SKUID"] = "A1"
    (line,) = list(FocusReader(io.BytesIO(b"\xef\xbb\xbf" + text(values, columns=columns))))
    assert (line.category, line.correction, line.currency) == ("usage", True, "USD")
    assert (line.start.hour, line.end.hour) == (0, 1)
    assert (line.resource_id, line.sku_id) == ("", "A1")
    assert (line.quantity, line.unit, line.hours) == (Decimal(3600), "Seconds", Decimal(1))
    assert line.tags == '{"sublet:lease": "lse_1"}'


def test_a_quoted_value_may_hold_line_breaks_and_keeps_the_line_numbers() -> None:
    lines = read(row(ChargeDescription="two\nlines"), row(ChargeDescription="one"))
    assert [line.ordinal for line in lines] == [2, 4]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("BilledCost", "NaN", "no number"),
        ("BilledCost", "Infinity", "no number"),
        ("BilledCost", "-inf", "no number"),
        ("BilledCost", "", "missing"),
        ("BilledCost", "1,234.50", "comma"),
        ("BilledCost", "$5", "no number"),
        ("BilledCost", "1e999", "no number"),
        ("BilledCost", "٣", "digits"),
        ("BilledCost", "0." + "1" * 61, "digits"),
        ("EffectiveCost", "nan", "no number"),
        ("PricingQuantity", "sNaN", "no number"),
        ("BillingCurrency", "Credits", "ISO 4217"),
        ("BillingCurrency", "", "ISO 4217"),
        ("ChargeCategory", "Refund", "none of Usage"),
        ("ChargeClass", "Wrong", "neither empty"),
        ("ChargePeriodStart", "yesterday", "no time"),
        ("ChargePeriodStart", "", "missing"),
        ("BillingPeriodStart", "2026-13-01", "no time"),
        ("ChargePeriodEnd", "2026-11-01T00:00:00Z", "ends before it starts"),
        ("ResourceId", "x" * 301, "longer than 300"),
        ("ChargeDescription", "x" * 40_000, "longer than 32768"),
    ],
)
def test_a_bad_value_is_refused_with_its_line_and_column(column: str, value: str, says: str) -> None:
    ((line, name, message),) = errors_of(text(row(), row(**{column: value}), row()))
    assert (line, name) == (3, column)
    assert says in message


def test_all_bad_lines_are_named_up_to_a_limit() -> None:
    bad = [row(BilledCost="x") for _number in range(30)]
    found = errors_of(text(row(), *bad))
    assert [line for line, _column, _message in found] == list(range(3, 23))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "empty"),
        (b"\xff\xfea", "UTF-16"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"PAR1", "Parquet"),
        (text(), "no rows"),
        (text(row()) + b"1,2,3\n", "3 values under"),
        (text(row()) + b"\x00\n", "NUL"),
        (text(row()) + b"\xff\n", "UTF-8"),
        (text(row()) + b'"open', "not CSV"),
    ],
)
def test_what_is_no_csv_is_refused(file: bytes, says: str) -> None:
    assert says in errors_of(file)[0][2]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(rows=2), "more than 2 rows"),
        (Limits(bytes=1200), "larger than 1200 bytes"),
        (Limits(columns=10), "more than 10 columns"),
        (Limits(line_bytes=400), "longer than 400 bytes"),
        (Limits(field_chars=5), "longer than 5"),
    ],
)
def test_the_limits_hold(limits: Limits, says: str) -> None:
    assert says in errors_of(text(row(), row(), row()), limits)[0][2]


def test_a_column_that_appears_twice_is_refused() -> None:
    assert errors_of(text(row(), columns=(*COLUMNS, "billedcost")))[0][:2] == (1, "billedcost")


amounts = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=28)


@given(amounts)
def test_amounts_are_kept_digit_by_digit(amount: Decimal) -> None:
    (line,) = read(row(BilledCost=f"{amount:f}"))
    assert line.cost.as_tuple() == amount.as_tuple()
