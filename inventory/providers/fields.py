"""Reading vendors' documents: a field is there and of its kind, or :class:`BadAnswer` names it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar, overload

from django.utils.translation import gettext as _

from inventory.providers.errors import BadAnswer

Kind = TypeVar("Kind")
Default = TypeVar("Default")
_REQUIRED: Any = object()
LONGEST_TEXT = 4_000


@overload
def get(item: Any, path: str, kind: type[Kind], *, action: str) -> Kind: ...
@overload
def get(item: Any, path: str, kind: type[Kind], *, action: str, default: Default) -> Kind | Default: ...
def get(item: Any, path: str, kind: type[Any], *, action: str, default: Any = _REQUIRED) -> Any:
    """Return the value at a dotted ``path``; a missing or null one is ``default`` where that is given.

    ``kind`` is str, int, bool, list, dict or Decimal. A bool is no number, a number is no
    text, and a text longer than 4,000 characters is none that a vendor means.
    """
    value = item
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        if default is _REQUIRED:
            raise BadAnswer(_("%(action)s: “%(field)s” is missing.") % {"action": action, "field": path})
        return default
    if kind is Decimal:
        return _decimal(value, path, action)
    good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not good or (kind is str and len(value) > LONGEST_TEXT):
        raise BadAnswer(
            _("%(action)s: “%(field)s” is not a %(kind)s.")
            % {"action": action, "field": path, "kind": kind.__name__}
        )
    return value


def _decimal(value: Any, path: str, action: str) -> Decimal:
    problem = BadAnswer(_("%(action)s: “%(field)s” is no number.") % {"action": action, "field": path})
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise problem
    try:
        number = Decimal(value)
    except InvalidOperation as error:
        raise problem from error
    if not number.is_finite():
        raise problem
    return number


def moment(value: Any) -> datetime | None:
    """Return an ISO 8601 time, or one in Unix seconds, as aware UTC; None where it is neither.

    A vendor's clock decides nothing here, so that one which is off does no harm.
    """
    try:
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            return datetime.fromtimestamp(float(value), UTC)
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
