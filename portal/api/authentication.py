"""Who calls: a program with a token of one organization, or a person's session."""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser
from django.utils import timezone
from django.utils.translation import gettext as _
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from portal.accounts import access, tokens
from portal.accounts.models import ApiToken, Organization, User


class TokenAuthentication(BaseAuthentication):
    """``Authorization: Bearer sublet_…``"""

    keyword = "Bearer"

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        parts = get_authorization_header(request).split()
        if not parts or parts[0].lower() != b"bearer":
            return None
        if len(parts) != 2:
            raise AuthenticationFailed(_("Send the token as: Authorization: Bearer sublet_…"))
        token = tokens.authenticate(parts[1].decode("ascii", "replace"), now=timezone.now())
        if token is None:
            raise AuthenticationFailed(_("This token is unknown, revoked or expired. Create a new one."))
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return self.keyword


def caller(request: Request) -> User:
    """Return the signed-in person (views run after ``IsAuthenticated``)."""
    user = request.user
    assert not isinstance(user, AnonymousUser)
    return user


def organization_of(request: Request) -> Organization:
    """Return the organization the request acts for.

    A token's own; with a session the header ``Sublet-Organization``, else the person's
    current one. Raises NotFound where the person is no member.
    """
    if isinstance(request.auth, ApiToken):
        return request.auth.organization
    uid = request.headers.get("Sublet-Organization") or None
    return access.organization_for(user=caller(request), uid=uid)
