"""What a customer may read of their money: finalized invoices and charges."""

from __future__ import annotations

from django.db.models import QuerySet

from billing.models import Charge, Invoice
from portal.accounts import access
from portal.accounts.models import Organization, User


def invoices_of(*, user: User, organization: Organization) -> QuerySet[Invoice]:
    """Return the organization's invoices but drafts, newest first.

    Raises NotFound for an organization that is not the user's, Forbidden for a role
    without "billing".
    """
    access.require(user=user, organization=organization, permission="billing")
    return Invoice.objects.filter(organization=organization).exclude(state=Invoice.State.DRAFT)


def charges_of(*, user: User, organization: Organization) -> QuerySet[Charge]:
    """Return the organization's charges, the latest period first. Raises as :func:`invoices_of`."""
    access.require(user=user, organization=organization, permission="billing")
    return Charge.objects.filter(organization=organization).order_by("-started_at", "-pk")
