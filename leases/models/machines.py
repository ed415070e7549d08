"""The launch journal, machines, access, turnover and orphans (P1-P3, C7).

Every row that leads to a call upstream carries a claim: who calls now, and until when
nobody else may. The row is the queue; ``leases.provisioning`` works it off.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from inventory.models import ProviderAccount, Region
from leases.models.allocations import Allocation
from leases.models.leases import Lease
from portal.common.ids import public_id


class Claim(models.Model):
    """A worker's claim on a row: only its holder may record the outcome."""

    claim_token = models.UUIDField(null=True, blank=True, editable=False)
    claim_expires_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True


class SiteIdentity(models.Model):
    """The name of this installation in the tags of everything it makes upstream.

    One row, made once, where ``SUBLET_SITE_ID`` does not name the site.
    """

    only = models.BooleanField(default=True, unique=True, editable=False)
    key = models.CharField(_("site id"), max_length=64, default=partial(public_id, "site"), editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("site identity")
        verbose_name_plural = _("site identity")
        constraints = [models.CheckConstraint(condition=Q(only=True), name="one_site_identity")]

    def __str__(self) -> str:
        return self.key


class LeaseNetwork(Claim):
    """A lease's own firewall and key at one account and region, made before any launch."""

    lease = models.ForeignKey(Lease, on_delete=models.PROTECT, related_name="networks")
    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="+")
    firewall_id = models.CharField(_("firewall"), max_length=120, blank=True)
    key_name = models.CharField(_("key"), max_length=120, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    prepared_at = models.DateTimeField(_("prepared"), null=True, blank=True)
    removed_at = models.DateTimeField(_("removed"), null=True, blank=True)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    next_try_at = models.DateTimeField(_("next try"), default=timezone.now)
    last_error = models.TextField(_("last error"), blank=True)

    class Meta:
        verbose_name = _("lease network")
        verbose_name_plural = _("lease networks")
        constraints = [
            models.UniqueConstraint(
                fields=["lease", "account", "region"], name="one_network_per_lease_region"
            )
        ]

    def __str__(self) -> str:
        return self.firewall_id or str(self.pk)


class LaunchIntent(Claim):
    """The journal: committed before any launch call, matched by its token after a doubt (P1)."""

    class State(models.TextChoices):
        PENDING = "pending", _("Pending")  # nothing was called yet
        CALLING = "calling", _("Calling")  # a call may be under way: list and match before another
        LAUNCHED = "launched", _("Launched")
        FAILED = "failed", _("Failed")  # permanent, or given up; a new intent may follow
        ABANDONED = "abandoned", _("Abandoned")  # the lease no longer wants it

    token = models.CharField(max_length=64, unique=True, default=partial(public_id, "lau"), editable=False)
    group = models.CharField(_("launch group"), max_length=64, db_index=True, editable=False)
    # The provider ends the machines of this group only at once (Capability.ENDS_TOGETHER).
    ends_together = models.BooleanField(_("ends together"), default=False, editable=False)
    # Which credentials made the last call, and whose they were in the provider's words: a later
    # listing by another account's credentials proves nothing.
    called_with = models.CharField(max_length=64, blank=True, editable=False)
    upstream_account = models.CharField(max_length=200, blank=True, editable=False)
    # Which credentials the provider refused at the last call: tried again once they differ.
    refused_with = models.CharField(max_length=64, blank=True, editable=False)
    allocation = models.ForeignKey(Allocation, on_delete=models.PROTECT, related_name="intents")
    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.PENDING)
    # What the last call asked for; empty: the account's default image and user.
    image = models.CharField(_("image"), max_length=500, blank=True)
    login_user = models.CharField(_("login user"), max_length=64, blank=True)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    called_at = models.DateTimeField(_("last call"), null=True, blank=True)
    next_try_at = models.DateTimeField(_("next try"), default=timezone.now)
    last_error = models.TextField(_("last error"), blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("launch intent")
        verbose_name_plural = _("launch journal")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["allocation"],
                condition=Q(state__in=["pending", "calling", "launched"]),
                name="one_live_intent_per_allocation",
            ),
            models.CheckConstraint(condition=~Q(group=""), name="launch_intent_has_a_group"),
        ]
        indexes = [
            models.Index(
                fields=["next_try_at"],
                condition=Q(state__in=["pending", "calling"]),
                name="launch_intent_due",
            )
        ]

    def __str__(self) -> str:
        return self.token

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.group = self.group or self.token
        super().save(*args, **kwargs)


