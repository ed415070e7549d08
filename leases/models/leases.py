"""The lease and its dated terms."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from inventory.models import GpuModel, Region, SoftwareStack
from portal.accounts.models import Organization, Project, SSHKey
from portal.common.ids import public_id


class Lease(models.Model):
    """Our promise to one organization. ``leases.lifecycle.move`` alone writes ``state``."""

    class State(models.TextChoices):
        HELD = "held", _("On hold")  # capacity kept while a quote is open
        AWAITING = "awaiting", _("Awaiting payment")
        SCHEDULED = "scheduled", _("Scheduled")
        PROVISIONING = "provisioning", _("Provisioning")
        ACTIVE = "active", _("Active")
        ENDING = "ending", _("Ending")
        ENDED = "ended", _("Ended")
        LAPSED = "lapsed", _("Lapsed")
        CANCELLED = "cancelled", _("Cancelled")
        FAILED = "failed", _("Failed")

    class Kind(models.TextChoices):
        FIXED = "fixed", _("Fixed")
        PERIODIC = "periodic", _("Renewing")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "lse"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="leases")
    project = models.ForeignKey(
        Project, on_delete=models.PROTECT, null=True, blank=True, related_name="leases"
    )
    name = models.CharField(_("name"), max_length=80)
    kind = models.CharField(_("kind"), max_length=16, choices=Kind, default=Kind.FIXED)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.HELD)
    state_changed_at = models.DateTimeField(_("since"), default=timezone.now)
    deadline = models.DateTimeField(
        _("deadline"), null=True, blank=True, help_text=_("When a hold lapses or a payment is due.")
    )
    one_fabric = models.BooleanField(_("one fabric"), default=False)
    image = models.CharField(_("image"), max_length=120, blank=True)  # the provider's words; a stack beats it
    stack = models.ForeignKey(
        SoftwareStack,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="leases",
        verbose_name=_("software"),
    )
    ssh_keys = models.ManyToManyField(SSHKey, blank=True, related_name="+")
    allowed_addresses = ArrayField(
        models.CharField(max_length=49), default=list, blank=True, verbose_name=_("allowed addresses")
    )  # CIDRs that reach SSH; empty: none
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("lease")
        verbose_name_plural = _("leases")
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["organization", "state"], name="lease_organization"),
            models.Index(
                fields=["deadline"], condition=Q(state__in=["held", "awaiting"]), name="lease_deadline"
            ),
            models.Index(
                fields=["state"],
                condition=Q(state__in=["scheduled", "provisioning", "active", "ending"]),
                name="lease_live",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=~Q(state__in=["held", "awaiting"]) | Q(deadline__isnull=False),
                name="lease_waiting_has_deadline",
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.uid})"


class Term(models.Model):
    """What was promised for a period: how many nodes, of what, at which rate, from which quote."""

    lease = models.ForeignKey(Lease, on_delete=models.CASCADE, related_name="terms")
    period = DateTimeRangeField(_("period"), default_bounds="[)")
    nodes = models.PositiveIntegerField(_("nodes"))
    gpu_model = models.ForeignKey(GpuModel, on_delete=models.PROTECT, related_name="+")
    gpus_per_node = models.PositiveIntegerField(_("GPUs per node"))
    region = models.ForeignKey(Region, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    # Filled when the quote is made; leases itself computes no price.
    rate_per_gpu_hour = models.DecimalField(
        _("rate per GPU-hour"), max_digits=20, decimal_places=8, null=True, blank=True
    )
    currency = models.CharField(_("currency"), max_length=3, default="USD")
    quote_uid = models.CharField(_("quote"), max_length=32, blank=True)

    class Meta:
        verbose_name = _("term")
        verbose_name_plural = _("terms")
        ordering = ["period"]
        constraints = [
            ExclusionConstraint(
                name="one_term_at_a_time",
                expressions=[(F("lease"), RangeOperators.EQUAL), (F("period"), RangeOperators.OVERLAPS)],
            ),
            models.CheckConstraint(
                condition=Q(
                    period__isempty=False, period__startswith__isnull=False, period__endswith__isnull=False
                ),
                name="term_period_clean",
            ),
            models.CheckConstraint(condition=Q(nodes__gte=1), name="term_has_nodes"),
        ]

    def __str__(self) -> str:
        return f"{self.nodes} × {self.gpus_per_node} {self.gpu_model}"


class EndNotice(models.Model):
    """The customer was told that the lease ends: once per end and lead time."""

    lease = models.ForeignKey(Lease, on_delete=models.CASCADE, related_name="end_notices")
    ends_at = models.DateTimeField()
    minutes_before = models.PositiveIntegerField()
    sent_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["lease", "ends_at", "minutes_before"], name="end_notice_once")
        ]
