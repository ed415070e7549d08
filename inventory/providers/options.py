"""Reading an account's own settings: what staff entered, or a sentence that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.errors import ProviderError

LONGEST_TEXT = 500


class Options:
    """The settings of one account (ProviderAccount.options). A missing or empty one is its default."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def text(self, name: str, default: str = "", *, among: Collection[str] = ()) -> str:
        """Return a text, which is one of ``among`` where that is given."""
        value = self._settings.get(name)
        if value in (None, ""):
            return default
        if not isinstance(value, str) or len(value) > LONGEST_TEXT or (among and value not in among):
            if among:
                raise ProviderError(
                    _("The account setting “%(name)s” must be one of: %(values)s.")
                    % {"name": name, "values": ", ".join(sorted(among))}
                )
            raise ProviderError(_("The account setting “%(name)s” must be a text.") % {"name": name})
        return value

    def by_region(self, name: str, region: str) -> str:
        """Return a setting that is one text, or an object with one text per region."""
        value = self._settings.get(name)
        if isinstance(value, Mapping):
            value = value.get(region)
        if value not in (None, "") and (not isinstance(value, str) or len(value) > LONGEST_TEXT):
            raise ProviderError(
                _("The account setting “%(name)s” must be a text, or one per region.") % {"name": name}
            )
        return value or ""

    def flag(self, name: str) -> bool:
        value = self._settings.get(name, False)
        if not isinstance(value, bool):
            raise ProviderError(_("The account setting “%(name)s” must be true or false.") % {"name": name})
        return value

    def number(self, name: str, default: int | None = None, *, least: int, most: int) -> int | None:
        value = self._settings.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ProviderError(
                _("The account setting “%(name)s” must be a whole number from %(least)s to %(most)s.")
                % {"name": name, "least": least, "most": most}
            )
        return int(value)

    def texts(self, name: str) -> list[str]:
        value = self._settings.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise ProviderError(_("The account setting “%(name)s” must be a list of texts.") % {"name": name})
        return value

    def numbers(self, name: str, default: Collection[int], *, least: int, most: int) -> list[int]:
        """Return whole numbers, each once and in their order."""
        value = self._settings.get(name) or list(default)
        if not isinstance(value, list) or not all(
            isinstance(item, int) and not isinstance(item, bool) and least <= item <= most for item in value
        ):
            raise ProviderError(
                _(
                    "The account setting “%(name)s” must be a list of whole numbers from %(least)s to %(most)s."
                )
                % {"name": name, "least": least, "most": most}
            )
        return sorted(set(value))
