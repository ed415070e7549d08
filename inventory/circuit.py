"""When an account is polled again, and when it is left alone.

After a failed poll the pause doubles, with jitter. After :data:`FAILURES` failed polls in
a row, or at once where the credentials were refused, the account's circuit is *open*: it
is not polled until the pause is over, and then one region is tried first (*half-open*).
A poll that stored anything closes it, and so do new credentials.
"""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta
from enum import StrEnum

from django.utils.translation import gettext as _

from inventory.models import PollRun, ProviderAccount
from portal.accounts import events

FAILURES = 5
LONGEST_PAUSE = timedelta(hours=6)
LONGEST_ASKED = timedelta(hours=24)  # that a provider's Retry-After is believed


class Circuit(StrEnum):
    """CLOSED: polled as usual. OPEN: left alone. HALF_OPEN: the next poll is a trial of one region."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


def circuit(account: ProviderAccount, *, now: datetime) -> Circuit:
    """Return the state of an account's circuit at ``now``."""
    if account.circuit_opened_at is None:
        return Circuit.CLOSED
    if account.next_poll_at is None or account.next_poll_at <= now or account.claim_token is not None:
        return Circuit.HALF_OPEN
    return Circuit.OPEN


def last_error(account: ProviderAccount) -> str:
    """Return why the account's last failed poll failed, in words."""
    failed = PollRun.objects.filter(account=account, state=PollRun.State.FAILED)
    return failed.order_by("-started_at", "-pk").values_list("error", flat=True).first() or ""


def succeeded(account: ProviderAccount, *, now: datetime) -> None:
    """Set the unsaved account to polled well: a closed circuit, and the next poll after its interval."""
    account.poll_failures = 0
    account.circuit_opened_at = None
    # Some jitter, so that accounts with one interval do not meet every time.
    account.next_poll_at = now + account.poll_interval * random.uniform(1.0, 1.1)  # noqa: S311


def failed(account: ProviderAccount, *, refused: bool, asked: timedelta, now: datetime) -> None:
    """Set the unsaved account to failed once more; ``asked`` is the pause that the provider wants."""
    account.poll_failures = min(account.poll_failures + 1, 1000)
    if account.circuit_opened_at is None and (refused or account.poll_failures >= FAILURES):
        account.circuit_opened_at = now
    pause = LONGEST_PAUSE if refused else backoff(account.poll_failures, account.poll_interval)
    account.next_poll_at = now + max(pause * random.uniform(0.8, 1.2), asked)  # noqa: S311


def record_turn(account: ProviderAccount, *, error: str, now: datetime) -> None:
    """Part: append the event that an account's circuit has opened, or closed again."""
    opened = account.circuit_opened_at is not None
    events.record(
        kind="polling.stopped" if opened else "polling.resumed",
        subject_type="provider_account",
        subject_id=str(account.pk),
        now=now,
        message=(
            _("%(account)s is not polled for now: %(error)s") % {"account": account, "error": error}
            if opened
            else _("%(account)s is polled as planned again.") % {"account": account}
        ),
        after={"failed_polls": account.poll_failures},
    )


def backoff(failures: int, interval: timedelta) -> timedelta:
    """Return the pause after so many failures in a row: doubled with each, at most six hours."""
    doubled: timedelta = interval * 2 ** min(max(failures - 1, 0), 10)
    return max(min(doubled, LONGEST_PAUSE), interval)


def asked_pause(seconds: object) -> timedelta:
    """Return a provider's Retry-After as a pause; what is no number of seconds is none."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        return timedelta()
    return timedelta(seconds=min(float(seconds), LONGEST_ASKED.total_seconds()))
