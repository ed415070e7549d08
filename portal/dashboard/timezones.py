"""Times are stored in UTC and shown in the person's zone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, tzinfo
from functools import lru_cache
from urllib.parse import unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

COOKIE = "sublet_zone"  # the browser's own zone, for pages before sign-in


@lru_cache(maxsize=512)
def _known(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown, malformed, a directory
        return None


def zone_of(request: HttpRequest) -> tzinfo:
    """Return the signed-in person's zone, else the browser's, else UTC. Never raises."""
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        name = getattr(user, "time_zone", "")
    else:
        name = unquote(request.COOKIES.get(COOKIE, ""))
    # IANA names are short; anything longer is not worth a look at the disk.
    return (_known(name) if 0 < len(name) <= 64 else None) or UTC


class TimeZoneMiddleware:
    """Activate the person's zone for one request; place it after authentication."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with timezone.override(zone_of(request)):
            return self.get_response(request)
