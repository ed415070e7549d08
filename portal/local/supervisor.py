"""``make run``: the whole product on one machine, under one process that stops it all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from portal.local.addresses import Addresses, write_private
from portal.local.process import Child, adopt_orphans, die_with_parent, end_descendants, stop_all
from portal.local.services import BASE_DIR, Services, Stopped, stopping_on_signals
from portal.local.storage import LocalError

QUEUES = "provisioning,billing,notifications"
ROUTINE = ("[info ", "[debug ")  # goes to the log files only; the terminal shows the rest


def say(text: str) -> None:
    print(f"sublet: {text}", flush=True)


def echo(name: str, line: str) -> None:
    """Show a line of a child, unless it is routine: warnings, tracebacks and the mail that local mode prints."""
    if not any(mark in line for mark in ROUTINE):
        print(f"{name:>6} | {line}", flush=True)


def port_wanted() -> int:
    """Return the port from ``PORT``, or 8000."""
    raw = os.environ.get("PORT") or "8000"
    if not raw.isdigit() or not 1 <= int(raw) <= 65535:
        raise LocalError(f"PORT is {raw!r}: give a number from 1 to 65535.")
    return int(raw)


def check_port(port: int) -> None:
    """Raise unless the port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise LocalError(
                f"Port {port} needs special rights. Choose another: PORT=8000 make run"
            ) from None
        except OSError:
            raise LocalError(
                f"Port {port} is in use by another program. Choose another: PORT={port + 1} make run"
            ) from None


