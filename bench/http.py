"""How much the web application costs: requests per second beside a bare WSGI program in the same server, and a recorded
turn beside the two synced writes that its record needs.

    python -m bench.http [--seconds 5] [--callers 8]

The engine is a fake that answers at once, so that only the web application is measured. The reference for pages is
`bare`, below; the reference for a turn is fdatasync of two small writes on the same disk.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from appliance.audit.log import AuditLog
from appliance.config import init_state
from appliance.database.transactions import open_database
from tests.fakes import FakeEngine
from tests.webui.served import add_user_with_key, gunicorn, write_release

_TURNS, _FIRST_BYTES = 5, 200
Call = tuple[str, str, dict[str, str], str | None]  # method, path, headers, body


def bare(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """The least that a WSGI program can do."""
    without_delay(environ)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "15")])
    return [b'{"status":"ok"}']


def in_threads() -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """The application for gunicorn's own threaded worker, in which it ran before."""
    from webui.wsgi import app

    def served(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        without_delay(environ)
        return app(environ, start_response)

    return served


def without_delay(environ: dict[str, Any]) -> None:
    """Turn Nagle's algorithm off, which the appliance's own worker does by itself."""
    if "gunicorn.socket" in environ:
        environ["gunicorn.socket"].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def first_byte_ms(port: int, headers: dict[str, str], body: str) -> float:
    """Milliseconds from a request to the first byte of its stream."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        begin_s = time.monotonic()
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        response.read(1)
        took_ms = (time.monotonic() - begin_s) * 1000
        response.read()
    return took_ms


def per_second(port: int, call: Call, *, seconds: float, callers: int) -> float:
    """Completed requests per second from `callers` connections at once; the first of each does not count."""
    counts = [0] * callers
    ready = threading.Barrier(callers)

    def ask(connection: http.client.HTTPConnection) -> None:
        connection.request(call[0], call[1], call[3], call[2])
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"{call[1]} answered {response.status}")

    def run(number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            ask(connection)
            ready.wait()
            deadline_s = time.monotonic() + seconds
            while time.monotonic() < deadline_s:
                ask(connection)
                counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def synced_pairs_per_second(directory: Path, *, seconds: float) -> float:
    """How often per second two small writes in a row reach the disk, for one caller."""
    count = 0
    deadline_s = time.monotonic() + seconds
    with (directory / "synced").open("wb", buffering=0) as out:
        while time.monotonic() < deadline_s:
            for _ in range(2):
                out.write(b"x" * 500)
                os.fdatasync(out.fileno())
            count += 1
    return count / seconds


def worker_against_threads(
    home: Path, engine: FakeEngine, headers: dict[str, str], body: str, *, seconds: float, callers: int
) -> None:
    """The appliance's worker beside gunicorn's threaded one. Both run, and are measured in turns."""
    streamed = json.dumps({**json.loads(body), "stream": True})
    health: Call = ("GET", "/healthz", {}, None)
    rates: tuple[list[float], list[float]] = ([], [])
    firsts: tuple[list[float], list[float]] = ([], [])
    with (
        gunicorn(home, engine.doorbell, threads=callers) as ours,
        gunicorn(
            home, engine.doorbell, threads=callers, worker="gthread", application="bench.http:in_threads()"
        ) as theirs,
    ):
        for _ in range(_TURNS):
            for index, port in enumerate((ours, theirs)):
                rates[index].append(per_second(port, health, seconds=seconds / _TURNS, callers=callers))
        for _ in range(_FIRST_BYTES):
            for index, port in enumerate((ours, theirs)):
                firsts[index].append(first_byte_ms(port, headers, streamed))
    own, other = (statistics.median(each) for each in rates)
    click.echo(f"{'GET /healthz, own worker':28}{own:9.0f}/s   {own / other:6.2f} of gunicorn's threads")
    own, other = (statistics.median(each) for each in firsts)
    click.echo(f"{'first byte of a stream':28}{own:9.1f} ms  {own / other:6.2f} of gunicorn's threads")


@click.command()
@click.option("--seconds", default=5.0, help="How long each line is measured.")
@click.option("--callers", default=8, help="Connections at once.")
def main(seconds: float, callers: int) -> None:
    """Measure and print a line for each: name, requests per second, ratio to its reference."""
    with tempfile.TemporaryDirectory() as directory, FakeEngine() as engine:
        home = Path(directory)
        init_state(home)
        write_release(home / "releases" / "0.0.1", "gpt-oss-fake")
        (home / "current").symlink_to("releases/0.0.1")
        database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
        key = add_user_with_key(AuditLog(database))
        database.close()
        with_key = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = json.dumps({"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hello"}]})

        worker_against_threads(home, engine, with_key, body, seconds=seconds, callers=callers)
        with gunicorn(home, engine.doorbell, application="bench.http:bare", threads=callers) as port:
            reference = per_second(port, ("GET", "/", {}, None), seconds=seconds, callers=callers)
        click.echo(f"{'bare WSGI program':28}{reference:9.0f}/s")
        calls: list[tuple[str, Call]] = [
            ("GET /healthz", ("GET", "/healthz", {}, None)),
            ("GET /sign-in", ("GET", "/sign-in", {}, None)),
            ("GET /v1/models, with a key", ("GET", "/v1/models", with_key, None)),
        ]
        with gunicorn(home, engine.doorbell, threads=callers) as port:
            for name, call in calls:
                rate = per_second(port, call, seconds=seconds, callers=callers)
                click.echo(f"{name:28}{rate:9.0f}/s   {rate / reference:6.2f} of bare")
            turn: Call = ("POST", "/v1/chat/completions", with_key, body)
            disk = synced_pairs_per_second(home, seconds=seconds)
            click.echo(f"{'two synced writes':28}{disk:9.0f}/s")
            for count in (1, callers):
                rate = per_second(port, turn, seconds=seconds, callers=count)
                click.echo(f"{f'recorded turn, {count} at once':28}{rate:9.0f}/s   {rate / disk:6.2f} of synced writes")


if __name__ == "__main__":
    main()
