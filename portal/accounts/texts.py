"""Short texts that people enter: one line, trimmed, with a limit."""

from __future__ import annotations

import unicodedata

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.translation import gettext as _

from portal.common.errors import InvalidInput


def clean_line(value: str, *, field: str, longest: int, required: bool = True) -> str:
    """Return the text with control characters and runs of white space as single spaces.

    Raises :class:`InvalidInput` naming ``field`` when it is empty though
    ``required``, or has more than ``longest`` characters.
    """
    spaced = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in value)
    text = " ".join(spaced.split())
    if required and not text:
        raise InvalidInput(_("Fill this in."), field=field)
    if len(text) > longest:
        raise InvalidInput(
            _("Use at most %(longest)d characters; this has %(length)d.")
            % {"longest": longest, "length": len(text)},
            field=field,
        )
    return text


def clean_text(value: str, *, field: str, longest: int, required: bool = True) -> str:
    """Return a text of several lines, trimmed, without control characters; see :func:`clean_line`."""
    kept = "".join(char for char in value if char == "\n" or unicodedata.category(char) != "Cc").strip()
    if required and not kept:
        raise InvalidInput(_("Fill this in."), field=field)
    if len(kept) > longest:
        raise InvalidInput(
            _("Use at most %(longest)d characters; this has %(length)d.")
            % {"longest": longest, "length": len(kept)},
            field=field,
        )
    return kept


def clean_email(value: str, *, field: str = "email") -> str:
    """Return an e-mail address in lower case, as accounts are kept; raise :class:`InvalidInput`."""
    email = value.strip().lower()
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidInput(_("Enter an e-mail address such as name@example.com."), field=field) from None
    if len(email) > 254:
        raise InvalidInput(_("This e-mail address is too long."), field=field)
    return email
