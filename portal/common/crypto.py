"""Secrets at rest: Fernet with keys from the environment, newest first.

Rotation: put a new key in front of ``SUBLET_FERNET_KEYS``, run
``manage.py rotate_secrets``, then drop the old key.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    if not keys:
        raise ImproperlyConfigured("Set SUBLET_FERNET_KEYS to one or more Fernet keys, newest first.")
    return MultiFernet([Fernet(key) for key in keys])


def _current() -> MultiFernet:
    return _fernet(tuple(settings.SUBLET_FERNET_KEYS))


def encrypt(value: Any) -> bytes:
    """Return ``value`` (anything JSON can hold) as an encrypted token."""
    return _current().encrypt(json.dumps(value, sort_keys=True).encode())


def decrypt(token: bytes | memoryview) -> Any:
    """Return what :func:`encrypt` was given.

    Raises :class:`ImproperlyConfigured` when no configured key opens the token;
    the message never holds any part of it.
    """
    try:
        return json.loads(_current().decrypt(bytes(token)))
    except InvalidToken:
        raise ImproperlyConfigured(
            "A stored secret cannot be opened with SUBLET_FERNET_KEYS. Was a key removed before rotation?"
        ) from None


def rotate(token: bytes | memoryview) -> bytes:
    """Return the same secret under the newest key."""
    return _current().rotate(bytes(token))
