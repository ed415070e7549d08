"""What we hold: provider accounts, commitments, their deliveries, fabrics and nodes."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from django.conf import settings
from django.contrib.postgres.fields import DateTimeRangeField
from django.contrib.postgres.indexes import GistIndex
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from inventory.models.catalog import InstanceType, Provider, Region, Zone
from portal.common.ids import public_id


class ProviderAccount(models.Model):
    """One set of credentials, contract terms and one bill at a provider."""

    class Probe(models.TextChoices):
        SSH = "ssh", _("SSH port answers")
        PROVIDER_STATUS = "provider_status", _("Provider says running")

    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="accounts")
    name = models.CharField(_("name"), max_length=80, unique=True)
    account_id = models.CharField(
        _("account id"), max_length=120, blank=True, help_text=_("As the provider's bill writes it.")
    )
    credentials = models.BinaryField(_("credentials"), null=True, blank=True, editable=False)  # encrypted
    options = models.JSONField(_("options"), default=dict, blank=True)  # endpoint_url, regions, image, user
    delivery_probe = models.CharField(_("delivery probe"), max_length=20, choices=Probe, default=Probe.SSH)
    resale_allowed = models.BooleanField(_("resale allowed"), default=False)
    stock_confidential = models.BooleanField(
        _("stock is confidential"), default=False, help_text=_("Never show its availability to customers.")
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    poll_interval = models.DurationField(_("poll every"), default=timedelta(minutes=15))
    # Claim of the poll that runs now; see inventory.polling.
    claim_token = models.UUIDField(null=True, blank=True, editable=False)
    claim_expires_at = models.DateTimeField(null=True, blank=True, editable=False)
    next_poll_at = models.DateTimeField(_("next poll"), null=True, blank=True, editable=False)
    # See inventory.circuit.
    poll_failures = models.PositiveSmallIntegerField(_("failed polls in a row"), default=0, editable=False)
    circuit_opened_at = models.DateTimeField(_("not polled since"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("provider account")
        verbose_name_plural = _("provider accounts")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class PollRun(models.Model):
    """One poll of an account and region: what came of it, and what went wrong."""

    class State(models.TextChoices):
        RUNNING = "running", _("Running")
        COMPLETE = "complete", _("Complete")
        PARTIAL = "partial", _("Partial")
        FAILED = "failed", _("Failed")

    account = models.ForeignKey(ProviderAccount, on_delete=models.CASCADE, related_name="poll_runs")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.RUNNING)
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    offers_seen = models.PositiveIntegerField(_("offers seen"), default=0)
    offers_written = models.PositiveIntegerField(_("offers written"), default=0)
    prices_written = models.PositiveIntegerField(_("prices written"), default=0)
    unknown_types = models.JSONField(_("unknown spellings"), default=list, blank=True)
    error = models.TextField(_("error"), blank=True)

    class Meta:
        verbose_name = _("poll run")
        verbose_name_plural = _("poll runs")
        ordering = ["-started_at", "-pk"]
        indexes = [models.Index(fields=["account", "region", "state", "-finished_at"], name="poll_freshness")]

    def __str__(self) -> str:
        return f"{self.account} {self.started_at:%Y-%m-%d %H:%M}"


class Commitment(models.Model):
    """Capacity bought wholesale under a contract."""

    class Payment(models.TextChoices):
        UPFRONT = "upfront", _("Upfront")
        MONTHLY = "monthly", _("Monthly")
        HOURLY = "hourly", _("By the hour")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "com"), editable=False)
    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="commitments")
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="commitments")
    instance_type = models.ForeignKey(InstanceType, on_delete=models.PROTECT, related_name="commitments")
    reservation_id = models.CharField(_("reservation id"), max_length=120, blank=True)
    quantity = models.PositiveIntegerField(_("nodes"))
    promised = DateTimeRangeField(_("promised period"), default_bounds="[)")
    payment = models.CharField(_("payment schedule"), max_length=16, choices=Payment, default=Payment.MONTHLY)
    cost_per_node_hour = models.DecimalField(_("cost per node and hour"), max_digits=20, decimal_places=8)
    currency = models.CharField(_("currency"), max_length=3, default="USD")
    notice_date = models.DateField(_("notice date"), null=True, blank=True)
    cutoff = models.DurationField(
        _("cut-off"),
        default=timedelta(minutes=30),
        help_text=_("The provider ends machines this long before."),
    )
    turnaround = models.DurationField(
        _("turnaround"),
        default=timedelta(minutes=30),
        help_text=_("End, wipe and check, between two tenants."),
    )
    fabric_size = models.PositiveIntegerField(_("nodes per fabric"), default=1)
    cancelled_at = models.DateTimeField(_("cancelled"), null=True, blank=True)
    note = models.TextField(_("note"), blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("commitment")
        verbose_name_plural = _("commitments")
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    promised__isempty=False,
                    promised__startswith__isnull=False,
                    promised__endswith__isnull=False,
                ),
                name="commitment_period_clean",
            ),
            models.CheckConstraint(condition=Q(quantity__gte=1), name="commitment_has_nodes"),
            models.CheckConstraint(
                condition=Q(cost_per_node_hour__gte=0), name="commitment_cost_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} × {self.instance_type} {self.zone} ({self.uid})"


class CommitmentDelivery(models.Model):
    """The provider handed over some or all nodes; we accepted them from a moment on."""

    commitment = models.ForeignKey(Commitment, on_delete=models.PROTECT, related_name="deliveries")
    nodes = models.PositiveIntegerField(_("nodes"))
    accepted_from = models.DateTimeField(_("accepted from"))
    recorded_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    recorded_at = models.DateTimeField(_("recorded"), default=timezone.now)
    note = models.CharField(_("note"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ["pk"]
        constraints = [models.CheckConstraint(condition=Q(nodes__gte=1), name="delivery_has_nodes")]

    def __str__(self) -> str:
        return f"{self.nodes} × {self.commitment.instance_type}"


class Fabric(models.Model):
    """The nodes that share one fast interconnect (InfiniBand, EFA)."""

    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="fabrics")
    name = models.CharField(_("name"), max_length=120, unique=True)

    class Meta:
        verbose_name = _("fabric")
        verbose_name_plural = _("fabrics")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Node(models.Model):
    """The smallest unit we promise: one server."""

    class Health(models.TextChoices):
        HEALTHY = "healthy", _("Healthy")
        UNHEALTHY = "unhealthy", _("Unhealthy")
        DRAINING = "draining", _("Draining")
        RETIRED = "retired", _("Retired")

    name = models.CharField(_("name"), max_length=120, unique=True)
    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="nodes")
    commitment = models.ForeignKey(
        Commitment, on_delete=models.PROTECT, null=True, blank=True, related_name="nodes"
    )  # null: bought on demand for one lease
    instance_type = models.ForeignKey(InstanceType, on_delete=models.PROTECT, related_name="nodes")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="nodes")
    zone = models.ForeignKey(Zone, on_delete=models.PROTECT, related_name="nodes")
    fabric = models.ForeignKey(Fabric, on_delete=models.PROTECT, null=True, blank=True, related_name="nodes")
    host = models.CharField(_("host"), max_length=120, null=True, blank=True)  # noqa: DJ001 - null: not shared
    available = DateTimeRangeField(_("available"), default_bounds="[)")
    turnaround = models.DurationField(_("turnaround"), default=timedelta(minutes=30))
    health = models.CharField(_("health"), max_length=16, choices=Health, default=Health.HEALTHY)
    health_note = models.CharField(_("health note"), max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("node")
        verbose_name_plural = _("nodes")
        ordering = ["name"]
        constraints = [
            # What leases.Allocation references, so that C2 is a foreign key.
            models.UniqueConstraint(fields=["id", "available"], name="node_id_available"),
            models.CheckConstraint(
                condition=Q(
                    available__isempty=False,
                    available__startswith__isnull=False,
                    available__endswith__isnull=False,
                ),
                name="node_available_clean",
            ),
        ]
        indexes = [
            models.Index(fields=["instance_type", "region", "health", "id"], name="node_pick"),
            GistIndex(fields=["instance_type", "available"], name="node_type_available"),
        ]

    def __str__(self) -> str:
        return self.name
