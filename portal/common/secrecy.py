"""Secrets that this process has opened, kept out of every text that it writes.

Whoever opens a secret to use it says so with :func:`keep_secret`. From then on logs,
stored errors and error reports of the process pass through :func:`without_secrets`, so
that a vendor's page that echoes a key, or an adapter's bug that prints one, shows nobody.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "[secret]"
SHORTEST = 8  # shorter ones would deface ordinary words, and keep nothing secret
SHORTEST_PIECE = 12
ESCAPED = re.compile(r"""["'\\\r\n]+""")
MOST = 5_000  # texts; the oldest are forgotten first

# Of a document within a credential (a service account's key file) only these are secrets.
SECRET_NAMES = re.compile("key|secret|token|passw|private", re.IGNORECASE)
# The same in a document that is not JSON: “token: …” in a kubeconfig.
NAMED = re.compile(
    rf"""[\w-]*(?:{SECRET_NAMES.pattern})[\w-]*["']?\s*[:=]\s*["']?([^\s"',{{}}]+)""", re.IGNORECASE
)

_lock = threading.Lock()
_known: dict[str, None] = {}
_longest_first: tuple[str, ...] = ()


def keep_secret(credentials: Mapping[str, Any]) -> None:
    """Remember the values of opened credentials, and how they look in URLs, headers and JSON."""
    global _longest_first
    found = {text for value in credentials.values() for text in _spellings(value)}
    if found <= _known.keys():
        return
    with _lock:
        for text in found:
            _known.pop(text, None)
            _known[text] = None
        for text in list(_known)[: max(len(_known) - MOST, 0)]:
            del _known[text]
        _longest_first = tuple(sorted(_known, key=len, reverse=True))


def without_secrets(text: str) -> str:
    """Return ``text`` with every secret that this process knows replaced."""
    for secret in _longest_first:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def clean(value: Any) -> Any:
    """Return a JSON-like value with the secrets in its texts replaced: for error reports."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def _spellings(value: Any) -> Iterator[str]:
    for text in _texts(value):
        if len(text) < SHORTEST:
            continue
        yield text
        yield quote(text, safe="")
        yield quote_plus(text)
        yield json.dumps(text)[1:-1]
        yield repr(text)[1:-1]
        for whole in (text, f"{text}:"):  # as a token, and as a user without a password
            yield base64.b64encode(whole.encode(errors="replace")).decode().rstrip("=")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            secret = SECRET_NAMES.search(str(name)) and not str(name).endswith(("_uri", "_url"))
            if secret or isinstance(item, Mapping):
                yield from _texts(item)
        return
    if not isinstance(value, str):
        return
    text = value.strip()
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if isinstance(document, Mapping):
            yield from _texts(document)
            return
    yield text
    # The lines of a key in PEM, and what is left alone however often quotes are escaped.
    for piece in ESCAPED.split(text):
        if SHORTEST_PIECE <= len(piece) < len(text) and not piece.startswith("-----"):
            yield piece
    yield from NAMED.findall(text)
