"""Append to the event log. Every change of consequence does, in its own transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from portal.accounts.models import Event, Organization, Outbox, User
from portal.common.nudge import nudge
from portal.common.transactions import require_transaction

SYSTEM = "system"


def record(
    *,
    kind: str,
    subject_type: str,
    subject_id: str,
    now: datetime,
    organization: Organization | None = None,
    actor: User | None = None,
    actor_label: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    message: str = "",
) -> Event:
    """Part: append one event and its outbox row inside the caller's transaction.

    ``before`` and ``after`` hold JSON-serialisable facts and never a secret.
    """
    require_transaction()
    event = Event.objects.create(
        at=now,
        kind=kind,
        organization=organization,
        actor=actor,
        actor_label=actor_label or (actor.email if actor else SYSTEM),
        subject_type=subject_type,
        subject_id=subject_id,
        before=before or {},
        after=after or {},
        message=message[:300],
    )
    Outbox.objects.create(event=event)
    nudge("portal.notifications.tasks.dispatch_events")
    return event
