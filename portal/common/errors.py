"""Errors that a person can meet.

Every refusal is a named class with a sentence that says what to do. Views, the
API and commands present them; nothing else about them is decided there.
"""

from __future__ import annotations

from typing import Any


class DomainError(Exception):
    """A refusal with a stable ``code``, an HTTP ``status`` and a readable sentence.

    ``extra`` holds JSON-serialisable facts for the API's problem document
    (RFC 9457 extension members), for example ``alternatives``.
    """

    code = "refused"
    status = 400

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.message = str(message)
        self.extra = extra

    def __str__(self) -> str:
        return self.message


class InvalidInput(DomainError):
    """A value cannot be used; ``field`` names it as the caller knows it."""

    code = "invalid-input"
    status = 400

    def __init__(self, message: str, *, field: str = "", **extra: Any) -> None:
        super().__init__(message, **extra)
        self.field = field


class NotFound(DomainError):
    """No such object for this user: also the answer for another tenant's object."""

    code = "not-found"
    status = 404


class Forbidden(DomainError):
    """The object is visible, but the role or the organization's state forbids this."""

    code = "forbidden"
    status = 403


class Conflict(DomainError):
    """The state of things no longer allows this; reading again shows why."""

    code = "conflict"
    status = 409


class PaymentRequired(DomainError):
    """Funds do not cover this."""

    code = "insufficient-funds"
    status = 402
