"""Per request: the organization a person works for; staff prove a second factor."""

from __future__ import annotations

from collections.abc import Callable

from allauth.account.authentication import get_authentication_records
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from portal.accounts.current import ORGANIZATION
from portal.accounts.models import User

Answer = Callable[[HttpRequest], HttpResponse]


class ChosenOrganizationMiddleware:
    """Carry the organization chosen in this session with the person; see ``access.organization_for``."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.user.is_authenticated:
            request.user.chosen_organization = request.session.get(ORGANIZATION, "")
        return self.get_response(request)


class StaffMfaMiddleware:
    """Let staff into the admin only in a session that has passed a second factor.

    Without one they are led to set it up; with one that this session has not used,
    to use it. ``SUBLET_STAFF_NEED_MFA`` is off in local mode only.
    """

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not settings.SUBLET_STAFF_NEED_MFA or not request.path.startswith(reverse("admin:index")):
            return self.get_response(request)
        user = request.user
        if not isinstance(user, User) or not user.is_staff:
            return self.get_response(request)  # the admin sends them away itself
        factors = set(Authenticator.objects.filter(user=user).values_list("type", flat=True))
        factors &= {Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN}
        if not factors:
            messages.warning(
                request,
                _(
                    "Staff sign in with a second factor. Add an authenticator app or a passkey, then come back."
                ),
            )
            return HttpResponseRedirect(reverse("mfa_index"))
        if any(record.get("method") == "mfa" for record in get_authentication_records(request, user)):
            return self.get_response(request)
        step = "mfa_reauthenticate" if Authenticator.Type.TOTP in factors else "mfa_reauthenticate_webauthn"
        query = urlencode({REDIRECT_FIELD_NAME: request.get_full_path()})
        return HttpResponseRedirect(f"{reverse(step)}?{query}")
