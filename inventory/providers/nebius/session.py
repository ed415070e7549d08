"""One Nebius tenant: its credentials and settings, and calls by Nebius's SDK.

The SDK is asynchronous underneath: each SDK object has one thread with an event loop, and
a pool of at most two. So all adapters of an account in one process share one SDK, which is
made at the first call (a worker's, not its parent's) and ends with its last adapter.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from django.utils.translation import gettext as _
from google.protobuf.message import Error as ProtobufError
from nebius.aio.request import RequestError as LocalError
from nebius.aio.service_error import RequestError
from nebius.aio.token.options import OPTION_MAX_RETRIES, OPTION_REPORT_ERROR
from nebius.base.error import SDKError
from nebius.base.service_account.credentials_file import ServiceAccountCredentials
from nebius.base.service_account.service_account import ServiceAccount
from nebius.base.service_account.static import Reader
from nebius.sdk import SDK

from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError, RateLimited, TimedOut
from inventory.providers.nebius.errors import explain
from inventory.providers.pacing import Limit, Pace, rate_setting

DOMAIN = "api.nebius.cloud:443"
TIMEOUT, AUTH_TIMEOUT = 30.0, 45.0  # seconds; the second with the exchange for a token
LONGEST_CALL = AUTH_TIMEOUT + 5.0  # after that we do not believe in the SDK's own limits
# Else the SDK asks for a token again and again behind our back, and says nothing until time is up.
AUTH_OPTIONS = {OPTION_REPORT_ERROR: "1", OPTION_MAX_RETRIES: "0"}
# Nebius publishes no limit of these calls; this one is ours.
REQUESTS_PER_SECOND = 10.0
ATTEMPTS = 3  # of a read
PAUSE = 0.5  # seconds before the second try; doubled before the third
PAGE = 100
MOST_PAGES = 2_000

Item = TypeVar("Item")
Credentials = str | Reader


def connect(credentials: Credentials, domain: str) -> SDK:
    """Return an SDK over TLS."""
    return SDK(credentials=credentials, domain=domain, user_agent_prefix="sublet")


_shared: weakref.WeakValueDictionary[tuple[int, str], SDK] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class Session:
    """Credentials and settings of one tenant.

    Credentials: ``service_account``, the JSON that Nebius gives for an authorized key
    (``subject-credentials`` with ``private-key``, ``kid``, ``iss`` and ``sub``), or ``token``.
    Settings that this adapter reads; ``projects`` is required:

    - ``projects``: an object with the project of each region: ``{"eu-north1": "project-e00…"}``
    - ``tenant_id``: for how much is in stock, which Nebius tells a tenant only
    - ``subnets``: an object with the subnet of each region (default: the project's only one)
    - ``image``: an image family, or an image id (``computeimage-…``), or one per region as an
      object (default: ``ubuntu24.04-cuda13.0``)
    - ``disk_gib``: the boot disk of a machine (default: 200); ``disk_type``: NETWORK_SSD (default),
      NETWORK_SSD_NON_REPLICATED or NETWORK_SSD_IO_M3
    - ``gpu_clusters``: an object with the GPU cluster of each region, which types with
      InfiniBand join
    - ``requests_per_second``: how often Nebius is called (default: 10)
    - ``domain``: where Nebius's API is (default: ``api.nebius.cloud:443``)
    """

    def __init__(self, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self._credentials = _bearer(credentials)
        self._domain = self.text("domain") or DOMAIN
        secret = json.dumps([sorted((key, str(value)) for key, value in credentials.items()), self._domain])
        self._key = hashlib.sha256(secret.encode()).hexdigest()
        usual = Limit("usual", rate_setting(settings, "requests_per_second", REQUESTS_PER_SECOND), burst=10)
        self._pace = Pace(credentials, self._domain, usual=usual)
        self._sdk: SDK | None = None
        self._process = 0

    def sdk(self) -> SDK:
        """Return the process's SDK for these credentials; a fork has none of its parent's."""
        if self._sdk is None or self._process != os.getpid():
            with _lock:
                key = (os.getpid(), self._key)
                sdk = _shared.get(key)
                if sdk is None:
                    sdk = _shared[key] = connect(self._credentials, self._domain)
                self._sdk, self._process = sdk, key[0]
        return self._sdk

    def _forget(self) -> None:
        """Have the next call make an SDK anew: this one's loop does not answer."""
        with _lock:
            if _shared.get((self._process, self._key)) is self._sdk:
                _shared.pop((self._process, self._key), None)
            self._sdk = None

    # --- settings

    def text(self, name: str, region: str = "") -> str:
        """Return a setting that is one text, or an object with one text per region."""
        value = self.settings.get(name) or ""
        value = value.get(region) or "" if isinstance(value, Mapping) else value
        if not isinstance(value, str):
            raise ProviderError(
                _("The account setting “%(name)s” must be a text, or one per region.") % {"name": name}
            )
        return value

    def by_region(self, name: str) -> Mapping[str, str]:
        value = self.settings.get(name) or {}
        if not isinstance(value, Mapping) or not all(
            isinstance(key, str) and isinstance(item, str) and key and item for key, item in value.items()
        ):
            raise ProviderError(
                _("The account setting “%(name)s” must be an object with one text per region.")
                % {"name": name}
            )
        return value

    def projects(self) -> Mapping[str, str]:
        found = self.by_region("projects")
        if not found:
            raise ProviderError(
                _("Set “projects” on the account: an object with the project of each region.")
            )
        return found

    def project(self, region: str) -> str:
        found = self.projects().get(region)
        if found is None:
            raise ProviderError(
                _("The account setting “projects” names no project in %(region)s.") % {"region": region}
            )
        return found

    def whole(self, name: str, usual: int) -> int:
        value = self.settings.get(name)
        if value is None:
            return usual
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 1_000_000:
            raise ProviderError(
                _("The account setting “%(name)s” must be a whole number above zero.") % {"name": name}
            )
        return value

    # --- calls

    def read(self, method: Callable[..., Any], request: Any, *, action: str) -> Any:
        """Return the answer to a call that changes nothing; tried up to three times."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._send(method, request, action)
            except ProviderError as error:
                if not error.retryable or isinstance(error, RateLimited) or attempt == ATTEMPTS:
                    raise
            time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
        raise AssertionError("the last attempt returns or raises")

    def once(self, method: Callable[..., Any], request: Any, *, action: str, token: str = "") -> Any:
        """Return the answer to a call that is sent once, since it changes something or may wait.

        ``token`` becomes Nebius's idempotency key; without one the SDK makes one up.
        """
        return self._send(method, request, action, token)

    def pages(
        self, method: Callable[..., Any], make: Callable[..., Any], *, action: str, **fields: Any
    ) -> Iterator[Any]:
        """Yield the items of every page, or raise: half a list is no list (P4)."""
        token, asked = "", set[str]()
        for _page in range(MOST_PAGES):
            if token in asked:
                raise BadAnswer(_("%(action)s: the same page came twice.") % {"action": action})
            asked.add(token)
            answer = self.read(method, make(**fields, page_size=PAGE, page_token=token), action=action)
            with understood(action):
                items, token = list(answer.items), str(answer.next_page_token)
            yield from items
            if not token:
                return
        raise BadAnswer(_("%(action)s: the pages do not end.") % {"action": action})

    def _send(self, method: Callable[..., Any], request: Any, action: str, token: str = "") -> Any:
        self._pace.wait(action=action)

        def call() -> Any:
            return method(
                request,
                metadata=[("x-idempotency-key", token)] if token else None,
                timeout=TIMEOUT,
                auth_timeout=AUTH_TIMEOUT,
                auth_options=AUTH_OPTIONS,
                per_retry_timeout=TIMEOUT,
                retries=0,
            ).wait()

        try:
            with understood(action):
                return _apart(call)
        except _Silent:
            self._forget()
            raise TimedOut(_("%(action)s: no answer in time.") % {"action": action}) from None
        except RequestError as error:
            raise explain(action, error.status) from None
        except (LocalError, SDKError, TimeoutError, OSError) as error:
            raise TimedOut(
                _("%(action)s: the connection broke (%(kind)s).")
                % {"action": action, "kind": type(error).__name__}
            ) from None


class _Silent(Exception):
    """The SDK kept neither its own time limit nor us informed."""


def _apart(call: Callable[[], Any]) -> Any:
    """Return what ``call`` returns or raise what it raises, from a thread of its own and in bounded time.

    The SDK refuses a thread in which an event loop runs, whosever that is, and its own limits
    are timers of its loop: where that stands still, nobody would ever wake the caller.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            answers.put((None, error))

    threading.Thread(target=run, name="nebius-call", daemon=True).start()
    try:
        answer, error = answers.get(timeout=LONGEST_CALL)
    except queue.Empty:
        raise _Silent from None
    if error is not None:
        raise error
    return answer


@contextmanager
def understood(action: str) -> Iterator[None]:
    """Raise :class:`BadAnswer` for what is no message: the SDK reads fields when they are asked for."""
    try:
        yield
    except (ProtobufError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise BadAnswer(
            _("%(action)s: the answer cannot be read (%(kind)s).")
            % {"action": action, "kind": type(error).__name__}
        ) from None


def _bearer(credentials: Mapping[str, Any]) -> Credentials:
    if document := str(credentials.get("service_account") or ""):
        try:
            subject = ServiceAccountCredentials.from_json(json.loads(document)).subject_credentials
            return Reader(ServiceAccount(subject.parse_private_key(), subject.kid, subject.sub))
        except (ValueError, TypeError, KeyError, AttributeError, SDKError, UnsupportedAlgorithm):
            # Without the cause, which may quote the key.
            raise AuthFailed(
                _("service_account must be the JSON of an authorized key, as Nebius gives it.")
            ) from None
    token = str(credentials.get("token") or "")
    if not token:
        raise AuthFailed(_("Enter service_account for this account."))
    if not (token.isascii() and token.isprintable()):
        raise AuthFailed(_("The token has characters that no token has."))
    return token
