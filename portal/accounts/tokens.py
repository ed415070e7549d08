"""API tokens: shown once, kept as a hash, scoped, expiring.

A token acts for its creator in one organization: never with more than its scopes,
never with more than the creator's role there as it is now. 256 random bits need no
slow hash, so SHA-256 finds the row.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils.translation import gettext as _

from portal.accounts import access, events
from portal.accounts.access import Permission
from portal.accounts.models import ApiToken, Organization, User
from portal.accounts.texts import clean_line
from portal.common.errors import Conflict, Forbidden, InvalidInput
from portal.common.periods import aware_utc
from portal.common.transactions import durable, require_transaction

PREFIX = "sublet_"  # lets secret scanners find a leaked one
HINT_LENGTH = len(PREFIX) + 5
LONGEST_LIFE = timedelta(days=366)
LAST_USED_EVERY = timedelta(minutes=1)
MOST_TOKENS = 100

Scope = ApiToken.Scope

# What each scope may do, within the creator's role.
SCOPES: dict[str, frozenset[Permission]] = {
    Scope.READ: frozenset({"view"}),
    Scope.LEASE: frozenset({"view", "lease"}),
    Scope.BILLING: frozenset({"view", "billing"}),
}


class TooManyTokens(Conflict):
    """The organization has as many live tokens as we allow."""

    code = "too-many-tokens"


def create_token(
    *,
    actor: User,
    organization: Organization,
    name: str,
    scopes: Iterable[str],
    expires_at: datetime,
    now: datetime,
) -> tuple[ApiToken, str]:
    """Create a token and return it with its secret, which is shown once and never stored.

    Needs ``manage``. ``expires_at`` is aware, in the future and at most 366 days
    away. Raises :class:`InvalidInput` naming the field, and :class:`TooManyTokens`.
    """
    access.require(user=actor, organization=organization, permission="manage")
    name = clean_line(name, field="name", longest=80)
    wanted = _clean_scopes(scopes)
    expires_at = aware_utc(expires_at, field="expires_at")
    if not now < expires_at <= now + LONGEST_LIFE:
        raise InvalidInput(
            _("Choose an expiry between now and %(days)d days from now.") % {"days": LONGEST_LIFE.days},
            field="expires_at",
        )
    live = ApiToken.objects.filter(organization=organization, revoked_at=None, expires_at__gt=now)
    if live.count() >= MOST_TOKENS:
        raise TooManyTokens(
            _("There are %(most)d live tokens. Revoke some that are no longer used.") % {"most": MOST_TOKENS}
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    with durable():
        token = ApiToken.objects.create(
            organization=organization,
            user=actor,
            name=name,
            hint=secret[:HINT_LENGTH],
            token_hash=_hash(secret),
            scopes=wanted,
            created_at=now,
            expires_at=expires_at,
        )
        _record("token.created", token, actor, now)
    return token, secret


def revoke_token(*, actor: User, token: ApiToken, now: datetime) -> ApiToken:
    """Revoke a token at once; revoking it twice is revoking it once.

    Needs ``manage``, except for one's own token.
    """
    if token.user_id == actor.pk:
        access.require(user=actor, organization=token.organization, permission="view")
    else:
        access.require(user=actor, organization=token.organization, permission="manage")
    return withdraw(token=token, actor=actor, now=now)


def withdraw(*, token: ApiToken, actor: User | None, now: datetime) -> ApiToken:
    """Revoke without asking for a role: for staff, whose right the admin has checked."""
    with durable():
        locked = (
            ApiToken.objects.select_for_update(no_key=True, of=("self",))
            .select_related("organization", "user")
            .get(pk=token.pk)
        )
        if locked.revoked_at is None:
            locked.revoked_at = now
            locked.save(update_fields=["revoked_at"])
            _record("token.revoked", locked, actor, now)
    return locked


def authenticate(secret: str, *, now: datetime) -> ApiToken | None:
    """Return the live token with this secret (with its user and organization), or ``None``.

    ``None`` also when its creator left the organization or may no longer sign in.
    ``last_used_at`` is written at most once a minute.
    """
    if not secret.startswith(PREFIX) or len(secret) > 100:
        return None
    token = (
        ApiToken.objects.select_related("user", "organization")
        .filter(token_hash=_hash(secret), revoked_at=None, expires_at__gt=now, user__is_active=True)
        .first()
    )
    if token is None or access.membership(user=token.user, organization=token.organization) is None:
        return None
    stale = Q(last_used_at=None) | Q(last_used_at__lte=now - LAST_USED_EVERY)
    if ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now):
        token.last_used_at = now
    return token


def permissions_of(token: ApiToken) -> frozenset[Permission]:
    """Return what the token may do now: its scopes, within its creator's present role."""
    member = access.membership(user=token.user, organization=token.organization)
    if member is None:
        return frozenset()
    scoped: frozenset[Permission] = frozenset().union(*(SCOPES.get(s, frozenset()) for s in token.scopes))
    return scoped & access.permissions(member.role)


def require_scope(token: ApiToken, permission: Permission) -> None:
    """Raise :class:`Forbidden` unless the token may do this now."""
    if permission not in permissions_of(token):
        raise Forbidden(
            _(
                "This token does not allow this (it needs the permission %(permission)s). Create one with more scopes."
            )
            % {"permission": permission}
        )


def _clean_scopes(scopes: Iterable[str]) -> list[str]:
    wanted = set(scopes)
    unknown = wanted - set(Scope.values)
    if unknown or not wanted:
        raise InvalidInput(
            _("Choose at least one scope of: %(scopes)s.") % {"scopes": ", ".join(Scope.values)},
            field="scopes",
        )
    return [scope for scope in Scope.values if scope in wanted]


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _record(kind: str, token: ApiToken, actor: User | None, now: datetime) -> None:
    require_transaction()
    events.record(
        kind=kind,
        subject_type="api_token",
        subject_id=token.uid,
        organization=token.organization,
        actor=actor,
        now=now,
        after={
            "name": token.name,
            "scopes": token.scopes,
            "expires_at": token.expires_at.isoformat(),
            "created_by": token.user.email,
        },
    )
