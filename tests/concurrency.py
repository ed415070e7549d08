"""Run calls at the same time, in threads with database connections of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections


def race(calls: Sequence[Callable[[], Any]], *, timeout: float = 60) -> list[Any]:
    """Start all calls at one barrier and return what each returned, or the exception it raised, in order.

    The test needs ``@pytest.mark.django_db(transaction=True)``. Raises if a call
    does not end within ``timeout`` seconds.
    """
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(number: int, call: Callable[[], Any]) -> None:
        try:
            connections["default"].ensure_connection()  # so that connecting is not part of the race
            barrier.wait(timeout)
            results[number] = call()
        except Exception as error:  # noqa: BLE001 - the test decides what it means
            results[number] = error
        finally:
            connections.close_all()

    threads = [
        threading.Thread(target=run, args=(number, call), daemon=True) for number, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    if any(thread.is_alive() for thread in threads):
        raise AssertionError(f"A call has not ended after {timeout} seconds.")
    return results
