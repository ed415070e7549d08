"""Prices that no API gives: a provider's rate card as CSV, all of it or nothing.

Columns: ``region,instance_type,usd_per_hour`` and optionally ``usd_per_hour_spot``.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import BinaryIO

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from inventory.models import InstanceType, Offer, Provider, Region
from inventory.prices import HIGHEST_PRICE, RATE_CARD, OfferRow, lock_catalog, write_offers
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import InvalidInput
from portal.common.transactions import durable, require_transaction

REQUIRED = ("region", "instance_type", "usd_per_hour")
SPOT = "usd_per_hour_spot"
MAX_BYTES = 5 * 2**20
MAX_LINES = 50_000
MAX_ERRORS = 20  # what a person can read at once
DECIMALS = 8  # what a price keeps: numeric(20,8)

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?|[+-]?\.[0-9]+", re.ASCII)
REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", re.ASCII)


class RateCardError(InvalidInput):
    """The file cannot be imported; ``lines`` says why, as (line number, sentence) pairs.

    Line 1 is the header; line 0 means the file as a whole.
    """

    code = "bad-rate-card"

    def __init__(self, lines: Sequence[tuple[int, str]]) -> None:
        self.lines = list(lines)
        shown = [_at(number, text) for number, text in self.lines[:MAX_ERRORS]]
        if hidden := len(self.lines) - len(shown):
            shown.append(ngettext("and %(n)s more.", "and %(n)s more.", hidden) % {"n": hidden})
        super().__init__("\n".join(shown), field="file")


@dataclass(frozen=True, slots=True)
class CardLine:
    """One line: prices in US dollars per hour of the whole instance."""

    region: str
    instance_type_id: int
    on_demand: Decimal
    spot: Decimal | None = None


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did. ``unchanged`` prices were there already, and nothing was written for them."""

    lines: int
    regions_added: int
    offers_added: int
    prices_changed: int
    unchanged: int


def import_prices(
    *, provider: Provider, file: BinaryIO, now: datetime, actor: User | None = None
) -> ImportResult:
    """Make a rate card the provider's list prices from ``now`` on.

    ``file`` is UTF-8 CSV, opened as bytes. Prices are US dollars per hour of the whole
    instance. Raises :class:`RateCardError` with every bad line, and then stores nothing.
    An unknown region is added; an unknown instance type is an error. Offers that the
    card does not name keep their price.
    """
    with durable():
        lines = read_card(provider=provider, file=file)
        result = store_card(provider=provider, lines=lines, now=now)
        if result.prices_changed:
            events.record(
                kind="prices.imported",
                subject_type="provider",
                subject_id=provider.slug,
                actor=actor,
                now=now,
                after={"lines": result.lines, "prices_changed": result.prices_changed},
            )
    return result


def read_card(*, provider: Provider, file: BinaryIO) -> list[CardLine]:
    """Return the checked lines of a card; raises :class:`RateCardError` naming every bad one."""
    types = dict(InstanceType.objects.filter(provider=provider).values_list("name", "pk"))
    reader = csv.reader(io.StringIO(read_text(file)), strict=True)
    try:
        columns = _header(next(reader, []))
        card = _Card(provider, types, columns)
        for fields in reader:
            if fields:  # a blank line says nothing
                card.add(reader.line_num, fields)
            if len(card.lines) > MAX_LINES:
                raise RateCardError(
                    [(reader.line_num, _("More than %(n)s lines: split the file.") % {"n": MAX_LINES})]
                )
    except csv.Error as error:
        raise RateCardError([(reader.line_num, _("Not CSV: %(error)s.") % {"error": error})]) from error
    if card.errors:
        raise RateCardError(card.errors)
    if not card.lines:
        raise RateCardError([(0, _("The file has a header but no prices."))])
    return list(card.lines.values())


def store_card(
    *, provider: Provider, lines: Sequence[CardLine], now: datetime, only_missing: bool = False
) -> ImportResult:
    """Part: write checked lines as prices from ``now`` on, which may be the date of an old card.

    With ``only_missing``, only to offers that never had a price.
    """
    require_transaction()
    lock_catalog(provider.pk)
    codes = {line.region for line in lines}
    known = set(Region.objects.filter(provider=provider, code__in=codes).values_list("code", flat=True))
    Region.objects.bulk_create([Region(provider=provider, code=code) for code in sorted(codes - known)])
    regions = dict(Region.objects.filter(provider=provider, code__in=codes).values_list("code", "pk"))

    rows = list(_offers(lines, regions))
    if only_missing:
        had_prices = set(
            Offer.objects.filter(region__in=regions.values(), price=None, price_points__isnull=False)
            .values_list("instance_type", "region", "purchase")
            .distinct()
        )
        rows = [row for row in rows if row[:3] not in had_prices]
    written = write_offers(
        rows=rows, regions=regions.values(), source=RATE_CARD, now=now, only_missing=only_missing
    )
    return ImportResult(
        lines=len(lines),
        regions_added=len(codes - known),
        offers_added=written.added,
        prices_changed=written.prices,
        unchanged=len(rows) - written.prices,
    )


