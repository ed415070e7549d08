"""What customers looked for and did not find, and what staff ask and buy because of it."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.contrib.postgres.fields import DateTimeRangeField
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from inventory.models import Commitment, GpuModel, InstanceType, Offer, ProviderAccount, Region, SoftwareStack
from leases.models.machines import Claim
from portal.common.ids import public_id


class UnmetSearch(models.Model):
    """A search that found nothing: what, where, when and how many, and never who.

    The same wish on the same day is one row; ``times`` says how often it was asked.
    Times are to the hour, UTC.
    """

    gpu_model = models.ForeignKey(GpuModel, on_delete=models.PROTECT, related_name="+")
    gpus_per_node = models.PositiveIntegerField(_("GPUs per node"))
    nodes = models.PositiveIntegerField(_("nodes"))
    one_fabric = models.BooleanField(_("one fabric"), default=False)
    region = models.ForeignKey(Region, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    stack = models.ForeignKey(
        SoftwareStack, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    hours = models.PositiveIntegerField(_("hours"))  # how long the lease would be, rounded up
    earliest = models.DateTimeField(_("not before"))
    latest = models.DateTimeField(_("not after"))  # the end of the window
    searched_on = models.DateField(_("day"))
    times = models.PositiveIntegerField(_("times"), default=1)
    last_at = models.DateTimeField(_("last asked"))

    class Meta:
        verbose_name = _("unmet search")
        verbose_name_plural = _("unmet searches")
        ordering = ["-last_at", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "searched_on",
                    "gpu_model",
                    "gpus_per_node",
                    "nodes",
                    "one_fabric",
                    "region",
                    "stack",
                    "hours",
                    "earliest",
                    "latest",
                ],
                nulls_distinct=False,
                name="unmet_search_once_a_day",
            ),
            models.CheckConstraint(
                condition=Q(nodes__gte=1, gpus_per_node__gte=1, hours__gte=1, times__gte=1),
                name="unmet_search_positive",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.nodes} × {self.gpus_per_node} {self.gpu_model} {self.earliest:%Y-%m-%d}"


class CapacityInquiry(Claim):
    """Staff ask what each cloud would charge for nodes of a GPU model in a period."""

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "inq"), editable=False)
    gpu_model = models.ForeignKey(GpuModel, on_delete=models.PROTECT, related_name="+")
    gpus = models.PositiveIntegerField(_("GPUs"))
    # The smallest node that will do.
    gpus_per_node = models.PositiveIntegerField(_("GPUs per node"), default=1)
    hours = models.PositiveIntegerField(_("hours"))
    window = DateTimeRangeField(_("between"), default_bounds="[)")
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(_("asked"), default=timezone.now, editable=False)
    answered_at = models.DateTimeField(_("answered"), null=True, blank=True, editable=False)
    # Accounts that could not be asked, each with a sentence.
    problems = models.JSONField(_("problems"), default=list, blank=True)

    class Meta:
        verbose_name = _("capacity inquiry")
        verbose_name_plural = _("capacity inquiries")
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(gpus__gte=1, gpus_per_node__gte=1, hours__gte=1), name="inquiry_positive"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.gpus} × {self.gpu_model} ({self.uid})"


class CapacityChoice(models.Model):
    """One answer to an inquiry: a list price, or a reservation that a cloud would sell now.

    ``total`` is for all nodes and the whole period; ``upfront`` what of it is due at once.
    """

    inquiry = models.ForeignKey(CapacityInquiry, on_delete=models.CASCADE, related_name="choices")
    account = models.ForeignKey(
        ProviderAccount, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    instance_type = models.ForeignKey(InstanceType, on_delete=models.PROTECT, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="+")
    zone_code = models.CharField(_("zone"), max_length=60, blank=True)
    # The provider's own id of what it would sell; empty for a list price.
    offering_id = models.CharField(_("offering"), max_length=200, blank=True)
    purchase = models.CharField(_("purchase option"), max_length=16, choices=Offer.Purchase)
    nodes = models.PositiveIntegerField(_("nodes"))
    period = DateTimeRangeField(_("period"), default_bounds="[)")
    total = models.DecimalField(_("total"), max_digits=20, decimal_places=8, null=True, blank=True)
    upfront = models.DecimalField(_("due at once"), max_digits=20, decimal_places=8, null=True, blank=True)
    currency = models.CharField(_("currency"), max_length=3, default="USD")
    availability = models.CharField(
        _("availability"), max_length=16, choices=Offer.Availability, default=Offer.Availability.UNKNOWN
    )
    seen_at = models.DateTimeField(_("seen"), null=True, blank=True)

    class Meta:
        verbose_name = _("choice")
        verbose_name_plural = _("choices")
        ordering = ["total", "pk"]
        constraints = [
            models.CheckConstraint(condition=Q(nodes__gte=1), name="choice_has_nodes"),
            models.CheckConstraint(condition=Q(total=None) | Q(total__gt=0), name="choice_total_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.nodes} × {self.instance_type} {self.region}"


class CapacityPurchase(Claim):
    """The journal of buying: one row per choice that was taken, before any call upstream (P6)."""

    class State(models.TextChoices):
        PENDING = "pending", _("Waiting")
        CALLING = "calling", _("Being bought")
        BOUGHT = "bought", _("Bought")
        FAILED = "failed", _("Failed")

    choice = models.OneToOneField(CapacityChoice, on_delete=models.PROTECT, related_name="taken")
    token = models.CharField(max_length=64, unique=True, default=partial(public_id, "buy"), editable=False)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.PENDING)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    called_at = models.DateTimeField(_("called"), null=True, blank=True)
    next_try_at = models.DateTimeField(_("next try"), default=timezone.now)
    last_error = models.TextField(_("last error"), blank=True)
    # Whose credentials the call was made with: a listing by others' proves nothing.
    called_with = models.CharField(max_length=64, blank=True, editable=False)
    upstream_account = models.CharField(max_length=200, blank=True, editable=False)
    commitment = models.OneToOneField(
        Commitment, on_delete=models.PROTECT, null=True, blank=True, related_name="purchase"
    )
    bought_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(_("taken"), default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("purchase")
        verbose_name_plural = _("purchases")
        ordering = ["-pk"]
        permissions = [("buy_capacity", "Can buy capacity from providers")]
        constraints = [
            # Bought means that there is a commitment, and only then.
            models.CheckConstraint(
                condition=Q(state="bought", commitment__isnull=False)
                | (~Q(state="bought") & Q(commitment__isnull=True)),
                name="purchase_bought_has_commitment",
            ),
        ]

    def __str__(self) -> str:
        return self.token
