"""The same request key answers the same: stored in the transaction that did the work."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import Organization, RequestKey
from portal.common.errors import Conflict
from portal.common.transactions import require_transaction


class RequestKeyReused(Conflict):
    """The key was used before for a request with another content."""

    code = "idempotency-key-reused"


def payload_hash(payload: Any) -> str:
    """Return the SHA-256 of the payload's canonical JSON."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True, default=str).encode()).hexdigest()


def recall(*, organization: Organization, action: str, key: str, payload: Any) -> Any | None:
    """Return the stored result for this key, or ``None`` when the request is new.

    Raises :class:`RequestKeyReused` when the key belongs to another payload.
    """
    row = RequestKey.objects.filter(organization=organization, action=action, key=key).first()
    if row is None:
        return None
    if row.payload_hash != payload_hash(payload):
        raise RequestKeyReused(
            _("This idempotency key was already used for a different request. Use a new key.")
        )
    return row.result


def remember(*, organization: Organization, action: str, key: str, payload: Any, result: Any) -> None:
    """Part: store the result; a racing twin fails on the unique key and rolls back."""
    require_transaction()
    RequestKey.objects.create(
        organization=organization,
        action=action,
        key=key,
        payload_hash=payload_hash(payload),
        result=result,
        created_at=timezone.now(),
    )
