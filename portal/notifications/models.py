"""What was sent to whom, from the event log."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Event


class Delivery(models.Model):
    """One message of one event to one recipient over one channel."""

    class Channel(models.TextChoices):
        EMAIL = "email", _("E-mail")

    class State(models.TextChoices):
        PENDING = "pending", _("Pending")
        SENT = "sent", _("Sent")
        FAILED = "failed", _("Failed")  # given up; staff may send it again
        DROPPED = "dropped", _("No longer needed")  # the fact it tells of is over

    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.CharField(_("channel"), max_length=16, choices=Channel)
    recipient = models.CharField(_("recipient"), max_length=254)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.PENDING)
    # Sending again by hand is another message, so that mail programs do not hide it as a copy.
    edition = models.PositiveSmallIntegerField(default=1, editable=False)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    next_try_at = models.DateTimeField(_("next try"), default=timezone.now)
    claim_token = models.UUIDField(null=True, blank=True, editable=False)
    claim_expires_at = models.DateTimeField(null=True, blank=True, editable=False)
    sent_at = models.DateTimeField(_("sent"), null=True, blank=True)
    last_error = models.TextField(_("last error"), blank=True)

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["event", "channel", "recipient"], name="delivery_once")
        ]
        indexes = [
            models.Index(fields=["next_try_at"], condition=models.Q(state="pending"), name="delivery_pending")
        ]

    def __str__(self) -> str:
        return f"{self.event_id} → {self.recipient}"
