"""Invariants as queries: how many rows were looked at, and which of them break the rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import connection

EXAMPLES = 5


@dataclass(frozen=True)
class Outcome:
    """What one check found; ``examples`` name at most five of the violations."""

    id: str
    title: str
    checked: int
    violations: int
    examples: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-serialisable facts."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """One invariant (``C1`` … ``V5``) and the read-only function that checks it."""

    id: str
    title: str
    run: Callable[[], tuple[int, list[str]]]

    def outcome(self) -> Outcome:
        """Run the check against the data as it is now."""
        checked, violations = self.run()
        return Outcome(self.id, self.title, checked, len(violations), violations[:EXAMPLES])


def sql_check(id: str, title: str, *, checked: str, violations: str) -> Check:
    """Build a check from two statements.

    ``checked`` returns one number: the rows looked at. ``violations`` returns one row
    per violation, its first column a sentence or name that identifies it.
    """

    def run() -> tuple[int, list[str]]:
        with connection.cursor() as cursor:
            cursor.execute(checked)
            row = cursor.fetchone()
            cursor.execute(violations)
            return int(row[0] if row else 0), [str(found[0]) for found in cursor.fetchall()]

    return Check(id, title, run)
