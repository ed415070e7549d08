"""Operations: what Google accepted and works on.

Most refusals for lack of capacity come within seconds, as the operation's error, so that
a new one is looked at a few times, and never for long.
"""

from __future__ import annotations

import time
from typing import Any

from django.utils.translation import gettext as _

from inventory.providers.errors import BadAnswer, ProviderError
from inventory.providers.fields import get
from inventory.providers.gcp.errors import of_operation
from inventory.providers.gcp.session import NAME, GcpSession

DONE = "DONE"
# How long an operation is watched before it counts as accepted, in seconds.
LOOKS = (0.5, 1.0, 2.0)
# How long one is waited for that must be over: the next sweep goes on where this one stops.
SETTLE_TRIES, SETTLE_PAUSE = 16, 0.5  # seconds


def watch(session: GcpSession, place: str, operation: Any, *, action: str) -> None:
    """Raise what an operation fails with at once; one that goes on, or cannot be read, is accepted.

    ``place`` is where it is, like ``zones/us-central1-a``.
    """
    name = _name(operation, action)
    for pause in (*LOOKS, None):
        if error := of_operation(operation, action):
            raise error
        if operation.get("status") == DONE or pause is None:
            return
        time.sleep(pause)
        try:
            operation = session.get(f"{place}/operations/{name}", action=action)
        except ProviderError:
            return  # what became of it is read from the thing itself


def settle(session: GcpSession, place: str, operation: Any, *, action: str, project: str) -> None:
    """Wait a few seconds until an operation is over; raises a retryable error where it is not."""
    name = _name(operation, action)
    for _turn in range(SETTLE_TRIES):
        if error := of_operation(operation, action):
            raise error
        if operation.get("status") == DONE:
            return
        time.sleep(SETTLE_PAUSE)
        operation = session.get(f"{place}/operations/{name}", action=action, project=project)
    raise ProviderError(_("%(action)s: it is not ready yet.") % {"action": action}, retryable=True)


def _name(operation: Any, action: str) -> str:
    name = get(operation, "name", str, action=action)
    if not NAME.fullmatch(name):
        raise BadAnswer(_("%(action)s: the answer names no operation.") % {"action": action})
    return name
