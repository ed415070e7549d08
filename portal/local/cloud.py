"""The demo's upstream cloud: moto's EC2, with a memory.

moto keeps its machines in the process and forgets them when it stops; every running
lease of the demo would then have lost its machines at the next ``make run``. So each
request that changes something is written to a journal with a seed for moto's ids, and
a new process plays the journal again before it listens: the same machines, under the
same ids.

    python -m portal.local.cloud --port 5555 --journal .local/cloud.jsonl
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

READS = ("Describe", "Get", "List", "Head")
KEPT_HEADERS = ("HTTP_AUTHORIZATION", "HTTP_X_AMZ_TARGET", "CONTENT_TYPE", "HTTP_HOST", "HTTP_X_AMZ_DATE")
MAX_BODY = 4 * 2**20


class RememberingCloud:
    """A WSGI application around moto's that journals changes and replays them."""

    def __init__(self, journal: Path) -> None:
        from moto.moto_api._internal import mock_random
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._moto = DomainDispatcherApplication(create_backend_app)
        self._random = mock_random
        self._journal = journal
        self._lock = threading.Lock()  # moto's backends are plain dictionaries
        self._regions: set[str] = set()
        self._written = 0

    def replay(self) -> int:
        """Play the journal again; return how many requests it held. A torn last line is dropped."""
        if not self._journal.exists():
            return 0
        whole: list[str] = []
        for line in self._journal.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the power went while this line was written
            whole.append(line)
            environ = self._environ(entry)
            self._regions.add(_region(environ))
            self._random.seed(entry["seed"])
            b"".join(self._moto(environ, lambda status, headers, exc=None: None))
        self._journal.write_text("".join(f"{line}\n" for line in whole))
        self._written = len(whole)
        return len(whole)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length > MAX_BODY:
            start_response("413 Content Too Large", [("Content-Type", "text/plain")])
            return [b"too large\n"]
        body = environ["wsgi.input"].read(length) if length else b""
        environ["wsgi.input"] = io.BytesIO(body)
        with self._lock:
            region = _region(environ)
            # The first request of a region makes its default network, whatever it asks.
            if region not in self._regions or _changes(environ, body):
                self._regions.add(region)
                self._remember(environ, body)
            return list(self._moto(environ, start_response))

    def _remember(self, environ: dict[str, Any], body: bytes) -> None:
        self._written += 1
        self._random.seed(self._written)
        entry = {
            "seed": self._written,
            "method": environ["REQUEST_METHOD"],
            "path": environ.get("PATH_INFO", "/"),
            "query": environ.get("QUERY_STRING", ""),
            "headers": {name: environ[name] for name in KEPT_HEADERS if environ.get(name)},
            "body": base64.b64encode(body).decode(),
        }
        with self._journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    @staticmethod
    def _environ(entry: dict[str, Any]) -> dict[str, Any]:
        from werkzeug.test import EnvironBuilder

        body = base64.b64decode(entry["body"])
        environ = EnvironBuilder(
            method=entry["method"], path=entry["path"], query_string=entry["query"], data=body
        ).get_environ()
        environ.update(entry["headers"])
        return environ


def _region(environ: dict[str, Any]) -> str:
    """Return the region in the signature's scope: Credential=KEY/20261122/us-east-1/ec2/aws4_request."""
    found = re.search(r"Credential=[^/]+/\d+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    return found.group(1) if found else ""


def _changes(environ: dict[str, Any], body: bytes) -> bool:
    if environ["REQUEST_METHOD"] in ("GET", "HEAD", "OPTIONS"):
        return False
    target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    action = target or next(iter(parse_qs(body.decode("utf-8", "replace")).get("Action", [""])))
    return not action.startswith(READS)


def main(argv: list[str] | None = None) -> None:
    """Serve on a loopback port until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="moto's EC2 on a loopback port, with a memory")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True, help="where changes are kept")
    options = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    from werkzeug.serving import run_simple

    options.journal.parent.mkdir(parents=True, exist_ok=True)
    cloud = RememberingCloud(options.journal)
    cloud.replay()
    run_simple("127.0.0.1", options.port, cloud, threaded=True)


if __name__ == "__main__":
    main()
