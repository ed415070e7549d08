"""How often a caller may ask; counters live in Redis and their loss refuses nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from portal.accounts.models import ApiToken

if TYPE_CHECKING:  # DRF's views read these classes while they are imported
    from rest_framework.views import APIView


class _PerCaller(SimpleRateThrottle):
    def get_cache_key(self, request: Request, view: APIView) -> str:
        if isinstance(request.auth, ApiToken):
            ident = f"token-{request.auth.pk}"
        elif request.user.is_authenticated:
            ident = f"user-{request.user.pk}"
        else:
            ident = f"address-{self.get_ident(request)}"
        return self.cache_format % {"scope": self.scope, "ident": ident}


class Reads(_PerCaller):
    """All requests of a caller."""

    scope = "reads"


class Writes(_PerCaller):
    """Requests that hold capacity or move money."""

    scope = "writes"

    def allow_request(self, request: Request, view: APIView) -> bool:
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return True
        return super().allow_request(request, view)
