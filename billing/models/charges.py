"""What was delivered and what it costs: every delivered second once (M5)."""

from __future__ import annotations

from functools import partial

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.contrib.postgres.fields.ranges import RangeStartsWith
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models.ledger import Entry
from leases.models import Allocation, Lease
from portal.accounts.models import Organization, Project
from portal.common.ids import public_id


class Charge(models.Model):
    """An amount owed, of a kind, with one unique source."""

    class Kind(models.TextChoices):
        USAGE = "usage", _("Usage")
        PERIOD = "period", _("Period")
        ONE_OFF = "one_off", _("One-off")
        PASS_THROUGH = "pass_through", _("Passed through")
        TRUE_UP = "true_up", _("True-up")
        CREDIT = "credit", _("Credit")  # the only kind below zero

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "chg"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="charges")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    lease = models.ForeignKey(Lease, on_delete=models.PROTECT, null=True, blank=True, related_name="charges")
    kind = models.CharField(_("kind"), max_length=16, choices=Kind)
    source = models.CharField(_("source"), max_length=120, unique=True)  # "usage:<allocation>:<start>"
    description = models.CharField(_("description"), max_length=200)
    period = DateTimeRangeField(_("period"), default_bounds="[)")
    # A range cannot be a pagination cursor, nor be grouped by day; its beginning can.
    started_at = models.GeneratedField(
        expression=RangeStartsWith("period"), output_field=models.DateTimeField(), db_persist=True
    )
    quantity = models.DecimalField(_("quantity"), max_digits=20, decimal_places=8)  # GPU-seconds for usage
    unit = models.CharField(_("unit"), max_length=16)  # "gpu_second", "each"
    unit_price = models.DecimalField(_("unit price"), max_digits=20, decimal_places=8)  # usage: per GPU-hour
    amount = models.DecimalField(_("amount"), max_digits=20, decimal_places=8)
    currency = models.CharField(_("currency"), max_length=3)
    entry = models.OneToOneField(
        Entry, on_delete=models.PROTECT, null=True, blank=True, related_name="charge"
    )  # null: the amount rounds to zero, and the ledger has no lines of zero
    invoice_line = models.ForeignKey(
        "billing.InvoiceLine", on_delete=models.PROTECT, null=True, blank=True, related_name="charges"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("charge")
        verbose_name_plural = _("charges")
        ordering = ["-pk"]
        indexes = [
            models.Index(
                fields=["organization", "id"], condition=Q(invoice_line=None), name="charge_unbilled"
            ),
            models.Index(fields=["lease", "id"], name="charge_lease"),
            models.Index(fields=["organization", "-started_at", "-id"], name="charge_history"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="credit", amount__lte=0) | (~Q(kind="credit") & Q(amount__gte=0)),
                name="charge_sign_matches_kind",
            ),
            models.CheckConstraint(
                condition=Q(amount=0, entry=None) | (~Q(amount=0) & Q(entry__isnull=False)),
                name="charge_has_its_entry",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.description} {self.amount} {self.currency}"


class UsageRecord(models.Model):
    """Delivered seconds of one allocation; records of an allocation never overlap."""

    allocation = models.ForeignKey(Allocation, on_delete=models.PROTECT, related_name="usage")
    period = DateTimeRangeField(_("period"), default_bounds="[)")
    gpus = models.PositiveIntegerField(_("GPUs"))
    charge = models.OneToOneField(Charge, on_delete=models.PROTECT, related_name="usage_record")

    class Meta:
        verbose_name = _("usage record")
        verbose_name_plural = _("usage records")
        ordering = ["-pk"]
        constraints = [
            ExclusionConstraint(
                name="usage_never_overlaps",
                expressions=[(F("allocation"), RangeOperators.EQUAL), (F("period"), RangeOperators.OVERLAPS)],
            ),
            models.CheckConstraint(
                condition=Q(
                    period__isempty=False, period__startswith__isnull=False, period__endswith__isnull=False
                ),
                name="usage_period_clean",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.allocation_id} {self.period}"
