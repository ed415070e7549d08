"""Whom an event is for: addresses, by role, in no particular order."""

from __future__ import annotations

from collections.abc import Iterable

from allauth.account.models import EmailAddress
from django.db.models import Exists, OuterRef, Q, QuerySet

from leases.models import Lease
from portal.accounts.access import Permission, roles_with
from portal.accounts.models import Event, User


def reachable() -> QuerySet[User]:
    """People who may sign in and whose address is not known to be unproved."""
    unproved = EmailAddress.objects.filter(user=OuterRef("pk"), email=OuterRef("email"), verified=False)
    return User.objects.filter(is_active=True).exclude(Exists(unproved))


def holders(event: Event, permission: Permission) -> set[str]:
    """Return the addresses of the organization's members whose role holds ``permission``."""
    if event.organization_id is None:
        return set()
    return _addresses(
        Q(memberships__organization=event.organization_id, memberships__role__in=roles_with(permission))
    )


def managers(event: Event) -> Iterable[str]:
    """Owners and admins."""
    return holders(event, "manage")


def managers_and_actor(event: Event) -> Iterable[str]:
    """Owners, admins, and who did it."""
    return holders(event, "manage") | _addresses(Q(pk=event.actor_id))


def managers_and_subject(event: Event) -> Iterable[str]:
    """Owners, admins, and the person that a membership event is about."""
    about = event.after.get("email") or event.before.get("email") or ""
    return holders(event, "manage") | _addresses(Q(email=about))


def invited(event: Event) -> Iterable[str]:
    """The invited address, whether it has an account or not."""
    return {str(event.after["email"])}


def lessees(event: Event) -> Iterable[str]:
    """Everybody who may lease."""
    return holders(event, "lease")


def lease(event: Event) -> Iterable[str]:
    """Owners, admins, and who booked the lease, while they are members."""
    booker = Lease.objects.filter(uid=event.subject_id).values("created_by")
    booked = Q(pk__in=booker, memberships__organization=event.organization_id)
    return holders(event, "manage") | _addresses(booked)


def money(event: Event) -> Iterable[str]:
    """Everybody who sees money, and the organization's address for invoices."""
    billing = event.organization.billing_email if event.organization else ""
    return holders(event, "billing") | ({billing} if billing else set())


def lease_and_money(event: Event) -> Iterable[str]:
    """Those of a lease, and those who can pay."""
    return set(lease(event)) | holders(event, "billing")


def _addresses(who: Q) -> set[str]:
    return set(reachable().filter(who).values_list("email", flat=True))


def staff(event: Event) -> Iterable[str]:
    """The reseller's own people."""
    return _addresses(Q(is_staff=True))
