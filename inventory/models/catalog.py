"""The catalog: providers, places, GPU models, instance types, offers and their prices."""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _


class Provider(models.Model):
    """An upstream cloud."""

    slug = models.SlugField(_("slug"), unique=True)  # "aws"
    name = models.CharField(_("name"), max_length=80)
    kind = models.CharField(
        _("adapter"), max_length=40, blank=True, help_text=_("Empty: known from a rate card only.")
    )

    class Meta:
        verbose_name = _("provider")
        verbose_name_plural = _("providers")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Region(models.Model):
    """A provider's region."""

    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="regions")
    code = models.CharField(_("code"), max_length=60)
    name = models.CharField(_("name"), max_length=120, blank=True)

    class Meta:
        verbose_name = _("region")
        verbose_name_plural = _("regions")
        ordering = ["code"]
        constraints = [models.UniqueConstraint(fields=["provider", "code"], name="region_code_once")]

    def __str__(self) -> str:
        return f"{self.provider.slug}/{self.code}"


class Zone(models.Model):
    """An availability zone of a region."""

    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="zones")
    code = models.CharField(_("code"), max_length=60)

    class Meta:
        verbose_name = _("zone")
        verbose_name_plural = _("zones")
        ordering = ["code"]
        constraints = [models.UniqueConstraint(fields=["region", "code"], name="zone_code_once")]

    def __str__(self) -> str:
        return self.code


class GpuModel(models.Model):
    """One GPU as the field names it: H100 SXM 80 GB."""

    slug = models.SlugField(_("slug"), unique=True)  # "h100-sxm5-80gb"
    name = models.CharField(_("name"), max_length=80)
    vendor = models.CharField(_("vendor"), max_length=20, default="nvidia")
    memory_gib = models.PositiveIntegerField(_("memory, GiB"))
    family = models.CharField(_("family"), max_length=40, blank=True)  # "Hopper"

    class Meta:
        verbose_name = _("GPU model")
        verbose_name_plural = _("GPU models")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Architecture(models.TextChoices):
    """The processor's instruction set: an image for one does not start on the other."""

    X86_64 = "x86_64", "x86-64"
    ARM64 = "arm64", "Arm64"


class GpuSpelling(models.Model):
    """What a provider calls a GPU, and which model that is.

    ``spelling`` is folded by :func:`inventory.gpu_names.normalise`; where a provider names
    no GPU it is the instance type's name. Without a model and not left out it is unknown:
    staff decide, and nothing is guessed.
    """

    class Source(models.TextChoices):
        SHIPPED = "shipped", _("Shipped")
        POLL = "poll", _("Poll")
        STAFF = "staff", _("Staff")

    provider = models.ForeignKey(
        Provider,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="gpu_spellings",
        verbose_name=_("provider"),
        help_text=_("Empty: whoever writes it."),
    )
    spelling = models.CharField(_("spelling"), max_length=120)
    memory_mib = models.PositiveIntegerField(
        _("memory, MiB"), default=0, help_text=_("Of one GPU, as the provider gives it. 0: any.")
    )
    gpu_model = models.ForeignKey(
        GpuModel,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="spellings",
        verbose_name=_("GPU model"),
    )
    ignored = models.BooleanField(
        _("left out"), default=False, help_text=_("No whole GPU for computing: its types are left out.")
    )
    note = models.CharField(_("note"), max_length=200, blank=True)
    source = models.CharField(_("decided by"), max_length=16, choices=Source, default=Source.STAFF)
    # Of polls that listed it while it was unknown; a known spelling is not written by polls.
    example = models.CharField(_("example"), max_length=200, blank=True)
    times_listed = models.PositiveIntegerField(_("times listed"), default=0)
    first_seen_at = models.DateTimeField(_("first seen"), null=True, blank=True)
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True)

    class Meta:
        verbose_name = _("GPU spelling")
        verbose_name_plural = _("GPU spellings")
        ordering = ["spelling", "memory_mib"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "spelling", "memory_mib"],
                name="gpu_spelling_once",
                nulls_distinct=False,
                violation_error_message=_("This spelling is there already, with the same memory."),
            ),
            models.CheckConstraint(
                condition=Q(spelling__regex=r"^\S+( \S+)*$"), name="gpu_spelling_normalised"
            ),
            models.CheckConstraint(
                condition=Q(ignored=False) | Q(gpu_model=None),
                name="gpu_spelling_means_one_thing",
                violation_error_message=_("Choose a GPU model or leave it out, not both."),
            ),
        ]

    def __str__(self) -> str:
        return self.spelling


