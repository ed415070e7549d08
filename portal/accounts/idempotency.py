"""The same request key answers the same: stored in the transaction that did the work.

A public function that takes ``request_key`` opens its transaction, calls
:func:`recall` first and :func:`remember` last. Twins (the same key at the same
moment) queue behind each other in :func:`recall`: the second finds the result of
the first, or does the work itself when the first rolled back.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.db import connection
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import Organization, RequestKey
from portal.common.errors import Conflict, InvalidInput
from portal.common.transactions import require_transaction

LONGEST_KEY = 255


class RequestKeyReused(Conflict):
    """The key was used before for a request with another content."""

    code = "idempotency-key-reused"


def payload_hash(payload: Any) -> str:
    """Return the SHA-256 of the payload's canonical JSON."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True, default=str).encode()).hexdigest()


def recall(*, organization: Organization, action: str, key: str, payload: Any) -> Any | None:
    """Return the stored result for this key, or ``None`` when the request is new.

    Inside a transaction it first waits for a twin that is doing the same. Raises
    :class:`RequestKeyReused` when the key belongs to another payload, and
    :class:`InvalidInput` for a key that cannot be kept.
    """
    if not key or len(key) > LONGEST_KEY or not key.isprintable():
        raise InvalidInput(
            _("An idempotency key has 1 to %(longest)d printable characters.") % {"longest": LONGEST_KEY},
            field="request_key",
        )
    if connection.in_atomic_block:
        _queue_behind_twins(organization, action, key)
    row = RequestKey.objects.filter(organization=organization, action=action, key=key).first()
    if row is None:
        return None
    if row.payload_hash != payload_hash(payload):
        raise RequestKeyReused(
            _("This idempotency key was already used for a different request. Use a new key.")
        )
    return row.result


def remember(*, organization: Organization, action: str, key: str, payload: Any, result: Any) -> None:
    """Part: store the result; the unique key refuses a twin that did not call :func:`recall`."""
    require_transaction()
    RequestKey.objects.create(
        organization=organization,
        action=action,
        key=key,
        payload_hash=payload_hash(payload),
        result=result,
        created_at=timezone.now(),
    )


def _queue_behind_twins(organization: Organization, action: str, key: str) -> None:
    # A lock on what is not yet a row, until this transaction ends. A collision of two hashes only
    # makes two unrelated requests take turns.
    name = f"sublet:request-key:{organization.pk}:{action}:{key}"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
