"""One RunPod account: its key, its settings, its limits, and what its errors mean.

Source: Runpod REST API 2.0.0, https://docs.runpod.io/api-reference-v2
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx
from django.utils.translation import gettext as _

from inventory.providers.errors import (
    AuthFailed,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)
from inventory.providers.fields import get
from inventory.providers.http import LONGEST_RETRY_AFTER, JsonApi, by_status
from inventory.providers.options import Options
from inventory.providers.pacing import Limit, Pace, rate_setting
from inventory.providers.recent import Recent

ENDPOINT = "https://api.runpod.io"
# The document's example of RateLimit-Policy: 60 in a minute, 3,000 in an hour, 50,000 in a day.
REQUESTS_PER_SECOND = 3_000 / 3_600
BURST = 10
LONGEST_TEXT = 400

CREATE = "create pod"
# A pod that cannot be placed is a 400 without a code of its own: "capacity exhaustion currently
# carries no machine-readable code of its own — only a human-readable detail". The sentences are
# RunPod's own, as users of its APIs report them (mlabonne/llm-autoeval#3, dstackai/dstack#1740,
# runpod/runpod-python#21 and #297, runpod/runpodctl#189); version 1 sent them with a 500.
NO_CAPACITY = re.compile(
    r"no (?:longer any )?instances (?:are )?(?:currently )?available"
    r"|no longer any instances available"
    r"|does not have the resources to deploy (?:your|this) pod"
    r"|not enough free gpus"
    r"|insufficient capacity|no capacity|out of capacity|capacity error",
    re.IGNORECASE,
)
WINDOW = re.compile(r";\s*r=(\d{1,9})\b[^,]*;\s*t=(\d{1,9})\b")


class RunPodApi:
    """Credentials and settings of one account.

    Credentials: ``api_key``. Settings that this adapter reads, all optional but ``image``:

    - ``regions``: list of data centers to poll (default: all that RunPod lists)
    - ``cloud``: ``SECURE`` (RunPod's own data centers, the default) or ``COMMUNITY``
    - ``gpus_per_pod``: the sizes that are sold, a list (default 1, 2, 4 and 8)
    - ``image``: the container image of machines without a software stack, or one per data
      center as an object; it must start sshd with the keys in ``PUBLIC_KEY``
    - ``disk_gb``: the container's disk, in GB
    - ``volume_gb`` and ``volume_path`` (``/workspace``): a disk on the host that outlives a
      restart of the container, and ends with the pod
    - ``min_cuda_version``: the lowest CUDA version of the host, as ``12.8``
    - ``registry``: the id of a registry credential, for private images
    - ``requests_per_second``: 0.83 unless it is set
    - ``endpoint_url``: another address of the same API
    """

    def __init__(self, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        key = str(credentials.get("api_key") or "")
        if not key:
            raise AuthFailed(_("Enter api_key for this account."))
        if not (key.isascii() and key.isprintable()):
            raise AuthFailed(_("The API key has characters that no key has."))
        self.options = Options(settings)
        endpoint = self.options.text("endpoint_url", ENDPOINT)
        rate = rate_setting(settings, "requests_per_second", REQUESTS_PER_SECOND)
        self.http = JsonApi(
            base_url=endpoint,
            headers={"authorization": f"Bearer {key}"},
            explain=explain,
            pace=Pace(credentials, endpoint, usual=Limit("usual", rate, burst=BURST)),
        )
        self._recent = Recent()

    @property
    def cloud(self) -> str:
        return self.options.text("cloud", "SECURE", among=("SECURE", "COMMUNITY"))

    def read_list(self, path: str, field: str, *, action: str, **request: Any) -> list[Any]:
        """Return the list that is all of an answer: RunPod's listings have no pages."""
        return get(self.http.read(path, action=action, **request), field, list, action=action)

    def read_recent(
        self, path: str, field: str, *, action: str, params: Mapping[str, Any], fresh: bool = False
    ) -> list[Any]:
        """Return the same, from an answer of the last minute where there is one."""
        found: list[Any] = self._recent.get(
            (path, *sorted(params.items())),
            lambda: self.read_list(path, field, action=action, params=params),
            fresh=fresh,
        )
        return found

    def delete(self, path: str, *, action: str) -> None:
        """Delete; what is gone already is no error."""
        try:
            self.http.write("DELETE", path, action=action)
        except NotFound:
            pass


def explain(action: str, status: int, document: Any, headers: httpx.Headers) -> ProviderError | None:
    """Return our error for RunPod's ``{"title", "status", "detail", "errors"}``; None for anything else.

    The status decides, and for a launch the words: RunPod's errors have no codes.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("detail"), str):
        return None
    errors = document.get("errors")
    details = [error for error in errors if isinstance(error, str)] if isinstance(errors, list) else []
    text = " ".join([document["detail"].strip(), *details])[:LONGEST_TEXT]
    said = f"{action}: {text}" if text else action
    if action == CREATE and status in (400, 500) and NO_CAPACITY.search(text):
        return NoCapacity(said)
    if status == 402:  # the account's balance
        return QuotaExceeded(said)
    if status == 403:
        return AuthFailed(said)
    seconds = _until_reset(headers.get("ratelimit", ""))
    if status == 429 and seconds and not headers.get("retry-after"):
        return RateLimited(said, retry_after=seconds)
    return by_status(action, status, headers, text=text)


def _until_reset(header: str) -> float:
    """Return when the exhausted windows of a ``RateLimit`` header are over, in seconds; 0 without one."""
    waits = [int(seconds) for left, seconds in WINDOW.findall(header) if int(left) == 0]
    return min(float(max(waits, default=0)), LONGEST_RETRY_AFTER)
