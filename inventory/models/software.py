"""Software stacks: what an image holds, and what each provider calls it."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from inventory.models.catalog import Architecture, Provider, Region

MOST_PARTS = 40


def check_contents(value: Any) -> None:
    """Raise :class:`ValidationError` unless ``value`` is a list of ``{"name": …, "version": …}``."""
    if not isinstance(value, list) or not value or len(value) > MOST_PARTS:
        raise ValidationError(_("List between 1 and %(most)s parts.") % {"most": MOST_PARTS})
    for part in value:
        if (
            not isinstance(part, dict)
            or set(part) != {"name", "version"}
            or not all(isinstance(text, str) and len(text) <= 60 for text in part.values())
            or not part["name"].strip()
        ):
            raise ValidationError(
                _("Each part has a name and a version, both as text of at most 60 characters.")
            )


class SoftwareStack(models.Model):
    """What a customer chooses: an image by what it holds, whatever a provider calls it.

    ``enabled`` decides whether it is offered for new leases; leases that have it keep it.
    Its architectures are those of its images.
    """

    slug = models.SlugField(_("slug"), unique=True)  # "pytorch-2-7-ubuntu-22-04"
    name = models.CharField(_("name"), max_length=80)
    summary = models.CharField(_("summary"), max_length=200, blank=True)
    operating_system = models.CharField(_("operating system"), max_length=80)
    contents = models.JSONField(
        _("contents"),
        default=list,
        validators=[check_contents],
        help_text=_("What it holds, most important first: a name and a version for each."),
    )
    gpu_vendor = models.CharField(
        _("GPU vendor"), max_length=20, blank=True, help_text=_("As GPU models say it; empty: any.")
    )
    gpu_families = ArrayField(
        models.CharField(max_length=40),
        default=list,
        blank=True,
        verbose_name=_("GPU families"),
        help_text=_("The only families that it supports, for example Ampere, Hopper; empty: all."),
    )
    is_default = models.BooleanField(
        _("default"),
        default=False,
        help_text=_("Chosen on the search page unless the customer says otherwise."),
    )
    enabled = models.BooleanField(
        _("enabled"), default=True, help_text=_("Offered for new leases. Leases that have it keep it.")
    )
    position = models.PositiveIntegerField(_("position"), default=100)

    class Meta:
        verbose_name = _("software stack")
        verbose_name_plural = _("software stacks")
        ordering = ["position", "name", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"], condition=Q(is_default=True), name="one_default_stack"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def holds(self) -> list[str]:
        """What it holds, each as one text: ``["PyTorch 2.7", "CUDA 12.8"]``."""
        return [f"{part['name']} {part['version']}".strip() for part in self.contents]


class StackImage(models.Model):
    """What a provider's launch call takes for a stack: everywhere, or only in a region or for some types.

    Which of several decides: :mod:`inventory.software`.
    """

    stack = models.ForeignKey(SoftwareStack, on_delete=models.CASCADE, related_name="images")
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="stack_images")
    region = models.ForeignKey(
        Region,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="stack_images",
        help_text=_("Empty: every region of the provider that has no row of its own."),
    )
    instance_types = ArrayField(
        models.CharField(max_length=80),
        default=list,
        blank=True,
        verbose_name=_("instance types"),
        help_text=_("Names, or beginnings with a star, for example p5.*; empty: all types."),
    )
    architecture = models.CharField(
        _("architecture"), max_length=16, choices=Architecture, default=Architecture.X86_64
    )
    reference = models.CharField(
        _("reference"),
        max_length=500,
        help_text=_(
            "As the provider's launch takes it: an AMI or SSM parameter (/aws/service/…), an Azure URN, "
            "a Google image family, a container image."
        ),
    )
    login_user = models.CharField(
        _("login user"), max_length=64, blank=True, help_text=_("Empty: that of the provider account.")
    )
    enabled = models.BooleanField(
        _("enabled"),
        default=True,
        help_text=_("Off: not offered here, and nothing more is launched with it."),
    )
    source = models.URLField(_("source"), blank=True, help_text=_("Where the provider documents it."))
    checked_on = models.DateField(_("checked"), null=True, blank=True)
    note = models.CharField(_("note"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("image")
        verbose_name_plural = _("images")
        ordering = ["stack", "provider", "region", "architecture"]
        constraints = [
            models.UniqueConstraint(
                fields=["stack", "provider", "region", "architecture", "instance_types"],
                nulls_distinct=False,
                name="stack_image_once",
            )
        ]

    def __str__(self) -> str:
        return self.reference

    def clean(self) -> None:
        """Refuse a region of another provider: it would never match a node."""
        if (
            self.region_id
            and self.provider_id
            and self.region
            and self.region.provider_id != self.provider_id
        ):
            raise ValidationError({"region": _("Choose a region of this provider, or none.")})
