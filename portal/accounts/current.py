"""What a session remembers about its person: the chosen organization, an invitation to answer."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils import timezone

from portal.accounts.invitations import InvitationOver, check_open
from portal.accounts.models import Invitation, Organization, User

ORGANIZATION = "organization"
INVITATION = "invitation"  # the uid, never the token


def choose_organization(request: HttpRequest, organization: Organization) -> None:
    """Make ``organization`` the current one of this session."""
    request.session[ORGANIZATION] = organization.uid
    if isinstance(request.user, User):
        request.user.chosen_organization = organization.uid


def remember_invitation(request: HttpRequest, invitation: Invitation) -> None:
    """Keep an invitation whose link this browser has shown."""
    request.session[INVITATION] = invitation.uid


def forget_invitation(request: HttpRequest) -> None:
    request.session.pop(INVITATION, None)


def invitation_in_session(request: HttpRequest) -> Invitation | None:
    """Return the invitation this session may answer, or ``None`` when there is none any more."""
    uid = request.session.get(INVITATION)
    if not uid:
        return None
    found = Invitation.objects.select_related("organization", "invited_by").filter(uid=uid).first()
    if found is None:
        return None
    try:
        check_open(found, now=timezone.now())
    except InvitationOver:
        return None
    return found
