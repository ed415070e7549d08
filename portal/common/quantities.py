"""GPU counts for people, formatted in one place."""

from __future__ import annotations

from django.utils import formats
from django.utils.translation import ngettext


def format_gpus(count: int, *, model: str = "") -> str:
    """Return ``1 GPU``, ``1,536 GPUs``, or with a model ``64 × H100 SXM``."""
    number = formats.number_format(count, decimal_pos=0, use_l10n=True, force_grouping=True)
    if model:
        return f"{number}\u00a0×\u00a0{model}"
    return ngettext("%(number)s\u00a0GPU", "%(number)s\u00a0GPUs", count) % {"number": number}
