"""Deliveries go out by e-mail: claim, commit, send, and record what happened if the claim still holds.

The mail server is never called inside a transaction. A worker that dies between
sending and recording lets the claim expire and the mail goes out twice, under the
same ``Message-ID``: rather twice than never.
"""

from __future__ import annotations

import smtplib
import uuid
from datetime import datetime, timedelta

import structlog
from django.core.mail import get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import Conflict
from portal.common.transactions import durable
from portal.notifications.messages import compose
from portal.notifications.models import Delivery

log = structlog.get_logger(__name__)

# Longer than one mail can take: some ten steps of SMTP, each with EMAIL_TIMEOUT (10 s).
CLAIM = timedelta(minutes=5)
# How long to wait after each failed attempt; after the last one it is given up.
PAUSES = [
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=3),
    timedelta(hours=8),
    timedelta(hours=24),
]
MOST_ATTEMPTS = len(PAUSES) + 1
MOST_PER_RUN = 500

State = Delivery.State


def send_deliveries(*, now: datetime | None = None, limit: int = MOST_PER_RUN) -> int:
    """Send what is due; returns how many deliveries were handled, well or not.

    Safe any number of times at once: a delivery is claimed by one. ``now`` fixes the
    clock; otherwise it is read anew for each mail, since a run can take minutes.
    """
    connection = get_connection()
    handled = 0
    try:
        while handled < limit and (claimed := claim(now=now or timezone.now())) is not None:
            _send(claimed, connection, now=now)
            handled += 1
    finally:
        connection.close()
    return handled


def claim(*, now: datetime) -> Delivery | None:
    """Claim the delivery that is due longest, for :data:`CLAIM`; ``None`` when none is.

    One whose last allowed attempt vanished with its worker is given up here.
    """
    free = Q(claim_expires_at=None) | Q(claim_expires_at__lte=now)
    with durable():
        Delivery.objects.filter(free, state=State.PENDING, attempts__gte=MOST_ATTEMPTS).update(
            state=State.FAILED, claim_token=None, claim_expires_at=None
        )
        delivery = (
            Delivery.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
            .select_related("event__organization")
            .filter(free, state=State.PENDING, next_try_at__lte=now)
            .order_by("next_try_at", "pk")
            .first()
        )
        if delivery is None:
            return None
        delivery.claim_token = uuid.uuid4()
        delivery.claim_expires_at = now + CLAIM
        delivery.attempts += 1
        delivery.save(update_fields=["claim_token", "claim_expires_at", "attempts"])
    return delivery


def record(
    delivery: Delivery, *, state: str, now: datetime, error: str = "", next_try_at: datetime | None = None
) -> bool:
    """Write the outcome if the claim is still ours; returns whether it was."""
    changes = {
        "state": state,
        "claim_token": None,
        "claim_expires_at": None,
        "last_error": error[:500],
        "sent_at": now if state == State.SENT else None,
        "next_try_at": next_try_at or delivery.next_try_at,
    }
    mine = Delivery.objects.filter(pk=delivery.pk, claim_token=delivery.claim_token, state=State.PENDING)
    return mine.update(**changes) == 1


def send_again(*, delivery: Delivery, actor: User | None, now: datetime) -> Delivery:
    """Put a finished delivery back into the queue, by hand; raises :class:`Conflict` while it waits."""
    with durable():
        locked = (
            Delivery.objects.select_for_update(no_key=True, of=("self",))
            .select_related("event__organization")
            .get(pk=delivery.pk)
        )
        if locked.state == State.PENDING:
            raise Conflict(_("This delivery is still waiting to be sent."))
        before = {"state": locked.state, "attempts": locked.attempts}
        locked.state, locked.attempts, locked.next_try_at = State.PENDING, 0, now
        locked.edition += 1
        locked.last_error = ""
        locked.save(update_fields=["state", "attempts", "next_try_at", "edition", "last_error"])
        events.record(
            kind="delivery.resent",
            subject_type="delivery",
            subject_id=str(locked.pk),
            organization=locked.event.organization,
            actor=actor,
            now=now,
            before=before,
            after={"recipient": locked.recipient, "event": locked.event_id},
        )
    return locked


def _send(delivery: Delivery, connection: BaseEmailBackend, *, now: datetime | None) -> None:
    try:
        message = compose(delivery)
        if message is None:
            record(delivery, state=State.DROPPED, now=now or timezone.now())
            return
        connection.open()
        connection.send_messages([message])
    except Exception as error:  # noqa: BLE001 - whatever it is, the delivery waits or is given up
        connection.close()  # after an error the server's state is unknown: begin anew
        _failed(delivery, error, now=now or timezone.now())
        return
    if not record(delivery, state=State.SENT, now=now or timezone.now()):
        log.warning("delivery_claim_lost", delivery=delivery.pk)


def _failed(delivery: Delivery, error: Exception, *, now: datetime) -> None:
    text = f"{type(error).__name__}: {error}"
    log.warning("delivery_failed", delivery=delivery.pk, attempt=delivery.attempts, error=text[:200])
    if _refused_for_good(error) or delivery.attempts >= MOST_ATTEMPTS:
        record(delivery, state=State.FAILED, now=now, error=text)
        return
    pause = PAUSES[delivery.attempts - 1]
    record(delivery, state=State.PENDING, now=now, error=text, next_try_at=now + pause)


def _refused_for_good(error: Exception) -> bool:
    """Tell whether the server said that this address will never take mail (SMTP 5xx for the recipient)."""
    if not isinstance(error, smtplib.SMTPRecipientsRefused):
        return False
    return all(code >= 500 for code, _reason in error.recipients.values())
