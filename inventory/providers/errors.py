"""What can go wrong at a provider, and what the caller may do about it.

Two questions decide the next step. ``retryable``: may the same call succeed later
without a person? ``doubtful``: may the call have taken effect although it failed?
After a doubtful launch the caller lists by our tag before any second call (P1).
"""

from __future__ import annotations

from portal.common.secrecy import without_secrets


class ProviderError(Exception):
    """A provider refused or failed. The message is a sentence for staff, without secrets.

    ``code`` is the provider's own error code, for support tickets; it may be empty.
    """

    retryable = False
    doubtful = False

    def __init__(
        self, message: str, *, code: str = "", retryable: bool | None = None, doubtful: bool | None = None
    ) -> None:
        # What a vendor echoes may hold the key it was sent.
        self.message = without_secrets(str(message))
        super().__init__(self.message)
        self.code = without_secrets(str(code))
        if retryable is not None:
            self.retryable = retryable
        if doubtful is not None:
            self.doubtful = doubtful

    def __str__(self) -> str:
        return f"{self.message} ({self.code})" if self.code else self.message


class NoCapacity(ProviderError):
    """The provider has no machine of this type there now; another zone or moment may."""

    retryable = True


class QuotaExceeded(ProviderError):
    """The account's own limit is reached: a person must ask the provider to raise it."""


class AuthFailed(ProviderError):
    """The credentials are wrong, expired or not allowed to do this."""


class RateLimited(ProviderError):
    """Too many calls; wait ``retry_after`` seconds (a guess where the provider gives none)."""

    retryable = True

    def __init__(self, message: str, *, retry_after: float = 30.0, code: str = "") -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class NotFound(ProviderError):
    """The provider does not know this id (any more)."""


class BadAnswer(ProviderError):
    """The answer is not what the provider's own description promises: HTML, a missing field, NaN."""

    retryable = True
    doubtful = True


class TimedOut(ProviderError):
    """No answer in time: whether the call took effect is unknown."""

    retryable = True
    doubtful = True


class NotSupported(ProviderError):
    """The provider cannot do this; its ``capabilities`` say so beforehand."""
