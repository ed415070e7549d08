"""What Nebius's refusals mean: a gRPC status, and ServiceError details where it gives them.

Source: nebius/common/v1/error.proto, https://github.com/nebius/api
"""

from __future__ import annotations

import re
from typing import Any

from django.utils.translation import gettext as _
from grpc import StatusCode

from inventory.providers.errors import (
    AuthFailed,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)

LONGEST_TEXT = 400
QUOTA = re.compile(r"\bquota\b", re.IGNORECASE)
RESOURCES = re.compile(r"\bnot ?enough ?resources?\b", re.IGNORECASE)
# Nobody says whether a call that ended so took effect.
DOUBTFUL = {
    StatusCode.UNAVAILABLE,
    StatusCode.INTERNAL,
    StatusCode.UNKNOWN,
    StatusCode.DATA_LOSS,
    StatusCode.CANCELLED,
    StatusCode.ABORTED,
}
# Details that say that the same call may succeed later.
LATER = {"bad_resource_state", "resource_conflict", "operation_aborted", "operation_conflict"}


def explain(action: str, status: Any) -> ProviderError:
    """Return our error for the status of a call or of an operation (``RequestStatus`` of the SDK)."""
    number = status.code
    told = list(getattr(status, "service_errors", None) or ())
    kinds = {detail.field for error in told if (detail := getattr(error, "details", None)) is not None}
    code = next((str(error.code) for error in told if error.code), number.name)[:100]
    text = str(status.message or "").strip()[:LONGEST_TEXT]
    said = f"{action}: {text or number.name}"
    if number == StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(_("%(action)s: no answer in time.") % {"action": action}, code=code)
    if number in (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED):
        # Without a text that might quote the token.
        return AuthFailed(
            _("%(action)s: the provider refused these credentials.") % {"action": action}, code=code
        )
    if "quota_failure" in kinds:
        return QuotaExceeded(said, code=code)
    if "not_enough_resources" in kinds or RESOURCES.search(text):
        return NoCapacity(said, code=code)
    if "too_many_requests" in kinds:
        return RateLimited(said, code=code)
    if number == StatusCode.NOT_FOUND:
        return NotFound(said, code=code)
    if number == StatusCode.RESOURCE_EXHAUSTED:
        return QuotaExceeded(said, code=code) if QUOTA.search(text) else RateLimited(said, code=code)
    if number == StatusCode.ALREADY_EXISTS:
        # Names are ours alone: an earlier call took effect, and the list finds what it made.
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    if number in DOUBTFUL:
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    return ProviderError(said, code=code, retryable=bool(kinds & LATER))
