"""AWS error codes and botocore failures, as our errors.

Codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
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

NO_CAPACITY = {
    "InsufficientCapacity",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
    "ReservationCapacityExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
}
QUOTA = {
    "AddressLimitExceeded",
    "CapacityReservationLimitExceeded",
    "InstanceLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "ResourceLimitExceeded",
    "RulesPerSecurityGroupLimitExceeded",
    "SecurityGroupLimitExceeded",
    "SecurityGroupsPerInstanceLimitExceeded",
    "VcpuLimitExceeded",
    "VolumeLimitExceeded",
}
AUTH = {
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "Blocked",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "OptInRequired",
    "PendingVerification",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
    "UnrecognizedClientException",
}
THROTTLED = {
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
GONE = {"InvalidAMIID.Unavailable", "NotFoundException", "ParameterNotFound"}
# The call may or may not have taken effect; AWS asks to try again.
INTERNAL = {
    "InternalError",
    "InternalErrorException",
    "InternalFailure",
    "ServerInternal",
    "ServiceUnavailable",
    "Unavailable",
}
LATER = {
    "DependencyViolation",
    "ExpiredNextTokenException",
    "IncorrectInstanceState",
    "IncorrectState",
    "InvalidCapacityReservationState",  # a reservation that has not begun
    "InvalidNextTokenException",
    "InvalidPaginationToken",
    "ResourceInUse",
    "VolumeInUse",
}

DEFAULT_RETRY_AFTER = 30.0


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise our errors for everything that botocore raises; ``action`` starts the sentence."""
    try:
        yield
    except boto.ClientError as error:
        raise from_client_error(error, action) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
        raise AuthFailed(_("%(action)s: enter an access key and its secret.") % {"action": action}) from error
    except (boto.EndpointConnectionError, boto.ConnectTimeoutError) as error:
        # Nothing was sent, so nothing can have happened.
        raise TimedOut(
            _("%(action)s: the endpoint cannot be reached.") % {"action": action}, doubtful=False
        ) from error
    except (boto.ReadTimeoutError, boto.HTTPClientError) as error:
        raise TimedOut(_("%(action)s: no answer in time.") % {"action": action}) from error
    except ResponseParserError as error:
        raise BadAnswer(
            _("%(action)s: the answer is not what AWS describes.") % {"action": action}
        ) from error
    except boto.PaginationError as error:
        raise BadAnswer(_("%(action)s: the same page came twice.") % {"action": action}) from error
    except boto.BotoCoreError as error:
        raise ProviderError(f"{action}: {error}") from error


@contextmanager
def before_the_call() -> Iterator[None]:
    """Within, only reads are made: whatever fails, nothing was launched or bought yet."""
    try:
        yield
    except ProviderError as error:
        error.doubtful = False
        raise


def from_client_error(error: Any, action: str) -> ProviderError:
    """Return our error for an answer that names an error code, or for a bare HTTP status."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    text = str(error.response.get("Error", {}).get("Message", ""))
    http = error.response.get("ResponseMetadata", {})
    said = f"{action}: {text}" if text else action
    if code in NO_CAPACITY:
        return NoCapacity(said, code=code)
    if code in QUOTA:
        return QuotaExceeded(said, code=code)
    if code in AUTH:
        # Without AWS's text: it can carry an encoded policy of several kilobytes.
        return AuthFailed(_("%(action)s: AWS refused these credentials.") % {"action": action}, code=code)
    if code in THROTTLED or http.get("HTTPStatusCode") == 429:
        return RateLimited(said, code=code, retry_after=_retry_after(http))
    if code in GONE or code.endswith((".NotFound", ".Malformed")):
        return NotFound(said, code=code)
    if code in INTERNAL:
        return ProviderError(said, code=code, retryable=True, doubtful=True)
    if code in LATER:
        return ProviderError(said, code=code, retryable=True)
    if code.isdigit() or not code:
        # No AWS error document at all: a proxy's or an emulator's page.
        return BadAnswer(
            _("%(action)s: HTTP %(status)s without an AWS error code.")
            % {"action": action, "status": http.get("HTTPStatusCode", code)},
            code=code,
        )
    return ProviderError(said, code=code)


def _retry_after(http: dict[str, Any]) -> float:
    try:
        seconds = float(http.get("HTTPHeaders", {}).get("retry-after", DEFAULT_RETRY_AFTER))
    except ValueError:
        return DEFAULT_RETRY_AFTER
    return seconds if 0 <= seconds <= 3600 else DEFAULT_RETRY_AFTER
