"""Foreign text as one short line: for a sentence, a log or a JSON field."""

from __future__ import annotations

from portal.common.secrecy import without_secrets

LONGEST = 80


def one_line(value: object, *, longest: int = LONGEST) -> str:
    """Return ``value`` as text without control characters and secrets, cut to ``longest`` characters.

    Unprintable characters (among them NUL and lone surrogates, which PostgreSQL refuses)
    become “�”. Never raises, whatever the value is: a value that is no text is told by its kind.
    """
    try:
        text = without_secrets(str(value))
    except Exception:  # noqa: BLE001 - a foreign __str__ may do anything
        text = type(value).__name__
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "�" for char in text)
    return text
