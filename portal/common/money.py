"""Money: ``Decimal`` with an ISO 4217 currency. A float in a money path is a bug.

Ledger and prices keep eight decimals (``numeric(20,8)``); amounts are rounded
half-even to the minor unit once, at the invoice line.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

from django.utils import formats

LEDGER_QUANTUM = Decimal("0.00000001")
_ANY_SIZE = Context(prec=100)  # what a provider's bill claims is shown, however absurd

# ISO 4217 minor units; every currency not listed here has two.
MINOR_UNITS = {"BHD": 3, "CLP": 0, "ISK": 0, "JPY": 0, "KRW": 0, "KWD": 3, "OMR": 3, "TND": 3, "VND": 0}
SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}


def minor_unit(currency: str) -> Decimal:
    """Return the currency's smallest invoiced amount, e.g. ``Decimal("0.01")``."""
    return Decimal(1).scaleb(-MINOR_UNITS.get(currency, 2))


def round_minor(amount: Decimal, currency: str) -> Decimal:
    """Round half-even to the currency's minor unit (ISO 4217)."""
    return amount.quantize(minor_unit(currency), rounding=ROUND_HALF_EVEN)


def ledger(amount: Decimal) -> Decimal:
    """Round half-even to the eight decimals that the ledger keeps."""
    return amount.quantize(LEDGER_QUANTUM, rounding=ROUND_HALF_EVEN)


def format_money(amount: Decimal, currency: str, *, places: int | None = None) -> str:
    """Return the amount for people, in the active locale: ``$1,234.50``, ``-$3.00``.

    ``places`` overrides the currency's minor unit, for unit prices such as
    ``$2.1900``. Currencies without a known symbol are written ``1,234.50 CHF``.
    """
    places = MINOR_UNITS.get(currency, 2) if places is None else places
    rounded = Decimal(amount).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, _ANY_SIZE)
    number = formats.number_format(abs(rounded), decimal_pos=places, use_l10n=True, force_grouping=True)
    sign = "-" if rounded < 0 else ""
    symbol = SYMBOLS.get(currency)
    return f"{sign}{symbol}{number}" if symbol else f"{sign}{number} {currency}"
