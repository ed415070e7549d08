"""What may differ before a person has to look; each is a rule of the reconciliation, not a setting."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from inventory.models import ProviderAccount
from portal.common.money import minor_unit

QUANTITY_HOURS = Decimal(1) / Decimal(3600)  # one second a row …
QUANTITY_SHARE = Decimal("0.001")  # … or 0.1 % of what was used, whichever is more
PRICE_SHARE = Decimal("0.000001")
LINE_AMOUNT = Decimal("0.01")  # in the bill's currency
LATENCY = timedelta(hours=48)  # how late a provider's bill may be with a machine's hours


def invoice_tolerance(lines: int, currency: str) -> Decimal:
    """Return by how much lines may miss their invoice's total: half a minor unit each."""
    return minor_unit(currency) / 2 * lines


def latency(account: ProviderAccount) -> timedelta:
    """Return how long after use the account's bill may still lack it (option ``bill_latency_hours``)."""
    hours = account.options.get("bill_latency_hours") if isinstance(account.options, dict) else None
    return timedelta(hours=hours) if isinstance(hours, int) and 0 <= hours <= 24 * 90 else LATENCY
