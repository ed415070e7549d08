"""``make test``: every check, then every test, then a summary that anyone can read.

Each check runs whether or not an earlier one failed. ``--lint`` leaves out what needs
services. Further arguments go to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

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
    ("tests", [*PYTHON, "-m", "pytest", "--durations=10"], {}),
]


def main(arguments: list[str]) -> int:
    lint_only = arguments[:1] == ["--lint"]
    rows = []
    for name, command, extra in CHECKS if lint_only else CHECKS + TESTS:
        if name == "tests":
            command = [*command, *arguments]
        print(f"\n=== {name}: {' '.join(Path(part).name for part in command[:4])}", flush=True)
        began = time.monotonic()
        code = subprocess.run(command, cwd=BASE_DIR, env={**os.environ, **extra}, check=False).returncode
        rows.append((name, code, time.monotonic() - began))
        if code < 0:  # a signal: someone wants us to stop
            break
    print("\n=== summary")
    for name, code, seconds in rows:
        print(f"{'ok' if code == 0 else 'FAILED':<8}{name:<26}{seconds:6.1f} s")
    failed = [name for name, code, _ in rows if code]
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
