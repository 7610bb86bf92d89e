"""The server of `webui.serving` in this process, with small limits and a clock that a test moves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from webui.serving.answer import WsgiApp
from webui.serving.limits import Limits
from webui.serving.server import Server

Environ = dict[str, Any]
LONG_S = 60.0  # how long a test waits for what must come; it never decides what comes


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def limits(**changes: Any) -> Limits:
    """A test's limits: deadlines of 10 s by the test's clock, checked all the time."""
    return Limits(**{"tick_s": 0.005, "connections": 200, "connections_per_address": 200, **changes})


def hello(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """An application that answers with the request it got."""
    body = environ["wsgi.input"].read()
    text = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {len(body)}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]


@contextlib.contextmanager
def running(
    app: WsgiApp = hello, *, given: Limits | None = None, threads: int = 2, clock: Clock | None = None,
    tls: Callable[[], ssl.SSLContext | None] = lambda: None, is_exempt: Callable[[str], bool] = lambda _: False,
    host: str = "127.0.0.1",
) -> Iterator[int]:  # fmt: skip
    """Serve `app` on the port that is yielded. At the end all connections are closed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), backlog=1024, family=family, dualstack_ipv6=host == "::")
    listener.setblocking(False)
    loop, stopped = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        server = Server(app, given or limits(), threads=threads, tls=tls, is_exempt=is_exempt, clock_s=clock or Clock())
        await server.start([listener])
        await stopped.wait()
        await server.stop(answer_s=0.0, record_s=1.0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()
        listener.close()


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A connection from one of this host's own addresses."""
    return socket.create_connection(("127.0.0.1", port), timeout=LONG_S, source_address=(source, 0))


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes or resets the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """One answer with a Content-Length: status and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(1)
        if not piece:
            raise ConnectionError(f"closed after {received!r}")
        received += piece
    head = received.decode("latin-1")
    lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
    length = int(lengths[0])
    body = bytearray()
    while len(body) < length:
        body += connection.recv(length - len(body))
    return int(head.split(" ", 2)[1]), bytes(body)


def ask(port: int, path: str = "/", source: str = "127.0.0.1") -> tuple[int, bytes]:
    """One request on a connection of its own."""
    with connect(port, source) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        return read_answer(connection)
