"""A reverse proxy in front of a counterpart that fails as networks and vendors do.

It forwards every request, unless a fault was planted that matches: the answer is lost
after the counterpart acted, the request never arrives, or something else is answered.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
HTML = b"<!doctype html><html><title>502 Bad Gateway</title><h1>Bad Gateway</h1></html>"


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # with its query
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


Match = Callable[[Request], bool]
StandIn = Callable[[Request], Answer]


@dataclass
class Fault:
    """What happens to the next ``times`` requests that match."""

    matches: Match
    times: int = 1
    # The counterpart is asked, and its answer is thrown away: the connection just ends.
    lose_answer: bool = False
    # The counterpart is never asked: the connection just ends.
    refuse: bool = False
    # This is answered instead, and the counterpart is never asked.
    answer: Answer | None = None
    # The counterpart's answer passes through here.
    change: Callable[[Request, Answer], Answer] | None = None
    hits: int = 0


class FaultyProxy:
    """``url`` is what the adapter is given; ``requests`` is everything that it sent."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self._stand_ins: list[tuple[Match, StandIn]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body in one packet: two would wait for each other for 40 ms.
            wbufsize = -1
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
            setattr(Handler, f"do_{method}", lambda handler: proxy._serve(handler))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def clear(self) -> None:
        with self._lock:
            self.faults.clear()
            self.requests.clear()

    def plant(self, matches: Match, **what: Any) -> Fault:
        fault = Fault(matches, **what)
        with self._lock:
            self.faults.append(fault)
        return fault

    def stand_in(self, matches: Match, answer: StandIn) -> None:
        """Answer these requests from here on, for a counterpart that cannot; faults still strike."""
        self._stand_ins.append((matches, answer))

    def answer_html(self, matches: Match, *, status: int = 200, times: int = 1_000) -> Fault:
        page = Answer(status, HTML, {"content-type": "text/html"})
        return self.plant(matches, answer=page, times=times)

    def count(self, matches: Match) -> int:
        with self._lock:
            return sum(1 for request in self.requests if matches(request))

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length") or 0)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(handler.command, handler.path, headers, handler.rfile.read(length))
        with self._lock:
            self.requests.append(request)
            fault = next((f for f in self.faults if f.hits < f.times and f.matches(request)), None)
            if fault is not None:
                fault.hits += 1
        if fault is not None and fault.refuse:
            handler.close_connection = True
            return
        answer = fault.answer if fault is not None and fault.answer is not None else self._forward(request)
        if fault is not None and fault.lose_answer:
            handler.close_connection = True
            return
        if fault is not None and fault.change is not None:
            answer = fault.change(request, answer)
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                handler.send_header(name, value)
        handler.send_header("content-length", str(len(answer.body)))
        handler.end_headers()
        if request.method != "HEAD":
            handler.wfile.write(answer.body)

    def _forward(self, request: Request) -> Answer:
        for matches, stand_in in self._stand_ins:
            if matches(request):
                return stand_in(request)
        target = urlsplit(self.target)
        assert target.hostname is not None
        connection = http.client.HTTPConnection(target.hostname, target.port, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
            headers["host"] = target.netloc
            connection.request(request.method, target.path.rstrip("/") + request.path, request.body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))
        finally:
            connection.close()


@contextmanager
def faulty(target: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of ``target`` (``http://127.0.0.1:PORT``)."""
    proxy = FaultyProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
