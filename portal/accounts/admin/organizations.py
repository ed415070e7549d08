"""Customers: their details, who belongs to them, and what staff decided on what evidence."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.accounts import events, invitations, members
from portal.accounts.admin.base import LookOnly, LookOnlyInline, each, staff
from portal.accounts.countries import country_choices
from portal.accounts.models import Invitation, Membership, Organization, OrganizationReview, Project
from portal.accounts.organizations import decide
from portal.common.errors import DomainError, InvalidInput
from portal.common.states import status_pill

State = Organization.State
VERBS = {
    State.APPROVED: gettext_lazy("Approve"),
    State.RESTRICTED: gettext_lazy("Restrict"),
    State.SUSPENDED: gettext_lazy("Suspend"),
}


class ReviewForm(forms.Form):
    """The record of a decision. To approve, all of it; to take rights away, the reason."""

    legal_name = forms.CharField(
        label=gettext_lazy("Identity"),
        max_length=200,
        required=False,
        help_text=gettext_lazy("Legal name and registration number, and how they were checked."),
    )
    country = forms.ChoiceField(label=gettext_lazy("Country"), choices=country_choices, required=False)
    end_use = forms.CharField(
        label=gettext_lazy("End use"),
        widget=forms.Textarea(attrs={"rows": 3}),
        required=False,
        help_text=gettext_lazy("What the GPUs are for, in the customer's words."),
    )
    screening_evidence = forms.CharField(
        label=gettext_lazy("Screening evidence"),
        widget=forms.Textarea(attrs={"rows": 3}),
        required=False,
        help_text=gettext_lazy("Sanctions list consulted, date, result, reference."),
    )
    terms_version = forms.CharField(
        label=gettext_lazy("Accepted terms"),
        max_length=40,
        required=False,
        help_text=gettext_lazy("The version, for example 2026-10."),
    )
    note = forms.CharField(
        label=gettext_lazy("Note"), widget=forms.Textarea(attrs={"rows": 3}), required=False
    )

    def __init__(self, *args: Any, decision: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if decision == State.APPROVED:
            self.fields["note"].help_text = _("Kept in the record.")
            for name in ("legal_name", "country", "end_use", "screening_evidence", "terms_version"):
                self.fields[name].required = True
        else:
            self.fields["note"].label = _("Reason")
            self.fields["note"].help_text = _("The customer reads it in the mail about this decision.")
            self.fields["note"].required = True


class DetailsForm(forms.ModelForm):
    """Corrections to a customer's details; the country from the list."""

    country = forms.ChoiceField(label=gettext_lazy("Country"), choices=country_choices, required=False)

    class Meta:
        model = Organization
        fields = ("name", "segment", "country", "billing_email", "billing_address", "tax_id")


class ReviewInline(LookOnlyInline):
    model = OrganizationReview
    fields = (
        "decided_at",
        "decision",
        "decided_by",
        "legal_name",
        "country",
        "end_use",
        "screening_evidence",
        "terms_version",
        "note",
    )
    readonly_fields = fields


class MemberInline(LookOnlyInline):
    model = Membership
    fields = ("user", "role", "created_at")
    readonly_fields = ("created_at",)
    show_change_link = True


