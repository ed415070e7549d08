"""Time: UTC, aware, half-open. PostgreSQL ``tstzrange`` with bounds ``[)``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeAlias

from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.utils.translation import gettext as _

from portal.common.errors import InvalidInput

Period: TypeAlias = DateTimeTZRange


def aware_utc(value: datetime, *, field: str) -> datetime:
    """Return ``value`` in UTC; raise :class:`InvalidInput` for a naive time."""
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidInput(
            _("%(field)s needs a time zone, for example 2026-12-01T09:00:00Z.") % {"field": field},
            field=field,
        )
    return value.astimezone(UTC)


def period(start: datetime, end: datetime) -> Period:
    """Return the half-open period ``[start, end)`` in UTC.

    Raises :class:`InvalidInput` for naive times and for an end that is not after
    the start: an empty range would slip past an exclusion constraint.
    """
    start = aware_utc(start, field="start")
    end = aware_utc(end, field="end")
    if end <= start:
        raise InvalidInput(_("The end must be after the start."), field="end")
    return DateTimeTZRange(start, end, "[)")


def seconds(value: Period) -> int:
    """Return the whole seconds in a bounded period (rounded down)."""
    return int((value.upper - value.lower).total_seconds())


def overlap(a: Period, b: Period) -> Period | None:
    """Return the common part of two bounded periods, or ``None``."""
    start, end = max(a.lower, b.lower), min(a.upper, b.upper)
    return DateTimeTZRange(start, end, "[)") if start < end else None
