"""A bill line as PostgreSQL's COPY reads it, and the key that names it across snapshots."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from billing.vendor.focus import FocusLine

ROW_COLUMNS = ("bill_id", "ordinal", "text")
LINE_COLUMNS = (
    "bill_id", "ordinal", "line_key", "resource_id", "sku_id", "sku_meter", "service",
    "service_category", "region_code", "category", "correction", "description", "invoice_id",
    "reservation_id", "commitment_ref", "commitment_status", "period", "quantity", "unit", "measure",
    "hours", "cost", "currency", "tags", "line_class", "rule",
)  # fmt: skip

_NULL = "\\N"


def line_key(line: FocusLine) -> str:
    """Return what the line is about, hashed: the same in every snapshot, whatever it costs.

    Resource, SKU and interval identify a machine's line. A charge without a resource
    (tax, data transfer, support) is told from its neighbours by its words.
    """
    parts = [
        line.category, "correction" if line.correction else "", line.billing_account_id, line.sub_account_id,
        line.resource_id.casefold(), line.sku_id, line.sku_price_id, line.sku_meter, line.pricing_category,
        line.reservation_id, line.commitment_ref, line.commitment_status, line.unit,
        _period(line.start, line.end),
    ]  # fmt: skip
    if not line.resource_id:
        parts += [line.service, line.region_code, line.description, line.tags]
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def _escaped(value: str) -> str:
    """Return the value as COPY's text format wants it (https://www.postgresql.org/docs/current/sql-copy.html)."""
    value = value.replace("\\", "\\\\")
    return value.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


_escape = lru_cache(maxsize=10_000)(_escaped)  # for values that lines repeat


@lru_cache(maxsize=10_000)
def _period(start: object, end: object) -> str:
    return f'["{start}","{end}")'


def copy_record(bill_id: int, ordinal: int, text: str) -> str:
    """Return a record of the file as one row of COPY's text format."""
    return f"{bill_id}\t{ordinal}\t{_escaped(text)}\n"


def copy_line(bill_id: int, line: FocusLine) -> str:
    """Return the line as one row of COPY's text format."""
    return (
        "\t".join(
            (
                str(bill_id),
                str(line.ordinal),
                line_key(line),
                _escape(line.resource_id),
                _escape(line.sku_id),
                _escape(line.sku_meter),
                _escape(line.service),
                _escape(line.service_category),
                _escape(line.region_code),
                line.category,
                "t" if line.correction else "f",
                _escape(line.description),
                _escape(line.invoice_id),
                _escape(line.reservation_id),
                _escape(line.commitment_ref),
                _escape(line.commitment_status),
                _period(line.start, line.end) if line.start < line.end else _NULL,
                _NULL if line.quantity is None else str(line.quantity),
                _escape(line.unit),
                line.measure,
                _NULL if line.hours is None else str(line.hours),
                str(line.cost),
                line.currency,
                _escape(line.tags),
                "",
                "",
            )
        )
        + "\n"
    )
