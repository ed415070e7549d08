"""The team of an organization: roles, removal, leaving. It always keeps an owner.

Every change locks all memberships of the organization in pk order, then looks
again: of two owners who remove each other at once, one wins and the other is
refused.
"""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext as _

from portal.accounts import access, events
from portal.accounts.models import ApiToken, Invitation, Membership, Organization, User
from portal.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from portal.common.transactions import durable, require_transaction

Role = Membership.Role


class LastOwner(Conflict):
    """An organization always has at least one owner."""

    code = "last-owner"


class AlreadyMember(Conflict):
    """The person belongs to the organization already."""

    code = "already-member"


def change_role(
    *, actor: User, organization: Organization, member: User, role: str, now: datetime
) -> Membership:
    """Give ``member`` another role; needs ``manage``, and ``own`` where ownership is given or taken.

    Raises :class:`NotFound` for somebody who is no member, :class:`Forbidden`,
    :class:`InvalidInput` for an unknown role and :class:`LastOwner`.
    """
    check_known_role(role)
    with durable():
        team = lock_team(organization)
        acting = _standing(team, actor)
        access.check_role(acting, "manage")
        target = _member(team, member)
        if Role.OWNER in (role, target.role):
            access.check_role(acting, "own")
        return set_role(team, target, role, actor=actor, now=now)


def remove_member(*, actor: User, organization: Organization, member: User, now: datetime) -> None:
    """Take somebody out of the team, or leave it oneself.

    Removing others needs ``manage`` (``own`` for an owner). Their API tokens for
    this organization are revoked, and so are the open invitations they sent.
    Raises :class:`NotFound`, :class:`Forbidden` and :class:`LastOwner`.
    """
    with durable():
        team = lock_team(organization)
        acting = _standing(team, actor)
        target = _member(team, member)
        if target.pk != acting.pk:
            access.check_role(acting, "own" if target.role == Role.OWNER else "manage")
        take_out(team, target, actor=actor, now=now)


def leave(*, user: User, organization: Organization, now: datetime) -> None:
    """Leave the organization; the last owner cannot (:class:`LastOwner`)."""
    remove_member(actor=user, organization=organization, member=user, now=now)


def check_known_role(role: str) -> None:
    """Raise :class:`InvalidInput` unless ``role`` is one of ours."""
    if role not in Role.values:
        raise InvalidInput(
            _("Choose a role: %(roles)s.") % {"roles": ", ".join(Role.values)},
            field="role",
        )


def lock_team(organization: Organization) -> list[Membership]:
    """Part: lock and return the organization's memberships as they are now, in pk order."""
    require_transaction()
    return list(
        Membership.objects.select_for_update(no_key=True, of=("self",))
        .filter(organization=organization)
        .select_related("user", "organization")
        .order_by("pk")
    )


def join(
    organization: Organization,
    user: User,
    role: str,
    *,
    actor: User | None,
    now: datetime,
    message: str = "",
) -> Membership:
    """Part: make ``user`` a member; raises :class:`AlreadyMember`."""
    require_transaction()
    # The constraint decides, not a look before: two tabs may accept at once.
    member, created = Membership.objects.get_or_create(
        organization=organization, user=user, defaults={"role": role, "created_at": now}
    )
    if not created:
        raise AlreadyMember(
            _("%(email)s belongs to %(organization)s already.")
            % {"email": user.email, "organization": organization.name}
        )
    events.record(
        kind="member.joined",
        subject_type="membership",
        subject_id=member.uid,
        organization=organization,
        actor=actor,
        now=now,
        after={"email": user.email, "role": role},
        message=message,
    )
    return member


def set_role(
    team: list[Membership], target: Membership, role: str, *, actor: User | None, now: datetime
) -> Membership:
    """Part: change the role of one of the locked ``team``; raises :class:`LastOwner`."""
    require_transaction()
    before = target.role
    if before == role:
        return target
    if before == Role.OWNER:
        _check_other_owner(team, target)
    target.role = role
    target.save(update_fields=["role"])
    events.record(
        kind="member.role_changed",
        subject_type="membership",
        subject_id=target.uid,
        organization=target.organization,
        actor=actor,
        now=now,
        before={"email": target.user.email, "role": before},
        after={"email": target.user.email, "role": role},
    )
    return target


def take_out(team: list[Membership], target: Membership, *, actor: User | None, now: datetime) -> None:
    """Part: remove one of the locked ``team``; raises :class:`LastOwner`."""
    require_transaction()
    if target.role == Role.OWNER:
        _check_other_owner(team, target)
    organization, user = target.organization, target.user
    tokens = ApiToken.objects.filter(organization=organization, user=user, revoked_at=None)
    invitations = Invitation.objects.filter(
        organization=organization, invited_by=user, accepted_at=None, revoked_at=None
    )
    after = {
        "tokens_revoked": tokens.update(revoked_at=now),
        "invitations_revoked": invitations.update(revoked_at=now, sealed_token=None),
    }
    before = {"email": user.email, "role": target.role}
    uid = target.uid
    target.delete()
    events.record(
        kind="member.removed",
        subject_type="membership",
        subject_id=uid,
        organization=organization,
        actor=actor,
        now=now,
        before=before,
        after=after,
    )


def _standing(team: list[Membership], actor: User) -> Membership:
    for member in team:
        if member.user_id == actor.pk:
            return member
    raise NotFound(_("There is no such organization among yours."))


def _member(team: list[Membership], user: User) -> Membership:
    for member in team:
        if member.user_id == user.pk:
            return member
    raise NotFound(_("%(email)s is not a member of this organization.") % {"email": user.email})


def _check_other_owner(team: list[Membership], target: Membership) -> None:
    # An owner who cannot sign in any more cannot act as one.
    if not any(m.role == Role.OWNER and m.pk != target.pk and m.user.is_active for m in team):
        raise LastOwner(
            _("%(email)s is the last owner of %(organization)s. Make somebody else an owner first.")
            % {"email": target.user.email, "organization": target.organization.name}
        )


def check_may_grant(acting: Membership, role: str) -> None:
    """Raise :class:`Forbidden` when the acting member may not give ``role`` to anybody."""
    if role == Role.OWNER and "own" not in access.permissions(acting.role):
        raise Forbidden(_("Only an owner can make somebody an owner."))
    access.check_role(acting, "manage")
