"""Who sells: the reseller's legal entity that quotes and invoices, and the tax it adds."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from django.conf import settings
from django.db import IntegrityError, transaction

from billing.models import Seller
from portal.accounts import events
from portal.accounts.models import User
from portal.common.money import round_minor
from portal.common.transactions import durable


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


def make_default(*, seller: Seller, actor: User | None, now: datetime) -> None:
    """Name this seller on quotes and invoices from now on, instead of the one before."""
    with durable():
        before = Seller.objects.select_for_update(no_key=True).filter(is_default=True).first()
        Seller.objects.filter(is_default=True).exclude(pk=seller.pk).update(is_default=False)
        Seller.objects.filter(pk=seller.pk).update(is_default=True)
        events.record(
            kind="seller.made_default",
            subject_type="seller",
            subject_id=str(seller.pk),
            actor=actor,
            now=now,
            before={"seller": before.name if before else None},
            after={"seller": seller.name},
        )


def tax_on(amount: Decimal, seller: Seller, currency: str) -> Decimal:
    """Return the seller's tax on a net amount, rounded half-even to the currency's minor unit."""
    return round_minor(amount * seller.tax_rate, currency)