class Instance(Claim):
    """The upstream machine that runs for an allocation: the one recorded (P2)."""

    class State(models.TextChoices):
        PENDING = "pending", _("Starting")
        RUNNING = "running", _("Running")
        STOPPING = "stopping", _("Stopping")
        TERMINATED = "terminated", _("Terminated")
        LOST = "lost", _("Lost")  # vanished upstream without our asking

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "ins"), editable=False)
    intent = models.OneToOneField(LaunchIntent, on_delete=models.PROTECT, related_name="instance")
    allocation = models.ForeignKey(Allocation, on_delete=models.PROTECT, related_name="instances")
    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="instances")
    provider_id = models.CharField(_("provider's id"), max_length=120)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.PENDING)
    public_ip = models.GenericIPAddressField(_("public address"), null=True, blank=True)
    private_ip = models.GenericIPAddressField(_("private address"), null=True, blank=True)
    # Where the provider maps SSH to a port of its own choice; empty: the account's, or 22.
    ssh_port = models.PositiveIntegerField(_("SSH port"), null=True, blank=True)
    launched_at = models.DateTimeField(_("launched"))
    ready_at = models.DateTimeField(_("probe passed"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True)
    next_probe_at = models.DateTimeField(_("next probe"), default=timezone.now)
    end_reason = models.CharField(_("why it ended"), max_length=300, blank=True)  # the provider's words

    class Meta:
        verbose_name = _("instance")
        verbose_name_plural = _("instances")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["account", "provider_id"], name="instance_recorded_once"),
            models.UniqueConstraint(
                fields=["allocation"],
                condition=Q(state__in=["pending", "running", "stopping"]),
                name="one_live_instance_per_allocation",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_probe_at"],
                condition=Q(state__in=["pending", "running", "stopping"]),
                name="instance_probe_due",
            )
        ]

    def __str__(self) -> str:
        return self.provider_id


class Access(models.Model):
    """How the customer gets in; SSH is one kind."""

    class Kind(models.TextChoices):
        SSH = "ssh", _("SSH")

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="accesses")
    lease = models.ForeignKey(Lease, on_delete=models.CASCADE, related_name="accesses")
    kind = models.CharField(_("kind"), max_length=16, choices=Kind, default=Kind.SSH)
    endpoint = models.CharField(_("endpoint"), max_length=200)  # host:port
    username = models.CharField(_("user"), max_length=64, blank=True)
    secret = models.BinaryField(null=True, blank=True, editable=False)  # encrypted
    granted_at = models.DateTimeField(_("from"))
    revoked_at = models.DateTimeField(_("until"), null=True, blank=True)

    class Meta:
        verbose_name = _("access")
        verbose_name_plural = _("accesses")

    def __str__(self) -> str:
        return f"{self.kind} {self.endpoint}"


class Turnover(Claim):
    """A machine's end, wipe and checks, before the next tenant gets the node (C7)."""

    allocation = models.OneToOneField(Allocation, on_delete=models.PROTECT, related_name="turnover")
    requested_at = models.DateTimeField(_("requested"))
    ended_at = models.DateTimeField(_("machine ended"), null=True, blank=True)
    wiped_at = models.DateTimeField(_("wiped"), null=True, blank=True)
    completed_at = models.DateTimeField(_("completed"), null=True, blank=True)
    evidence = models.JSONField(_("evidence"), default=dict, blank=True)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    next_try_at = models.DateTimeField(_("next try"), default=timezone.now)
    last_error = models.TextField(_("last error"), blank=True)
    waits_for = models.CharField(_("waits for"), max_length=300, blank=True)  # a sentence for staff

    class Meta:
        verbose_name = _("turnover")
        verbose_name_plural = _("turnovers")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["next_try_at"], condition=Q(completed_at=None), name="turnover_due")]

    def __str__(self) -> str:
        return f"turnover of allocation {self.allocation_id}"


class Orphan(Claim):
    """A resource upstream with our tag that no live allocation owns: costs money, serves nobody."""

    class State(models.TextChoices):
        SEEN = "seen", _("Seen")
        REMOVED = "removed", _("Removed")
        EXPLAINED = "explained", _("Explained")  # staff said why it may stay
        GONE = "gone", _("Gone")

    account = models.ForeignKey(ProviderAccount, on_delete=models.CASCADE, related_name="orphans")
    kind = models.CharField(_("kind"), max_length=20)  # instance, volume, address, network, key
    resource_id = models.CharField(_("resource"), max_length=200)
    region_code = models.CharField(_("region"), max_length=60)
    tags = models.JSONField(_("tags"), default=dict, blank=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.SEEN)
    first_seen_at = models.DateTimeField(_("first seen"))
    last_seen_at = models.DateTimeField(_("last seen"))
    removed_at = models.DateTimeField(_("removed"), null=True, blank=True)
    note = models.CharField(_("note"), max_length=200, blank=True)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    next_try_at = models.DateTimeField(_("next try"), default=timezone.now)
    last_error = models.TextField(_("last error"), blank=True)

    class Meta:
        verbose_name = _("orphan")
        verbose_name_plural = _("orphans")
        ordering = ["-last_seen_at"]
        constraints = [
            # A key's id is its name, which may repeat in another region.
            models.UniqueConstraint(
                fields=["account", "region_code", "kind", "resource_id"], name="orphan_resource_once"
            )
        ]

    def __str__(self) -> str:
        return self.resource_id
