"""Child processes that never outlive us.

Each child leads its own session, so that Ctrl-C reaches only the supervisor,
which then stops everything in order. On Linux a child also gets a signal when the
supervisor dies without a word (SIGKILL), and whatever a child leaves behind is
handed to us and ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own (Linux)."""
    if _libc is not None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int) -> Callable[[], None]:
    """Return a ``preexec_fn`` that has the kernel send ``number`` when this process dies (Linux)."""
    parent = os.getpid()

    def before_exec() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)

    return before_exec


class Child:
    """One program under our care. Start it from the main thread: the kernel watches the starting thread.

    ``log`` takes everything that it prints. ``echo`` is called with each line too,
    from a thread of its own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        uid: int | None = None,
        gid: int | None = None,
        stdin: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        echo: Callable[[str, str], None] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.stop_signal = stop_signal
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_suffix(".previous.log"))
        output = log.open("wb")
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE if echo else output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=die_with_parent(stop_signal),
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )
        if self.process.stdin is not None:
            self.process.stdin.write((stdin or "").encode())
            self.process.stdin.close()
        if echo:
            threading.Thread(target=self._copy, args=(output, echo), daemon=True).start()
        else:
            output.close()

    def _copy(self, output: IO[bytes], echo: Callable[[str, str], None]) -> None:
        assert self.process.stdout is not None
        with output:
            for line in self.process.stdout:
                output.write(line)
                output.flush()
                echo(self.name, line.decode(errors="replace").rstrip("\n"))

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.running():
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it and its whole process group at once."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the end of what it printed."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def stop_all(children: Sequence[Child], *, patience: float) -> None:
    """Ask all children to stop, wait up to ``patience`` seconds for all, then end what is left."""
    for child in children:
        child.signal(child.stop_signal)
    deadline = time.monotonic() + patience
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        child.kill()  # also what a stopped leader left in its group


def end_descendants() -> None:
    """End every process that still descends from us."""
    for _ in range(20):
        left = psutil.Process().children(recursive=True)
        if not left:
            return
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(left, timeout=0.5)


def end_leftovers(
    folder: Path, programs: Sequence[str], *, stop_signal: signal.Signals, patience: float
) -> int:
    """End programs of a run that was killed, and return how many there were.

    A process counts only if its executable has one of the names and it works in
    ``folder``: a process id in some file proves nothing, ids are used again.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() in programs and Path(process.cwd()).resolve() == folder.resolve():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            continue
    # A server ends its own workers; signalling them directly would look like a crash to it.
    leaders = [process for process in found if process.ppid() not in {other.pid for other in found}]
    for process in leaders:
        _quietly(process.send_signal, stop_signal)
    _, alive = psutil.wait_procs(found, timeout=patience)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=5)
    return len(found)


def _quietly(call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except psutil.NoSuchProcess:
        pass
