"""Invitations by e-mail: one open offer per address, for that address alone.

The link's token is 256 random bits. The row keeps its SHA-256 for looking it up
and, while the offer is open, the token encrypted: the mail is sent (and sent
again) from the outbox like every other, and no event holds the secret.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

from allauth.account.models import EmailAddress
from django.db import IntegrityError
from django.utils.translation import gettext as _

from portal.accounts import access, events
from portal.accounts.members import AlreadyMember, check_known_role, check_may_grant, join
from portal.accounts.models import Invitation, Membership, Organization, User
from portal.accounts.texts import clean_email
from portal.common import crypto
from portal.common.errors import Conflict, Forbidden, NotFound
from portal.common.transactions import durable, require_transaction

VALID_FOR = timedelta(days=14)
# Our mail must not become somebody's mail cannon.
MOST_OPEN = 100


class AlreadyInvited(Conflict):
    """There is an open invitation for this address."""

    code = "already-invited"


class TooManyInvitations(Conflict):
    """The organization has as many open invitations as we allow."""

    code = "too-many-invitations"


class InvitationOver(Conflict):
    """The invitation was used, taken back, or is too old."""

    code = "invitation-over"


class OtherAddress(Forbidden):
    """The invitation was sent to another e-mail address."""

    code = "invitation-for-another-address"


def invite(
    *, actor: User, organization: Organization, email: str, role: str, now: datetime
) -> tuple[Invitation, str]:
    """Invite ``email`` to join with ``role``; valid for 14 days. Returns it with the link's token.

    Needs ``manage``; only owners invite owners. The mail is sent after commit.
    Raises :class:`InvalidInput`, :class:`AlreadyMember`, :class:`AlreadyInvited` and
    :class:`TooManyInvitations`.
    """
    email = clean_email(email)
    check_known_role(role)
    acting = access.require(user=actor, organization=organization, permission="manage")
    check_may_grant(acting, role)
    token = secrets.token_urlsafe(32)
    try:
        with durable():
            if Membership.objects.filter(organization=organization, user__email=email).exists():
                raise AlreadyMember(
                    _("%(email)s belongs to %(organization)s already.")
                    % {"email": email, "organization": organization.name}
                )
            still_open = _open(organization)
            # An offer that ran out makes room for a new one.
            still_open.filter(email=email, expires_at__lte=now).update(revoked_at=now, sealed_token=None)
            if still_open.filter(expires_at__gt=now).count() >= MOST_OPEN:
                raise TooManyInvitations(
                    _("There are %(count)d open invitations. Take some back before you send more.")
                    % {"count": MOST_OPEN}
                )
            invitation = Invitation.objects.create(
                organization=organization,
                email=email,
                role=role,
                token_hash=_hash(token),
                sealed_token=crypto.encrypt(token),
                invited_by=actor,
                created_at=now,
                expires_at=now + VALID_FOR,
            )
            _record("invitation.created", invitation, actor, now)
    except IntegrityError as error:
        if "one_open_invitation_each" not in str(error):
            raise
        raise AlreadyInvited(
            _("%(email)s has an open invitation. Send it again, or take it back first.") % {"email": email}
        ) from None
    return invitation, token


def find_invitation(*, token: str, now: datetime) -> Invitation:
    """Return the open invitation behind a link; raises :class:`NotFound` and :class:`InvitationOver`."""
    found = (
        Invitation.objects.select_related("organization", "invited_by")
        .filter(token_hash=_hash(token))
        .first()
    )
    if found is None:
        raise NotFound(_("This invitation link is not valid. Check that the whole link was copied."))
    check_open(found, now=now)
    return found


def accept_invitation(
    *, user: User, now: datetime, token: str | None = None, invitation: Invitation | None = None
) -> Membership:
    """Join the organization. Give the link's token, or the invitation found by it before.

    The invitation works once, for the address it was sent to: it must be the one
    ``user`` signs in with, or another of theirs that is verified. Accepting again as the same person answers the same membership. Raises
    :class:`NotFound`, :class:`InvitationOver`, :class:`OtherAddress` and
    :class:`AlreadyMember`.
    """
    if invitation is None:
        row = Invitation.objects.filter(token_hash=_hash(token or "")).first()
        if row is None:
            raise NotFound(_("This invitation link is not valid. Check that the whole link was copied."))
        invitation = row
    with durable():
        return take_up(lock_invitation(invitation), user=user, now=now)


def lock_invitation(invitation: Invitation) -> Invitation:
    """Part: lock the invitation and return it as it is now."""
    require_transaction()
    return (
        Invitation.objects.select_for_update(no_key=True, of=("self",))
        .select_related("organization")
        .get(pk=invitation.pk)
    )


def take_up(locked: Invitation, *, user: User, now: datetime) -> Membership:
    """Part: accept a locked invitation; see :func:`accept_invitation`."""
    require_transaction()
    if locked.accepted_by_id == user.pk:
        again = access.membership(user=user, organization=locked.organization)
        if again is not None:
            return again
    check_open(locked, now=now)
    if not _has_address(user, locked.email):
        raise OtherAddress(
            _(
                "This invitation was sent to %(invited)s, and you are signed in as %(email)s. Sign in with that "
                "address, or ask to be invited with this one."
            )
            % {"invited": locked.email, "email": user.email}
        )
    member = join(locked.organization, user, locked.role, actor=user, now=now)
    locked.accepted_at, locked.accepted_by, locked.sealed_token = now, user, None
    locked.save(update_fields=["accepted_at", "accepted_by", "sealed_token"])
    _record("invitation.accepted", locked, user, now)
    return member


def revoke_invitation(*, actor: User, invitation: Invitation, now: datetime) -> None:
    """Take an open invitation back; needs ``manage``. Raises :class:`InvitationOver`."""
    access.require(user=actor, organization=invitation.organization, permission="manage")
    take_back(invitation=invitation, actor=actor, now=now)


def take_back(*, invitation: Invitation, actor: User | None, now: datetime) -> None:
    """Revoke without asking for a role: for staff, whose right the admin has checked."""
    with durable():
        locked = lock_invitation(invitation)
        _check_unused(locked)
        locked.revoked_at, locked.sealed_token = now, None
        locked.save(update_fields=["revoked_at", "sealed_token"])
        _record("invitation.revoked", locked, actor, now)


def resend_invitation(*, actor: User, invitation: Invitation, now: datetime) -> Invitation:
    """Send the same link once more, valid for 14 days from now; needs ``manage``.

    Raises :class:`InvitationOver` when it was used or taken back. One mail per
    ten minutes: an earlier repeat raises :class:`Conflict`.
    """
    access.require(user=actor, organization=invitation.organization, permission="manage")
    return send_once_more(invitation=invitation, actor=actor, now=now)


def send_once_more(*, invitation: Invitation, actor: User | None, now: datetime) -> Invitation:
    """Resend without asking for a role: for staff, whose right the admin has checked."""
    with durable():
        locked = lock_invitation(invitation)
        _check_unused(locked)
        if locked.expires_at - VALID_FOR > now - timedelta(minutes=10):
            raise Conflict(
                _("The invitation was sent a moment ago. Wait ten minutes before you send it again.")
            )
        locked.expires_at = now + VALID_FOR
        locked.save(update_fields=["expires_at"])
        _record("invitation.resent", locked, actor, now)
    return locked


def link_token(invitation: Invitation) -> str | None:
    """Return the token of an open invitation for its mail, else ``None``. Never log or store it."""
    return None if invitation.sealed_token is None else str(crypto.decrypt(invitation.sealed_token))


def check_open(invitation: Invitation, *, now: datetime) -> None:
    """Raise :class:`InvitationOver` unless the invitation can be accepted at ``now``."""
    _check_unused(invitation)
    if invitation.expires_at <= now:
        raise InvitationOver(_("This invitation has expired. Ask %(who)s for a new one.") % _who(invitation))


def _check_unused(invitation: Invitation) -> None:
    if invitation.accepted_at is not None:
        raise InvitationOver(_("This invitation was already accepted. Sign in to see the organization."))
    if invitation.revoked_at is not None:
        raise InvitationOver(
            _("This invitation was taken back. Ask %(who)s for a new one.") % _who(invitation)
        )


def _has_address(user: User, email: str) -> bool:
    if user.email.lower() == email.lower():
        return True
    return bool(EmailAddress.objects.filter(user=user, email=email.lower(), verified=True).exists())


def _who(invitation: Invitation) -> dict[str, str]:
    return {"who": invitation.organization.name}


def _open(organization: Organization) -> Any:
    return Invitation.objects.filter(organization=organization, accepted_at=None, revoked_at=None)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _record(kind: str, invitation: Invitation, actor: User | None, now: datetime) -> None:
    events.record(
        kind=kind,
        subject_type="invitation",
        subject_id=invitation.uid,
        organization=invitation.organization,
        actor=actor,
        now=now,
        after={
            "email": invitation.email,
            "role": invitation.role,
            "expires_at": invitation.expires_at.isoformat(),
        },
    )
