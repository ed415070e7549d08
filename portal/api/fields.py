"""How values travel: times with a zone, money as text with its currency."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from portal.common.money import round_minor
from portal.common.periods import Period


@extend_schema_field(OpenApiTypes.DATETIME)
class AwareDateTimeField(serializers.Field):
    """An ISO 8601 time with a zone. A time without one is refused, not guessed."""

    default_error_messages = {
        "invalid": _("Write the time as ISO 8601, for example 2026-12-01T09:00:00Z."),
        "naive": _("The time needs a zone, for example 2026-12-01T09:00:00Z."),
    }

    def to_internal_value(self, data: Any) -> datetime:
        # A "+" in a query string arrives as a space.
        text = data.strip().replace(" ", "+") if isinstance(data, str) and data.count(" ") == 1 else data
        try:
            value = parse_datetime(text) if isinstance(text, str) else None
        except ValueError:
            value = None
        if value is None:
            self.fail("invalid")
        if value.tzinfo is None:
            self.fail("naive")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            self.fail("invalid")

    def to_representation(self, value: datetime) -> str:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def money(amount: Decimal, currency: str, *, exact: bool = False) -> dict[str, str]:
    """Return money for the wire; ``exact`` keeps up to eight decimals (rates, charges)."""
    if exact:
        text = f"{amount.normalize():f}"
        return {"amount": text if "." in text else f"{text}.00", "currency": currency}
    return {"amount": f"{round_minor(amount, currency):f}", "currency": currency}


def instant(value: datetime | None) -> str | None:
    """Return a time for the wire, in UTC."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def bounds(period: Period | None) -> dict[str, str | None]:
    """Return a period's ``start`` and ``end`` for the wire."""
    if period is None:
        return {"start": None, "end": None}
    return {"start": instant(period.lower), "end": instant(period.upper)}
