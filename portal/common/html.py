"""Small pieces of markup that the admin of every app shows the same way."""

from __future__ import annotations

from django.utils.html import format_html
from django.utils.safestring import SafeString

GOOD, WARN, BAD, INFO, NEUTRAL = "good", "warn", "bad", "info", "neutral"


def pill(label: object, tone: str = NEUTRAL) -> SafeString:
    """Return a status pill: the word says it, the colour (good, warn, bad, info, neutral) helps."""
    return format_html('<span class="sb-pill" data-tone="{}">{}</span>', tone, label)
