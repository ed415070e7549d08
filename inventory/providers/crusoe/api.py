"""One Crusoe project: its access key, its settings, and what its errors mean.

Source: Crusoe Cloud API Gateway v1, https://docs.crusoecloud.com/api/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
from django.utils.translation import gettext as _

from inventory.providers.crusoe.signing import CrusoeAuth
from inventory.providers.errors import AuthFailed, NoCapacity, ProviderError, QuotaExceeded
from inventory.providers.fields import get
from inventory.providers.http import JsonApi, by_status
from inventory.providers.options import Options
from inventory.providers.pacing import Limit, Pace, rate_setting
from inventory.providers.recent import Recent

ENDPOINT = "https://api.cloud.crusoe.ai/v1"
REQUESTS_PER_SECOND = 5.0  # Crusoe publishes no limit
BURST = 10
LONGEST_TEXT = 400

# Crusoe's words, as code or as message, in an answer or in the result of an operation:
# "insufficient capacity" or "out of stock" (support.crusoecloud.com, article 51755978765467);
# dstack reads the code out_of_stock (backends/crusoe/resources.py of dstackai/dstack).
NO_CAPACITY = re.compile(r"out[_ -]of[_ -]stock|insufficient[_ ]capacity|not enough capacity", re.IGNORECASE)
QUOTA = re.compile(r"quota", re.IGNORECASE)
CODE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
DESCRIPTION = " desc = "  # "rpc error: code = … desc = …": what comes after it is for people


class CrusoeApi:
    """Credentials and settings of one project.

    Credentials: ``access_key_id`` and ``secret_key``. Settings that this adapter reads, all
    optional but ``project_id`` and ``image``:

    - ``project_id``: the project that machines are launched in
    - ``regions``: list of regions to poll, as ``us-east1`` (default: all that Crusoe lists)
    - ``image``: the image of machines without a software stack, as ``ubuntu22.04-nvidia-pcie-docker:latest``,
      or ``custom:`` and the id of an image of your own; or one per region as an object
    - ``ib_network``: the id of the InfiniBand or RoCE network for types that have one, as an
      object with one per location (``us-east1-a``); each lease gets a partition of its own
    - ``network_cidr``: the addresses of each lease's own network (``172.27.0.0/16``)
    - ``user``: whom the SSH keys let in (``ubuntu``)
    - ``requests_per_second``: 5 unless it is set
    - ``endpoint_url``: another address of the same API, its version included
    """

    def __init__(self, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        key, secret = (str(credentials.get(name) or "") for name in ("access_key_id", "secret_key"))
        if not key or not secret:
            raise AuthFailed(_("Enter access_key_id and secret_key for this account."))
        if not (key.isascii() and key.isprintable()):
            raise AuthFailed(_("The access key has characters that no key has."))
        try:
            auth = CrusoeAuth(key, secret)
        except ValueError:
            raise AuthFailed(
                _("secret_key is no secret of Crusoe’s: enter it as Crusoe showed it.")
            ) from None
        self.options = Options(settings)
        endpoint = self.options.text("endpoint_url", ENDPOINT)
        rate = rate_setting(settings, "requests_per_second", REQUESTS_PER_SECOND)
        self.http = JsonApi(
            base_url=endpoint,
            auth=auth,
            explain=explain,
            pace=Pace(credentials, endpoint, usual=Limit("usual", rate, burst=BURST)),
        )
        self._recent = Recent()

    @property
    def project_id(self) -> str:
        project = self.options.text("project_id")
        if not project:
            raise ProviderError(_("Set “project_id” on the account: machines belong to a project at Crusoe."))
        return project

    def path(self, *parts: str) -> str:
        """Return the path of something in the project."""
        return "/projects/" + "/".join([quote(self.project_id, safe=""), *parts])

    def items(self, path: str, *, action: str, params: Mapping[str, Any] | None = None) -> list[Any]:
        """Return a listing that comes whole."""
        return get(self.http.read(path, action=action, params=params), "items", list, action=action)

    def recent(self, path: str, *, action: str, fresh: bool = False) -> list[Any]:
        """Return the same, from an answer of the last minute where there is one."""
        found: list[Any] = self._recent.get(path, lambda: self.items(path, action=action), fresh=fresh)
        return found

    def pages(self, path: str, *, action: str, params: Mapping[str, Any]) -> Iterator[Any]:
        """Yield a listing that comes in pages, completely or not at all."""
        return self.http.pages(
            path,
            action=action,
            params=params,
            items=lambda document: get(document, "items", list, action=action),
            following=lambda document: _next(
                get(document, "next_page_token", str, action=action, default="")
            ),
        )

    def operate(self, method: str, path: str, *, action: str, **request: Any) -> Mapping[str, Any]:
        """Make a call that begins an operation, once; raise its error where it has failed already."""
        answer = self.http.write(method, path, action=action, **request)
        operation: Mapping[str, Any] = get(answer, "operation", dict, action=action)
        check(operation, action=action)
        return operation


def _next(token: str) -> Mapping[str, Any] | None:
    return {"next_token": token} if token else None


def check(operation: Mapping[str, Any], *, action: str) -> str:
    """Return the state of an operation; raise our error for one that failed.

    A failed operation is over: it has not made what it should.
    """
    state = get(operation, "state", str, action=action)
    if state == "FAILED":
        code = get(operation, "result.code", str, action=action, default="")
        message = get(operation, "result.message", str, action=action, default="")
        raise told(action, code, message) or ProviderError(_said(action, message or code), code=_code(code))
    return state


def told(action: str, code: str, message: str) -> ProviderError | None:
    """Return our error for what Crusoe's words say for certain; None where they do not."""
    words = f"{code} {message}"
    if NO_CAPACITY.search(words):
        return NoCapacity(_said(action, message or code), code=_code(code))
    if QUOTA.search(words):
        return QuotaExceeded(_said(action, message or code), code=_code(code))
    return None


def explain(action: str, status: int, document: Any, headers: httpx.Headers) -> ProviderError | None:
    """Return our error for ``{"code", "message", "error_id"}``; None for anything else."""
    if not isinstance(document, Mapping) or not isinstance(document.get("message"), str):
        return None
    code, message = document.get("code"), document["message"]
    code = code if isinstance(code, str) else ""
    if status == 401:  # without a text that might quote the key
        return AuthFailed(
            _("%(action)s: Crusoe refused the signature. Check the access key, and this server’s clock.")
            % {"action": action},
            code=_code(code),
        )
    if status in (400, 403, 409) and (error := told(action, code, message)):
        return error
    text = _text(message)
    if isinstance(reference := document.get("error_id"), str) and reference:
        text = f"{text} ({reference[:100]})"
    if status == 403:
        return AuthFailed(_said(action, text), code=_code(code))
    return by_status(action, status, headers, text=text, code=_code(code))


def _said(action: str, message: str) -> str:
    text = _text(message)
    return f"{action}: {text}" if text else action


def _text(message: str) -> str:
    return message.rpartition(DESCRIPTION)[2].strip()[:LONGEST_TEXT]


def _code(code: str) -> str:
    return code if CODE.fullmatch(code) else ""
