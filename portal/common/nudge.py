"""Ask the workers to look now. The row is the queue; a nudge only saves waiting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery import current_app
from django.db import transaction

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

    A dead broker is logged and forgotten: the sweep on beat finds the row by its
    state. Never raises.
    """

    def send() -> None:
        try:
            current_app.send_task(task, args=args, retry=False, ignore_result=True)
        except Exception as error:  # noqa: BLE001 - a booking must not fail because of the broker
            log.warning("nudge_failed", extra={"task": task, "error": type(error).__name__})

    if not _silent.get():
        transaction.on_commit(send, robust=True)