def _offers(lines: Sequence[CardLine], regions: dict[str, int]) -> Iterator[OfferRow]:
    for line in lines:
        place = (line.instance_type_id, regions[line.region])
        yield OfferRow(*place, Offer.Purchase.ON_DEMAND.value, price=line.on_demand)
        if line.spot is not None:
            yield OfferRow(*place, Offer.Purchase.SPOT.value, price=line.spot)


def read_text(file: BinaryIO) -> str:
    """Return a CSV file's text; raises :class:`RateCardError` for one that is empty, too large or not UTF-8."""
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RateCardError([(0, _("The file is larger than %(mb)s MB.") % {"mb": MAX_BYTES // 2**20})])
    if not data.strip():
        raise RateCardError([(0, _("The file is empty."))])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RateCardError([(line, _("Not UTF-8 text: save the file as CSV UTF-8."))]) from error
    return text


def _header(names: list[str]) -> dict[str, int]:
    columns = [name.strip() for name in names]
    problems = [
        _("Column “%(name)s” is missing.") % {"name": name} for name in REQUIRED if name not in columns
    ]
    problems += [
        _("Column “%(name)s” is unknown; known are %(known)s.")
        % {"name": name[:60], "known": ", ".join((*REQUIRED, SPOT))}
        for name in columns
        if name not in (*REQUIRED, SPOT)
    ]
    problems += [
        _("Column “%(name)s” is there twice.") % {"name": name}
        for name in sorted(set(columns))
        if columns.count(name) > 1
    ]
    if problems:
        raise RateCardError([(1, problem) for problem in problems])
    return {name: columns.index(name) for name in columns}


class _Card:
    """The lines read so far, and what is wrong with them."""

    def __init__(self, provider: Provider, types: dict[str, int], columns: dict[str, int]) -> None:
        self.provider, self.types, self.columns = provider, types, columns
        self.lines: dict[tuple[str, str], CardLine] = {}
        self.first: dict[tuple[str, str], int] = {}
        self.errors: list[tuple[int, str]] = []

    def add(self, number: int, fields: list[str]) -> None:
        problems: list[str] = []
        if len(fields) != len(self.columns):
            self.errors.append(
                (
                    number,
                    _("%(got)s fields instead of %(wanted)s.")
                    % {"got": len(fields), "wanted": len(self.columns)},
                )
            )
            return
        values = {name: fields[index].strip() for name, index in self.columns.items()}
        region, name = values["region"], values["instance_type"]
        if not REGION.fullmatch(region):
            problems.append(
                _("region “%(text)s” is not a region code: use letters, digits, “-”, “_” and “.”.")
                % {"text": region[:60]}
            )
        if name not in self.types:
            problems.append(
                _("instance_type “%(text)s” is unknown for %(provider)s: add it under Instance types first.")
                % {"text": name[:60], "provider": self.provider}
            )
        earlier = self.first.setdefault((region, name), number)
        if earlier != number:
            problems.append(
                _("%(region)s %(type)s is on line %(line)s already.")
                % {"region": region[:60], "type": name[:60], "line": earlier}
            )
        on_demand = _price("usd_per_hour", values["usd_per_hour"], problems)
        spot = _price(SPOT, values[SPOT], problems) if values.get(SPOT) else None
        if problems or on_demand is None:
            self.errors += [(number, problem) for problem in problems]
        else:
            self.lines[region, name] = CardLine(region, self.types[name], on_demand, spot)


def _price(column: str, text: str, problems: list[str]) -> Decimal | None:
    shown = {"column": column, "text": text[:40]}
    if not NUMBER.fullmatch(text):
        problems.append(_("%(column)s “%(text)s” is not a number such as 12.50.") % shown)
        return None
    value = Decimal(text)
    if value <= 0:
        problems.append(_("%(column)s “%(text)s” is not above zero.") % shown)
    elif value >= HIGHEST_PRICE:
        problems.append(_("%(column)s “%(text)s” is too large for a price per hour.") % shown)
    elif -int(value.as_tuple().exponent) > DECIMALS and value != round(value, DECIMALS):
        problems.append(_("%(column)s “%(text)s” has more than eight decimals.") % shown)
    else:
        return value
    return None


def _at(number: int, text: str) -> str:
    return _("Line %(number)s: %(text)s") % {"number": number, "text": text} if number else text
