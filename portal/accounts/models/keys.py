"""Keys: SSH public keys for machines, API tokens for programs."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts.models.organizations import Organization
from portal.common.ids import public_id


class SSHKey(models.Model):
    """A public key that leases of the organization may carry; checked when added."""

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "key"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="ssh_keys")
    added_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(_("name"), max_length=80)
    public_key = models.TextField(_("public key"))  # "type base64", without the comment
    key_type = models.CharField(_("type"), max_length=40, editable=False)
    bits = models.PositiveIntegerField(_("bits"), editable=False)
    fingerprint = models.CharField(_("fingerprint"), max_length=60, editable=False)  # SHA256:…
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("SSH key")
        verbose_name_plural = _("SSH keys")
        ordering = ["name", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "fingerprint"], name="ssh_key_once_per_organization"
            )
        ]

    def __str__(self) -> str:
        return self.name


class ApiToken(models.Model):
    """A program's credential for one organization, acting with its creator's role at most."""

    class Scope(models.TextChoices):
        READ = "read", _("Read")
        LEASE = "lease", _("Quote, lease and cancel")
        BILLING = "billing", _("Read invoices and usage")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "tok"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="api_tokens")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(_("name"), max_length=80)
    hint = models.CharField(_("starts with"), max_length=16, editable=False)
    token_hash = models.BinaryField(unique=True, editable=False)  # SHA-256 of 256 random bits
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope), verbose_name=_("scopes"))
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("expires"))
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"
