"""Thin views: answer an invitation, show the QR code of a new authenticator, choose an organization."""

from __future__ import annotations

from io import BytesIO

import qrcode
from allauth.account.decorators import reauthentication_required
from allauth.mfa.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import SECRET_SESSION_KEY
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render, resolve_url
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from qrcode.image.svg import SvgPathFillImage

from portal.accounts import access, invitations
from portal.accounts.current import (
    choose_organization,
    forget_invitation,
    invitation_in_session,
    remember_invitation,
)
from portal.accounts.models import User
from portal.common.errors import DomainError, NotFound


@require_GET
@never_cache
def open_invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Take the token out of the address: keep the invitation in the session and ask there.

    Only looks; mail scanners follow links.
    """
    try:
        invitation = invitations.find_invitation(token=token, now=timezone.now())
    except DomainError as error:
        return render(request, "accounts/join.html", {"error": error.message}, status=error.status)
    remember_invitation(request, invitation)
    return redirect("accounts:join")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def join(request: HttpRequest) -> HttpResponse:
    """Show the invitation of this session; a POST by a signed-in person accepts it."""
    invitation = invitation_in_session(request)
    if invitation is None:
        error = _("There is no open invitation here. Open the link in your mail again.")
        return render(request, "accounts/join.html", {"error": error}, status=404)
    facts = {"invitation": invitation}
    if request.method != "POST" or not isinstance(request.user, User):
        return render(request, "accounts/join.html", facts)
    try:
        member = invitations.accept_invitation(user=request.user, invitation=invitation, now=timezone.now())
    except DomainError as error:
        return render(request, "accounts/join.html", facts | {"error": error.message}, status=error.status)
    forget_invitation(request)
    choose_organization(request, member.organization)
    messages.success(request, _("Welcome to %(name)s.") % {"name": member.organization.name})
    return redirect(resolve_url(settings.LOGIN_REDIRECT_URL))


@require_GET
@login_required
@reauthentication_required(app="allauth.mfa")
@never_cache
def totp_qr(request: HttpRequest) -> HttpResponse:
    """Return the QR code of the authenticator that this session is setting up, as SVG.

    The secret is the one that the page beside it made; there is none to show once
    an authenticator is active.
    """
    secret = request.session.get(SECRET_SESSION_KEY)
    active = Authenticator.objects.filter(user=request.user, type=Authenticator.Type.TOTP).exists()
    if not secret or active:
        raise Http404(_("No authenticator is being set up."))
    image = qrcode.make(
        get_adapter().build_totp_url(request.user, secret),
        image_factory=SvgPathFillImage,  # on white, so that cameras read it in a dark theme too
    )
    svg = BytesIO()
    image.save(svg)
    return HttpResponse(svg.getvalue(), content_type="image/svg+xml")


@require_POST
@login_required
def choose(request: HttpRequest) -> HttpResponse:
    """Make another of one's organizations the current one, then go on at ``next``."""
    assert isinstance(request.user, User)
    try:
        organization = access.organization_for(user=request.user, uid=request.POST.get("organization", ""))
    except NotFound as error:
        raise Http404(error.message) from None
    choose_organization(request, organization)
    target = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    ):
        target = resolve_url(settings.LOGIN_REDIRECT_URL)
    return HttpResponseRedirect(target)
