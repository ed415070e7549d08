"""The organization's own pages: team, projects, keys, tokens, settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from billing.accounts import account_for
from portal.accounts import access, invitations, members, organizations, projects, ssh_keys, tokens
from portal.accounts.countries import country_choices
from portal.accounts.current import choose_organization
from portal.accounts.models import ApiToken, Membership, Organization, Project, SSHKey, User
from portal.accounts.users import time_zones, update_profile
from portal.common.errors import DomainError
from portal.dashboard.tenancy import TenantRequest, back, member_page, show_error

TOKEN_DAYS = ((30, gettext_lazy("30 days")), (90, gettext_lazy("90 days")), (365, gettext_lazy("1 year")))


class CreateForm(forms.Form):
    """A new organization."""

    name = forms.CharField(label=gettext_lazy("Organization"), max_length=120)
    segment = forms.ChoiceField(label=gettext_lazy("You are"), choices=Organization.Segment.choices)
    country = forms.ChoiceField(label=gettext_lazy("Country"), choices=country_choices)


@login_required
def create(request: HttpRequest) -> HttpResponse:
    """Create an organization for someone who has none, or another one."""
    assert isinstance(request.user, User)
    form = CreateForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            organization = organizations.create_organization(
                user=request.user, now=timezone.now(), **form.cleaned_data
            )
        except DomainError as error:
            show_error(error, form)
        else:
            choose_organization(request, organization)
            return redirect("dashboard:home")
    return render(request, "dashboard/organization_create.html", {"form": form})


# --- team -----------------------------------------------------------------------------------------
class InviteForm(forms.Form):
    """Whom to invite."""

    email = forms.EmailField(label=gettext_lazy("E-mail address"))
    role = forms.ChoiceField(
        label=gettext_lazy("Role"), choices=Membership.Role.choices, initial=Membership.Role.MEMBER
    )


ROLES = (
    (Membership.Role.OWNER, gettext_lazy("Everything, and giving ownership to others")),
    (Membership.Role.ADMIN, gettext_lazy("Team, projects, keys, tokens, leases and money")),
    (Membership.Role.MEMBER, gettext_lazy("Reserves, sees and cancels leases")),
    (Membership.Role.BILLING, gettext_lazy("Sees invoices and spend, books nothing")),
    (Membership.Role.VIEWER, gettext_lazy("Looks at everything but money, changes nothing")),
)


@member_page()
def team(request: TenantRequest) -> HttpResponse:
    """Members and open invitations; POST invites."""
    form = InviteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            invitation, _token = invitations.invite(
                actor=request.user, organization=request.organization, now=timezone.now(), **form.cleaned_data
            )
        except DomainError as error:
            show_error(error, form)
        else:
            messages.success(
                request, _("An invitation is on its way to %(email)s.") % {"email": invitation.email}
            )
            return redirect("dashboard:team")
    context = {
        "form": form,
        "members": request.organization.memberships.select_related("user"),
        "invitations": request.organization.invitations.filter(
            accepted_at=None, revoked_at=None
        ).select_related("invited_by"),
        "roles": Membership.Role.choices,
        "role_help": ROLES,
    }
    return render(request, "dashboard/team.html", context)


def _act(request: TenantRequest, done: str, function: Any, **arguments: Any) -> HttpResponse:
    """Call a public function, say what happened, and go back."""
    try:
        function(actor=request.user, now=timezone.now(), **arguments)
    except DomainError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, done)
    return back(request)


@require_POST
@member_page("manage")
def member_role(request: TenantRequest, uid: str) -> HttpResponse:
    """Change a member's role."""
    found = access.member_for(
        user=request.user, uid=uid, permission="manage", organization=request.organization
    )
    return _act(
        request,
        _("The role of %(person)s was changed.") % {"person": found.user.get_full_name()},
        members.change_role,
        organization=request.organization,
        member=found.user,
        role=request.POST.get("role", ""),
    )


