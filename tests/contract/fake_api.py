"""A small HTTP server for stateful fakes of JSON APIs; the vendor's own document checks them (Prism).

A fake is a class with routes; whatever it answers goes through the vendor's document
before our adapter sees it, so that neither side can drift from it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.contract.faults import Answer


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    arguments: Mapping[str, str]  # from the path's {names}
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # names in lower case
    body: Any  # the JSON document, None without one


@dataclass(frozen=True)
class Reply:
    document: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self) -> Answer:
        """Return it for a :class:`~tests.contract.faults.FaultyProxy` to answer."""
        headers = {"content-type": "application/json", **self.headers}
        return Answer(self.status, json.dumps(self.document).encode(), headers)


Handler = Callable[..., Reply]


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Mark a method of a :class:`FakeApi` as the handler of ``GET /things/{id}``."""

    def mark(handler: Handler) -> Handler:
        handler.__dict__.setdefault("routes", []).append((method, path))
        return handler

    return mark


class FakeApi:
    """Subclass it with routes; calls come one at a time, so that state needs no locks."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._lock = threading.RLock()
        self._routes = [
            (method, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + r"/?"), getattr(self, name))
            for name in dir(type(self))
            for method, path in getattr(getattr(type(self), name), "routes", ())
        ]
        fake = self

        class Server(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body in one packet: two would wait for each other for 40 ms.
            wbufsize = -1
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Server, f"do_{method}", lambda handler: fake._serve(handler))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def authorize(self, call: Call) -> Reply | None:
        """Return a refusal for a call without the right key; None lets it in."""
        return None

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        raw = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        reply = Reply({"error": "no such path"}, 404)
        for method, pattern, function in self._routes:
            match = pattern.fullmatch(parts.path)
            if match is None or method != handler.command:
                continue
            call = Call(
                handler.command,
                parts.path,
                {name: unquote(value) for name, value in match.groupdict().items()},
                parse_qs(parts.query, keep_blank_values=True),
                {name.lower(): value for name, value in handler.headers.items()},
                json.loads(raw) if raw.strip() else None,
            )
            with self._lock:
                self.calls.append(call)
                reply = self.authorize(call) or function(call)
            break
        body = b"" if reply.document is None else json.dumps(reply.document).encode()
        handler.send_response(reply.status)
        if body:
            handler.send_header("content-type", "application/json")
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
