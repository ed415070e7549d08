"""Sign-in with a service account's key: google-auth signs, our own HTTP client asks for the token.

https://developers.google.com/identity/protocols/oauth2/service-account
Nothing but a service account's key is taken: the other kinds of credentials that
google-auth knows may name a program to run, a file to read or an address to ask.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.utils.translation import gettext as _
from google.auth import exceptions as google
from google.auth import transport
from google.oauth2 import service_account

from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError, RateLimited, TimedOut
from inventory.providers.http import LOOPBACK, TIMEOUT, parse, retry_after

SCOPES = (
    "https://www.googleapis.com/auth/compute",
    "https://www.googleapis.com/auth/cloud-billing.readonly",
)
TOKEN_URIS = {"https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token"}
UNIVERSE = "googleapis.com"
LARGEST_KEY = 20_000  # characters; real ones have 2,400
LARGEST_ANSWER = 64 * 1024


def read_key(text: Any, *, local: bool) -> dict[str, str]:
    """Return a service account's key; raises :class:`AuthFailed` for anything else.

    ``local`` allows a token address on this machine, for accounts whose API is there too.
    """
    try:
        found = parse(text) if isinstance(text, str) and len(text) <= LARGEST_KEY else None
    except ValueError:
        found = None
    if not isinstance(found, Mapping):
        raise AuthFailed(_("Enter the service account’s key: the whole JSON file that Google made."))
    if found.get("type") != "service_account":
        raise AuthFailed(_("The key is not a service account’s; no other kind of credentials is used."))
    key = {}
    for name in ("project_id", "client_email", "private_key", "private_key_id", "token_uri"):
        value = found.get(name)
        if not isinstance(value, str) or not value:
            raise AuthFailed(_("The service account’s key lacks “%(name)s”.") % {"name": name})
        key[name] = value
    address = urlsplit(key["token_uri"])
    at_home = local and address.scheme in ("http", "https") and address.hostname in LOOPBACK
    if key["token_uri"] not in TOKEN_URIS and not at_home:
        raise AuthFailed(_("The key’s “token_uri” is not Google’s: it would be sent a signed request."))
    if found.get("universe_domain", UNIVERSE) != UNIVERSE:
        raise AuthFailed(_("The key is not of Google’s public cloud (googleapis.com)."))
    return key


class Signer(httpx.Auth):
    """Put a service account's token on every call, and get a new one before it expires."""

    def __init__(self, key: Mapping[str, str]) -> None:
        try:
            self._credentials: Any = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
                key, scopes=list(SCOPES)
            )
        except (ValueError, TypeError, google.GoogleAuthError):
            # Without the library's own words, which may quote the key.
            raise AuthFailed(_("The service account’s private key cannot be read.")) from None
        self._request = _TokenRequest(key["token_uri"])
        self._lock = threading.Lock()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        token = self.token()
        request.headers["authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401:
            with self._lock:
                if self._credentials.token == token:
                    self._credentials.token = None

    def token(self) -> str:
        """Return a valid token; raises only what never leaves the call after it in doubt."""
        with self._lock:
            if not self._credentials.valid:
                try:
                    self._credentials.refresh(self._request)
                except ProviderError as error:
                    # Only the token was asked for: the call itself was never sent.
                    error.doubtful = False
                    raise
                except google.RefreshError as error:
                    raise AuthFailed(
                        _("Google refused the service account’s key: %(reason)s") % {"reason": _said(error)},
                        code=_code(error),
                    ) from error
                except (google.GoogleAuthError, AttributeError, KeyError, TypeError, ValueError) as error:
                    raise BadAnswer(
                        _("Google’s answer to the sign-in is no token."), doubtful=False
                    ) from error
            token = self._credentials.token
            if not isinstance(token, str) or not token.isprintable():
                self._credentials.token = None
                raise BadAnswer(_("Google’s answer to the sign-in is no token."), doubtful=False)
            return token


class _TokenRequest(transport.Request):
    """One call of the token's address, as google-auth wants it; what only we can tell is raised here."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = httpx.Client(timeout=TIMEOUT, follow_redirects=False)

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_options: Any,
    ) -> _TokenResponse:
        if url != self._address:
            raise BadAnswer(_("The sign-in asked for another address than Google’s."))
        action = _("Google sign-in")
        try:
            with self._client.stream(method, url, content=body, headers=headers) as response:
                parts, size = [], 0
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    if size > LARGEST_ANSWER:
                        raise BadAnswer(_("Google’s answer to the sign-in is no token."))
                    parts.append(chunk)
        except httpx.HTTPError as error:
            raise TimedOut(
                _("%(action)s: no answer (%(kind)s).") % {"action": action, "kind": type(error).__name__}
            ) from error
        status = response.status_code
        if status == 429:
            raise RateLimited(
                _("%(action)s: too many calls.") % {"action": action},
                retry_after=retry_after(response.headers),
            )
        data = b"".join(parts)
        if status >= 500 or not isinstance(_document(data), Mapping):
            raise BadAnswer(
                _("%(action)s: HTTP %(status)s without a usable answer.")
                % {"action": action, "status": status}
            )
        return _TokenResponse(status, response.headers, data)


class _TokenResponse(transport.Response):
    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self._status, self._headers, self._data = status, headers, data

    @property
    def status(self) -> int:
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    @property
    def data(self) -> bytes:
        return self._data


def _document(data: bytes) -> Any:
    try:
        return parse(data)
    except ValueError:
        return None


def _answer(error: google.RefreshError) -> Mapping[str, Any]:
    found = error.args[1] if len(error.args) > 1 else None
    return found if isinstance(found, Mapping) else {}


def _code(error: google.RefreshError) -> str:
    return str(_answer(error).get("error") or "")[:100]


def _said(error: google.RefreshError) -> str:
    """Return Google's reason, such as “Invalid JWT Signature.”: never the request."""
    return str(_answer(error).get("error_description") or _code(error) or _("no reason given"))[:300]
