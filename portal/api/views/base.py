"""What every view shares: authentication, scopes, throttles, the idempotency key."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import serializers
from rest_framework.request import Request

from portal.api.schemas import Problem
from portal.common.errors import InvalidInput

MAX_KEY = 255

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A text of your choice, up to 255 characters. The same key with the same body answers the "
    "same without doing it again; with another body it is a conflict.",
)


def problems(*codes: str) -> dict[tuple[int, str], OpenApiResponse]:
    """Return schema responses for ``"409 quote-expired"``-like texts, grouped by status."""
    grouped: dict[int, list[str]] = {}
    for text in ("400 invalid-input", "401 not-authenticated", *codes):
        status, code = text.split(" ", 1)
        grouped.setdefault(int(status), []).append(code)
    return {
        (status, "application/problem+json"): OpenApiResponse(Problem, description=", ".join(names))
        for status, names in grouped.items()
    }


def listed(serializer: type[serializers.Serializer[Any]]) -> dict[tuple[int, str], Any]:
    """Return the schema's answer of a list.

    Its key has the form of the problems' keys: drf-spectacular takes the smallest key's
    answer for the main one, and describes filters and cursors only if that is a list.
    """
    return {(200, "application/json"): serializer(many=True)}


def request_key(request: Request) -> str | None:
    """Return the caller's idempotency key, or ``None``. Raises InvalidInput for an odd one."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not key.strip() or len(key) > MAX_KEY or not key.isprintable():
        raise InvalidInput(
            _("Idempotency-Key must be 1 to %(most)d printable characters.") % {"most": MAX_KEY},
            field="Idempotency-Key",
        )
    return key


def valid(serializer_class: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """Return the validated input; raises DRF's ValidationError with the fields named."""
    serializer = serializer_class(data=data)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)
