"""Plays Microsoft's own recorded answers back to the SDK that is installed today.

The recordings are vcr files of an old SDK's tests. A request is matched by method, path
and query without ``api-version``; answers to the same request come in their order, the
last one again and again, as polling needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from tests.contract.prism import vendor_document

ARM = "https://management.azure.com"
MACHINES = "azure/recorded/sdk/10.0.0-test_mgmt_compute.test_virtual_machines_operations.yaml"
USAGE = "azure/recorded/sdk/10.0.0-test_mgmt_compute.test_usage.yaml"
SKUS = "azure/recorded/resource-skus-gpu-2019.json"
PRICES = "azure/retail-prices-sample.json"
# Of the recordings.
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
GROUP = "test_mgmt_compute_test_virtual_machines_operations122014cf"
MACHINE = "pyvmirvm122014cf"

Key = tuple[str, str, tuple[tuple[str, str], ...]]


def interactions(name: str) -> list[dict[str, Any]]:
    loaded: dict[str, Any] = yaml.load(vendor_document(name).read_text(), yaml.CSafeLoader)
    return list(loaded["interactions"])


@dataclass
class Exchange:
    method: str
    url: str
    headers: Mapping[str, str]
    body: str


@dataclass
class Replay:
    url: str = ""
    answers: dict[Key, list[dict[str, Any]]] = field(default_factory=dict)
    requests: list[Exchange] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def record(self, name: str) -> None:
        for interaction in interactions(name):
            request, response = interaction["request"], interaction["response"]
            self.add(
                request["method"],
                request["uri"].removeprefix(ARM),
                response["status"]["code"],
                response["body"]["string"] or "",
                {key: values[0] for key, values in response["headers"].items()},
            )

    def add(self, method: str, path: str, status: int, body: str, headers: Mapping[str, str]) -> None:
        answer = {"status": status, "body": body, "headers": dict(headers)}
        self.answers.setdefault(key_of(method, path), []).append(answer)

    def answer(self, method: str, path: str) -> dict[str, Any]:
        key = key_of(method, path)
        if key not in self.answers:
            # The old SDK never expanded interfaces; what it got is what there is.
            key = (key[0], key[1], ())
        found = self.answers.get(key)
        if not found:
            self.unknown.append(f"{method} {path}")
            return {"status": 404, "body": '{"error":{"code":"NotRecorded","message":""}}', "headers": {}}
        return found.pop(0) if len(found) > 1 else found[0]


def key_of(method: str, path: str) -> Key:
    parts = urlsplit(path)
    query = sorted((name, value) for name, value in parse_qsl(parts.query) if name != "api-version")
    return (method, parts.path.lower(), tuple(query))


@contextmanager
def replaying(*names: str) -> Iterator[Replay]:
    """Serve recordings; links in headers and bodies lead back here instead of to Azure."""
    replay = Replay()
    for name in names:
        replay.record(name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            replay.requests.append(Exchange(self.command, self.path, dict(self.headers), body))
            answer = replay.answer(self.command, self.path)
            content = answer["body"].replace(ARM, replay.url).encode()
            self.send_response(answer["status"])
            for name, value in answer["headers"].items():
                if name.lower() not in ("content-length", "transfer-encoding", "content-encoding"):
                    self.send_header(name, value.replace(ARM, replay.url))
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the names that http.server calls

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    replay.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield replay
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
