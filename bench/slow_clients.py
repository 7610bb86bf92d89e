"""How a crowd of slow clients slows a client that wants a page.

    python -m bench.slow_clients [--connections 10000] [--tls]
    python -m bench.slow_clients --connections 300 --command "waitress-serve --port {port} bench.http:bare"

A third of the connections is idle, a third has sent half a head, a third half a body, from addresses 127.0.1.x. Then
one client sends requests, each on a new connection; the reference is the same before the crowd came. Without --command
the server is the appliance's own worker with sign-in, health and a chat; with it, it is the server of any WSGI program,
and the client asks for its first page.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import shlex
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from appliance.audit.log import AuditLog
from appliance.authority import keep_certificate
from appliance.config import init_state, load_config
from appliance.database.transactions import open_database
from appliance.transport import Transport, authority_certificate
from tests.fakes import FakeEngine
from tests.webui.served import add_user_with_key, gunicorn, write_release

_SENT = (b"", b"GET / HTTP/1.1\r\nHost: t\r\n", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nname=")
_GIVE_UP_S = 5.0


@dataclass(frozen=True)
class Call:
    """One request; `context` over TLS."""

    port: int
    path: str
    context: ssl.SSLContext | None = None
    body: str | None = None
    key: str = ""

    def took_ms(self) -> float | None:
        """Milliseconds of a request on a connection of its own; None: no answer within five seconds."""
        begin_s = time.monotonic()
        connection = http.client.HTTPConnection("localhost", self.port, timeout=_GIVE_UP_S)
        if self.context is not None:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=_GIVE_UP_S, context=self.context)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"} if self.key else {}
        try:
            connection.request("POST" if self.body else "GET", self.path, self.body, headers)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise click.ClickException(f"{self.path} answered {response.status}")
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return (time.monotonic() - begin_s) * 1000


def percentiles(call: Call, requests: int) -> str:
    """p50 and p99 of so many requests, and how many had no answer. After five of those it gives up."""
    found: list[float] = []
    lost = 0
    for _ in range(requests):
        took_ms = call.took_ms()
        if took_ms is None:
            lost += 1
            if lost == 5:
                break
        else:
            found.append(took_ms)
    if not found:
        return "no answer"
    found.sort()
    text = f"p50 {found[len(found) // 2]:7.1f} ms   p99 {found[int(len(found) * 0.99)]:7.1f} ms"
    return f"{text}   {lost} of {len(found) + lost} without an answer" if lost else text


@contextlib.contextmanager
def crowd(port: int, connections: int, context: ssl.SSLContext | None) -> Iterator[None]:
    """Hold so many connections. Over TLS every tenth has finished its handshake, the others have not begun one."""
    held: list[socket.socket] = []
    try:
        for number in range(connections):
            source = (f"127.0.1.{1 + number % 100}", 0)
            with contextlib.suppress(OSError):
                sock = socket.create_connection(("127.0.0.1", port), timeout=_GIVE_UP_S, source_address=source)
                if context is not None and number % 10 == 0:
                    sock = context.wrap_socket(sock, server_hostname="localhost")
                held.append(sock)
                if context is None or number % 10 == 0:
                    sock.sendall(_SENT[number % 3])
        click.echo(f"{len(held)} connections held")
        yield
    finally:
        for sock in held:
            sock.close()


def compare(calls: list[Call], connections: int, requests: int) -> None:
    for call in calls:
        click.echo(f"{call.path:24} alone         {percentiles(call, requests)}")
    with crowd(calls[0].port, connections, calls[0].context):
        for call in calls:
            click.echo(f"{call.path:24} in the crowd  {percentiles(call, requests)}")


@contextlib.contextmanager
def started(command: str) -> Iterator[int]:
    """Start a server by `command`; the value is its port, when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    process = subprocess.Popen(shlex.split(command.format(port=port)))
    try:
        while Call(port, "/").took_ms() is None:
            if process.poll() is not None:
                raise click.ClickException("the server did not start")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


@click.command()
@click.option("--connections", default=10_000, help="How many connections are held.")
@click.option("--requests", default=300, help="How many requests are sent to each address.")
@click.option("--tls", is_flag=True, help="Over TLS, with a certificate of the site's own.")
@click.option("--command", help="Start this server instead; {port} is replaced.")
def main(connections: int, requests: int, tls: bool, command: str | None) -> None:
    """Measure and print a line for each: address, alone or in the crowd, percentiles."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if command is not None:
        with started(command) as port:
            compare([Call(port, "/")], connections, requests)
        return
    with tempfile.TemporaryDirectory() as directory, FakeEngine() as engine:
        home = Path(directory)
        init_state(home)
        write_release(home / "current", "gpt-oss-fake")
        config = load_config(home)
        database = open_database(config.database_url)
        key = add_user_with_key(AuditLog(database))
        database.close()
        context = None
        if tls:
            keep_certificate(config, datetime.now(UTC))
            context = ssl.create_default_context(cafile=str(authority_certificate(config)))
        body = json.dumps({"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hello"}]})
        transport = Transport.LOCAL_AUTHORITY if tls else Transport.LOOPBACK
        with gunicorn(home, engine.doorbell, threads=48, transport=transport) as port:
            pages = [Call(port, path, context) for path in ("/healthz", "/sign-in")]
            while pages[0].took_ms() is None:  # it still loads the application
                pass
            compare([*pages, Call(port, "/v1/chat/completions", context, body, key)], connections, requests)


if __name__ == "__main__":
    main()
