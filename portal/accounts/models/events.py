"""The event log and its outbox; remembered requests."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts.models.organizations import Organization


class Event(models.Model):
    """One change of consequence: who, what, before, after. Never a secret, never edited."""

    at = models.DateTimeField(_("at"), default=timezone.now)
    kind = models.CharField(_("kind"), max_length=60)  # "lease.scheduled"
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, blank=True, related_name="events"
    )
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    actor_label = models.CharField(_("by"), max_length=150)  # e-mail, "system", token name
    subject_type = models.CharField(max_length=40)  # "lease", "invoice", …
    subject_id = models.CharField(max_length=64)  # its uid, else its pk
    before = models.JSONField(default=dict, blank=True)
    after = models.JSONField(default=dict, blank=True)
    message = models.CharField(_("message"), max_length=300, blank=True)

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["subject_type", "subject_id", "id"], name="event_subject"),
            models.Index(fields=["organization", "-id"], name="event_organization"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject_id}"


class Outbox(models.Model):
    """An event that the dispatcher has yet to turn into deliveries."""

    event = models.OneToOneField(Event, on_delete=models.CASCADE, primary_key=True, related_name="outbox")

    class Meta:
        verbose_name = _("outbox row")
        verbose_name_plural = _("outbox")

    def __str__(self) -> str:
        return str(self.event_id)


class RequestKey(models.Model):
    """A request that was done, so that doing it again answers the same."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    action = models.CharField(max_length=60)
    key = models.CharField(max_length=255)
    payload_hash = models.CharField(max_length=64)
    result = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "action", "key"], name="request_key_once")
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.key}"
