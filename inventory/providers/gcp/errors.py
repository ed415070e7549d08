"""What Google's error documents and failed operations mean, as our errors.

A refused call answers ``{"error": {code, message, status, errors: [{reason}], details}}``
(https://cloud.google.com/apis/design/errors); a call that was accepted may still fail as
an operation, whose ``error.errors[].code`` are in capitals
(https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-vm-creation,
https://cloud.google.com/compute/docs/resource-error).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from inventory.providers.errors import (
    AuthFailed,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
)
from inventory.providers.http import by_status, retry_after

NO_CAPACITY = {
    "REGION_RESOURCE_POOL_EXHAUSTED",
    "RESOURCE_POOL_EXHAUSTED",
    "RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
    "STOCKOUT",
    "ZONE_RESOURCE_POOL_EXHAUSTED",
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
    "resource_availability",
    "stockout",
}
QUOTA = {"QUOTA_EXCEEDED", "dailyLimitExceeded", "limitExceeded", "quotaExceeded"}
THROTTLED = {
    "RATE_LIMIT_EXCEEDED",
    "concurrentLimitExceeded",
    "rateLimitExceeded",
    "userRateLimitExceeded",
}
AUTH = {
    "ACCESS_TOKEN_EXPIRED",
    "ACCOUNT_STATE_INVALID",
    "BILLING_DISABLED",
    "CONSUMER_SUSPENDED",
    "IAM_PERMISSION_DENIED",
    "PERMISSIONS_ERROR",
    "PERMISSION_DENIED",
    "SERVICE_DISABLED",
    "UNAUTHENTICATED",
    "accessNotConfigured",
    "authError",
    "billingNotEnabled",
    "forbidden",
    "insufficientPermissions",
}
# Somebody else is at work on the same thing, or it is still in use: nothing happened.
LATER = {
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
    "RESOURCE_NOT_READY",
    "RESOURCE_OPERATION_RATE_EXCEEDED",
    "conditionNotMet",
    "operationInProgress",
    "resourceInUse",
    "resourceInUseByAnotherResource",
    "resourceNotReady",
}
INTERNAL = {"INTERNAL_ERROR", "backendError", "internalError", "SERVICE_UNAVAILABLE"}
# The name is taken: an earlier call of ours made it, so look before calling again.
TAKEN = {"RESOURCE_ALREADY_EXISTS", "alreadyExists", "duplicate"}
GONE, MISSING = "notFound", "misconfigured"

# A 404 names what is missing. Only one that names the thing itself says that it is gone: taken
# for one, a wrong project would lose every machine of the account.
_NAMED = re.compile(r"The resource '(?:[^']*/)?projects/[^/']+/(?P<path>[^']+)' was not found")
_THINGS = {
    "addresses",
    "disks",
    "firewalls",
    "futureReservations",
    "instances",
    "operations",
    "reservations",
}
_FULL = re.compile(
    r"\b(does|do) not have (available|enough|sufficient) (resources|capacity)|\bstockout\b", re.IGNORECASE
)
_QUOTA = re.compile(r"\bquota\b.*\bexceeded\b", re.IGNORECASE)
LONGEST_TEXT = 500


@contextmanager
def before_the_call() -> Iterator[None]:
    """Within, only reads are made: whatever fails, nothing was launched or bought yet."""
    try:
        yield
    except ProviderError as error:
        error.doubtful = False
        raise


def explain(action: str, status: int, document: Any, headers: Mapping[str, str]) -> ProviderError | None:
    """Return our error for Google's error document; None for one that is not."""
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping):
        return None
    text = _shortened(error.get("message"))
    said = f"{action}: {text}" if text else action
    reasons = _reasons(error)
    code = reasons[0] if reasons else ""
    if status == 429 or THROTTLED.intersection(reasons):
        return RateLimited(said, code=code, retry_after=retry_after(headers))
    for reason in reasons:
        if found := by_code(reason, text, said):
            return found
    if _FULL.search(text):
        return NoCapacity(said, code=code)
    if status == 404:
        return _not_found(text, said)
    if status in (409, 412):
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    return by_status(action, status, headers, text=text, code=code)


def by_code(code: str, text: str, said: str) -> ProviderError | None:
    """Return the error that a reason or an operation's code alone tells."""
    if code in NO_CAPACITY:
        return NoCapacity(said, code=code)
    if code in QUOTA or (code == "forbidden" and _QUOTA.search(text)):
        return QuotaExceeded(said, code=code)
    if code in AUTH:
        # Google's sentence names the permission or the API that is missing, and no secret.
        return AuthFailed(said, code=code)
    if code in LATER:
        return ProviderError(said, code=code, retryable=True)
    if code in INTERNAL or code in TAKEN:
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    return None


def of_operation(operation: Mapping[str, Any], action: str) -> ProviderError | None:
    """Return why a finished operation failed; None for one that did not, or that goes on.

    It is over, so nothing is in doubt.
    """
    found = operation.get("error")
    errors = found.get("errors") if isinstance(found, Mapping) else None
    items = [item for item in errors if isinstance(item, Mapping)] if isinstance(errors, list) else []
    if operation.get("status") != "DONE" or not (items or operation.get("httpErrorStatusCode")):
        return None
    texts = [_shortened(item.get("message")) for item in items] or [
        _shortened(operation.get("httpErrorMessage"))
    ]
    codes = [str(item.get("code") or "")[:100] for item in items] or [""]
    said = f"{action}: {' '.join(text for text in texts if text) or codes[0]}"[: LONGEST_TEXT + len(action)]
    for code, text in zip(codes, texts, strict=True):
        if _FULL.search(text):
            return NoCapacity(said, code=code)
        if error := by_code(code, text, said):
            error.doubtful = False
            return error
    return ProviderError(said, code=codes[0])


def _not_found(text: str, said: str) -> ProviderError:
    match = _NAMED.search(text)
    parts = match["path"].split("/") if match else []
    if len(parts) >= 2 and parts[-2] in _THINGS:
        return NotFound(said, code=GONE)
    return ProviderError(said, code=MISSING)


def _reasons(error: Mapping[str, Any]) -> list[str]:
    """Return every word by which the document says what is wrong, the most exact first."""
    found: list[str] = []
    for name in ("errors", "details"):
        items = error.get(name)
        found += [
            item["reason"][:100]
            for item in (items[:20] if isinstance(items, list) else [])
            if isinstance(item, Mapping) and isinstance(item.get("reason"), str)
        ]
    # Of a launch, “message” may begin with the operation's own code.
    first = str(error.get("message") or "").partition(":")[0]
    if first in NO_CAPACITY | QUOTA:
        found.insert(0, first)
    if isinstance(error.get("status"), str):
        found.append(error["status"][:100])
    return found


def _shortened(text: Any) -> str:
    said = " ".join(str(text or "").split())
    return said if len(said) <= LONGEST_TEXT else said[:LONGEST_TEXT] + "…"
