"""Read a provider's bill as FOCUS 1.0, 1.1 or 1.2 CSV (FinOps Open Cost and Usage Specification).

Row by row, so that a file of any size takes little memory, and with limits, since the
file comes from outside. Amounts and quantities become ``Decimal`` exactly as written.
Times become aware UTC: the specification demands UTC, and some exports leave the zone
out, so a time without a zone is UTC. Columns that the reader does not know (a vendor's
own ``x_…``, those of 1.3 and 1.4) are passed over.

Whatever is wrong is collected with its line and column, and raised together at the
end: the caller stores nothing before that.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import BinaryIO

from django.utils.translation import gettext as _

from billing.vendor import units
from billing.vendor.tags import tags_as_json
from portal.common.errors import InvalidInput

# Mandatory in 1.0, 1.1 and 1.2 alike (the column must be there; some may be null).
MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
)  # fmt: skip
# 1.3 splits these two; the later name stands in for the earlier one.
LATER_NAMES = {"providername": "serviceprovidername", "publishername": "hostprovidername"}
# What tells the versions apart: columns that came with each, newest first.
VERSIONS = (
    ("FOCUS 1.3+", ("serviceprovidername", "hostprovidername", "allocatedmethodid", "contractapplied")),
    ("FOCUS 1.2", ("invoiceid", "pricingcurrency", "billingaccounttype", "subaccounttype")),
    ("FOCUS 1.1", ("capacityreservationid", "commitmentdiscountquantity", "skumeter", "servicesubcategory")),
)
CATEGORIES = frozenset(("usage", "purchase", "tax", "credit", "adjustment"))
# Optional columns that are read where they are.
OPTIONAL = (
    "ResourceId", "SkuId", "SkuPriceId", "SkuMeter", "RegionId", "InvoiceId", "SubAccountId", "Tags",
    "PricingCategory", "CapacityReservationId", "CapacityReservationStatus", "CommitmentDiscountId",
    "CommitmentDiscountStatus", "ConsumedQuantity", "ConsumedUnit", "ListUnitPrice", "ContractedUnitPrice",
)  # fmt: skip
NAMES = {name.casefold(): name for name in (*MANDATORY, *OPTIONAL)}  # files differ in case
AMOUNTS = ("effectivecost", "listcost", "contractedcost", "listunitprice", "contractedunitprice")

# Bounded, so that sums stay exact in billing.vendor.units.EXACT; real files have up to 28 decimals.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})(?:[eE][+-]?[0-9]{1,2})?")
_CURRENCY = re.compile(r"[A-Z]{3}")


@dataclass(frozen=True)
class Limits:
    """How much of a file is read before it is refused."""

    bytes: int = 8 * 2**30
    rows: int = 10_000_000
    columns: int = 500
    line_bytes: int = 2**20
    field_chars: int = 32_768
    errors: int = 20  # reported; reading stops there


LIMITS = Limits()


@dataclass(frozen=True)
class LineError:
    """What is wrong, where; the header is line 1, and line 0 is the file as a whole."""

    line: int
    column: str
    message: str

    def __str__(self) -> str:
        where = _("Line %(line)d") % {"line": self.line} if self.line else _("File")
        return f"{where}, {self.column}: {self.message}" if self.column else f"{where}: {self.message}"


class BadBillFile(InvalidInput):
    """The file cannot be used; ``errors`` says line by line why, and nothing was stored."""

    code = "bad-bill-file"

    def __init__(self, errors: list[LineError]) -> None:
        super().__init__(
            "\n".join(str(error) for error in errors),
            field="file",
            errors=[
                {"line": error.line, "column": error.column, "message": error.message} for error in errors
            ],
        )
        self.errors = errors


class _BadValue(Exception):
    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = NAMES.get(column, column)
        self.message = message


@dataclass(slots=True)
class FocusLine:
    """What reconciliation needs of one row; the row itself is in :meth:`FocusReader.records`."""

    ordinal: int  # the line of the file that it starts on; the header is 1
    billing_account_id: str
    sub_account_id: str
    resource_id: str
    sku_id: str
    sku_price_id: str
    sku_meter: str
    service: str
    service_category: str
    region_code: str
    category: str
    correction: bool
    description: str
    invoice_id: str
    pricing_category: str
    reservation_id: str
    commitment_ref: str
    commitment_status: str
    billing_month: datetime
    start: datetime
    end: datetime
    quantity: Decimal | None
    unit: str
    measure: str
    hours: Decimal | None
    cost: Decimal
    currency: str
    tags: str = field(default="{}")  # JSON text of an object


class FocusReader:
    """Iterate over the rows of a FOCUS CSV file; each iteration starts at the top.

    ``assume`` gives values for columns that the file lacks (by FOCUS name), for excerpts
    such as the specification's worked examples; a bill from a provider needs none.

    Raises :class:`BadBillFile`: at once for the header, at the end for rows.
    """

    def __init__(
        self, file: BinaryIO, *, limits: Limits = LIMITS, assume: Mapping[str, str] | None = None
    ) -> None:
        self.limits = limits
        self._file = file
        self._assumed = {name.casefold(): value for name, value in (assume or {}).items()}
        self._line = 0
        self._bytes = 0
        self.header = self._read_header()
        self._at = {name.strip().casefold(): place for place, name in reversed(list(enumerate(self.header)))}
        self.version = next(
            (version for version, marks in VERSIONS if any(mark in self._at for mark in marks)), "FOCUS 1.0"
        )
        self._check_header()

    # --- the file as lines -----------------------------------------------------------------------

    def _lines(self) -> Iterator[str]:
        """Yield the decoded lines, within the limits; ``_line`` is the number of the last one."""
        self._file.seek(0)
        self._line = self._bytes = 0
        while line := self._file.readline(self.limits.line_bytes + 1):
            self._line += 1
            self._bytes += len(line)
            if len(line) > self.limits.line_bytes:
                raise BadBillFile(
                    [LineError(self._line, "", _("The line is longer than %(limit)d bytes; is this a CSV file?") % {"limit": self.limits.line_bytes})]
                )  # fmt: skip
            if self._bytes > self.limits.bytes:
                raise BadBillFile(
                    [LineError(0, "", _("The file is larger than %(limit)d bytes.") % {"limit": self.limits.bytes})]
                )  # fmt: skip
            if self._line == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise BadBillFile([LineError(1, "", _("The file is UTF-16; save it as UTF-8."))])
                if line.startswith((b"\x1f\x8b", b"PK\x03\x04", b"PAR1")):
                    raise BadBillFile(
                        [LineError(1, "", _("The file is compressed or Parquet; give the CSV itself."))]
                    )
                line = line.removeprefix(b"\xef\xbb\xbf")
            if b"\0" in line:
                raise BadBillFile([LineError(self._line, "", _("The line holds a NUL byte."))])
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                raise BadBillFile([LineError(self._line, "", _("The line is not UTF-8 text."))]) from None

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each record with the number of the line that it starts on."""
        rows = csv.reader(self._lines(), strict=True)
        while True:
            start = self._line + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise BadBillFile(
                    [LineError(start, "", _("The line is not CSV (%(why)s).") % {"why": error})]
                ) from None
            yield start, row

    def _read_header(self) -> list[str]:
        for _start, row in self._rows():
            return row
        raise BadBillFile([LineError(0, "", _("The file is empty."))])

    def _check_header(self) -> None:
        errors: list[LineError] = []
        if len(self.header) > self.limits.columns:
            raise BadBillFile(
                [
                    LineError(
                        1, "", _("There are more than %(limit)d columns.") % {"limit": self.limits.columns}
                    )
                ]
            )
        seen: set[str] = set()
        for name in self.header:
            folded = name.strip().casefold()
            if folded in seen and folded in NAMES:
                errors.append(LineError(1, name, _("The column appears twice.")))
            seen.add(folded)
        for name in MANDATORY:
            folded = name.casefold()
            if not {folded, LATER_NAMES.get(folded, folded)} & (seen | self._assumed.keys()):
                errors.append(
                    LineError(1, name, _("The column is missing; FOCUS 1.0 to 1.2 make it mandatory."))
                )
        if errors:
            raise BadBillFile(errors[: self.limits.errors])

    # --- rows ------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[FocusLine]:
        errors: list[LineError] = []
        width = len(self.header)
        count = 0
        rows = self._rows()
        try:
            next(rows)
            for start, row in rows:
                if not row:
                    continue  # a blank line says nothing
                count += 1
                if count > self.limits.rows:
                    errors.append(LineError(start, "", _("There are more than %(limit)d rows.") % {"limit": self.limits.rows}))  # fmt: skip
                    break
                try:
                    if len(row) != width:
                        raise _BadValue("", _("There are %(found)d values under %(wanted)d columns.") % {"found": len(row), "wanted": width})  # fmt: skip
                    yield self._parse(start, row)
                except _BadValue as bad:
                    errors.append(LineError(start, bad.column, bad.message))
                    if len(errors) >= self.limits.errors:
                        break
        except BadBillFile as stopped:
            errors += stopped.errors
        if not count and not errors:
            errors.append(LineError(0, "", _("The file has a header and no rows.")))
        if errors:
            raise BadBillFile(errors)

    def records(self) -> Iterator[tuple[int, str]]:
        """Yield each record that iterating yields a line for, letter for letter, without its line end."""
        text: list[str] = []

        def remembered() -> Iterator[str]:
            for line in self._lines():
                text.append(line)
                yield line

        rows = csv.reader(remembered(), strict=True)
        next(rows)
        text.clear()
        start = self._line + 1
        for row in rows:
            if row:
                yield start, "".join(text).rstrip("\r\n")
            text.clear()
            start = self._line + 1

    def first_month(self) -> datetime:
        """Return the first moment of the month of the first row's billing period (UTC)."""
        for line in self:
            return line.billing_month
        raise AssertionError("unreachable")  # an empty file raises in the loop

    def _text(self, row: list[str], name: str) -> str:
        """Return a value, with ``NULL`` (which real exports write) and blanks as empty text."""
        place = self._at.get(name)
        value = self._assumed.get(name, "") if place is None else row[place].strip()
        if len(value) > self.limits.field_chars:
            raise _BadValue(name, _("The value is longer than %(limit)d characters.") % {"limit": self.limits.field_chars})  # fmt: skip
        return "" if value.lower() == "null" else value

    def _short(self, row: list[str], name: str, limit: int) -> str:
        value = self._text(row, name)
        if len(value) > limit:
            raise _BadValue(name, _("The value is longer than %(limit)d characters.") % {"limit": limit})
        return value

    def _number(self, row: list[str], name: str) -> Decimal | None:
        value = self._text(row, name)
        if not value:
            return None
        if _NUMBER.fullmatch(value) is None:
            raise _BadValue(name, _bad_number(value))
        return Decimal(value)

    def _time(self, row: list[str], name: str) -> datetime:
        value = self._text(row, name)
        if not value:
            raise _BadValue(name, _("The value is missing."))
        found = _parse_time(value)
        if found is None:
            raise _BadValue(
                name,
                _("“%(value)s” is no time; write 2026-11-01T00:00:00Z.") % {"value": value[:60]},
            )
        return found

    def _parse(self, ordinal: int, row: list[str]) -> FocusLine:
        text, short = self._text, self._short
        cost = self._number(row, "billedcost")
        if cost is None:
            raise _BadValue("billedcost", _("The value is missing."))
        for name in AMOUNTS:
            self._number(row, name)
        currency = text(row, "billingcurrency").upper()
        if _CURRENCY.fullmatch(currency) is None:
            raise _BadValue("billingcurrency", _("“%(value)s” is no ISO 4217 currency code such as USD.") % {"value": currency[:60]})  # fmt: skip
        category = text(row, "chargecategory").casefold()
        if category not in CATEGORIES:
            raise _BadValue("chargecategory", _("“%(value)s” is none of Usage, Purchase, Tax, Credit, Adjustment.") % {"value": category[:60]})  # fmt: skip
        charge_class = text(row, "chargeclass").casefold()
        if charge_class not in ("", "correction"):
            raise _BadValue("chargeclass", _("“%(value)s” is neither empty nor Correction.") % {"value": charge_class[:60]})  # fmt: skip
        start, end = self._time(row, "chargeperiodstart"), self._time(row, "chargeperiodend")
        if end < start or (end == start and category == "usage"):
            raise _BadValue("chargeperiodend", _("The charge period ends before it starts."))
        quantity, unit = self._number(row, "pricingquantity"), short(row, "pricingunit", 60)
        measure, by, over = units.measure(unit)
        if quantity is None or not measure:
            # Some exports leave the priced quantity out of charges that they measured (CoreWeave).
            consumed, consumed_unit = self._number(row, "consumedquantity"), short(row, "consumedunit", 60)
            if consumed is not None and units.measure(consumed_unit)[0]:
                quantity, unit = consumed, consumed_unit
                measure, by, over = units.measure(unit)
        timed = quantity is not None and measure == units.TIME
        return FocusLine(
            ordinal=ordinal,
            billing_account_id=text(row, "billingaccountid"),
            sub_account_id=text(row, "subaccountid"),
            resource_id=short(row, "resourceid", 300),
            sku_id=short(row, "skuid", 200),
            sku_price_id=text(row, "skupriceid"),
            sku_meter=short(row, "skumeter", 200),
            service=short(row, "servicename", 200),
            service_category=short(row, "servicecategory", 60).casefold(),
            region_code=short(row, "regionid", 60),
            category=category,
            correction=bool(charge_class),
            description=text(row, "chargedescription"),
            invoice_id=short(row, "invoiceid", 120),
            pricing_category=text(row, "pricingcategory").casefold(),
            reservation_id=short(row, "capacityreservationid", 200),
            commitment_ref=short(row, "commitmentdiscountid", 200),
            commitment_status=(
                text(row, "capacityreservationstatus") or text(row, "commitmentdiscountstatus")
            ).casefold()[:10],
            billing_month=self._time(row, "billingperiodstart").replace(
                day=1, hour=0, minute=0, second=0, microsecond=0
            ),
            start=start,
            end=end,
            quantity=quantity,
            unit=unit,
            measure=measure,
            hours=units.in_hours(quantity, by, over) if timed and quantity is not None else None,
            cost=cost,
            currency=currency,
            tags=tags_as_json(text(row, "tags")),
        )


def _bad_number(value: str) -> str:
    if "," in value:
        return _("“%(value)s” has a comma; write 1234.56 with a point and no separators.") % {
            "value": value[:60]
        }
    if value.strip("+-").replace(".", "", 1).isdecimal():
        return _("The number has more than 30 digits before or 60 after the point.")
    return _("“%(value)s” is no number such as 1234.56.") % {"value": value[:60]}


@lru_cache(maxsize=10_000)
def _parse_time(value: str) -> datetime | None:
    """Return the time in UTC; one without a zone is UTC, as FOCUS demands. ``None`` if it is none."""
    value = value.removesuffix(" UTC")
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    try:
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError:
        return None
