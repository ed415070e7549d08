"""Entry points for workers: thin, safe twice at once."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from portal.notifications import dispatch, sending


@shared_task(name="portal.notifications.tasks.dispatch_events")
def dispatch_events() -> int:
    """Make deliveries of the events that wait in the outbox."""
    return dispatch.dispatch_events(now=timezone.now())


@shared_task(name="portal.notifications.tasks.send_deliveries")
def send_deliveries() -> int:
    """Send the deliveries that are due."""
    return sending.send_deliveries()
