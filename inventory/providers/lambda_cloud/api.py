"""One Lambda workspace: its key, its settings, its limits, and what its errors mean.

Source: Lambda Cloud API 1.10.0, https://docs.lambda.ai/api/cloud
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx
from django.utils.translation import gettext as _

from inventory.providers.errors import (
    AuthFailed,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
)
from inventory.providers.fields import get
from inventory.providers.http import JsonApi, by_status
from inventory.providers.pacing import Limit, Pace, rate_setting

ENDPOINT = "https://cloud.lambda.ai"
# "Requests to the API are generally limited to one request per second. Requests to the
# /instance-operations/launch endpoint are limited to one request per 12 seconds, or five
# requests per minute."
REQUESTS_PER_SECOND = 1.0
LAUNCHES_PER_MINUTE = 5.0
# The regions of one poll are read at once, and all from the same two answers.
REUSED = 60.0  # seconds

AUTH = {
    "global/account-inactive",
    "global/forbidden",
    "global/invalid-address",  # of billing: nothing is launched until it is corrected
}
GONE = {"global/not-found", "global/object-does-not-exist"}
LATER = {
    "filesystems/filesystem-in-use",
    "firewall-rulesets/firewall-ruleset-in-use",
    "global/conflict",
}
INVALID = "global/invalid-parameters"
LONGEST_TEXT = 400


class LambdaApi:
    """Credentials and settings of one workspace.

    Credentials: ``api_key``. Settings that this adapter reads, all optional:

    - ``regions``: list of region names to poll (default: all that Lambda lists)
    - ``image``: an image family (``lambda-stack-24-04``) or an image id, or one per region
      as an object (default: Lambda's own choice, the newest Lambda Stack)
    - ``ssh_key_name``: a key of the workspace for launches without a key of their own
    - ``accept_open_network``: true where leases may run although rules beyond their own let
      traffic in: the workspace's global ruleset, or no rules at all in us-south-1
    - ``requests_per_second`` (1) and ``launches_per_minute`` (5): what Lambda allows
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
        usual = Limit("usual", rate_setting(settings, "requests_per_second", REQUESTS_PER_SECOND))
        self.launch_limit = Limit(
            "launch", rate_setting(settings, "launches_per_minute", LAUNCHES_PER_MINUTE) / 60
        )
        self.http = JsonApi(
            base_url=endpoint,
            headers={"authorization": f"Bearer {key}"},
            explain=explain,
            pace=Pace(credentials, endpoint, usual=usual),
        )
        self._recent: dict[str, tuple[float, Any]] = {}  # by path: when, and data or error
        self._lock = threading.Lock()  # a poll reads several regions at once

    def configured_regions(self) -> list[str]:
        regions = self.settings.get("regions") or []
        if not isinstance(regions, list) or not all(isinstance(code, str) and code for code in regions):
            raise ProviderError(_("The account setting “regions” must be a list of region names."))
        return regions

    def by_region(self, name: str, region: str) -> str:
        """Return a setting that is one text, or an object with one text per region."""
        value = self.settings.get(name) or ""
        value = value.get(region) or "" if isinstance(value, Mapping) else value
        if not isinstance(value, str):
            raise ProviderError(
                _("The account setting “%(name)s” must be a text, or one per region.") % {"name": name}
            )
        return value

    def flag(self, name: str) -> bool:
        value = self.settings.get(name, False)
        if not isinstance(value, bool):
            raise ProviderError(_("The account setting “%(name)s” must be true or false.") % {"name": name})
        return value

    def read(self, path: str, *, action: str, kind: type[Any], **request: Any) -> Any:
        """Return ``data`` of an answer, which is of this kind."""
        document = self.http.read("/api/v1" + path, action=action, **request)
        return get(document, "data", kind, action=action)

    def read_recent(self, path: str, *, action: str, kind: type[Any], fresh: bool = False) -> Any:
        """Return the same, from an answer of the last minute where there is one.

        A failure is an answer too: one silence is not waited for again in each region.
        """
        with self._lock:
            asked, outcome = self._recent.get(path, (0.0, None))
            if fresh or outcome is None or time.monotonic() - asked > REUSED:
                try:
                    outcome = self.read(path, action=action, kind=kind)
                except ProviderError as error:
                    outcome = error
                self._recent[path] = (time.monotonic(), outcome)
            if isinstance(outcome, ProviderError):
                raise outcome
            return outcome

    def write(self, method: str, path: str, *, action: str, kind: type[Any], **request: Any) -> Any:
        """Return ``data`` of the answer to a call that changes something, made once."""
        document = self.http.write(method, "/api/v1" + path, action=action, **request)
        return get(document, "data", kind, action=action)

    def delete(self, path: str, resource_id: str, *, action: str) -> None:
        """Delete by id; what is gone already is no error."""
        try:
            self.http.write("DELETE", f"/api/v1{path}/{quote(resource_id, safe='')}", action=action)
        except NotFound:
            pass


def explain(action: str, status: int, document: Any, headers: httpx.Headers) -> ProviderError | None:
    """Return our error for ``{"error": {"code", "message", "suggestion"}}``; None for anything else.

    The code decides, as Lambda asks; its texts may change.
    """
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping) or not isinstance(error.get("code"), str):
        return None
    code = error["code"][:100]
    parts = [str(error[name]).strip() for name in ("message", "suggestion") if error.get(name)]
    text = " ".join(parts)[:LONGEST_TEXT]
    said = f"{action}: {text}" if text else action
    if status == 429:
        return by_status(action, status, headers, text=text, code=code)
    if code == "global/invalid-api-key":
        return by_status(action, 401, headers, code=code)  # without a text that might quote the key
    if code in AUTH:
        return AuthFailed(said, code=code)
    if code == "instance-operations/launch/insufficient-capacity":
        return NoCapacity(said, code=code)
    if code == "global/quota-exceeded":
        return QuotaExceeded(said, code=code)
    if code in GONE:
        return NotFound(said, code=code)
    if code in LATER:
        return ProviderError(said, code=code, retryable=True)
    if code == "global/internal-error" or code.startswith("provider/"):
        # Something behind Lambda's API failed: nobody says whether before or after it took effect.
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    return by_status(action, status, headers, text=text, code=code)
