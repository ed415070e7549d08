"""The tags of a bill line, whatever shape the provider gave them."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

PREFIXES = ("user:", "resourceTags/user:", "tag:")  # what some exports put before a tag that a user gave


@lru_cache(maxsize=10_000)
def tags_as_json(text: str) -> str:
    """Return the tags as the JSON text of one flat object; ``{}`` for what is no tags.

    Reads an object (FOCUS, AWS, Azure) and a list of key and value pairs (GCP). Tags
    only help to match, so a value that cannot be read does not refuse the bill; it stays
    in the raw row.
    """
    if not text or text == "{}":
        return "{}"
    try:
        found: Any = json.loads(text)
        if isinstance(found, list):
            found = {pair["key"]: pair.get("value") for pair in found}
        if not isinstance(found, dict):
            return "{}"
        flat = json.dumps({_plain(str(key)): str(value) for key, value in found.items()}, ensure_ascii=False)
        flat.encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "{}"
    return "{}" if "\\u0000" in flat else flat


def _plain(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key
