"""Organizations: how one begins, what staff decide about it, and what that allows.

The team, invitations and projects of an organization have their own modules
(:mod:`members`, :mod:`invitations`, :mod:`projects`); their functions are also
reachable from here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from portal.accounts import access, events
from portal.accounts.countries import clean_country
from portal.accounts.invitations import (
    accept_invitation,
    find_invitation,
    invite,
    resend_invitation,
    revoke_invitation,
)
from portal.accounts.members import change_role, leave, remove_member
from portal.accounts.models import Membership, Organization, OrganizationReview, User
from portal.accounts.projects import archive_project, create_project, rename_project, restore_project
from portal.accounts.texts import clean_email, clean_line, clean_text
from portal.common.errors import Forbidden, InvalidInput
from portal.common.transactions import durable, require_transaction

__all__ = [
    "NotApproved",
    "Suspended",
    "accept_invitation",
    "add_organization",
    "archive_project",
    "change_role",
    "check_may_book",
    "check_may_launch",
    "create_organization",
    "create_project",
    "decide",
    "find_invitation",
    "invite",
    "leave",
    "remove_member",
    "rename_project",
    "resend_invitation",
    "restore_project",
    "revoke_invitation",
    "update_details",
]

State = Organization.State

# What the record of an approval must hold, and its longest form.
APPROVAL_RECORD = {
    "legal_name": 200,
    "country": 2,
    "end_use": 4000,
    "screening_evidence": 4000,
    "terms_version": 40,
}


class NotApproved(Forbidden):
    """Staff have not (or no longer) approved the organization, so it books nothing."""

    code = "organization-not-approved"


class Suspended(Forbidden):
    """Staff suspended the organization: nothing is launched for it."""

    code = "organization-suspended"


def create_organization(
    *, user: User, name: str, segment: str, country: str = "", now: datetime
) -> Organization:
    """Create an organization with ``user`` as its owner.

    ``country`` is an ISO 3166-1 alpha-2 code. The organization is pending, or
    approved at once where ``SUBLET_AUTO_APPROVE`` is on. Raises
    :class:`InvalidInput` naming the field.
    """
    with durable():
        return add_organization(user=user, name=name, segment=segment, country=country, now=now)


def add_organization(
    *, user: User, name: str, segment: str, country: str = "", now: datetime
) -> Organization:
    """Part: what :func:`create_organization` does, inside the caller's transaction (sign-up)."""
    require_transaction()
    name = clean_line(name, field="name", longest=120)
    if segment not in Organization.Segment.values:
        raise InvalidInput(_("Choose a segment: startup, lab or enterprise."), field="segment")
    organization = Organization.objects.create(
        name=name, segment=segment, country=clean_country(country), created_at=now
    )
    Membership.objects.create(
        organization=organization, user=user, role=Membership.Role.OWNER, created_at=now
    )
    events.record(
        kind="organization.created",
        subject_type="organization",
        subject_id=organization.uid,
        organization=organization,
        actor=user,
        now=now,
        after={"name": name, "segment": segment, "country": organization.country, "owner": user.email},
    )
    if settings.SUBLET_AUTO_APPROVE:
        _record_decision(
            organization,
            State.APPROVED,
            actor=None,
            now=now,
            record={
                "country": organization.country,
                "note": _("Approved at sign-up by SUBLET_AUTO_APPROVE."),
            },
        )
    return organization


def decide(
    *, organization: Organization, decision: str, actor: User | None, now: datetime, **record: str
) -> OrganizationReview:
    """Approve, restrict or suspend a customer, and keep what was looked at.

    ``record`` takes ``legal_name``, ``country``, ``end_use``, ``screening_evidence``,
    ``terms_version`` (all needed to approve) and ``note`` (needed otherwise: the
    reason). ``actor`` must be staff; ``None`` is the system. Raises
    :class:`Forbidden` and :class:`InvalidInput` naming the field.
    """
    if actor is not None and not (actor.is_staff and actor.is_active):
        raise Forbidden(_("Only staff decide about customers."))
    clean = _clean_record(decision, record)
    with durable():
        locked = Organization.objects.select_for_update(no_key=True, of=("self",)).get(pk=organization.pk)
        review = _record_decision(locked, decision, actor=actor, now=now, record=clean)
    organization.state, organization.country = locked.state, locked.country
    return review


