"""How much silence costs end to end: requests and decoded tokens per second of a program under the rules and filters of
its kind, as a ratio to the same program without them.

    python -m bench.silence_whole [--rounds 60] [--seconds 0.25]

Both programs run at once and are asked in turns, so that whatever slows the machine slows both; the median of the
rounds' ratios counts. The web application has a fake engine, so that all the time is its own. The engine runs the demo
model, whose tokens are fast, so that a system call weighs more in them than in any model that people use.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from appliance.engine.client import EngineClient
from appliance.isolation.policy import Kind
from appliance.turns.engine import EngineUnavailableError
from appliance.turns.events import Done
from appliance.turns.request import Message, TurnRequest
from bench.http import Call, per_second
from bench.machine import wait_for_quiet
from bench.served import prepare_site
from bundler.checkpoint import open_checkpoint
from bundler.demo_model.expand import expand_demo_checkpoint
from bundler.export import MODEL, export_graph
from tests.fakes import FakeEngine
from tests.webui.served import gunicorn

_READY_LIMIT_S, _QUIET_LIMIT_S = 60.0, 120.0
_TOKENS = 50


def confined(kind: Kind, site: Path) -> tuple[str, ...]:
    """The command that puts the rest of a command line under the rules of its kind."""
    return (sys.executable, "-m", "bench.confined", str(kind), str(site))


@contextlib.contextmanager
def engine(site: Path, prefix: tuple[str, ...] = ()) -> Iterator[EngineClient]:
    """A running engine, once it is ready."""
    web, bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = {**os.environ, "APPLIANCE_HOME": str(site), "APPLIANCE_DOORBELL_FD": str(bell.fileno())}
    program = (*prefix, sys.executable, "-m", "appliance.engine.server")
    process = subprocess.Popen(program, env=environ, pass_fds=[bell.fileno()])
    client = EngineClient(web)
    try:
        deadline_s = time.monotonic() + _READY_LIMIT_S
        while True:
            try:
                client.status(timeout_s=5)
                break
            except EngineUnavailableError:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise
        yield client
    finally:
        process.terminate()
        process.wait(timeout=20)
        web.close()
        bell.close()


def decoded_per_second(client: EngineClient, seed: int) -> float:
    """Tokens a second of one stream, without its prefill."""
    text = "Write about the weather, the sea, the forest and the stars, at length."
    # At temperature 2 any word may come, so the answer goes on until its limit; at 1 it would end soon.
    request = TurnRequest(
        id="t", user="ann", messages=(Message("user", text),), seed=seed, max_tokens=_TOKENS, temperature=2.0
    )
    with client.turn(request) as events:
        last = list(events)[-1]
    if not isinstance(last, Done):
        raise RuntimeError(f"the engine answered {last}")
    return last.completion_tokens / last.decode_s


def compare(name: str, unit: str, rounds: int, plain: Callable[[int], float], within: Callable[[int], float]) -> None:
    """Print the median of each, and that of their ratio."""
    pairs = []
    for number in range(rounds + 1):
        first, second = (plain, within) if number % 2 else (within, plain)
        one, other = first(number), second(number)
        pairs.append((one, other) if first is plain else (other, one))
    ratios = sorted(confined / bare for bare, confined in pairs[1:])  # the first round warms both
    bare, inside = (statistics.median(pair[at] for pair in pairs[1:]) for at in (0, 1))
    quarter = len(ratios) // 4
    spread = f"half of the rounds {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}"
    click.echo(f"{name:26}{bare:9.0f} {unit} alone {inside:9.0f} confined  {statistics.median(ratios):.4f}  ({spread})")


def prepare(directory: Path) -> tuple[Path, str]:
    """A site that serves the demo model, and an API key for it."""
    expand_demo_checkpoint(directory / "checkpoint")
    graph = directory / "graph"
    export_graph(open_checkpoint(directory / "checkpoint"), graph, accelerator="cpu", dense="int8")
    site = directory / "site"
    return site, prepare_site(site, graph / MODEL, directory / "checkpoint" / "config.json", "cpu", "int8", 4096)


@click.command()
@click.option("--rounds", default=60, show_default=True, help="More rounds take longer and vary less.")
@click.option("--seconds", default=0.25, show_default=True, help="How long each request is repeated in a round.")
@click.option("--callers", default=4, show_default=True, help="Connections at once.")
def main(rounds: int, seconds: float, callers: int) -> None:
    """Print one line for each sort of work: alone, confined, ratio."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        site, key = prepare(directory)
        if not wait_for_quiet(_QUIET_LIMIT_S):
            click.echo("The machine is not quiet: the figures below vary more than they should.")
        with engine(site) as plain, engine(site, confined(Kind.ENGINE_CPU, site)) as within:
            compare(
                "decode, one stream", "tok/s", rounds,
                lambda number: decoded_per_second(plain, number), lambda number: decoded_per_second(within, number),
            )  # fmt: skip
        body = json.dumps({"model": "random", "messages": [{"role": "user", "content": "Hello"}]})
        with_key = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        calls: list[tuple[str, Call]] = [
            ("GET /healthz", ("GET", "/healthz", {}, None)),
            ("GET /sign-in", ("GET", "/sign-in", {}, None)),
            ("recorded turn", ("POST", "/v1/chat/completions", with_key, body)),
        ]
        with (
            FakeEngine() as fake,
            gunicorn(site, fake.doorbell) as plain_port,
            gunicorn(site, fake.doorbell, prefix=confined(Kind.WEB, site)) as confined_port,
        ):

            def rate(port: int, call: Call) -> Callable[[int], float]:
                return lambda _: per_second(port, call, seconds=seconds, callers=callers)

            for title, call in calls:
                compare(title, "/s", rounds, rate(plain_port, call), rate(confined_port, call))


if __name__ == "__main__":
    main()
