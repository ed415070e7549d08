"""A cache that may be gone: losing Redis must not take the site with it."""

from __future__ import annotations

from typing import Any

import redis.exceptions
import structlog
from django.core.cache.backends.redis import RedisCache

log = structlog.get_logger(__name__)

UNREACHABLE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


class ForgetfulRedisCache(RedisCache):
    """Django's Redis cache, but an unreachable server counts as a miss, with a warning.

    What lives here (throttle counters, rate limits, rendered fragments) can be lost.
    """

    def _forget(self, operation: str, answer: Any) -> Any:
        log.warning("cache_unreachable", operation=operation)
        return answer

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        try:
            return super().get(key, default, version)
        except UNREACHABLE:
            return self._forget("get", default)

    def set(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().set(*args, **kwargs)
        except UNREACHABLE:
            self._forget("set", None)

    def add(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return bool(super().add(*args, **kwargs))
        except UNREACHABLE:
            return bool(self._forget("add", True))

    def touch(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return bool(super().touch(*args, **kwargs))
        except UNREACHABLE:
            return bool(self._forget("touch", False))

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return bool(super().delete(*args, **kwargs))
        except UNREACHABLE:
            return bool(self._forget("delete", False))

    def get_many(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        try:
            return dict(super().get_many(*args, **kwargs))
        except UNREACHABLE:
            return dict(self._forget("get_many", {}))

    def set_many(self, *args: Any, **kwargs: Any) -> list[Any]:
        try:
            return list(super().set_many(*args, **kwargs) or [])
        except UNREACHABLE:
            return list(self._forget("set_many", []))

    def has_key(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return bool(super().has_key(*args, **kwargs))
        except UNREACHABLE:
            return bool(self._forget("has_key", False))

    def incr(self, *args: Any, **kwargs: Any) -> int:
        try:
            return int(super().incr(*args, **kwargs))
        except UNREACHABLE:
            return int(self._forget("incr", 1))
