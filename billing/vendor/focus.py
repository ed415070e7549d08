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

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from operator import itemgetter
from typing import BinaryIO

from django.utils.translation import gettext as _

from billing.vendor import units
from billing.vendor.csv_file import LIMITS, BadBillFile, CsvFile, Limits, LineError, refuse
from billing.vendor.tags import tags_as_json

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
# The columns that are read, in the order in which FocusReader._parse takes them; where a length is
# given, a longer value is refused.
READ: dict[str, int] = {
    "BilledCost": 0, "BillingCurrency": 0, "ChargeCategory": 0, "ChargeClass": 0, "BillingPeriodStart": 0,
    "ChargePeriodStart": 0, "ChargePeriodEnd": 0, "PricingQuantity": 0, "PricingUnit": 60,
    "ConsumedQuantity": 0, "ConsumedUnit": 60, "BillingAccountId": 0, "SubAccountId": 0, "ResourceId": 300,
    "SkuId": 200, "SkuPriceId": 0, "SkuMeter": 200, "ServiceName": 200, "ServiceCategory": 60,
    "RegionId": 60, "ChargeDescription": 0, "InvoiceId": 120, "PricingCategory": 0,
    "CapacityReservationId": 200, "CapacityReservationStatus": 0, "CommitmentDiscountId": 200,
    "CommitmentDiscountStatus": 0, "Tags": 0, "EffectiveCost": 0, "ListCost": 0, "ContractedCost": 0,
    "ListUnitPrice": 0, "ContractedUnitPrice": 0,
}  # fmt: skip
CATEGORIES = frozenset(("usage", "purchase", "tax", "credit", "adjustment"))
NULLS = frozenset(("", "NULL", "null", "Null"))  # real exports write the word

# Bounded, so that sums stay exact in billing.vendor.units.EXACT; real files have up to 28 decimals.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})(?:[eE][+-]?[0-9]{1,2})?")
_CURRENCY = re.compile(r"[A-Z]{3}")


class _BadValue(Exception):
    def __init__(self, column: str, message: str, **facts: object) -> None:
        super().__init__(message)
        self.column = column
        self.message = message % facts


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
    tags: str  # JSON text of an object


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
        self._csv = CsvFile(file, limits)
        assumed = {name.casefold(): value for name, value in (assume or {}).items()}
        self.header = next((row for _start, row in self._csv.rows()), [])
        self._check_header(assumed)
        places = {name.strip().casefold(): place for place, name in reversed(list(enumerate(self.header)))}
        self.version = next(
            (version for version, marks in VERSIONS if any(mark in places for mark in marks)), "FOCUS 1.0"
        )
        self._shortest = min(*filter(None, READ.values()), limits.field_chars)
        # What the file lacks is read from behind its own columns.
        names = [name.casefold() for name in READ]
        self._lacking = [assumed.get(name, "") for name in names if name not in places]
        behind = iter(range(len(self.header), len(self.header) + len(names)))
        self._pick = itemgetter(*(places[name] if name in places else next(behind) for name in names))

    def _check_header(self, assumed: Mapping[str, str]) -> None:
        if not self.header:
            raise refuse(0, _("The file is empty."))
        if len(self.header) > self.limits.columns:
            raise refuse(1, _("There are more than %(limit)d columns.") % {"limit": self.limits.columns})
        known = {name.casefold() for name in (*READ, *MANDATORY)}
        errors: list[LineError] = []
        seen: set[str] = set()
        for name in self.header:
            folded = name.strip().casefold()
            if folded in seen and folded in known:
                errors.append(LineError(1, name, _("The column appears twice.")))
            seen.add(folded)
        for name in MANDATORY:
            folded = name.casefold()
            if not {folded, LATER_NAMES.get(folded, folded)} & (seen | assumed.keys()):
                text = _("The column is missing; FOCUS 1.0 to 1.2 make it mandatory.")
                errors.append(LineError(1, name, text))
        if errors:
            raise BadBillFile(errors[: self.limits.errors])

    def __iter__(self) -> Iterator[FocusLine]:
        errors: list[LineError] = []
        count = 0
        try:
            rows = self._csv.rows()
            next(rows)
            for start, row in rows:
                count += 1
                if count > self.limits.rows:
                    text = _("There are more than %(limit)d rows.") % {"limit": self.limits.rows}
                    errors.append(LineError(start, "", text))
                    break
                try:
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
        return self._csv.records()

    def first_month(self) -> datetime:
        """Return the first moment of the month of the first row's billing period (UTC)."""
        for line in self:
            return line.billing_month
        raise AssertionError("unreachable")  # an empty file raises in the loop

    def _parse(self, ordinal: int, row: list[str]) -> FocusLine:
        if len(row) != len(self.header):
            text = _("There are %(found)d values under %(wanted)d columns.")
            raise _BadValue("", text, found=len(row), wanted=len(self.header))
        values = [
            "" if value in NULLS else value for value in map(str.strip, self._pick(row + self._lacking))
        ]
        (
            cost_text, currency, category, charge_class, month_text, start_text, end_text,
            quantity_text, unit, consumed_text, consumed_unit, billing_account, sub_account, resource_id,
            sku_id, sku_price_id, sku_meter, service, service_category, region, description, invoice_id,
            pricing_category, reservation_id, reservation_status, commitment_ref, commitment_status, tags,
            *amounts,
        ) = values  # fmt: skip
        if max(map(len, values)) > self._shortest:
            self._check_lengths(values)
        cost = _number("BilledCost", cost_text)
        if cost is None:
            raise _BadValue("BilledCost", _("The value is missing."))
        for name, amount in zip(_AMOUNTS, amounts, strict=True):
            _number(name, amount)
        category, correction = _category(category), _correction(charge_class)
        start, end = _time("ChargePeriodStart", start_text), _time("ChargePeriodEnd", end_text)
        if end < start or (end == start and category == "usage"):
            raise _BadValue("ChargePeriodEnd", _("The charge period ends before it starts."))
        quantity = _number("PricingQuantity", quantity_text)
        consumed = _number("ConsumedQuantity", consumed_text)
        measure, by, over = units.measure(unit)
        if (quantity is None or not measure) and consumed is not None and units.measure(consumed_unit)[0]:
            # Some exports leave the priced quantity out of charges that they measured (CoreWeave).
            quantity, unit = consumed, consumed_unit
            measure, by, over = units.measure(unit)
        return FocusLine(
            ordinal=ordinal,
            billing_account_id=billing_account,
            sub_account_id=sub_account,
            resource_id=resource_id,
            sku_id=sku_id,
            sku_price_id=sku_price_id,
            sku_meter=sku_meter,
            service=service,
            service_category=service_category.lower(),
            region_code=region,
            category=category,
            correction=correction,
            description=description,
            invoice_id=invoice_id,
            pricing_category=pricing_category.lower(),
            reservation_id=reservation_id,
            commitment_ref=commitment_ref,
            commitment_status=(reservation_status or commitment_status).lower()[:10],
            billing_month=_month(month_text),
            start=start,
            end=end,
            quantity=quantity,
            unit=unit,
            measure=measure,
            hours=units.in_hours(quantity, by, over)
            if quantity is not None and measure == units.TIME
            else None,
            cost=cost,
            currency=_currency(currency),
            tags=tags_as_json(tags) if tags else "{}",
        )

    def _check_lengths(self, values: list[str]) -> None:
        for (name, limit), value in zip(READ.items(), values, strict=True):
            limit = limit or self.limits.field_chars
            if len(value) > limit:
                raise _BadValue(name, _("The value is longer than %(limit)d characters."), limit=limit)