class Supervisor:
    """Starts the services and the product's processes, watches them, and stops them."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.demo_played = home / "demo-played"
        self.demo_began = home / "demo-began"
        self.services = Services(home, say=say, half_made=self.demo_began)
        self.children: list[Child] = []
        self.url = f"http://localhost:{port}"
        self.stopping = False

    def run(self) -> int:
        """Run until a signal (then return 0) or until a child dies (then return 1)."""
        adopt_orphans()
        with stopping_on_signals():
            try:
                self._start()
                return self._watch()
            except Stopped as signal_name:
                say(f"Stopping ({signal_name})")
                return 0
            finally:
                self.stopping = True
                stop_all(self.children, patience=6)
                self.services.stop()
                end_descendants()
                (self.home / "run" / "children.json").unlink(missing_ok=True)

    def _echo(self, name: str, line: str) -> None:
        if not self.stopping:  # goodbyes are in the log files
            echo(name, line)

    # --- start ------------------------------------------------------------------------------------

    def _start(self) -> None:
        say(f"Starting PostgreSQL, Valkey and the demo cloud (data and logs: {self.home})")
        addresses = self.services.start()  # takes the lock: from here on we are alone
        self._end_earlier_children()
        check_port(self.port)
        self._prepare(addresses)
        self._demo(addresses)
        say("Starting the web server, the worker and beat")
        environment = self._environment(addresses)
        python = sys.executable
        self._child(
            "web",
            [
                python, "-m", "gunicorn", "portal.wsgi", "--bind", f"127.0.0.1:{self.port}",
                "--workers", "2", "--threads", "4", "--graceful-timeout", "3", "--no-control-socket",
                "--log-level", "warning",
            ],
            environment,
        )  # fmt: skip
        # One machine's worker may run as root: it runs only our own code.
        quiet = ["-W", "ignore:You're running the worker with superuser privileges"]
        celery: list[str | Path] = [python, *quiet, "-m", "celery", "--quiet", "-A", "portal"]
        self._child(
            "worker",
            [*celery, "worker", "--queues", QUEUES, "--concurrency", "2", "--without-gossip", "--without-mingle",
             "--hostname", "sublet@localhost"],
            environment,
        )  # fmt: skip
        # Polls mostly wait for clouds: in threads many of them do so at once, and hold up nothing else.
        self._child(
            "polls",
            [*celery, "worker", "--queues", "polling", "--pool", "threads", "--concurrency", "12",
             "--without-gossip", "--without-mingle", "--hostname", "polls@localhost"],
            environment,
        )  # fmt: skip
        (self.home / "beat").mkdir(exist_ok=True)
        self._child("beat", [*celery, "beat", "--schedule", self.home / "beat" / "schedule"], environment)
        self._note_children()
        self._wait_until_ready()
        say(f"Sublet is ready: {self.url}")
        if self.demo_played.exists():
            say(f"  customer  demo@example.com   password sublet-demo   {self.url}/")
            say(f"  staff     staff@example.com  password sublet-demo   {self.url}/admin/")
        say("Ctrl-C stops everything and keeps the data.")

    def _environment(self, addresses: Addresses, *, owner: bool = False) -> dict[str, str]:
        """Return what a child gets: only migrations see the owner's address."""
        environment = {
            **os.environ,
            **addresses.environment(),
            "SUBLET_LOCAL": "1",
            "SUBLET_HOME": str(self.home),
            "SUBLET_STATIC_ROOT": str(self.home / "static"),
            "PORT": str(self.port),
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop("DATABASE_SUPERUSER_URL", None)
        if owner:
            environment["SUBLET_DB_ROLE"] = "owner"
        else:
            environment.pop("DATABASE_OWNER_URL", None)
        return environment

    def _prepare(self, addresses: Addresses) -> None:
        """Migrate and collect static files, at the same time."""
        say("Migrating the database and collecting static files")
        manage: list[str | Path] = [sys.executable, BASE_DIR / "manage.py"]
        jobs = [
            Child(
                "migrate",
                [*manage, "migrate", "--noinput", "--verbosity", "1"],
                log=self.home / "logs" / "migrate.log",
                env=self._environment(addresses, owner=True),
                cwd=BASE_DIR,
            ),
            Child(
                "collectstatic",
                [*manage, "collectstatic", "--noinput", "--verbosity", "0"],
                log=self.home / "logs" / "collectstatic.log",
                env=self._environment(addresses),
                cwd=BASE_DIR,
            ),
        ]
        try:
            for job in jobs:
                if job.process.wait() != 0:
                    raise LocalError(f"manage.py {job.name} failed:\n{job.tail(40)}")
        finally:
            stop_all(jobs, patience=2)

    def _demo(self, addresses: Addresses) -> None:
        """Play the demo the first time.

        A run that ends meanwhile leaves the note ``demo-began``, and the next one begins
        anew: nothing else can have been stored, since the web server starts afterwards.
        """
        if self.demo_played.exists() or os.environ.get("SUBLET_DEMO") == "0":
            return
        say("Playing the demo (once; a minute or two)")
        self.demo_began.touch()
        demo = Child(
            "demo",
            [sys.executable, BASE_DIR / "manage.py", "demo"],
            log=self.home / "logs" / "demo.log",
            env=self._environment(addresses),
            cwd=BASE_DIR,
            echo=self._echo,
        )
        try:
            code = demo.process.wait()
        finally:
            stop_all([demo], patience=2)
        if code:
            raise LocalError(
                f"The demo failed (see {demo.log}). The next run begins it anew; SUBLET_DEMO=0 make run goes without."
            )
        self.demo_played.touch()
        self.demo_began.unlink()

    def _child(self, name: str, command: list[str | Path], environment: dict[str, str]) -> None:
        self.children.append(
            Child(
                name,
                command,
                log=self.home / "logs" / f"{name}.log",
                env=environment,
                cwd=BASE_DIR,
                echo=self._echo,
            )
        )

    def _wait_until_ready(self) -> None:
        """Wait until the health report says that all parts live."""
        deadline = time.monotonic() + 120
        answer = ""
        while time.monotonic() < deadline:
            self._check_children()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5):
                    return
            except urllib.error.HTTPError as error:
                answer = error.read().decode(errors="replace")
            except OSError:
                pass
            time.sleep(0.2)
        raise LocalError(f"Sublet did not become ready in two minutes. {answer}")

    # --- an earlier run that was killed -----------------------------------------------------------

    def _note_children(self) -> None:
        noted = [
            {"pid": child.pid, "began": psutil.Process(child.pid).create_time()} for child in self.children
        ]
        write_private(self.home / "run" / "children.json", json.dumps(noted))

    def _end_earlier_children(self) -> None:
        """End what a killed run left: the same id and the same start time are the same process."""
        try:
            noted = json.loads((self.home / "run" / "children.json").read_text())
        except (OSError, ValueError):
            return
        left = []
        for note in noted:
            try:
                process = psutil.Process(int(note["pid"]))
                if abs(process.create_time() - float(note["began"])) < 0.01:
                    left += [process, *process.children(recursive=True)]
                    process.terminate()
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(left, timeout=6)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=2)

    # --- watch ------------------------------------------------------------------------------------

    def _check_children(self) -> None:
        for child in [*self.children, *self.services.children]:
            if not child.running():
                raise LocalError(
                    f"{child.name} ended by itself (exit code {child.process.returncode}); everything is stopped. "
                    f"Its last lines ({child.log}):\n{child.tail()}"
                )

    def _watch(self) -> int:
        while True:
            self._check_children()
            _reap_adopted({child.pid for child in [*self.children, *self.services.children]})
            time.sleep(0.5)


def _reap_adopted(ours: set[int]) -> None:
    """Take the exit status of orphans that were handed to us, and of no child of our own."""
    for process in psutil.Process().children():
        try:
            if process.pid not in ours and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue


def execute(home: Path, command: list[str]) -> int:
    """Run ``command`` with services of its own and return its exit code."""
    adopt_orphans()
    services = Services(home, throwaway=True)
    child: subprocess.Popen[bytes] | None = None
    with stopping_on_signals():
        try:
            addresses = services.start()
            environment = {
                **os.environ,
                **addresses.environment(),
                "SUBLET_LOCAL": "1",
                "SUBLET_HOME": str(home),
            }
            child = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent(signal.SIGTERM))
            return child.wait()
        except Stopped:
            return 128 + signal.SIGTERM
        except FileNotFoundError:
            say(f"There is no program {command[0]!r}.")
            return 127
        finally:
            if child is not None and child.poll() is None:
                child.terminate()
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()
            services.stop()
            end_descendants()