def check_may_book(organization: Organization) -> None:
    """Raise :class:`NotApproved` unless the organization is approved as of now."""
    state = _current_state(organization)
    if state == State.APPROVED:
        return
    raise NotApproved(
        {
            State.PENDING: _(
                "%(name)s is waiting for approval. You can look around; quotes and booking open once "
                "we have reviewed your organization."
            ),
            State.RESTRICTED: _(
                "%(name)s is restricted: what runs keeps running, but nothing new can be booked. Contact us to "
                "settle this."
            ),
        }.get(State(state), _("%(name)s is suspended and cannot book. Contact us to settle this."))
        % {"name": organization.name}
    )


def check_may_launch(organization: Organization) -> None:
    """Raise :class:`Suspended` when staff have suspended the organization as of now."""
    if _current_state(organization) == State.SUSPENDED:
        raise Suspended(
            _("%(name)s is suspended: nothing is started for it.") % {"name": organization.name},
        )


def update_details(
    *,
    actor: User,
    organization: Organization,
    now: datetime,
    name: str,
    billing_email: str = "",
    billing_address: str = "",
    tax_id: str = "",
) -> Organization:
    """Change the name and what invoices print about the buyer; needs ``billing`` permission.

    The country is part of the approval and is changed by staff only. Raises
    :class:`InvalidInput` naming the field.
    """
    access.require(user=actor, organization=organization, permission="billing")
    clean = {
        "name": clean_line(name, field="name", longest=120),
        "billing_email": clean_email(billing_email, field="billing_email") if billing_email.strip() else "",
        "billing_address": clean_text(billing_address, field="billing_address", longest=500, required=False),
        "tax_id": clean_line(tax_id, field="tax_id", longest=40, required=False),
    }
    with durable():
        locked = Organization.objects.select_for_update(no_key=True, of=("self",)).get(pk=organization.pk)
        before = {
            field: getattr(locked, field) for field, value in clean.items() if getattr(locked, field) != value
        }
        if not before:
            return locked
        for field, value in clean.items():
            setattr(locked, field, value)
        locked.save(update_fields=list(clean))
        events.record(
            kind="organization.updated",
            subject_type="organization",
            subject_id=locked.uid,
            organization=locked,
            actor=actor,
            now=now,
            before=before,
            after={field: clean[field] for field in before},
        )
    return locked


def _current_state(organization: Organization) -> str:
    """Read the state as committed: the object at hand may be as old as the request."""
    return Organization.objects.values_list("state", flat=True).get(pk=organization.pk)


def _clean_record(decision: str, record: dict[str, str]) -> dict[str, str]:
    if decision not in (State.APPROVED, State.RESTRICTED, State.SUSPENDED):
        raise InvalidInput(_("Decide between approved, restricted and suspended."), field="decision")
    unknown = set(record) - set(APPROVAL_RECORD) - {"note"}
    if unknown:
        raise TypeError(f"decide() does not keep {', '.join(sorted(unknown))}")
    approving = decision == State.APPROVED
    clean = {
        field: clean_text(record.get(field, ""), field=field, longest=longest, required=approving)
        for field, longest in APPROVAL_RECORD.items()
    }
    clean["country"] = clean_country(clean["country"], required=approving)
    clean["note"] = clean_text(record.get("note", ""), field="note", longest=4000, required=not approving)
    return clean


def _record_decision(
    organization: Organization,
    decision: str,
    *,
    actor: User | None,
    now: datetime,
    record: dict[str, Any],
) -> OrganizationReview:
    """Part: write the review and the state of a locked (or just created) organization."""
    require_transaction()
    review = OrganizationReview.objects.create(
        organization=organization, decision=decision, decided_by=actor, decided_at=now, **record
    )
    before = organization.state
    organization.state = State(decision)
    if record.get("country"):
        organization.country = record["country"]
    organization.save(update_fields=["state", "country"])
    events.record(
        kind=f"organization.{decision}",
        subject_type="organization",
        subject_id=organization.uid,
        organization=organization,
        actor=actor,
        now=now,
        before={"state": before},
        after={"state": decision, "review": review.pk, "terms_version": record.get("terms_version", "")},
        message=record.get("note", ""),
    )
    return review