@admin.register(Organization)
class OrganizationAdmin(admin.ModelAdmin):
    """Staff correct details; the state changes by a decision with its record only."""

    fields = (
        "name",
        "uid",
        "state",
        "segment",
        "country",
        "billing_email",
        "billing_address",
        "tax_id",
        "created_at",
    )
    form = DetailsForm
    readonly_fields = ("uid", "state", "created_at")
    inlines = (ReviewInline, MemberInline)
    list_display = ("name", "state_pill", "segment", "country", "members", "created_at")
    list_filter = ("state", "segment", "country")
    search_fields = ("name", "uid", "memberships__user__email")
    list_per_page = 50
    show_full_result_count = False
    actions = ("approve", "restrict", "suspend")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Organization]:
        return super().get_queryset(request).annotate(member_count=Count("memberships"))

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_pill(self, organization: Organization) -> SafeString:
        return status_pill(organization.state, organization.get_state_display())

    @admin.display(description=gettext_lazy("members"), ordering="member_count")
    def members(self, organization: Any) -> int:
        return int(organization.member_count)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # whoever signs up founds one, and owns it

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # money and events refer to it

    def save_model(self, request: HttpRequest, obj: Organization, form: Any, change: bool) -> None:
        before = {name: form.initial.get(name) for name in form.changed_data}
        super().save_model(request, obj, form, change)
        if before:
            events.record(
                kind="organization.updated",
                subject_type="organization",
                subject_id=obj.uid,
                organization=obj,
                actor=staff(request),
                now=timezone.now(),
                before=before,
                after={name: form.cleaned_data[name] for name in before},
            )

    def get_urls(self) -> list[URLPattern]:
        address = path(
            "<int:pk>/decide/<str:decision>/",
            self.admin_site.admin_view(self.decide_view),
            name="accounts_organization_decide",
        )
        return [address, *super().get_urls()]

    def decide_view(self, request: HttpRequest, pk: int, decision: str) -> HttpResponse:
        """Ask for the record of a decision, then decide. Not in a transaction: ``decide`` owns it."""
        organization = self.get_object(request, str(pk))
        if organization is None or decision not in VERBS:
            raise Http404
        if not self.has_change_permission(request, organization):
            raise PermissionDenied
        data = request.POST if request.method == "POST" else None
        form = ReviewForm(data, decision=decision, initial=self._last_record(organization))
        if request.method == "POST" and form.is_valid():
            try:
                decide(
                    organization=organization,
                    decision=decision,
                    actor=staff(request),
                    now=timezone.now(),
                    **form.cleaned_data,
                )
            except InvalidInput as error:
                form.add_error(error.field if error.field in form.fields else None, error.message)
            except DomainError as error:
                form.add_error(None, error.message)
            else:
                text = _("%(name)s is %(state)s now.") % {
                    "name": organization.name,
                    "state": State(decision).label.lower(),
                }
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:accounts_organization_change", args=[pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": f"{VERBS[State(decision)]}: {organization.name}",
            "submit": VERBS[State(decision)],
            "form": form,
            "original": organization,
            "opts": self.opts,
            "media": self.media,
        }
        template = "admin/accounts/organization/decide.html"
        return TemplateResponse(request, template, context, status=400 if form.errors else 200)

    def _last_record(self, organization: Organization) -> dict[str, str]:
        last = organization.reviews.exclude(legal_name="").first()
        country = {"country": organization.country}
        if last is None:
            return country
        kept = ("legal_name", "end_use", "screening_evidence", "terms_version")
        return {name: getattr(last, name) for name in kept} | country

    def _one(
        self, request: HttpRequest, queryset: QuerySet[Organization], decision: str
    ) -> HttpResponse | None:
        chosen = list(queryset.values_list("pk", flat=True)[:2])
        if len(chosen) != 1:
            text = _("Choose one organization: each decision has its own record.")
            self.message_user(request, text, messages.WARNING)
            return None
        return HttpResponseRedirect(reverse("admin:accounts_organization_decide", args=[chosen[0], decision]))

    @admin.action(description=gettext_lazy("Approve…"), permissions=["change"])
    def approve(self, request: HttpRequest, queryset: QuerySet[Organization]) -> HttpResponse | None:
        return self._one(request, queryset, State.APPROVED)

    @admin.action(description=gettext_lazy("Restrict…"), permissions=["change"])
    def restrict(self, request: HttpRequest, queryset: QuerySet[Organization]) -> HttpResponse | None:
        return self._one(request, queryset, State.RESTRICTED)

    @admin.action(description=gettext_lazy("Suspend…"), permissions=["change"])
    def suspend(self, request: HttpRequest, queryset: QuerySet[Organization]) -> HttpResponse | None:
        return self._one(request, queryset, State.SUSPENDED)


@admin.register(Membership)
class MembershipAdmin(admin.ModelAdmin):
    """Staff help with teams; an organization keeps an owner here too.

    The admin wraps these forms in a transaction, so they call parts; a refusal rolls
    it back and is shown above the form.
    """

    fields = ("organization", "user", "role")
    raw_id_fields = ("organization", "user")
    list_display = ("user", "organization", "role", "created_at")
    list_filter = ("role",)
    search_fields = ("user__email", "organization__name", "organization__uid")
    list_select_related = ("user", "organization")
    list_per_page = 50
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("organization", "user") if obj is not None else ()

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)  # one at a time: each is checked against its team
        return actions

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        now = timezone.now()
        if not change:
            members.lock_team(obj.organization)
            made = members.join(obj.organization, obj.user, obj.role, actor=staff(request), now=now)
            obj.pk, obj.uid = made.pk, made.uid
            return
        team = members.lock_team(obj.organization)
        current = next((member for member in team if member.pk == obj.pk), None)
        if current is not None:
            members.set_role(team, current, obj.role, actor=staff(request), now=now)

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        team = members.lock_team(obj.organization)
        current = next((member for member in team if member.pk == obj.pk), None)
        if current is not None:
            members.take_out(team, current, actor=staff(request), now=timezone.now())

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except DomainError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().delete_view(request, *args, **kwargs)
        except DomainError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(reverse("admin:accounts_membership_changelist"))


@admin.register(Invitation)
class InvitationAdmin(LookOnly):
    """Sent by customers; staff take them back or send them again."""

    fields = (
        "uid",
        "organization",
        "email",
        "role",
        "invited_by",
        "created_at",
        "expires_at",
        "accepted_at",
        "accepted_by",
        "revoked_at",
    )
    list_display = ("email", "organization", "role", "state", "created_at", "expires_at")
    list_select_related = ("organization",)
    search_fields = ("email", "organization__name", "uid")
    actions = ("revoke", "send_again")

    @admin.display(description=gettext_lazy("state"))
    def state(self, invitation: Invitation) -> SafeString:
        if invitation.accepted_at:
            return status_pill("accepted")
        if invitation.revoked_at:
            return status_pill("revoked")
        return status_pill("expired" if invitation.expires_at <= timezone.now() else "open")

    @admin.action(description=gettext_lazy("Take back"), permissions=["act"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> None:
        def act(row: Invitation) -> None:
            invitations.take_back(invitation=row, actor=staff(request), now=timezone.now())

        each(self, request, queryset, act)

    @admin.action(description=gettext_lazy("Send again"), permissions=["act"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> None:
        def act(row: Invitation) -> None:
            invitations.send_once_more(invitation=row, actor=staff(request), now=timezone.now())

        each(self, request, queryset, act)


@admin.register(Project)
class ProjectAdmin(LookOnly):
    list_display = ("name", "organization", "created_at", "archived_at")
    list_select_related = ("organization",)
    search_fields = ("name", "organization__name", "uid")
