"""Who may see and do what: the one place of tenant checks.

Every tenant row is fetched through a function that takes the user. Another
tenant's object does not exist for them (:class:`NotFound`); an object of their own
organization that their role does not reach is refused (:class:`Forbidden`). The
modules above add ``lease_for``, ``invoice_for`` and so on, all built on :func:`fetch`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar

from django.db.models import Model, QuerySet
from django.utils.translation import gettext as _

from portal.accounts.models import ApiToken, Invitation, Membership, Organization, Project, SSHKey, User
from portal.common.errors import Forbidden, NotFound

M = TypeVar("M", bound=Model)

Permission: TypeAlias = Literal["view", "lease", "billing", "manage", "own"]
Role = Membership.Role

# What each role may do. "manage" is team, tokens and projects; "own" is giving and taking ownership.
PERMISSIONS: dict[str, frozenset[Permission]] = {
    Role.OWNER: frozenset({"view", "lease", "billing", "manage", "own"}),
    Role.ADMIN: frozenset({"view", "lease", "billing", "manage"}),
    Role.MEMBER: frozenset({"view", "lease"}),
    Role.BILLING: frozenset({"view", "billing"}),
    Role.VIEWER: frozenset({"view"}),
}


class NoOrganization(NotFound):
    """The person belongs to no organization."""

    code = "no-organization"


def permissions(role: str) -> frozenset[Permission]:
    """Return what ``role`` may do; an unknown role may do nothing."""
    return PERMISSIONS.get(role, frozenset())


def roles_with(permission: Permission) -> list[str]:
    """Return the roles that hold ``permission``, strongest first."""
    return [role for role, held in PERMISSIONS.items() if permission in held]


def membership(*, user: User, organization: Organization) -> Membership | None:
    """Return the user's membership of ``organization`` as it is now, or ``None``."""
    return Membership.objects.filter(user=user, organization=organization).first()


def may(*, user: User, organization: Organization, permission: Permission) -> bool:
    """Tell whether the user's role in ``organization`` holds ``permission``."""
    found = membership(user=user, organization=organization)
    return found is not None and permission in permissions(found.role)


def require(*, user: User, organization: Organization, permission: Permission) -> Membership:
    """Return the user's membership if its role holds ``permission``.

    Raises :class:`NotFound` for an organization the user does not belong to and
    :class:`Forbidden` when the role is not enough.
    """
    found = membership(user=user, organization=organization)
    if found is None:
        raise NotFound(_("There is no such organization among yours."))
    check_role(found, permission)
    return found


def check_role(member: Membership, permission: Permission) -> None:
    """Raise :class:`Forbidden` unless the membership's role holds ``permission``."""
    if permission not in permissions(member.role):
        raise Forbidden(
            _("Your role (%(role)s) does not allow this. Ask an owner or admin of %(organization)s.")
            % {"role": member.get_role_display(), "organization": member.organization.name}
        )


def organizations_of(*, user: User) -> list[Organization]:
    """Return the organizations the user belongs to, the first joined first."""
    return list(Organization.objects.filter(memberships__user=user).order_by("memberships__pk"))


def organization_for(*, user: User, uid: str | None = None) -> Organization:
    """Return one of the user's organizations.

    Without ``uid`` it is the current one: the session's choice
    (``user.chosen_organization``, set per request), else the first joined. Raises
    :class:`NotFound` for an organization the user does not belong to, and
    :class:`NoOrganization` when there is none at all.
    """
    mine = Organization.objects.filter(memberships__user=user).order_by("memberships__pk")
    if uid is not None:
        found = None if _unusable(uid) else mine.filter(uid=uid).first()
        if found is None:
            raise NotFound(_("There is no such organization among yours."))
        return found
    chosen = user.chosen_organization
    found = mine.filter(uid=chosen).first() if chosen and not _unusable(chosen) else None
    found = found or mine.first()
    if found is None:
        raise NoOrganization(
            _("You belong to no organization yet. Create one, or ask a colleague to invite you.")
        )
    return found


def fetch(
    rows: QuerySet[M],
    *,
    user: User,
    uid: str,
    permission: Permission = "view",
    organization: Organization | None = None,
) -> M:
    """Return the row of ``rows`` with this ``uid`` that belongs to one of the user's organizations.

    ``rows`` is of a model with ``uid`` and ``organization``; ``organization`` narrows
    the search to one (the one an API token belongs to). Raises :class:`NotFound`
    when the row does not exist for the user, and :class:`Forbidden` when the role
    does not hold ``permission``.
    """
    found: M | None = None
    if not _unusable(uid):
        mine = rows.select_related("organization").filter(uid=uid, organization__memberships__user=user)
        if organization is not None:
            mine = mine.filter(organization=organization)
        found = mine.first()
    if found is None:
        raise NotFound(_("There is no %(thing)s like that.") % {"thing": rows.model._meta.verbose_name})
    owner: Organization = found.organization  # type: ignore[attr-defined]
    require(user=user, organization=owner, permission=permission)
    return found


def project_for(
    *, user: User, uid: str, permission: Permission = "view", organization: Organization | None = None
) -> Project:
    """Return a project of the user's; see :func:`fetch`."""
    return fetch(Project.objects.all(), user=user, uid=uid, permission=permission, organization=organization)


def ssh_key_for(
    *, user: User, uid: str, permission: Permission = "view", organization: Organization | None = None
) -> SSHKey:
    """Return an SSH key of the user's organizations; see :func:`fetch`."""
    return fetch(SSHKey.objects.all(), user=user, uid=uid, permission=permission, organization=organization)


def api_token_for(
    *, user: User, uid: str, permission: Permission = "manage", organization: Organization | None = None
) -> ApiToken:
    """Return an API token of the user's organizations; see :func:`fetch`."""
    return fetch(
        ApiToken.objects.select_related("user"),
        user=user,
        uid=uid,
        permission=permission,
        organization=organization,
    )


def invitation_for(
    *, user: User, uid: str, permission: Permission = "manage", organization: Organization | None = None
) -> Invitation:
    """Return an invitation of the user's organizations; see :func:`fetch`."""
    return fetch(
        Invitation.objects.all(), user=user, uid=uid, permission=permission, organization=organization
    )


def member_for(
    *, user: User, uid: str, permission: Permission = "view", organization: Organization | None = None
) -> Membership:
    """Return a membership of the user's organizations (not only their own); see :func:`fetch`."""
    return fetch(
        Membership.objects.select_related("user"),
        user=user,
        uid=uid,
        permission=permission,
        organization=organization,
    )


def _unusable(uid: str) -> bool:
    """Tell whether PostgreSQL would refuse the text outright (NUL), or it is no id at all."""
    return not uid or len(uid) > 64 or "\x00" in uid
