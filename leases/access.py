"""Which leases a person may see or act on; built on the tenant checks of portal.accounts."""

from __future__ import annotations

from django.db.models import QuerySet

from leases.models import Lease
from portal.accounts import access
from portal.accounts.access import Permission
from portal.accounts.models import Organization, User


def lease_for(
    *, user: User, uid: str, permission: Permission = "view", organization: Organization | None = None
) -> Lease:
    """Return a lease of the user's organizations.

    Raises :class:`~portal.common.errors.NotFound` for another tenant's lease and
    :class:`~portal.common.errors.Forbidden` when the role does not hold ``permission``.
    ``organization`` narrows to the one an API token belongs to.
    """
    return access.fetch(
        Lease.objects.select_related("project", "created_by", "stack"),
        user=user,
        uid=uid,
        permission=permission,
        organization=organization,
    )


def leases_of(*, user: User, organization: Organization) -> QuerySet[Lease]:
    """Return the organization's leases, newest first, for a member of it.

    Holds that were never accepted are part of it: pages choose what to show. Raises
    :class:`~portal.common.errors.NotFound` for an organization that is not the user's.
    """
    access.require(user=user, organization=organization, permission="view")
    return Lease.objects.filter(organization=organization).select_related("project").order_by("-pk")
