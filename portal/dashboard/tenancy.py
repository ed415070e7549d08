"""Every customer page starts here: who is it, for which organization, and may they."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme

from portal.accounts import access
from portal.accounts.access import NoOrganization, Permission
from portal.accounts.models import Membership, Organization, User
from portal.common.errors import DomainError, Forbidden, InvalidInput, NotFound

View = Callable[..., HttpResponseBase]


class TenantRequest(HttpRequest):
    """A request of a signed-in member (for type checkers: the attributes are set below)."""

    user: User  # type: ignore[assignment]
    organization: Organization
    member: Membership
    may: frozenset[Permission]


def member_page(permission: Permission = "view") -> Callable[[View], View]:
    """Let in members of an organization whose role holds ``permission``.

    Sets ``request.organization``, ``request.member`` and ``request.may``. Someone
    else's object is a 404, a role that is not enough a 403, and a person without an
    organization is sent to create one.
    """

    def decorate(view: View) -> View:
        @login_required
        @wraps(view)
        def wrapped(request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                organization = access.organization_for(user=request.user)
            except NoOrganization:
                return redirect("dashboard:organization-create")
            try:
                request.organization = organization
                request.member = access.require(
                    user=request.user, organization=organization, permission=permission
                )
                request.may = access.permissions(request.member.role)
                return view(request, *args, **kwargs)
            except NotFound as error:
                raise Http404(error.message) from error
            except Forbidden as error:
                if request.method == "POST":
                    messages.error(request, error.message)
                    return back(request)
                raise PermissionDenied(error.message) from error

        return wrapped

    return decorate


def back(request: HttpRequest, fallback: str = "dashboard:home") -> HttpResponseRedirect:
    """Return to the page the person came from, when it is ours."""
    where = request.headers.get("Referer", "")
    if where and url_has_allowed_host_and_scheme(where, allowed_hosts={request.get_host()}):
        return HttpResponseRedirect(where)
    return redirect(fallback)


def show_error(error: DomainError, form: forms.Form) -> None:
    """Put a refusal beside the field that it names, else above the form."""
    field = error.field if isinstance(error, InvalidInput) else ""
    form.add_error(field if field in form.fields else None, error.message)


def organization_context(request: HttpRequest) -> dict[str, Any]:
    """Context processor: the current organization, the person's others, and what they may do."""
    user = getattr(request, "user", None)
    if not isinstance(user, User):
        return {}
    organization = getattr(request, "organization", None)
    mine = access.organizations_of(user=user)
    if organization is None and mine:
        organization = access.organization_for(user=user)
    return {"organization": organization, "organizations": mine, "may": getattr(request, "may", frozenset())}