@require_POST
@member_page("manage")
def member_remove(request: TenantRequest, uid: str) -> HttpResponse:
    """Take a member out."""
    found = access.member_for(
        user=request.user, uid=uid, permission="manage", organization=request.organization
    )
    return _act(
        request,
        _("%(person)s is no longer a member.") % {"person": found.user.get_full_name()},
        members.remove_member,
        organization=request.organization,
        member=found.user,
    )


@require_POST
@member_page("manage")
def invitation_revoke(request: TenantRequest, uid: str) -> HttpResponse:
    """Take an invitation back."""
    found = access.invitation_for(user=request.user, uid=uid, organization=request.organization)
    return _act(request, _("The invitation was taken back."), invitations.revoke_invitation, invitation=found)


# --- projects -------------------------------------------------------------------------------------
class ProjectForm(forms.Form):
    """A project's name."""

    name = forms.CharField(label=gettext_lazy("Name"), max_length=80)


@member_page()
def project_list(request: TenantRequest) -> HttpResponse:
    """Projects; POST creates one."""
    form = ProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            projects.create_project(
                actor=request.user,
                organization=request.organization,
                now=timezone.now(),
                name=form.cleaned_data["name"],
            )
        except DomainError as error:
            show_error(error, form)
        else:
            messages.success(request, _("The project was created."))
            return redirect("dashboard:projects")
    found = list(request.organization.projects.all())
    context = {
        "form": form,
        "projects": [project for project in found if project.archived_at is None],
        "archived": [project for project in found if project.archived_at is not None],
    }
    return render(request, "dashboard/projects.html", context)


def _project(request: TenantRequest, uid: str) -> Project:
    return access.project_for(
        user=request.user, uid=uid, permission="manage", organization=request.organization
    )


@require_POST
@member_page("manage")
def project_rename(request: TenantRequest, uid: str) -> HttpResponse:
    """Give a project another name."""
    return _act(
        request,
        _("The project was renamed."),
        projects.rename_project,
        project=_project(request, uid),
        name=request.POST.get("name", ""),
    )


@require_POST
@member_page("manage")
def project_archive(request: TenantRequest, uid: str) -> HttpResponse:
    """Put a project away; its history stays."""
    return _act(
        request, _("The project was archived."), projects.archive_project, project=_project(request, uid)
    )


@require_POST
@member_page("manage")
def project_restore(request: TenantRequest, uid: str) -> HttpResponse:
    """Bring a project back."""
    return _act(request, _("The project is back."), projects.restore_project, project=_project(request, uid))


# --- SSH keys -------------------------------------------------------------------------------------
class SSHKeyForm(forms.Form):
    """A public key."""

    name = forms.CharField(
        label=gettext_lazy("Name"), max_length=80, help_text=gettext_lazy("For example: Ada’s laptop.")
    )
    public_key = forms.CharField(
        label=gettext_lazy("Public key"),
        max_length=16_384,
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "autocomplete": "off"}),
        help_text=gettext_lazy(
            "The content of a .pub file: it begins with ssh-ed25519, ecdsa-sha2 or ssh-rsa."
        ),
    )


@member_page()
def ssh_key_list(request: TenantRequest) -> HttpResponse:
    """SSH keys; POST adds one."""
    form = SSHKeyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            key = ssh_keys.add_ssh_key(
                actor=request.user, organization=request.organization, now=timezone.now(), **form.cleaned_data
            )
        except DomainError as error:
            show_error(error, form)
        else:
            messages.success(request, _("The key %(name)s was added.") % {"name": key.name})
            return redirect("dashboard:ssh-keys")
    keys = SSHKey.objects.filter(organization=request.organization).select_related("added_by")
    return render(request, "dashboard/ssh_keys.html", {"form": form, "keys": keys})


@require_POST
@member_page("lease")
def ssh_key_remove(request: TenantRequest, uid: str) -> HttpResponse:
    """Remove a key; machines that already carry it keep it."""
    key = access.ssh_key_for(
        user=request.user, uid=uid, permission="lease", organization=request.organization
    )
    return _act(request, _("The key was removed."), ssh_keys.remove_ssh_key, ssh_key=key)


