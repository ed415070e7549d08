"""JSON over HTTPS for adapters without an SDK: one call, checked, with our errors.

Reads are tried a few times; whatever may change something is sent once, and its failure
says whether it may have taken effect (P1). Redirects are not followed, so that a key is
never sent to another host. Numbers with a fraction are :class:`~decimal.Decimal`.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
from django.utils import timezone
from django.utils.translation import gettext as _

from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NotFound,
    ProviderError,
    RateLimited,
    TimedOut,
)
from inventory.providers.pacing import Limit, Pace

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
ATTEMPTS = 3  # of a read
PAUSE = 0.5  # seconds before the second try; doubled before the third
# A list of 100,000 machines is about this large; anything above is no answer to a question of ours.
LARGEST_ANSWER = 128 * 1024 * 1024
MOST_PAGES = 2_000
DEFAULT_RETRY_AFTER, LONGEST_RETRY_AFTER = 30.0, 3600.0
LOOPBACK = {"localhost", "127.0.0.1", "::1"}

Explain = Callable[[str, int, Any, httpx.Headers], ProviderError | None]


class JsonApi:
    """One account's connection to one API.

    ``explain(action, status, document, headers)`` turns a vendor's error document into our
    error, or returns None to have it told by its HTTP status. ``action`` is the start of a
    sentence for staff; neither headers nor bodies that we send are ever put into one.
    """

    def __init__(
        self,
        *,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        auth: httpx.Auth | None = None,
        explain: Explain | None = None,
        pace: Pace | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ProviderError(_("The account’s address must begin with https://."))
        self.base_url = base_url.rstrip("/")
        self._explain = explain
        self._pace = pace
        self._client = httpx.Client(
            headers={"accept": "application/json", "user-agent": "sublet", **(headers or {})},
            auth=auth,
            timeout=timeout,
            follow_redirects=False,
        )

    def read(
        self, path: str, *, action: str, method: str = "GET", limit: Limit | None = None, **request: Any
    ) -> Any:
        """Return the document that a call answers which changes nothing; tried up to three times."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._send(method, path, action=action, limit=limit, **request)
            except ProviderError as error:
                if not error.retryable or isinstance(error, RateLimited) or attempt == ATTEMPTS:
                    raise
            time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
        raise AssertionError("the last attempt returns or raises")

    def write(
        self, method: str, path: str, *, action: str, limit: Limit | None = None, **request: Any
    ) -> Any:
        """Return the document of a call that may change something; sent once, never repeated here."""
        return self._send(method, path, action=action, limit=limit, **request)

    def pages(
        self,
        path: str,
        *,
        action: str,
        items: Callable[[Any], Any],
        following: Callable[[Any], Mapping[str, Any] | str | None],
        params: Mapping[str, Any] | None = None,
        limit: Limit | None = None,
    ) -> Iterator[Any]:
        """Yield every item of every page, or raise: half a list is no list (P4).

        ``following(document)`` returns the query of the next page, or its whole path, or
        None after the last. A page that was asked for already ends in :class:`BadAnswer`.
        """
        query: dict[str, Any] = dict(params or {})
        asked: set[str] = set()
        for _page in range(MOST_PAGES):
            mark = json.dumps([path, query], sort_keys=True, default=str)
            if mark in asked:
                raise BadAnswer(_("%(action)s: the same page came twice.") % {"action": action})
            asked.add(mark)
            # Without a query of ours httpx must not touch the one in a page's own path.
            document = self.read(path, action=action, params=query or None, limit=limit)
            found = items(document)
            if not isinstance(found, list):
                raise BadAnswer(_("%(action)s: a list was expected.") % {"action": action})
            yield from found
            after = following(document)
            if not after:
                return
            if isinstance(after, str):
                path, query = after, {}
            else:
                query = {**query, **after}
        raise BadAnswer(_("%(action)s: the pages do not end.") % {"action": action})

    def _send(self, method: str, path: str, *, action: str, limit: Limit | None, **request: Any) -> Any:
        if self._pace is not None:
            self._pace.wait(limit, action=action)
        url = self._url(path, action)
        try:
            with self._client.stream(method, url, **request) as response:
                body = _body(response, action)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            # Nothing was sent, so nothing can have happened.
            raise TimedOut(
                _("%(action)s: the address cannot be reached.") % {"action": action}, doubtful=False
            ) from error
        except httpx.TimeoutException as error:
            raise TimedOut(_("%(action)s: no answer in time.") % {"action": action}) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TimedOut(
                _("%(action)s: the connection broke (%(kind)s).")
                % {"action": action, "kind": type(error).__name__}
            ) from error
        return self._understand(response, body, action)

    def _url(self, path: str, action: str) -> str:
        if not path.startswith(("http://", "https://")):
            return self.base_url + "/" + path.lstrip("/")
        # A page's link may name another host: our key stays at home.
        theirs, ours = urlsplit(path), urlsplit(self.base_url)
        if (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc):
            raise BadAnswer(_("%(action)s: the next page is at another host.") % {"action": action})
        return path

    def _understand(self, response: httpx.Response, body: bytes, action: str) -> Any:
        status = response.status_code
        document: Any = None
        readable = True
        if body.strip():
            try:
                document = parse(body)
            except ValueError:
                readable = False
        if 200 <= status < 300:
            if not readable:
                raise BadAnswer(_("%(action)s: the answer is not JSON.") % {"action": action})
            return document
        error = None
        if self._explain is not None and readable:
            error = self._explain(action, status, document, response.headers)
        raise error or by_status(action, status, response.headers, readable=readable)


def parse(body: bytes | str) -> Any:
    """Return a JSON document with exact numbers; raises :class:`ValueError` for anything else, NaN too."""
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_refuse)
    except (RecursionError, InvalidOperation) as error:
        raise ValueError(str(error)) from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _body(response: httpx.Response, action: str) -> bytes:
    parts, size = [], 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > LARGEST_ANSWER:
            raise BadAnswer(
                _("%(action)s: the answer is larger than %(n)s MB.")
                % {"action": action, "n": LARGEST_ANSWER // 1024**2}
            )
        parts.append(chunk)
    return b"".join(parts)


def by_status(
    action: str,
    status: int,
    headers: Mapping[str, str],
    *,
    readable: bool = True,
    text: str = "",
    code: str = "",
) -> ProviderError:
    """Return the error that an HTTP status alone tells; ``text`` and ``code`` are the vendor's."""
    said = (
        f"{action}: {text}"
        if text
        else _("%(action)s: HTTP %(status)s.") % {"action": action, "status": status}
    )
    if status == 401 or (status == 403 and readable):
        return AuthFailed(
            _("%(action)s: the provider refused these credentials.") % {"action": action}, code=code
        )
    if status in (404, 410):
        return NotFound(said, code=code)
    if status == 429:
        return RateLimited(said, code=code, retry_after=retry_after(headers))
    if status >= 500 or status in (408, 425):
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    if not readable or status < 400:
        return BadAnswer(
            _("%(action)s: HTTP %(status)s with a page instead of JSON.")
            % {"action": action, "status": status},
            code=code,
        )
    return ProviderError(said, code=code)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds to wait by ``Retry-After`` (RFC 9110, 10.2.3), bounded; 30 without a usable one."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - timezone.now()).total_seconds()
        except (TypeError, ValueError):
            return DEFAULT_RETRY_AFTER
    if not seconds >= 0:
        return DEFAULT_RETRY_AFTER
    return min(seconds, LONGEST_RETRY_AFTER)
