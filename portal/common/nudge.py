"""Ask the workers to look now. The row is the queue; a nudge only saves waiting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from celery import current_app
from django.db import connection, transaction

log = logging.getLogger(__name__)
_silent: ContextVar[bool] = ContextVar("nudges_silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Send no nudges within: for commands that run the sweeps themselves, such as the demo."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def nudge(task: str, *args: Any) -> None:
    """After commit, send ``task`` (a registered name) to its queue, without retry.

    One transaction sends each nudge once, however many rows ask for it. A dead broker
    is logged and forgotten: the sweep on beat finds the row by its state. Never raises.
    """
    send = _Send(task, args)
    if not _silent.get() and not _waits_already(send):
        transaction.on_commit(send, robust=True)


@dataclass(frozen=True)
class _Send:
    task: str
    args: tuple[Any, ...]

    def __call__(self) -> None:
        try:
            current_app.send_task(self.task, args=self.args, retry=False, ignore_result=True)
        except Exception as error:  # noqa: BLE001 - a booking must not fail because of the broker
            log.warning("nudge_failed", extra={"task": self.task, "error": type(error).__name__})


def _waits_already(send: _Send) -> bool:
    """Tell whether this transaction sends it already.

    A callback of a savepoint that was rolled back is gone from the list, and one of
    an open savepoint is lost only together with what asks now.
    """
    return any(waiting[1] == send for waiting in connection.run_on_commit)
