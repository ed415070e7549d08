"""Checkout: quote, accept, cancel. Nothing costs or frees anything without a quote first.

The functions live in :mod:`billing.quoting`, :mod:`billing.accepting` and
:mod:`billing.cancellation`; callers find them all here.
"""

from billing.accepting import (
    AlreadyAwaiting,
    Funds,
    InsufficientFunds,
    QuoteExpired,
    QuoteUsed,
    accept,
    funds_for,
    needed_for,
    settle_awaiting,
)
from billing.cancellation import TooLateToCancel, cancel, quote_cancellation
from billing.declining import decline
from billing.quoting import lapse_quotes, quote

__all__ = [
    "AlreadyAwaiting",
    "Funds",
    "InsufficientFunds",
    "QuoteExpired",
    "QuoteUsed",
    "TooLateToCancel",
    "accept",
    "cancel",
    "decline",
    "funds_for",
    "lapse_quotes",
    "needed_for",
    "quote",
    "quote_cancellation",
    "settle_awaiting",
]
