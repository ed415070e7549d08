"""Tenants: organizations, who belongs to them, and how staff approved them."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.common.ids import public_id


class Organization(models.Model):
    """A customer: the tenant that leases, pays and is screened."""

    class State(models.TextChoices):
        PENDING = "pending", _("Pending")
        APPROVED = "approved", _("Approved")
        RESTRICTED = "restricted", _("Restricted")  # keeps what runs, books nothing new
        SUSPENDED = "suspended", _("Suspended")  # books and launches nothing

    class Segment(models.TextChoices):
        STARTUP = "startup", _("Startup")
        LAB = "lab", _("Research lab")
        ENTERPRISE = "enterprise", _("Enterprise")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "org"), editable=False)
    name = models.CharField(_("name"), max_length=120)
    segment = models.CharField(_("segment"), max_length=16, choices=Segment, default=Segment.STARTUP)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.PENDING)
    country = models.CharField(_("country"), max_length=2, blank=True, help_text=_("ISO 3166-1 code."))
    billing_email = models.EmailField(_("billing e-mail"), blank=True)
    billing_address = models.TextField(_("billing address"), max_length=500, blank=True)
    tax_id = models.CharField(_("tax id"), max_length=40, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("organization")
        verbose_name_plural = _("organizations")
        ordering = ["name", "pk"]

    def __str__(self) -> str:
        return self.name


class OrganizationReview(models.Model):
    """What staff looked at when they decided on a customer."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="reviews")
    decision = models.CharField(_("decision"), max_length=16, choices=Organization.State)
    legal_name = models.CharField(_("legal name"), max_length=200, blank=True)
    country = models.CharField(_("country"), max_length=2, blank=True)
    end_use = models.TextField(_("end use"), blank=True)
    screening_evidence = models.TextField(
        _("screening evidence"), blank=True, help_text=_("List consulted, date, result, reference.")
    )
    terms_version = models.CharField(_("accepted terms"), max_length=40, blank=True)
    note = models.TextField(_("note"), blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )  # null: the setting approved at sign-up
    decided_at = models.DateTimeField(_("decided"), default=timezone.now)

    class Meta:
        verbose_name = _("review")
        verbose_name_plural = _("reviews")
        ordering = ["-decided_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.organization}: {self.get_decision_display()}"


class Membership(models.Model):
    """A person's role in an organization."""

    class Role(models.TextChoices):
        OWNER = "owner", _("Owner")
        ADMIN = "admin", _("Admin")
        MEMBER = "member", _("Member")  # may lease
        BILLING = "billing", _("Billing")  # money only
        VIEWER = "viewer", _("Viewer")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "mem"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(_("role"), max_length=16, choices=Role, default=Role.MEMBER)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("member")
        verbose_name_plural = _("members")
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["organization", "user"], name="one_membership_each")]

    def __str__(self) -> str:
        return f"{self.user} ({self.get_role_display()})"


class Invitation(models.Model):
    """An offer, by e-mail, to join an organization.

    The link is looked up by its hash. ``sealed_token`` keeps it encrypted while the
    offer is open, so that the mail goes out (and again) through the outbox with no
    secret in any event; it is emptied when the offer is accepted or revoked.
    """

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "inv"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField(_("e-mail address"))
    role = models.CharField(_("role"), max_length=16, choices=Membership.Role, default=Membership.Role.MEMBER)
    token_hash = models.BinaryField(unique=True, editable=False)
    sealed_token = models.BinaryField(null=True, blank=True, editable=False)
    invited_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("expires"))
    accepted_at = models.DateTimeField(_("accepted"), null=True, blank=True)
    accepted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)

    class Meta:
        verbose_name = _("invitation")
        verbose_name_plural = _("invitations")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "email"],
                condition=Q(accepted_at=None, revoked_at=None),
                name="one_open_invitation_each",
            )
        ]

    def __str__(self) -> str:
        return f"{self.email} → {self.organization}"


class Project(models.Model):
    """Groups leases and their spend inside one organization."""

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "prj"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="projects")
    name = models.CharField(_("name"), max_length=80)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    archived_at = models.DateTimeField(_("archived"), null=True, blank=True)

    class Meta:
        verbose_name = _("project")
        verbose_name_plural = _("projects")
        ordering = ["name", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"], name="project_name_once_per_organization"
            )
        ]

    def __str__(self) -> str:
        return self.name
