"""One Together project: its key, its settings, and what its errors mean.

Source: Together's OpenAPI document 2.0.0, https://github.com/togethercomputer/openapi
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx
from django.utils.translation import gettext as _

from inventory.providers.errors import AuthFailed, NoCapacity, ProviderError, QuotaExceeded
from inventory.providers.http import JsonApi, by_status
from inventory.providers.pacing import Limit, Pace, rate_setting

ENDPOINT = "https://api.together.ai/v1"
# Together publishes no limit of these calls; this one is ours, and small.
REQUESTS_PER_SECOND = 5.0
CLUSTER_TYPES = ("KUBERNETES", "SLURM")

# The document has no errors of clusters, and Together's list of errors has none of their own
# (https://docs.together.ai/docs/error-codes), so what a refusal means is read from its sentence.
NO_CAPACITY = re.compile(
    r"\b(insufficient|not enough|no|limited|lack of) (\w+ )?(capacity|gpus?|nodes?|stock)\b"
    r"|\bcapacity\b.*\b(unavailable|exhausted|reached)\b|\b(out of stock|sold out|no longer available)\b",
    re.IGNORECASE,
)
QUOTA = re.compile(r"\b(quota|spending limit|insufficient (funds|credits?|balance))\b", re.IGNORECASE)
ATTACHED = re.compile(r"\b(attached|in use)\b", re.IGNORECASE)
LONGEST_TEXT = 400


class TogetherApi:
    """Credentials and settings of one project.

    Credentials: ``api_key``. Settings that this adapter reads, all optional:

    - ``regions``: list of region names to poll (default: all that Together lists)
    - ``cluster_type``: ``KUBERNETES`` (default) or ``SLURM``
    - ``slurm_shm_size_gib``: shared memory of a Slurm cluster, which must be named with it
    - ``slurm_image``: a Slurm image of your own
    - ``image``: CUDA and driver version as ``12.6/560``, or one per region as an object
      (default: the newest pair that the region lists)
    - ``shared_volume_tib``: make a shared volume of so many TiB with each cluster
    - ``requests_per_second``: how often Together is called (default: 5)
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
        usual = Limit("usual", rate_setting(settings, "requests_per_second", REQUESTS_PER_SECOND), burst=5)
        self.http = JsonApi(
            base_url=endpoint,
            headers={"authorization": f"Bearer {key}"},
            explain=explain,
            pace=Pace(credentials, endpoint, usual=usual),
        )

    def configured_regions(self) -> list[str]:
        regions = self.settings.get("regions") or []
        if not isinstance(regions, list) or not all(isinstance(code, str) and code for code in regions):
            raise ProviderError(_("The account setting “regions” must be a list of region names."))
        return regions

    def text(self, name: str, region: str = "") -> str:
        """Return a setting that is one text, or an object with one text per region."""
        value = self.settings.get(name) or ""
        value = value.get(region) or "" if isinstance(value, Mapping) else value
        if not isinstance(value, str):
            raise ProviderError(
                _("The account setting “%(name)s” must be a text, or one per region.") % {"name": name}
            )
        return value

    def count(self, name: str) -> int:
        """Return a setting that is a whole number above zero, or 0 where it is not set."""
        value = self.settings.get(name)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 1_000_000:
            raise ProviderError(
                _("The account setting “%(name)s” must be a whole number above zero.") % {"name": name}
            )
        return value

    def cluster_type(self) -> str:
        value = self.text("cluster_type") or CLUSTER_TYPES[0]
        if value not in CLUSTER_TYPES:
            raise ProviderError(_("The account setting “cluster_type” must be KUBERNETES or SLURM."))
        return value


def explain(action: str, status: int, document: Any, headers: httpx.Headers) -> ProviderError | None:
    """Return our error for a refusal, whichever of Together's services it is from."""
    text, code = _said(document)
    if not text:
        return None
    said = f"{action}: {text}"
    if status == 402:
        return QuotaExceeded(said, code=code)
    if status in (400, 409, 422, 429):
        if NO_CAPACITY.search(text):
            return NoCapacity(said, code=code)
        if QUOTA.search(text):
            return QuotaExceeded(said, code=code)
        if ATTACHED.search(text):
            return ProviderError(said, code=code, retryable=True)
    return by_status(action, status, headers, text=text, code=code)


def _said(document: Any) -> tuple[str, str]:
    """Return text and code of ``{"error": {"message", "type", "code"}}``, or of a gateway's ``{"message", "code"}``."""
    error = document.get("error", document) if isinstance(document, Mapping) else None
    if isinstance(error, str):
        return error[:LONGEST_TEXT], ""
    if not isinstance(error, Mapping) or not isinstance(error.get("message"), str):
        return "", ""
    return error["message"].strip()[:LONGEST_TEXT], str(error.get("code") or error.get("type") or "")[:100]
