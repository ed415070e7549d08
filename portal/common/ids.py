"""Public identifiers: short, unguessable, and they say what they name."""

from __future__ import annotations

import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32, lower case
LENGTH = 16  # 80 bits


def public_id(prefix: str) -> str:
    """Return ``prefix_`` and 16 random base32 characters, e.g. ``lse_8f3k…``."""
    return f"{prefix}_" + "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
