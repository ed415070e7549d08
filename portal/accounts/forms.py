"""The sign-up form: a person and their organization, or a person and their invitation."""

from __future__ import annotations

from typing import Any

from allauth.account.forms import SignupForm as AllauthSignupForm
from allauth.core import context
from django import forms
from django.contrib import messages
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts import invitations
from portal.accounts.countries import country_choices
from portal.accounts.current import choose_organization, forget_invitation, invitation_in_session
from portal.accounts.models import Organization, User
from portal.accounts.organizations import add_organization
from portal.accounts.texts import clean_line
from portal.common.errors import DomainError, InvalidInput
from portal.common.transactions import durable


class SignupForm(AllauthSignupForm):
    """Create the person and, in the same transaction, their organization or membership.

    Whoever comes with an invitation link in the session joins that organization: the
    form then keeps the invited address and asks for no organization.
    """

    full_name = forms.CharField(
        label=_("Your name"), max_length=150, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    organization_name = forms.CharField(
        label=_("Organization"),
        max_length=120,
        help_text=_("Your company, lab or team: it leases and pays."),
        widget=forms.TextInput(attrs={"autocomplete": "organization"}),
    )
    segment = forms.ChoiceField(label=_("Kind of organization"), choices=Organization.Segment.choices)
    country = forms.ChoiceField(
        label=_("Country"),
        choices=country_choices,
        help_text=_("Where the organization is registered."),
        widget=forms.Select(attrs={"autocomplete": "country"}),
    )
    field_order = [
        "full_name",
        "email",
        "password1",
        "password2",
        "organization_name",
        "segment",
        "country",
    ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.invitation = invitation_in_session(context.request)
        if self.invitation is not None:
            for name in ("organization_name", "segment", "country"):
                del self.fields[name]
            email = self.fields["email"]
            email.initial = self.invitation.email
            email.disabled = True
            email.help_text = _("The invitation was sent to this address.")

    def clean_full_name(self) -> str:
        return self._line("full_name", 150)

    def clean_organization_name(self) -> str:
        return self._line("organization_name", 120)

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        """Save, or answer as if: an address that is known already only gets a mail."""
        try:
            saved: tuple[User | None, HttpResponse | None] = super().try_save(request)
        except IntegrityError as error:
            # The same address signed up in the moment between the check and now.
            if "accounts_user" not in str(error):
                raise
            self.account_already_exists = True
            saved = super().try_save(request)
        except DomainError as error:  # the invitation was taken back meanwhile
            forget_invitation(request)
            messages.error(request, error.message)
            return None, HttpResponseRedirect(reverse("account_signup"))
        return saved

    def save(self, request: HttpRequest) -> User:
        """Create everything or nothing; mails are sent by allauth afterwards."""
        with durable():
            user: User = super().save(request)
        return user

    def signup(self, request: HttpRequest, user: User) -> None:
        """Found the organization, or join the one that invited (called by allauth while saving)."""
        now = timezone.now()
        if self.invitation is not None:
            locked = invitations.lock_invitation(self.invitation)
            member = invitations.take_up(locked, user=user, now=now)
            organization = member.organization
            forget_invitation(request)
        else:
            organization = add_organization(
                user=user,
                name=self.cleaned_data["organization_name"],
                segment=self.cleaned_data["segment"],
                country=self.cleaned_data["country"],
                now=now,
            )
        choose_organization(request, organization)

    def _line(self, field: str, longest: int) -> str:
        try:
            return clean_line(self.cleaned_data[field], field=field, longest=longest)
        except InvalidInput as error:
            raise forms.ValidationError(error.message) from None
