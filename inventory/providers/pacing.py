"""Keep an account's calls within its vendor's limits, across all workers.

The limit is a generic cell rate algorithm (GCRA, ITU-T I.371) on one key per account and
kind of call in Valkey, with its clock. Without Valkey every process paces itself.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings
from django.utils.translation import gettext as _

from inventory.providers.errors import ProviderError, RateLimited

log = logging.getLogger(__name__)

# A call that would have to wait longer fails instead, and its row is tried again later.
LONGEST_WAIT = 20.0  # seconds
HIGHEST_RATE = 100_000.0

# Returns how long to wait for the slot that was taken, or a negative wait where none was.
# KEYS[1]: the account's key. ARGV: seconds between calls, calls at once, the longest wait.
TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local gap, burst, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local wait = due - gap * (burst - 1) - now
if wait > longest then return tostring(-wait) end
redis.call('SET', KEYS[1], string.format('%.6f', due + gap), 'EX', math.ceil(due + gap - now) + 1)
return tostring(math.max(wait, 0))
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``per_second`` calls in the long run, ``burst`` at once; ``name`` within the account."""

    name: str
    per_second: float
    burst: int = 1


def rate_setting(options: Mapping[str, Any], name: str, usual: float) -> float:
    """Return a rate that an account's options may change; raises :class:`ProviderError` for no number."""
    value = options.get(name)
    if value is None:
        return usual
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        rate = 0.0
    if isinstance(value, bool) or not 0 < rate <= HIGHEST_RATE:
        raise ProviderError(_("The account setting “%(name)s” must be a number above zero.") % {"name": name})
    return rate


class Pace:
    """The limits of one account. Every call counts against ``usual``; some have one more of their own."""

    def __init__(self, credentials: Mapping[str, Any], base_url: str, *, usual: Limit | None) -> None:
        # Whoever holds the same credentials shares the limit; the digest is keyed, and tells nobody a key.
        secret = repr((base_url, sorted((name, str(value)) for name, value in credentials.items())))
        digest = hashlib.blake2b(
            secret.encode(), key=settings.SECRET_KEY.encode()[:64], digest_size=12, person=b"sublet-pace"
        )
        self._account = digest.hexdigest()
        self._usual = usual

    def wait(self, limit: Limit | None = None, *, action: str) -> None:
        """Wait for our turn; raises :class:`RateLimited` where that would take over 20 seconds."""
        for each in (self._usual, limit):
            if each is None:
                continue
            seconds = _take(f"sublet:pace:{self._account}:{each.name}", each)
            if seconds < 0:
                raise RateLimited(
                    _("%(action)s: we already make as many calls as the provider allows.")
                    % {"action": action},
                    retry_after=-seconds,
                )
            if seconds:
                time.sleep(seconds)


_local_due: dict[str, float] = {}
_local_lock = threading.Lock()
_connections: dict[str, redis.Redis] = {}


def _take(key: str, limit: Limit) -> float:
    gap = 1.0 / limit.per_second
    try:
        url = str(settings.CACHES["default"]["LOCATION"])
        if url not in _connections:
            _connections[url] = redis.Redis.from_url(url, socket_timeout=2.0, socket_connect_timeout=2.0)
        answer: Any = _connections[url].eval(TAKE, 1, key, gap, limit.burst, LONGEST_WAIT)
        return float(answer)
    except redis.RedisError as error:
        log.warning("pacing_without_valkey", extra={"error": type(error).__name__})
    with _local_lock:
        now = time.monotonic()
        due = max(_local_due.get(key, 0.0), now)
        wait = due - gap * (limit.burst - 1) - now
        if wait > LONGEST_WAIT:
            return -wait
        _local_due[key] = due + gap
        return max(wait, 0.0)
