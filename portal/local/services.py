"""The services of one machine: PostgreSQL, Valkey and the EC2-compatible demo cloud.

A service whose address is already in the environment is used as it is, and its
embedded counterpart is not even imported.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from portal.local.addresses import SOCKETS, Addresses, addresses_file, local_secrets, write_addresses
from portal.local.process import Child, stop_all
from portal.local.storage import LocalError, find_storage

BASE_DIR = Path(__file__).resolve().parent.parent.parent


class AlreadyRunning(LocalError):
    """Another process runs the services of the same home folder."""


class Services:
    """Starts what is missing, and stops only what it started.

    ``throwaway`` gives up safety against a power cut, for tests. ``half_made`` names a
    file whose presence says that the data were being made when the last run ended:
    then the database and the demo cloud begin anew. Use :func:`running` where a
    ``with`` block fits.
    """

    def __init__(
        self,
        home: Path,
        *,
        throwaway: bool = False,
        cloud: bool = True,
        half_made: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.home = home
        self.throwaway = throwaway
        self.cloud = cloud
        self.half_made = half_made
        self.say = say
        self.children: list[Child] = []
        self._cleanups: list[Callable[[], None]] = []
        self._lock: Any = None
        self.addresses: Addresses | None = None

    def start(self) -> Addresses:
        """Start the services and write their addresses for ``manage.py``.

        Raises :class:`AlreadyRunning` or another :class:`LocalError` that says what to do.
        """
        self._take_lock()
        remove_sockets_of_killed_run(self.home)
        try:
            anew = self.half_made is not None and self.half_made.exists()
            if anew:
                self.say("The last run ended while it made the demo's data: beginning anew")
            self.addresses = self._start(anew=anew)
            write_addresses(self.home, self.addresses)
        except BaseException:
            self.stop()
            raise
        return self.addresses

    def _start(self, *, anew: bool) -> Addresses:
        secrets = local_secrets(self.home)
        logs = self.home / "logs"
        database = {
            name: os.environ.get(name, "")
            for name in ("DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_SUPERUSER_URL")
        }
        redis_url = os.environ.get("REDIS_URL", "")
        endpoint = os.environ.get("SUBLET_EC2_ENDPOINT", "")
        storage = None if database["DATABASE_URL"] and redis_url else find_storage(self.home)
        if storage is not None and storage.folder != self.home and not (storage.folder / "postgres").exists():
            self.say(f"The database will be in {storage.folder}: its server cannot reach {self.home}")

        if self.cloud and not endpoint:
            endpoint = self._start_cloud(logs, anew=anew)  # first, since it needs the longest to come up
        if storage is not None and not redis_url:
            from portal.local.valkey import Valkey

            valkey = Valkey(storage, logs=logs, password=secrets["redis_password"], throwaway=self.throwaway)
            try:
                valkey.start()
            finally:
                self._keep(valkey.child)
            redis_url = valkey.url
        if storage is not None and not database["DATABASE_URL"]:
            from portal.local import postgres

            server = postgres.Postgres(
                storage, logs=logs, password=secrets["database_password"], throwaway=self.throwaway
            )
            self._cleanups.append(server.clean_up)
            try:
                server.start(self.say, anew=anew)
            finally:
                self._keep(server.child)
            database = {
                "DATABASE_URL": server.url(postgres.APP),
                "DATABASE_OWNER_URL": server.url(postgres.OWNER),
                "DATABASE_SUPERUSER_URL": server.url(postgres.SUPERUSER),
            }
        if self.cloud and self.children:
            self._wait_for_cloud(endpoint)
        return Addresses(
            pid=os.getpid(),
            database_url=database["DATABASE_URL"],
            database_owner_url=database["DATABASE_OWNER_URL"],
            database_superuser_url=database["DATABASE_SUPERUSER_URL"],
            redis_url=redis_url,
            ec2_endpoint=endpoint,
        )

    def _keep(self, child: Child | None) -> None:
        if child is not None:
            self.children.append(child)

    def _start_cloud(self, logs: Path, *, anew: bool) -> str:
        port = self._cloud_port()
        journal = self.home / "cloud.jsonl"
        if self.throwaway or anew:
            journal.unlink(missing_ok=True)
        self._keep(
            Child(
                "cloud",
                [sys.executable, "-m", "portal.local.cloud", "--port", str(port), "--journal", journal],
                log=logs / "cloud.log",
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                cwd=BASE_DIR,
            )
        )
        return f"http://127.0.0.1:{port}"

    def _cloud_port(self) -> int:
        """Return the port of the last run where it is free: provider accounts keep the address."""
        from portal.local.valkey import free_port

        path = self.home / "cloud-port.json"
        try:
            port = int(json.loads(path.read_text()))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
            return port
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            self.say(
                "Another program has taken the demo cloud's port: it moves, and its provider account must too"
            )
        port = free_port()
        path.write_text(json.dumps(port))
        return port

    def _wait_for_cloud(self, endpoint: str) -> None:
        cloud = self.children[0]
        port = int(endpoint.rsplit(":", 1)[1])
        deadline = time.monotonic() + 60
        while cloud.name == "cloud":
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if not cloud.running() or time.monotonic() > deadline:
                    raise LocalError(f"The demo cloud did not start:\n{cloud.tail()}") from None
                time.sleep(0.1)

    def _take_lock(self) -> None:
        """Hold a lock that the kernel drops with this process, however it ends."""
        path = self.home / "run" / "lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise AlreadyRunning(
                f"Sublet already runs from {self.home} (process {holder}). Stop that one first, "
                "or set SUBLET_HOME to another folder."
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def dead(self) -> Child | None:
        """Return a service that has ended by itself, if any."""
        return next((child for child in self.children if not child.running()), None)

    def stop(self) -> None:
        """Stop what was started, PostgreSQL last and cleanly."""
        stop_all([child for child in self.children if child.name != "postgres"], patience=5)
        stop_all([child for child in self.children if child.name == "postgres"], patience=20)
        self.children = []
        for clean_up in self._cleanups:
            clean_up()
        self._cleanups = []
        if self._lock is not None:
            addresses_file(self.home).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


def remove_sockets_of_killed_run(home: Path) -> None:
    """Remove the folder that a run which never stopped has left in /tmp. Call with the lock held."""
    try:
        url = json.loads(addresses_file(home).read_text())["database_superuser_url"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    folder = Path(url.rpartition("?host=")[2])
    if folder.parent == SOCKETS and folder.name.startswith("sublet-"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(home: Path, **options: Any) -> Iterator[Addresses]:
    """Run the services for the length of a ``with`` block."""
    services = Services(home, **options)
    with stopping_on_signals():
        try:
            yield services.start()
        finally:
            services.stop()


class Stopped(BaseException):
    """SIGTERM, SIGINT or SIGHUP arrived."""


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Turn the first SIGTERM, SIGINT or SIGHUP into :class:`Stopped`; ignore more of them meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
