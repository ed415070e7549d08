"""Who sells: the reseller's legal entity that quotes and invoices, and the tax it adds."""

from __future__ import annotations

from decimal import Decimal

from django.conf import settings
from django.db import IntegrityError, transaction

from billing.models import Seller
from portal.common.money import round_minor


def default_seller() -> Seller:
    """Return the seller that new quotes and invoices name; the first time, made from ``SUBLET_SELLER``."""
    seller = Seller.objects.filter(is_default=True).first()
    if seller is not None:
        return seller
    facts = settings.SUBLET_SELLER
    try:
        with transaction.atomic():
            return Seller.objects.create(
                name=facts["name"] or "Sublet",
                address=facts["address"],
                country=facts["country"] or "US",
                tax_id=facts["tax_id"],
                email=facts["email"],
                is_default=True,
            )
    except IntegrityError:  # another process was first
        return Seller.objects.get(is_default=True)


def tax_on(amount: Decimal, seller: Seller, currency: str) -> Decimal:
    """Return the seller's tax on a net amount, rounded half-even to the currency's minor unit."""
    return round_minor(amount * seller.tax_rate, currency)
