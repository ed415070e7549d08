"""``make test``: every check, then every test, then a summary that anyone can read.

Each check runs whether or not an earlier one failed. ``--lint`` leaves out what needs
services. Further arguments go to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

BASE_DIR = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable]

# Settings as production has them, with values that open nothing.
PRODUCTION = {
    "SUBLET_LOCAL": "0",
    "SECRET_KEY": "checked-here-and-used-nowhere-0123456789-abcdefghijklmnopqrstuvwxyz",
    "SUBLET_FERNET_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "ALLOWED_HOSTS": "portal.example.com",
    "DATABASE_URL": "postgres://sublet_app@/sublet?host=/nonexistent",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}
LOCAL = {"SUBLET_LOCAL": "1", "DATABASE_URL": PRODUCTION["DATABASE_URL"]}
MANAGE = [*PYTHON, "manage.py"]

CHECKS: list[tuple[str, list[str], dict[str, str]]] = [
    ("ruff check", [*PYTHON, "-m", "ruff", "check", "."], {}),
    ("ruff format", [*PYTHON, "-m", "ruff", "format", "--check", "."], {}),
    (
        "import rules",
        [*PYTHON, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-logo"],
        LOCAL,
    ),
    ("types", [*PYTHON, "-m", "mypy"], LOCAL),
    ("templates", [*PYTHON, "-m", "djlint", "--lint", "--quiet", "templates"], {}),
    (
        "API schema",
        [*MANAGE, "spectacular", "--validate", "--fail-on-warn", "--file", os.devnull],
        LOCAL,
    ),
    ("settings for production", [*MANAGE, "check", "--deploy", "--fail-level", "WARNING"], PRODUCTION),
]
TESTS: list[tuple[str, list[str], dict[str, str]]] = [
    ("migrations", [*PYTHON, "-m", "tests.migrations"], {}),
]
PYTEST = [*PYTHON, "-m", "pytest", "--durations=10"]
# Two halves that take about as long, each with services of its own: a machine has two cores or more.
FIRST_HALF = ("browser", "contract", "local")


def main(arguments: list[str]) -> int:
    lint_only = arguments[:1] == ["--lint"]
    rows = []
    for name, command, extra in CHECKS if lint_only else CHECKS + TESTS:
        print(f"\n=== {name}: {' '.join(Path(part).name for part in command[:4])}", flush=True)
        began = time.monotonic()
        code = subprocess.run(command, cwd=BASE_DIR, env={**os.environ, **extra}, check=False).returncode
        rows.append((name, code, time.monotonic() - began))
        if code < 0:  # a signal: someone wants us to stop
            break
    else:
        if not lint_only:
            rows += run_tests(arguments)
    print("\n=== summary")
    for name, code, seconds in rows:
        print(f"{'ok' if code == 0 else 'FAILED':<8}{name:<26}{seconds:6.1f} s")
    failed = [name for name, code, _ in rows if code]
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def run_tests(arguments: list[str]) -> list[tuple[str, int, float]]:
    """Run what the arguments name, or without any the two halves of all tests at once."""
    if arguments:
        return [_finish("tests", _start(arguments), time.monotonic())]
    folders = sorted(path.name for path in (BASE_DIR / "tests").iterdir() if (path / "__init__.py").exists())
    files = [str(path.relative_to(BASE_DIR)) for path in sorted((BASE_DIR / "tests").glob("test_*.py"))]
    first = [f"tests/{name}" for name in folders if name in FIRST_HALF]
    second = [f"tests/{name}" for name in folders if name not in FIRST_HALF] + files
    print(f"\n=== tests, two halves at once: {', '.join(FIRST_HALF)}, and the others", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        other = _start(second, stdout=said)
        try:
            rows = [_finish("tests, first half", _start(first), began)]
        except BaseException:
            other.terminate()
            raise
        finally:
            rows_of_other = _finish("tests, second half", other, began)
            said.seek(0)
            print("\n=== tests, second half", flush=True)
            print(said.read(), flush=True)
    return [*rows, rows_of_other]


def _start(arguments: list[str], stdout: IO[str] | None = None) -> subprocess.Popen[bytes]:
    stderr = subprocess.STDOUT if stdout else None
    return subprocess.Popen([*PYTEST, *arguments], cwd=BASE_DIR, stdout=stdout, stderr=stderr)


def _finish(name: str, process: subprocess.Popen[bytes], began: float) -> tuple[str, int, float]:
    code = process.wait()
    return name, code, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
