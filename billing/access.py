"""Whose quotes and invoices: fetched through one function per type that takes the user."""

from __future__ import annotations

from billing.models import Invoice, Quote
from portal.accounts.access import Permission, fetch
from portal.accounts.models import Organization, User


def quote_for(
    *, user: User, uid: str, permission: Permission = "view", organization: Organization | None = None
) -> Quote:
    """Return a quote of the user's organizations; accepting one needs ``lease``.

    Raises :class:`~portal.common.errors.NotFound` for another tenant's, and
    :class:`~portal.common.errors.Forbidden` when the role lacks ``permission``.
    """
    return fetch(
        Quote.objects.select_related("lease", "project"),
        user=user,
        uid=uid,
        permission=permission,
        organization=organization,
    )


def invoice_for(
    *, user: User, uid: str, permission: Permission = "billing", organization: Organization | None = None
) -> Invoice:
    """Return a finalized or void invoice of the user's organizations; drafts are staff's. See :func:`quote_for`."""
    return fetch(
        Invoice.objects.exclude(state=Invoice.State.DRAFT),
        user=user,
        uid=uid,
        permission=permission,
        organization=organization,
    )
