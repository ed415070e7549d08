"""Azure Resource Manager's error codes and the SDK's failures, as our errors.

Codes: https://learn.microsoft.com/en-us/azure/azure-resource-manager/troubleshooting/common-deployment-errors
and https://learn.microsoft.com/en-us/azure/virtual-machines/error-codes-spot; limits of the
network provider end in ``CountLimitReached``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from azure.core import exceptions as core
from django.utils.translation import gettext as _

from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)
from inventory.providers.http import by_status, parse, retry_after

NO_CAPACITY = {
    "AllocationFailed",
    "AllocationTimeout",
    "OverconstrainedAllocationRequest",
    "OverconstrainedZonalAllocationRequest",
    "SkuNotAvailable",
    "ZonalAllocationFailed",
}
QUOTA = {"CoreQuotaExceeded", "QuotaExceeded", "ResourceQuotaExceeded", "SubscriptionQuotaExceeded"}
AUTH = {
    "AuthenticationFailed",
    "AuthorizationFailed",
    "ExpiredAuthenticationToken",
    "InvalidAuthenticationToken",
    "InvalidAuthenticationTokenTenant",
    "InvalidSubscriptionId",
    "LinkedAuthorizationFailed",
    "SubscriptionNotFound",
}
THROTTLED = {"RequestThrottled", "SubscriptionRequestsThrottled", "TooManyRequests"}
GONE = {"NotFound", "ParentResourceNotFound", "ResourceNotFound"}
# A 404 that says nothing about the machine that was asked for: taken for one, a wrong setting
# would lose every machine of the account.
MISCONFIGURED = {"ResourceGroupNotFound", "ReferencedResourceNotFound", "MissingSubscriptionRegistration"}
# Somebody else is at work on the same thing, or it is still in use (“InUse…” and “…InUse” too):
# nothing happened.
LATER = {
    "AnotherOperationInProgress",
    "Conflict",
    "NicReservedForAnotherVm",
    "OperationPreempted",
    "PublicIPAddressCannotBeDeleted",
    "ReferencedResourceNotProvisioned",
    "ResourceGroupBeingDeleted",
    "RetryableError",
}
INTERNAL = {
    "GatewayTimeout",
    "InternalExecutionError",
    "InternalOperationError",
    "InternalServerError",
    "NetworkingInternalOperationError",
    "RequestTimeout",
    "ServerBusy",
    "ServerTimeout",
    "ServiceUnavailable",
}
# The name is taken (we ask for a new machine only): an earlier call of ours made it, so look before
# calling again.
TAKEN = {"PreconditionFailed", "ConditionNotMet"}
# What Microsoft Entra says when it is itself at fault
# (https://learn.microsoft.com/en-us/entra/identity-platform/reference-error-codes).
ENTRA_LATER = {"AADSTS50196", "AADSTS90033", "AADSTS900382"}

LONGEST_TEXT = 500
_ENTRA = re.compile(r"AADSTS\d+")
_KNOWN = NO_CAPACITY | QUOTA | AUTH | THROTTLED | GONE | MISCONFIGURED | LATER | INTERNAL | TAKEN


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise our errors for everything that the SDK raises; ``action`` starts the sentence."""
    try:
        yield
    except ProviderError:
        raise
    except core.DecodeError as error:
        raise BadAnswer(_("%(action)s: the answer is not JSON.") % {"action": action}) from error
    except core.HttpResponseError as error:
        raise from_response(error, action) from error
    except core.ServiceRequestError as error:
        # Nothing was sent, so nothing can have happened.
        raise TimedOut(
            _("%(action)s: the address cannot be reached.") % {"action": action}, doubtful=False
        ) from error
    except core.AzureError as error:
        raise TimedOut(
            _("%(action)s: no answer in time, or the connection broke (%(kind)s).")
            % {"action": action, "kind": type(error).__name__}
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # What the SDK stumbles over when a document is not what Azure describes.
        raise BadAnswer(
            _("%(action)s: the answer is not what Azure describes.") % {"action": action}
        ) from error


def from_response(error: core.HttpResponseError, action: str) -> ProviderError:
    """Return our error for an answer of Resource Manager, or of Microsoft Entra."""
    if isinstance(error, core.ClientAuthenticationError) and (
        error.response is None or _ENTRA.search(str(error.message))
    ):
        return _entra(str(error.message), action)
    response: Any = error.response
    if response is None:
        return TimedOut(_("%(action)s: the answer broke off.") % {"action": action})
    document, readable = None, True
    try:
        body = response.text()
        document = parse(body) if body.strip() else None
    except (ValueError, core.AzureError):
        readable = False
    status = int(response.status_code)
    headers = {name.lower(): value for name, value in response.headers.items()}
    return explain(action, status, document, headers) or by_status(action, status, headers, readable=readable)


def explain(action: str, status: int, document: Any, headers: Mapping[str, str]) -> ProviderError | None:
    """Return our error for ARM's error document; None where it names no code of its own."""
    code, text = code_and_text(document)
    if not code:
        return None
    said = f"{action}: {text}" if text else action
    if status == 429 or code in THROTTLED:
        return RateLimited(said, code=code, retry_after=retry_after(headers))
    if found := by_code(code, text, said):
        return found
    if status == 412:
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    return by_status(action, status, headers, text=text, code=code)


def by_code(code: str, text: str, said: str) -> ProviderError | None:
    """Return the error that a code alone tells; also for what the instance view says of a failed VM."""
    if code in NO_CAPACITY:
        return NoCapacity(said, code=code)
    if code in QUOTA or code.endswith("CountLimitReached") or _is_quota(code, text):
        return QuotaExceeded(said, code=code)
    if code in AUTH:
        return AuthFailed(said, code=code)
    if code in MISCONFIGURED:
        return ProviderError(said, code=code)
    if code in GONE:
        return NotFound(said, code=code)
    if code in TAKEN or code in INTERNAL:
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    if code in LATER or code.startswith("InUse") or code.endswith("InUse"):
        return ProviderError(said, code=code, retryable=True)
    return None


def code_and_text(document: Any) -> tuple[str, str]:
    """Return ARM's error code and message; of nested ones, the first that we know how to answer."""
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping):
        return "", ""
    found = [error]
    details = error.get("details")
    if isinstance(details, list):
        found += [item for item in details[:20] if isinstance(item, Mapping)]
    for item in found:
        if str(item.get("code") or "") in _KNOWN - {"Conflict"}:
            return str(item["code"]), _shortened(item.get("message"))
    return str(error.get("code") or "")[:100], _shortened(error.get("message"))


def _is_quota(code: str, text: str) -> bool:
    """Tell whether “OperationNotAllowed”, which means many things, means the cores' quota here."""
    return code in ("OperationNotAllowed", "BadRequest") and "quota" in text.lower()


def _shortened(text: Any) -> str:
    said = " ".join(str(text or "").split())
    return said if len(said) <= LONGEST_TEXT else said[:LONGEST_TEXT] + "…"


def _entra(message: str, action: str) -> ProviderError:
    match = _ENTRA.search(message)
    code = match[0] if match else ""
    if code in ENTRA_LATER:
        return ProviderError(
            _("%(action)s: Microsoft Entra is busy.") % {"action": action}, code=code, retryable=True
        )
    # Without its text: it names the tenant and the application, and a trace that nobody here can follow.
    return AuthFailed(
        _("%(action)s: Microsoft Entra refused these credentials.") % {"action": action}, code=code
    )
