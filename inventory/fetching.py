"""Calls to an adapter in threads of their own, so that a silent cloud holds up nobody.

A thread cannot be ended from outside. One that took too long is left behind: it only
reads, what it may still answer is thrown away, and it ends with its own network timeout.
It never keeps the process from exiting.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from django.db import connections


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned or raised."""

    key: str
    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Calls:
    """Calls that run at once, told apart by their keys."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def start(self, key: str, call: Callable[[], Any]) -> None:
        context = copy_context()  # the ids that log lines carry

        def run() -> None:
            try:
                answer = Answer(key, context.run(call))
            except Exception as error:  # noqa: BLE001 - it is raised again where the answer is read
                answer = Answer(key, error=error)
            finally:
                connections.close_all()  # an adapter uses none, but one from elsewhere might
            self._answers.put(answer)

        threading.Thread(target=run, name=f"fetch {key}", daemon=True).start()

    def next(self, *, seconds: float) -> Answer | None:
        """Return the next answer, or None where none comes within ``seconds``."""
        try:
            return self._answers.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return None
