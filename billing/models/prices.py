"""Price rules and quotes."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.contrib.postgres.fields import DateTimeRangeField
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from inventory.models import GpuModel, InstanceType, Region
from leases.models import Lease
from portal.accounts.models import Organization, Project
from portal.common.ids import public_id


class PriceRule(models.Model):
    """An effective-dated selling price, matched from most to least specific."""

    class Kind(models.TextChoices):
        FIXED = "fixed", _("Fixed price per GPU-hour")
        MARKUP = "markup", _("Mark-up on the wholesale cost")

    name = models.CharField(_("name"), max_length=120)
    kind = models.CharField(_("kind"), max_length=16, choices=Kind)
    amount = models.DecimalField(
        _("amount"),
        max_digits=20,
        decimal_places=8,
        help_text=_("Fixed: price per GPU-hour. Mark-up: fraction of the cost, 0.25 for 25 %."),
    )
    currency = models.CharField(_("currency"), max_length=3, default="USD")
    effective = DateTimeRangeField(_("effective"), default_bounds="[)")  # upper may be open
    # Each scope left empty matches everything.
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, blank=True, related_name="price_rules"
    )
    segment = models.CharField(_("segment"), max_length=16, choices=Organization.Segment, blank=True)
    instance_type = models.ForeignKey(
        InstanceType, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    gpu_model = models.ForeignKey(GpuModel, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    lease_kind = models.CharField(_("lease kind"), max_length=16, choices=Lease.Kind, blank=True)
    min_hours = models.PositiveIntegerField(_("from hours"), default=0)

    class Meta:
        verbose_name = _("price rule")
        verbose_name_plural = _("price rules")
        ordering = ["name", "pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(effective__isempty=False, effective__startswith__isnull=False),
                name="price_rule_effective_clean",
            ),
            models.CheckConstraint(
                condition=Q(kind="fixed", amount__gt=0) | Q(kind="markup", amount__gt=-1),
                name="price_rule_amount_sane",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Quote(models.Model):
    """A price with its arithmetic and, for a booking, the capacity held for it."""

    class Kind(models.TextChoices):
        BOOKING = "booking", _("Booking")
        CANCELLATION = "cancellation", _("Cancellation")

    class State(models.TextChoices):
        OPEN = "open", _("Open")
        ACCEPTED = "accepted", _("Accepted")
        LAPSED = "lapsed", _("Lapsed")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "quo"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="quotes")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    lease = models.ForeignKey(Lease, on_delete=models.PROTECT, related_name="quotes")
    kind = models.CharField(_("kind"), max_length=16, choices=Kind, default=Kind.BOOKING)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.OPEN)
    expires_at = models.DateTimeField(_("valid until"))
    currency = models.CharField(_("currency"), max_length=3)
    due_now = models.DecimalField(_("due now"), max_digits=20, decimal_places=8)
    due_later = models.DecimalField(_("due later"), max_digits=20, decimal_places=8)
    total = models.DecimalField(_("total"), max_digits=20, decimal_places=8)  # before tax
    rate_per_gpu_hour = models.DecimalField(
        _("rate per GPU-hour"), max_digits=20, decimal_places=8, null=True, blank=True
    )
    price_rule = models.ForeignKey(
        PriceRule, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    arithmetic = models.JSONField(_("arithmetic"), default=dict)  # decimals as strings
    prepared_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )  # staff, when they prepared it for the customer
    override_reason = models.CharField(_("reason for the price"), max_length=200, blank=True)
    purchase_order = models.CharField(_("purchase order"), max_length=60, blank=True)
    terms_version = models.CharField(_("terms"), max_length=40, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    accepted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    accepted_at = models.DateTimeField(_("accepted"), null=True, blank=True)

    class Meta:
        verbose_name = _("quote")
        verbose_name_plural = _("quotes")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["lease", "kind"], condition=Q(state="open"), name="one_open_quote_per_lease_and_kind"
            )
        ]

    def __str__(self) -> str:
        return self.uid
