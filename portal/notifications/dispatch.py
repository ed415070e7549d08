"""From the outbox to deliveries: who is told of an event, decided once."""

from __future__ import annotations

from datetime import datetime

import structlog
from django.db import transaction

from portal.accounts.models import Event, Outbox
from portal.common.nudge import nudge
from portal.common.transactions import durable, require_transaction
from portal.notifications.models import Delivery
from portal.notifications.rules import RULES

log = structlog.get_logger(__name__)

BATCH = 100
MOST_BATCHES = 100  # then the next run goes on, so that a task always ends


def dispatch_events(*, now: datetime) -> int:
    """Turn waiting outbox rows into deliveries; returns how many rows were done.

    Safe any number of times at once: each run claims rows that no other holds
    (``SKIP LOCKED``), and a delivery is unique per event, channel and recipient. An
    event whose rule fails stays in the outbox, is logged, and holds up no other.
    """
    done, after = 0, 0
    for _ in range(MOST_BATCHES):
        with durable():
            rows = list(
                Outbox.objects.select_for_update(skip_locked=True, of=("self",))
                .filter(pk__gt=after)
                .select_related("event__organization")
                .order_by("pk")[:BATCH]
            )
            last = rows[-1].pk if rows else after  # a deleted row forgets its own
            for row in rows:
                done += _dispatch(row, now=now)
        if len(rows) < BATCH:
            break
        after = last
    return done


def _dispatch(row: Outbox, *, now: datetime) -> int:
    require_transaction()
    try:
        with transaction.atomic():
            if make_deliveries(row.event, now=now):
                nudge("portal.notifications.tasks.send_deliveries")
            row.delete()
    except Exception:  # one bad event must not stop the others; it is looked at again
        log.exception("dispatch_failed", event_id=row.event_id, kind=row.event.kind)
        return 0
    return 1


def make_deliveries(event: Event, *, now: datetime) -> int:
    """Part: insert the event's deliveries by its rule; returns how many recipients it has."""
    require_transaction()
    rule = RULES.get(event.kind)
    if rule is None or event.at < now - rule.stale_after or not rule.wanted(event):
        return 0
    recipients = {address.strip().lower() for address in rule.to(event)} - {""}
    if rule.once_per is not None and recipients:
        recipients -= set(
            Delivery.objects.filter(
                event__kind=event.kind,
                event__subject_type=event.subject_type,
                event__subject_id=event.subject_id,
                event__at__gt=event.at - rule.once_per,
                recipient__in=recipients,
            )
            .exclude(event=event)
            .values_list("recipient", flat=True)
        )
    Delivery.objects.bulk_create(
        [
            Delivery(event=event, channel=Delivery.Channel.EMAIL, recipient=address, next_try_at=now)
            for address in sorted(recipients)
        ],
        ignore_conflicts=True,  # another run was here before
    )
    return len(recipients)