_AMOUNTS = tuple(READ)[-5:]

# A bill repeats most of its values on thousands of lines.


@lru_cache(maxsize=100_000)
def _number(column: str, value: str) -> Decimal | None:
    if not value:
        return None
    if _NUMBER.fullmatch(value):
        return Decimal(value)
    if "," in value:
        text = _("“%(value)s” has a comma; write 1234.56 with a point and no separators.")
    elif value.strip("+-").replace(".", "", 1).isdecimal():
        text = _("The number has more than 30 digits before or 60 after the point.")
    else:
        text = _("“%(value)s” is no number such as 1234.56.")
    raise _BadValue(column, text, value=value[:60])


@lru_cache(maxsize=10_000)
def _time(column: str, value: str) -> datetime:
    """Return the time in UTC; one without a zone is UTC, as FOCUS demands."""
    if not value:
        raise _BadValue(column, _("The value is missing."))
    try:
        found = datetime.fromisoformat(value.removesuffix(" UTC"))
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        text = _("“%(value)s” is no time; write 2026-11-01T00:00:00Z.")
        raise _BadValue(column, text, value=value[:60]) from None


@lru_cache(maxsize=100)
def _month(value: str) -> datetime:
    start = _time("BillingPeriodStart", value)
    return start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


@lru_cache(maxsize=100)
def _currency(value: str) -> str:
    if _CURRENCY.fullmatch(value.upper()) is None:
        text = _("“%(value)s” is no ISO 4217 currency code such as USD.")
        raise _BadValue("BillingCurrency", text, value=value[:60])
    return value.upper()


@lru_cache(maxsize=100)
def _category(value: str) -> str:
    if value.casefold() not in CATEGORIES:
        text = _("“%(value)s” is none of Usage, Purchase, Tax, Credit, Adjustment.")
        raise _BadValue("ChargeCategory", text, value=value[:60])
    return value.casefold()


@lru_cache(maxsize=100)
def _correction(value: str) -> bool:
    if value.casefold() not in ("", "correction"):
        text = _("“%(value)s” is neither empty nor Correction.")
        raise _BadValue("ChargeClass", text, value=value[:60])
    return bool(value)
