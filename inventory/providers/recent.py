"""Answers that several regions of one poll share: the vendor is asked once for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from inventory.providers.errors import ProviderError

KEPT = 60.0  # seconds


class Recent:
    """What was answered in the last minute. Regions are read at once, so that one asks and the others wait.

    A failure is an answer too: one silence is not waited for again in each region.
    """

    def __init__(self) -> None:
        self._outcomes: dict[Hashable, tuple[float, Any]] = {}  # when, and the answer or the error
        self._lock = threading.Lock()

    def get(self, key: Hashable, ask: Callable[[], Any], *, fresh: bool = False) -> Any:
        with self._lock:
            asked, outcome = self._outcomes.get(key, (0.0, None))
            if fresh or key not in self._outcomes or time.monotonic() - asked > KEPT:
                try:
                    outcome = ask()
                except ProviderError as error:
                    outcome = error
                self._outcomes[key] = (time.monotonic(), outcome)
            if isinstance(outcome, ProviderError):
                raise outcome
            return outcome
