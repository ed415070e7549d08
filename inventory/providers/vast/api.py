"""One Vast.ai account: its key, its settings, its limits, and what its errors mean.

Source: Vast.ai's OpenAPI document 1.0.0, https://docs.vast.ai/api-reference/introduction
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import httpx
from django.utils.translation import gettext as _

from inventory.providers.errors import AuthFailed, NoCapacity, NotFound, ProviderError, QuotaExceeded
from inventory.providers.http import JsonApi, by_status
from inventory.providers.pacing import Limit, Pace, rate_setting

ENDPOINT = "https://console.vast.ai"
# "enforced as a minimum interval between requests for a given endpoint and identity": the
# "threshold" of each in its own 429, in seconds. The searches' and the user's are not told.
# https://docs.vast.ai/api-reference/rate-limits-and-errors
INTERVALS = {
    "search": 1.0,
    "launch": 4.5,
    "list": 1.0,
    "destroy": 3.0,
    "user": 1.0,
}
COUNTRY = re.compile(r"[A-Z]{2}")

GONE = {"no_such_ask", "not_found", "no_such_instance"}
AUTH = {"auth_error", "not_authorized", "permission_denied"}
MONEY = re.compile(r"\b(insufficient_credit|lacks? credit|insufficient (funds|balance))\b", re.IGNORECASE)
LONGEST_TEXT = 400


class VastApi:
    """Credentials and settings of one account.

    Credentials: ``api_key``. Settings that this adapter reads, all optional:

    - ``regions``: list of countries as two capital letters (default: all that offer something)
    - ``image``: a Docker image (default: ``vastai/base-image:@vastai-automatic-tag``)
    - ``disk_gb``: the local disk of a machine (default: 200); it is part of the price
    - ``parts_of_machines``: true where a part of a host may be rented too
    - ``datacenter_only``: true to rent from data centers only
    - ``min_reliability``: the least reliability of a host, between 0 and 1
    - ``min_days``: how long a host must still be for rent, in days
    - ``max_usd_per_hour``: nothing dearer is launched
    - ``calls_factor``: how much more often Vast may be called than its documented intervals (1)
    - ``endpoint_url``: another address of the same API
    """

    def __init__(self, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        key = str(credentials.get("api_key") or "")
        if not key:
            raise AuthFailed(_("Enter api_key for this account."))
        if not (key.isascii() and key.isprintable()):
            raise AuthFailed(_("The API key has characters that no key has."))
        self.settings = settings
        endpoint = str(settings.get("endpoint_url") or ENDPOINT)
        factor = rate_setting(settings, "calls_factor", 1.0)
        self.limits = {name: Limit(name, factor / seconds) for name, seconds in INTERVALS.items()}
        self.http = JsonApi(
            base_url=endpoint,
            headers={"authorization": f"Bearer {key}"},
            explain=explain,
            pace=Pace(credentials, endpoint, usual=None),
        )

    def configured_regions(self) -> list[str]:
        regions = self.settings.get("regions") or []
        if not isinstance(regions, list) or not all(
            isinstance(code, str) and COUNTRY.fullmatch(code) for code in regions
        ):
            raise ProviderError(
                _("The account setting “regions” must be a list of countries like “DE” and “US”.")
            )
        return regions

    def text(self, name: str, usual: str = "") -> str:
        value = self.settings.get(name) or usual
        if not isinstance(value, str):
            raise ProviderError(_("The account setting “%(name)s” must be a text.") % {"name": name})
        return value

    def flag(self, name: str) -> bool:
        value = self.settings.get(name, False)
        if not isinstance(value, bool):
            raise ProviderError(_("The account setting “%(name)s” must be true or false.") % {"name": name})
        return value

    def number(self, name: str, *, least: Decimal, most: Decimal) -> Decimal | None:
        """Return a setting that is a number between two others, None where it is not set."""
        value = self.settings.get(name)
        if value is None:
            return None
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            number = Decimal("NaN")
        if isinstance(value, bool) or not number.is_finite() or not least <= number <= most:
            raise ProviderError(
                _("The account setting “%(name)s” must be a number from %(least)s to %(most)s.")
                % {"name": name, "least": least, "most": most}
            )
        return number

    def disk_gb(self) -> int:
        return int(self.number("disk_gb", least=Decimal(8), most=Decimal(100_000)) or 200)

    def read(self, path: str, *, action: str, limit: str, **request: Any) -> Any:
        """Return a document; one that says ``success: false`` with status 200 is an error too."""
        return _checked(self.http.read(path, action=action, limit=self.limits[limit], **request), action)

    def write(self, method: str, path: str, *, action: str, limit: str, **request: Any) -> Any:
        """Return the document of a call that changes something, made once."""
        return _checked(
            self.http.write(method, path, action=action, limit=self.limits[limit], **request), action
        )


def _checked(document: Any, action: str) -> Any:
    if isinstance(document, Mapping) and document.get("success") is False:
        raise explain(action, 400, document, httpx.Headers()) or ProviderError(
            _("%(action)s: the provider says that it failed, and not why.") % {"action": action}
        )
    return document


def explain(action: str, status: int, document: Any, headers: httpx.Headers) -> ProviderError | None:
    """Return our error for ``{"success": false, "error", "msg"}``; None where nothing is said.

    Wrong keys are 401, and 404 where offers are searched; a refusal by 403 need not be about
    the key ("Offer 1 is not your own").
    """
    if not isinstance(document, Mapping):
        return None
    code = str(document.get("error") or "")[:100]
    said = document.get("msg") or document.get("message") or document.get("detail") or ""
    text = str(said).strip()[:LONGEST_TEXT]
    told = f"{action}: {text or code}"
    if status == 429:
        return by_status(action, status, headers, text=text, code=code)
    if status == 401 or code in AUTH or "invalid user key" in text.lower():
        return by_status(action, 401, headers, code=code)  # without a text that might quote the key
    if MONEY.search(code) or MONEY.search(text):
        return QuotaExceeded(told, code=code)
    if status == 410 or code == "no_such_ask" or "no_such_ask" in text:
        return NoCapacity(told, code=code)
    if status == 404 or code in GONE:
        return NotFound(told, code=code)
    if status == 403 and (text or code):
        return ProviderError(told, code=code)
    if not (text or code):
        return None
    return by_status(action, status, headers, text=text or code, code=code)
