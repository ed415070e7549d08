"""What a bill's unit measures, and what it is in hours.

Bills write the same unit in many ways ("Hours", "1 Hour", "hrs", "100 Hours"). A unit
that nobody here understands is left blank, so that the line is reported and not guessed.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from functools import lru_cache

TIME = "time"  # of one machine: the quantity is hours once multiplied
GPU_TIME = "gpu"  # of one GPU: hours of the machine are the quantity by its GPUs
PART_TIME = "part"  # of a part of a machine (core, memory), billed beside the others
OTHER = "other"  # gigabytes, requests and so on
UNKNOWN = ""

EXACT = Context(prec=300)  # more digits than any sum of numbers that the reader accepts
HOURS_QUANTUM = Decimal("0.000000000001")  # 3.6 ns: what is kept of a quantity that hours cannot write

_PER_HOUR = {
    "second": (1, 3600), "seconds": (1, 3600), "sec": (1, 3600), "secs": (1, 3600), "s": (1, 3600),
    "minute": (1, 60), "minutes": (1, 60), "min": (1, 60), "mins": (1, 60),
    "hour": (1, 1), "hours": (1, 1), "hr": (1, 1), "hrs": (1, 1), "h": (1, 1),
    "day": (24, 1), "days": (24, 1),
}  # fmt: skip
_OF_A_MACHINE = {"", "instance", "instances", "server", "node", "vm", "machine", "compute", "unit", "units"}
_OF_A_PART = {
    "vcpu",
    "cpu",
    "ocpu",
    "core",
    "gb",
    "gib",
    "gigabyte",
    "gibibyte",
    "mb",
    "mib",
    "memory",
    "ram",
}
_COUNTED = re.compile(
    r"byte|\b[kmgtp]i?b\b|\b[kmgtp]bps\b|request|event|metric|iops|operation|transaction|message|query|queries"
    r"|month|unit|count|capacity|address|connection|user|license|item|object|token|call|key|image|rule|zone"
)
_SIZED = re.compile(r"(\d+)\s+(.+)")


@lru_cache(maxsize=1000)
def measure(unit: str) -> tuple[str, Decimal, Decimal]:
    """Return what ``unit`` measures, and the fraction that turns it into hours (1/1 for others).

    ``"Hours"`` is ``(TIME, 1, 1)``, ``"Seconds"`` ``(TIME, 1, 3600)``, ``"100 Hours"``
    ``(TIME, 100, 1)``, ``"GPU-Hours"`` ``(GPU_TIME, 1, 1)``.
    """
    text = " ".join(unit.lower().replace("-", " ").replace("_", " ").split())
    times = Decimal(1)
    while sized := _SIZED.fullmatch(text):  # Azure writes "1 1 Hour"
        times, text = times * int(sized[1]), sized[2]
    words = re.sub(r"\bper\b|/", " ", text).split()
    if not words:
        return UNKNOWN, Decimal(1), Decimal(1)
    what, last = " ".join(words[:-1]), words[-1]
    if last in _PER_HOUR:
        by, over = _PER_HOUR[last]
        if what in _OF_A_MACHINE and not ("/" in text and what):  # "Units/Hour" is a rate of something else
            return TIME, times * by, Decimal(over)
        if what in ("gpu", "gpus", "accelerator"):
            return GPU_TIME, times * by, Decimal(over)
        if what in _OF_A_PART:
            return PART_TIME, times * by, Decimal(over)
        return OTHER, Decimal(1), Decimal(1)
    return (OTHER if _COUNTED.search(text) else UNKNOWN), Decimal(1), Decimal(1)


def in_hours(quantity: Decimal, by: Decimal, over: Decimal) -> Decimal:
    """Return ``quantity · by / over``: exact where that has an end, else to :data:`HOURS_QUANTUM`."""
    if over == 1:
        return quantity if by == 1 else EXACT.multiply(quantity, by)
    return EXACT.divide(EXACT.multiply(quantity, by), over).quantize(HOURS_QUANTUM, context=EXACT)
