"""``make run``'s process: everything comes up, everything goes down, whatever happens."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from portal.local.valkey import free_port

BASE_DIR = Path(__file__).resolve().parent.parent.parent


class Run:
    """A supervisor started as a person would, and what it printed."""

    def __init__(self, environment: dict[str, str], port: int) -> None:
        self.port = port
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "portal.local"],
            cwd=BASE_DIR,
            env={**environment, "PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while True:
            line = self._queue.get(timeout=max(0.1, deadline - time.monotonic()))
            if line is None:
                raise AssertionError("It ended:\n" + "\n".join(self.lines))
            self.lines.append(line)
            if text in line:
                return

    def rest(self) -> str:
        """Wait for the end and return everything that was printed."""
        self.process.wait(60)
        while (line := self._queue.get(timeout=10)) is not None:
            self.lines.append(line)
        return "\n".join(self.lines)


@pytest.fixture
def start(home: Path, environment: dict[str, str]) -> Iterator[object]:
    """Start supervisors over one home; the demo has its own tests."""
    home.mkdir()
    (home / "demo-played").touch()
    runs: list[Run] = []

    def start(port: int | None = None) -> Run:
        runs.append(Run(environment, port or free_port()))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.wait(60)


def processes_of(home: Path) -> list[psutil.Process]:
    """Return every process that carries this home in its environment or works inside it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                process.cwd().startswith(str(home)) or process.environ().get("SUBLET_HOME") == str(home)
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def health(port: int) -> dict[str, dict[str, object]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        assert answer.status == 200
        return dict(json.loads(answer.read()))


def test_it_starts_everything_and_stops_everything(start, home):
    run = start()
    run.wait_for("Sublet is ready: http://localhost:")
    parts = health(run.port)
    assert {name: part["ok"] for name, part in parts.items()} == dict.fromkeys(
        ("database", "broker", "worker", "beat"), True
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/accounts/login/", timeout=10) as answer:
        assert answer.status == 200
        assert "/static/" in answer.read().decode()
    run.wait_for("staff@example.com")

    run.process.send_signal(signal.SIGINT)
    printed = run.rest()
    assert run.process.returncode == 0, printed
    assert processes_of(home) == []


def test_after_a_kill_the_next_run_takes_over_and_a_dead_child_ends_it(start, home):
    run = start()
    run.wait_for("Sublet is ready")
    run.process.kill()
    run.process.wait()

    again = start(run.port)  # at once, on the same port
    again.wait_for("Sublet is ready")
    assert health(again.port)["database"]["ok"]

    noted = json.loads((home / "run" / "children.json").read_text())
    worker = next(process for note in noted if "worker" in (process := psutil.Process(note["pid"])).cmdline())
    worker.kill()
    printed = again.rest()
    assert again.process.returncode == 1
    assert "worker ended by itself" in printed
    assert processes_of(home) == []


def test_a_taken_port_is_named_and_nothing_is_left(start, home):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = start(port)
        printed = run.rest()
    assert run.process.returncode == 1
    assert f"Port {port} is in use by another program" in printed
    assert f"PORT={port + 1} make run" in printed
    assert processes_of(home) == []


@pytest.mark.parametrize("port", ["eight thousand", "0", "70000"])
def test_an_impossible_port_is_named(environment, port):
    done = subprocess.run(
        [sys.executable, "-m", "portal.local"],
        cwd=BASE_DIR,
        env={**environment, "PORT": port},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"PORT is '{port}'" in done.stderr


def test_manage_without_a_running_stack_says_make_run(environment):
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate"],
        cwd=BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        'Sublet is not running on this machine: start it with "make run", then try this again.'
    )
    assert "Traceback" not in done.stderr


def test_exec_runs_a_command_and_returns_its_code(environment):
    done = subprocess.run(
        [sys.executable, "-m", "portal.local", "exec", "--", "sh", "-c", 'echo "$DATABASE_URL"; exit 7'],
        cwd=BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert done.stdout.startswith("postgres://sublet_app:")
