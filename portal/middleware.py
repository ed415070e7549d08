"""Limits on what a request may bring."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _

# A client that is still sending sees a broken connection instead of our answer, so a body that is
# somewhat too large is read and thrown away first.
DRAIN_LIMIT = 64 * 2**20


def body_limit(path: str) -> int:
    """Return the largest body in bytes that ``path`` takes: the longest matching prefix decides."""
    prefix = max((prefix for prefix in settings.SUBLET_BODY_LIMITS if path.startswith(prefix)), key=len)
    return int(settings.SUBLET_BODY_LIMITS[prefix])


class BodyLimitMiddleware:
    """Refuse a larger body with 413 and a sentence, before anything parses it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            length = int(request.META.get("CONTENT_LENGTH") or 0)
        except ValueError:
            length = 0
        limit = body_limit(request.path)
        if length <= limit:
            return self.get_response(request)

        left = length if length <= DRAIN_LIMIT else 0
        while left > 0 and (chunk := request.read(min(left, 2**16))):
            left -= len(chunk)
        detail = _("This request has %(size)s; the most accepted here is %(limit)s. Send less at once.") % {
            "size": filesizeformat(length),
            "limit": filesizeformat(limit),
        }
        if request.path.startswith("/api/"):
            body = {"type": "about:blank", "title": _("Request too large"), "status": 413, "detail": detail}
            return JsonResponse(body, status=413, content_type="application/problem+json")
        return HttpResponse(detail, status=413, content_type="text/plain; charset=utf-8")