class InstanceType(models.Model):
    """A provider's SKU of a server with GPUs, e.g. ``p5.48xlarge``."""

    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="instance_types")
    name = models.CharField(_("name"), max_length=80)
    gpu_model = models.ForeignKey(GpuModel, on_delete=models.PROTECT, related_name="instance_types")
    gpus_per_node = models.PositiveIntegerField(_("GPUs per node"))
    vcpus = models.PositiveIntegerField(_("vCPUs"), null=True, blank=True)
    memory_gib = models.PositiveIntegerField(_("memory, GiB"), null=True, blank=True)
    interconnect = models.CharField(_("interconnect"), max_length=60, blank=True)  # "EFA 3200 Gbit/s"
    architecture = models.CharField(
        _("architecture"), max_length=16, choices=Architecture, default=Architecture.X86_64
    )

    class Meta:
        verbose_name = _("instance type")
        verbose_name_plural = _("instance types")
        ordering = ["provider", "name"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "name"], name="instance_type_name_once"),
            models.CheckConstraint(condition=Q(gpus_per_node__gte=1), name="instance_type_has_gpus"),
        ]

    def __str__(self) -> str:
        return self.name


class Offer(models.Model):
    """What a provider sells: instance type × region × purchase option."""

    class Purchase(models.TextChoices):
        ON_DEMAND = "on_demand", _("On demand")
        SPOT = "spot", _("Spot")
        RESERVED = "reserved", _("Reserved")

    class Availability(models.TextChoices):
        AVAILABLE = "available", _("Available")
        UNAVAILABLE = "unavailable", _("Unavailable")
        UNKNOWN = "unknown", _("Unknown")

    instance_type = models.ForeignKey(InstanceType, on_delete=models.PROTECT, related_name="offers")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="offers")
    purchase = models.CharField(_("purchase option"), max_length=16, choices=Purchase)
    price = models.DecimalField(_("price per hour"), max_digits=20, decimal_places=8, null=True, blank=True)
    currency = models.CharField(_("currency"), max_length=3, default="USD")
    price_source = models.CharField(_("price source"), max_length=20, blank=True)  # "api", "rate_card"
    price_seen_at = models.DateTimeField(_("price seen"), null=True, blank=True)
    availability = models.CharField(
        _("availability"), max_length=16, choices=Availability, default=Availability.UNKNOWN
    )
    zones = ArrayField(models.CharField(max_length=60), default=list, blank=True, verbose_name=_("zones"))
    # The account whose polls tell about this offer; null: known from a rate card only. The age of
    # the signal is that of the account's last complete poll of the region.
    account = models.ForeignKey(
        "inventory.ProviderAccount",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_index=False,
        related_name="+",
        verbose_name=_("told by"),
    )
    first_seen_at = models.DateTimeField(_("first seen"))
    changed_at = models.DateTimeField(_("last change"))

    class Meta:
        verbose_name = _("offer")
        verbose_name_plural = _("offers")
        ordering = ["instance_type", "region", "purchase"]
        constraints = [
            models.UniqueConstraint(fields=["instance_type", "region", "purchase"], name="offer_once"),
            models.CheckConstraint(condition=Q(price=None) | Q(price__gt=0), name="offer_price_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.instance_type} {self.region} {self.get_purchase_display()}"


class PricePoint(models.Model):
    """An offer's price while it held; the current one has no end."""

    offer = models.ForeignKey(Offer, on_delete=models.CASCADE, related_name="price_points")
    price = models.DecimalField(_("price per hour"), max_digits=20, decimal_places=8)
    currency = models.CharField(_("currency"), max_length=3, default="USD")
    source = models.CharField(_("source"), max_length=20)
    period = DateTimeRangeField(_("period"), default_bounds="[)")

    class Meta:
        verbose_name = _("price point")
        verbose_name_plural = _("price points")
        ordering = ["offer", "period"]
        constraints = [
            ExclusionConstraint(
                name="one_price_at_a_time",
                expressions=[(F("offer"), RangeOperators.EQUAL), (F("period"), RangeOperators.OVERLAPS)],
            ),
            models.CheckConstraint(
                condition=Q(period__isempty=False, period__startswith__isnull=False),
                name="price_point_period_clean",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.price} {self.currency}"
