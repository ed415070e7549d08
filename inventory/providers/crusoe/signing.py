"""Crusoe's request signature, version 1.0.

Source: https://docs.crusoecloud.com/api/ and Crusoe's own client, which signs the path,
the query in its canonical form, the verb and the time (``internal/common/auth.go`` of
https://github.com/crusoecloud/terraform-provider-crusoe).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Generator
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode

import httpx

VERSION = "1.0"
TIMESTAMP = "X-Crusoe-Timestamp"


class CrusoeAuth(httpx.Auth):
    """Signs every request with the secret of an access key. Raises ValueError for a secret that is none."""

    def __init__(self, access_key_id: str, secret_key: str) -> None:
        self._id = access_key_id
        try:
            # The secret is base64 for URLs, without its padding.
            self._secret = base64.b64decode(
                secret_key + "=" * (-len(secret_key) % 4), altchars=b"-_", validate=True
            )
        except (binascii.Error, ValueError):
            raise ValueError("The secret is not base64 for URLs.") from None
        if not self._secret:
            raise ValueError("The secret is empty.")

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        signature = self.signature(request.method, request.url.path, request.url.query.decode(), now)
        request.headers[TIMESTAMP] = now
        request.headers["authorization"] = f"Bearer {VERSION}:{self._id}:{signature}"
        yield request

    def signature(self, verb: str, path: str, query: str, timestamp: str) -> str:
        """Return the signature of one request; ``path`` is decoded, ``query`` as it is sent."""
        pairs = sorted(parse_qsl(query, keep_blank_values=True), key=lambda pair: pair[0])
        message = f"{path}\n{urlencode(pairs)}\n{verb}\n{timestamp}\n"
        digest = hmac.new(self._secret, message.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
