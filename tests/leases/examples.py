"""Examples of Hypothesis in a database: each in a transaction that is rolled back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from hypothesis import HealthCheck, settings


def examples(count: int) -> settings:
    """Return settings for ``count`` examples, the same in every run.

    Rows take milliseconds, and the fixture that opens the database serves all examples.
    ``HYPOTHESIS_MORE`` multiplies the examples and draws new ones, to search for longer.
    """
    more = int(os.environ.get("HYPOTHESIS_MORE", "0"))
    return settings(
        max_examples=count * max(1, more),
        derandomize=not more,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
        print_blob=True,
    )


@contextmanager
def rolled_back() -> Iterator[None]:
    """Open a transaction in which durable ones may nest, as Django's own test cases do, and undo it."""
    atomic = transaction.atomic()
    atomic._from_testcase = True  # type: ignore[attr-defined]
    with atomic:
        yield
        transaction.set_rollback(True)
