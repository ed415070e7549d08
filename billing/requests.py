"""Request keys of this app: the same key answers with the object it made the first time."""

from __future__ import annotations

from typing import Any

from portal.accounts import idempotency
from portal.accounts.models import Organization


def recall(organization: Organization, action: str, key: str | None, payload: Any) -> str | None:
    """Return the uid stored for this key, ``None`` for a new request or none at all."""
    if key is None:
        return None
    found = idempotency.recall(organization=organization, action=action, key=key, payload=payload)
    return None if found is None else str(found["uid"])


def remember(organization: Organization, action: str, key: str | None, payload: Any, uid: str) -> None:
    """Part: store the uid of what the request made, where it has a key."""
    if key is not None:
        idempotency.remember(
            organization=organization, action=action, key=key, payload=payload, result={"uid": uid}
        )
