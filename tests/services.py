"""PostgreSQL and Valkey for one test session.

Where ``DATABASE_URL`` is set (by CI, or by ``python -m portal.local exec``) that is
used, with ``DATABASE_OWNER_URL`` and ``DATABASE_SUPERUSER_URL`` beside it. Otherwise
the embedded services start, in a folder of their own below ``SUBLET_HOME``.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from portal.local.addresses import home_of
from portal.local.services import AlreadyRunning, Services

BASE_DIR = Path(__file__).resolve().parent.parent


def ensure_services() -> None:
    """Put the services' addresses into the environment, starting them where none are given."""
    os.environ["SUBLET_LOCAL"] = "1"
    if "DATABASE_URL" in os.environ:
        return
    for number in range(1, 9):  # another session may be using the first folder
        home = home_of(BASE_DIR) / ("test" if number == 1 else f"test-{number}")
        services = Services(home, throwaway=True, cloud=False)
        try:
            addresses = services.start()
            break
        except AlreadyRunning:
            continue
    else:
        raise RuntimeError("Eight test sessions already run from this folder.")
    atexit.register(services.stop)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _leave)
    os.environ.update(addresses.environment())


def _leave(number: int, frame: Any) -> None:
    """End through the ordinary exit, which stops the services."""
    sys.exit(128 + number)
