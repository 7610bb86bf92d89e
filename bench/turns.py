"""Our engine and its peers in turns, window by window: `python -m bench.turns --shape 20b --llama --peer BINARY`.

What a machine gives changes within minutes, so figures of two engines count only beside each other. For each figure the
engines take turns (ours, peer, peer, ours, ..), and every pair of windows has a ratio; printed are the medians, and
the median and range of the ratios. Above 1 we are faster. Both models stay loaded if memory has room for both;
otherwise each is loaded for its turn. `--peer` names a binary with the options and JSON of llama-bench, which loads the
model by itself; `--peer-option` passes it what makes it fastest (`-rtr 1` in ik_llama.cpp).
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import click

from appliance.engine.host import available_memory_bytes, physical_cores
from bench.llama import write_gguf
from bench.machine import wait_for_quiet
from bench.memory_probe import MemoryProbe
from bench.random_model import SHAPES, packed_in, prepare, site_of

FIGURES = {
    "decode": "decode 1 32", "decode at 4,096": "decode 1 4096", "decode x4": "decode 4 32",
    "decode x8": "decode 8 32", "prefill 512": "prefill 512",
}  # fmt: skip
_ROOM = 1.2  # memory that two loaded models need, as a multiple of their files


class Contender(Protocol):
    """An engine that can be measured."""

    def takes(self, line: str) -> bool:
        """Whether it can measure what a line of bench/contender.py asks for."""

    def tok_s(self, line: str) -> float:
        """Tokens a second, of one window."""

    def rest(self) -> None:
        """Give the model's memory back until the next turn."""


@dataclass
class Worker:
    """bench/contender.py in a process, which is started when it is needed."""

    arguments: list[str]
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    def takes(self, line: str) -> bool:
        return True

    def tok_s(self, line: str) -> float:
        if self._process is None:
            command = [sys.executable, "-m", "bench.contender", *self.arguments]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._read()
        if self._process.stdin is None:
            raise RuntimeError("the engine's process has no input")
        print(line, file=self._process.stdin, flush=True)
        return float(self._read())

    def rest(self) -> None:
        if self._process is not None:
            with self._process:  # closes its pipes and waits for its end
                self._process.kill()
            self._process = None

    def _read(self) -> str:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the engine's process has no output")
        said = self._process.stdout.readline()
        if not said:
            raise click.ClickException(f"the engine {self.arguments[0]} ended; what it printed stands above")
        return said


@dataclass(frozen=True)
class Binary:
    """A binary with llama-bench's options and JSON. It decodes one sequence at a time."""

    path: Path
    gguf: Path
    options: tuple[str, ...]

    def takes(self, line: str) -> bool:
        return not line.startswith("decode") or line.split()[1] == "1"

    def tok_s(self, line: str) -> float:
        kind, *numbers = line.split()
        asked = ["-p", numbers[0], "-n", "0"] if kind == "prefill" else ["-p", "0", "-n", "24", "-d", numbers[1]]
        command = [str(self.path), "-m", str(self.gguf), "-t", str(physical_cores()), "-r", "1", "-o", "json", *asked]
        done = subprocess.run([*command, *self.options], capture_output=True, text=True, check=False)
        try:
            (result,) = json.loads(done.stdout)
            return float(result["avg_ts"])
        except (ValueError, KeyError, TypeError) as exc:
            raise click.ClickException(f"{self.path}: {(done.stderr or done.stdout)[-1000:]}") from exc

    def rest(self) -> None:
        """It has ended by itself."""


def in_turns(ours: Contender, peer: Contender, line: str, rounds: int, *, together: bool) -> list[tuple[float, float]]:
    """The figures of both, round by round."""
    found = []
    for number in range(rounds):
        taken: dict[int, float] = {}
        for one in (ours, peer) if number % 2 == 0 else (peer, ours):
            taken[id(one)] = one.tok_s(line)
            if not together:
                one.rest()
        found.append((taken[id(ours)], taken[id(peer)]))
    return found


def row(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    """A line of the table."""
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    spread = f"{min(ratios):.2f} .. {max(ratios):.2f}"
    return f"{name:20}{ours:10.2f}{theirs:10.2f}{statistics.median(ratios):8.2f}   {spread}"


@contextlib.contextmanager
def _resting(*contenders: Contender) -> Iterator[None]:
    try:
        yield
    finally:
        for one in contenders:
            one.rest()


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="20b", show_default=True)
@click.option("--llama", is_flag=True, help="llama.cpp, through llama-cpp-python.")
@click.option("--peer", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A binary like llama-bench.")
@click.option("--peer-option", "options", multiple=True, help="One word for that binary; repeatable.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(shape: str, llama: bool, peer: Path | None, options: tuple[str, ...], rounds: int, work: Path) -> None:
    """Compare our engine with its peers, as the module's docstring says."""
    if not llama and peer is None:
        raise click.UsageError("name a peer: --llama, or --peer BINARY")
    work.mkdir(parents=True, exist_ok=True)
    graph, gguf = prepare(work, shape, "cpu", "int8"), work / f"{shape}.gguf"
    write_gguf(gguf, SHAPES[shape])
    packed = packed_in(site_of(work, graph))
    ours = Worker(["ours", str(graph), "--packed", str(packed), "--shape", shape])
    peers: dict[str, Contender] = {}
    if llama:
        peers["llama.cpp"] = Worker(["llama", str(gguf), "--shape", shape])
    if peer is not None:
        peers[peer.name] = Binary(peer, gguf, options)
    if not wait_for_quiet(120):
        click.echo("The machine is NOT quiet: the ratios vary more than they need.")
    together = available_memory_bytes() > _ROOM * 2 * gguf.stat().st_size
    with _resting(ours, *peers.values()):
        for name, one in peers.items():
            click.echo(f"{'tok/s':20}{'ours':>10}{name[:9]:>10}{'ratio':>8}   of {rounds} pairs of windows")
            for figure, line in FIGURES.items():
                if one.takes(line):
                    click.echo(row(figure, in_turns(ours, one, line, rounds, together=together)))
            one.rest()
        ours.rest()
        click.echo(
            f"memory: {MemoryProbe(physical_cores()).gb_s():.1f} GB/s at the end; models loaded "
            f"{'together' if together else 'for each turn'}"
        )


if __name__ == "__main__":
    sys.exit(main())
