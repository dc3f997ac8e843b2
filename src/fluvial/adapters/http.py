"""A small HTTP server for metrics and probes that no client can make the worker feel.

One daemon thread serves every connection without blocking. A connection lives at most `DEADLINE`
seconds, a request has at most `MAX_REQUEST` bytes, and when `MAX_CONNECTIONS` are open the oldest
makes room. The thread rests after its work so that a flood costs the worker at most about `SHARE`
of one core (it shares the interpreter's lock with the loop).
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from fluvial.errors import SettingsError
from fluvial.view import WorkerView

MAX_CONNECTIONS = 32
MAX_REQUEST = 8_192
DEADLINE = 5.0
SHARE = 0.1
LONGEST_REST = 0.25
"""Seconds; a probe must not wait for its answer longer than that because somebody else was served."""

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a route answers."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[str], Answer]
"""From the request's Accept header to the answer."""


def probes(view: Callable[[], WorkerView]) -> dict[str, Route]:
    """The routes /livez and /readyz."""

    def livez(_accept: str) -> Answer:
        if view().alive:
            return Answer(HTTPStatus.OK, b"alive\n")
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"the worker's loop has stopped turning\n")

    def readyz(_accept: str) -> Answer:
        now = view()
        status = HTTPStatus.OK if now.ready else HTTPStatus.SERVICE_UNAVAILABLE
        body = {"ready": now.ready, "paused": now.paused, "reasons": now.not_ready, "warnings": now.warnings}
        return Answer(status, msgspec.json.encode(body) + b"\n", "application/json")

    return {"/livez": livez, "/readyz": readyz}


class _Connection:
    """One client: what it said so far, what it is still to be told, and until when."""

    __slots__ = ("answer", "deadline", "received", "socket")

    def __init__(self, client: socket.socket) -> None:
        self.socket = client
        self.deadline = time.monotonic() + DEADLINE
        self.received = bytearray()
        self.answer: memoryview | None = None


class HttpServer:
    """Serves the routes from `start` to `close`; GET and HEAD, one request per connection."""

    def __init__(self, routes: Mapping[str, Route], host: str, port: int) -> None:
        self._routes = dict(routes)
        self._wanted = (host, port)
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._connections: dict[socket.socket, _Connection] = {}  # oldest first

    def start(self) -> None:
        """Listen and serve. Raises SettingsError when the address cannot be had."""
        host, port = self._wanted
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            why = f"cannot listen on {host}:{port} ({error.strerror})"
            msg = f"metrics.port: {why}; set another port, or 0 for any free one"
            raise SettingsError(msg) from error
        self._listener.settimeout(0)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="fluvial-http", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on; tells the port that was found for port 0."""
        if self._listener is None:
            return self._wanted
        host, port = self._listener.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Stop at once and give the port back. Idempotent."""
        if self._thread is None or self._listener is None:
            return
        self._closing.set()
        self._wake_writer.send(b"x")
        self._thread.join(DEADLINE)
        for client in list(self._connections):
            self._drop(client)
        for part in (self._listener, self._wake_reader, self._wake_writer, self._selector):
            part.close()
        self._thread = None

    def _run(self) -> None:
        while not self._closing.is_set():
            ready = self._selector.select(0.5 if self._connections else None)
            began = time.thread_time()
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Connection):
                    self._serve(key.data)
            self._drop_late()
            spent = time.thread_time() - began
            self._closing.wait(min(LONGEST_REST, spent * (1 / SHARE - 1)))

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return  # it left before it was met
        except OSError as error:  # out of file handles: nothing is lost, the client waits in the queue
            log.warning("cannot accept a connection: %s", error)
            self._closing.wait(LONGEST_REST)
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(next(iter(self._connections)))
        client.settimeout(0)
        connection = self._connections[client] = _Connection(client)
        self._selector.register(client, selectors.EVENT_READ, connection)

    def _drop(self, client: socket.socket) -> None:
        self._connections.pop(client, None)
        with contextlib.suppress(KeyError, ValueError):  # closed by an earlier event of the same round
            self._selector.unregister(client)
        client.close()

    def _drop_late(self) -> None:
        now = time.monotonic()
        for client in [c for c, connection in self._connections.items() if connection.deadline < now]:
            self._drop(client)

    def _serve(self, connection: _Connection) -> None:
        if connection.socket not in self._connections:
            return  # made room for another in this round
        try:
            if connection.answer is None:
                self._read(connection)
            if connection.answer is not None:
                self._write(connection, connection.answer)
        except BlockingIOError:
            return
        except OSError:  # the client has gone; there is nobody to tell
            self._drop(connection.socket)

    def _read(self, connection: _Connection) -> None:
        data = connection.socket.recv(4_096)
        if not data:
            self._drop(connection.socket)
            return
        connection.received += data
        head, end, _ = bytes(connection.received).partition(b"\r\n\r\n")
        if end:
            response = self._respond(head.decode("latin-1").split("\r\n"))
        elif len(connection.received) > MAX_REQUEST:
            response = _response(Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"request too large\n"))
        else:
            return
        connection.answer = memoryview(response)
        self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)

    def _write(self, connection: _Connection, answer: memoryview) -> None:
        connection.answer = answer[connection.socket.send(answer) :]
        if not connection.answer:
            self._drop(connection.socket)

    def _respond(self, lines: list[str]) -> bytes:
        method, _, rest = lines[0].partition(" ")
        target, _, protocol = rest.partition(" ")
        if not protocol.startswith("HTTP/1."):
            return _response(Answer(HTTPStatus.BAD_REQUEST, b"not a request\n"))
        if method not in {"GET", "HEAD"}:
            return _response(Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET or HEAD\n"))
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            known = " ".join(self._routes)
            return _response(Answer(HTTPStatus.NOT_FOUND, f"there is: {known}\n".encode()))
        headers = (line.partition(":") for line in lines[1:])
        accept = next((value.strip() for name, _, value in headers if name.lower() == "accept"), "")
        try:
            answer = route(accept)
        except Exception:  # the view is read while the loop writes: a failed look must cost only itself
            log.exception("could not answer %s", target.partition("?")[0])
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"could not be collected; the log says why\n")
        return _response(answer, with_body=method == "GET")


def _response(answer: Answer, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (answer.body if with_body else b"")