# --- API tokens -----------------------------------------------------------------------------------
class TokenForm(forms.Form):
    """A new API token."""

    name = forms.CharField(
        label=gettext_lazy("Name"), max_length=80, help_text=gettext_lazy("What will use it.")
    )
    scopes = forms.MultipleChoiceField(
        label=gettext_lazy("It may"),
        choices=ApiToken.Scope.choices,
        initial=[ApiToken.Scope.READ],
        widget=forms.CheckboxSelectMultiple,
    )
    days = forms.TypedChoiceField(
        label=gettext_lazy("It expires in"), choices=TOKEN_DAYS, coerce=int, initial=90
    )


@member_page()
def token_list(request: TenantRequest) -> HttpResponse:
    """API tokens; POST creates one and shows its secret this once."""
    form = TokenForm(request.POST or None)
    secret = ""
    if request.method == "POST" and form.is_valid():
        now = timezone.now()
        try:
            _created, secret = tokens.create_token(
                actor=request.user,
                organization=request.organization,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                expires_at=now + timedelta(days=form.cleaned_data["days"]),
                now=now,
            )
        except DomainError as error:
            show_error(error, form)
        else:
            form = TokenForm()
    found = ApiToken.objects.filter(organization=request.organization, revoked_at=None).select_related("user")
    context = {"form": form, "tokens": found, "secret": secret, "now": timezone.now()}
    response = render(request, "dashboard/api_tokens.html", context)
    if secret:
        response["Cache-Control"] = "no-store"
    return response


@require_POST
@member_page("manage")
def token_revoke(request: TenantRequest, uid: str) -> HttpResponse:
    """End a token at once."""
    token = access.api_token_for(user=request.user, uid=uid, organization=request.organization)
    return _act(request, _("The token was revoked."), tokens.revoke_token, token=token)


# --- settings -------------------------------------------------------------------------------------
class OrganizationForm(forms.Form):
    """What invoices print, and where they go."""

    name = forms.CharField(label=gettext_lazy("Name"), max_length=120)
    billing_email = forms.EmailField(
        label=gettext_lazy("Billing e-mail"), required=False, help_text=gettext_lazy("Invoices go here too.")
    )
    billing_address = forms.CharField(
        label=gettext_lazy("Billing address"),
        max_length=500,
        required=False,
        widget=forms.Textarea(attrs={"rows": 4}),
    )
    tax_id = forms.CharField(label=gettext_lazy("Tax id"), max_length=40, required=False)


@member_page()
def settings_page(request: TenantRequest) -> HttpResponse:
    """The organization's details, state, and how it pays."""
    organization = request.organization
    initial = {
        field: getattr(organization, field)
        for field in ("name", "billing_email", "billing_address", "tax_id")
    }
    form = OrganizationForm(request.POST or None, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            organizations.update_details(
                actor=request.user, organization=organization, now=timezone.now(), **form.cleaned_data
            )
        except DomainError as error:
            show_error(error, form)
        else:
            messages.success(request, _("Saved."))
            return redirect("dashboard:organization")
    context = {
        "form": form,
        "account": account_for(organization) if "billing" in request.may else None,
        "review": organization.reviews.first(),
        "support": settings.SUBLET_SELLER["email"],
    }
    return render(request, "dashboard/organization.html", context)


class ProfileForm(forms.Form):
    """A person's name and time zone."""

    full_name = forms.CharField(label=gettext_lazy("Name"), max_length=150, required=False)
    time_zone = forms.ChoiceField(
        label=gettext_lazy("Time zone"),
        choices=lambda: [(name, name.replace("_", " ")) for name in time_zones()],
    )


@login_required
def security(request: HttpRequest) -> HttpResponse:
    """The person's profile and ways to sign in."""
    user = request.user
    assert isinstance(user, User)
    form = ProfileForm(
        request.POST or None, initial={"full_name": user.full_name, "time_zone": user.time_zone}
    )
    if request.method == "POST" and form.is_valid():
        try:
            update_profile(user=user, now=timezone.now(), **form.cleaned_data)
        except DomainError as error:
            show_error(error, form)
        else:
            messages.success(request, _("Saved."))
            return redirect("dashboard:security")
    return render(request, "dashboard/security.html", {"form": form})
