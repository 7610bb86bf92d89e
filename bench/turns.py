"""Our engine and its peers in turns, window by window: `python -m bench.turns --shape 20b --llama --peer BINARY`.

What a machine gives changes within minutes, so figures of two engines count only beside each other. For each figure the
engines take turns (ours, peer, peer, ours, ..), and every pair of windows has a ratio; printed are the medians, and
the median and range of the ratios. Above 1 we are faster. Both models stay loaded if memory has room for both;
otherwise each is loaded for its turn, in which it gives all figures; ask for one figure, and its windows are nearer to
each other. `--peer` names a binary with the options and JSON of llama-bench, which loads the
model by itself; `--peer-option` passes it what makes it fastest (`-rtr 1` in ik_llama.cpp).

Memory is measured beside every pair. A decode figure's bytes of weights a second are printed as a share of what memory
allowed then, for both engines: a share above 100 % would mean that the probe is no bound.

A comparison can be divided into runs: `--figure` chooses figures, and with `--pairs FILE` a run adds its pairs to those
that the file has and prints the table of all.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from appliance.engine.host import available_memory_bytes, physical_cores
from appliance.engine.operators import load_operators
from bench.llama import write_gguf
from bench.machine import wait_for_quiet
from bench.memory_probe import MemoryProbe
from bench.pairs import FIGURES, Pair, Subject, add_pair, read_pairs, table
from bench.peers import Binary, Contender, Worker
from bench.random_model import SHAPES, packed_in, prepare, site_of

_ROOM = 1.2  # memory that two loaded models need, as a multiple of their files


def in_turns(
    ours: Contender, peer: Contender, lines: Sequence[str], rounds: int, *, together: bool, gb_s: Callable[[], float]
) -> Iterator[tuple[str, Pair]]:
    """What both give for each line, round by round. Unless they fit ``together``, one rests before the other's turn."""
    before = gb_s()
    for number in range(rounds):
        taken: dict[tuple[int, str], float] = {}
        for one, other in ((ours, peer), (peer, ours)) if number % 2 == 0 else ((peer, ours), (ours, peer)):
            if not together:
                other.rest()
            taken |= {(id(one), line): one.tok_s(line) for line in lines}
        after = gb_s()
        yield from ((line, Pair(taken[id(ours), line], taken[id(peer), line], max(before, after))) for line in lines)
        before = after


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
@click.option("--peer-name", help="What the table calls that binary; default: the name of its file.")
@click.option("--peer-option", "options", multiple=True, help="One word for that binary; repeatable.")
@click.option("--path", help="Path of our operators; default: the best that the processor has.")
@click.option("--figure", "figures", multiple=True, type=click.Choice(list(FIGURES)), help="Repeatable; default: all.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--pairs", "kept", type=click.Path(dir_okay=False, path_type=Path), help="Add the pairs to this file.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(
    shape: str, llama: bool, peer: Path | None, peer_name: str | None, options: tuple[str, ...], path: str | None,
    figures: tuple[str, ...], rounds: int, kept: Path | None, work: Path,
) -> None:  # fmt: skip
    """Compare our engine with its peers, as the module's docstring says."""
    if not llama and peer is None:
        raise click.UsageError("name a peer: --llama, or --peer BINARY")
    work.mkdir(parents=True, exist_ok=True)
    graph, gguf = prepare(work, shape, "cpu", "int8"), work / f"{shape}.gguf"
    write_gguf(gguf, SHAPES[shape])
    path = path or load_operators().paths()[0]
    packed = packed_in(site_of(work, graph))
    ours = Worker(["ours", str(graph), "--packed", str(packed), "--shape", shape, "--path", path], packed)
    peers: dict[str, Contender] = {}
    if llama:
        peers["llama.cpp"] = Worker(["llama", str(gguf), "--shape", shape], gguf)
    if peer is not None:
        peers[peer_name or peer.name] = Binary(peer, gguf, options)
    if not wait_for_quiet(120):
        click.echo("The machine is NOT quiet: the ratios vary more than they need.")
    together = available_memory_bytes() > _ROOM * 2 * gguf.stat().st_size
    found = [] if kept is None else read_pairs(kept)
    gb_s = MemoryProbe(physical_cores()).gb_s
    with _resting(ours, *peers.values()):
        for name, one in peers.items():
            asked = {FIGURES[figure]: figure for figure in figures or FIGURES if one.takes(FIGURES[figure])}
            for lines in [[line] for line in asked] if together else [list(asked)]:
                for line, pair in in_turns(ours, one, lines, rounds, together=together, gb_s=gb_s):
                    found.append((Subject(shape, name, path, asked[line]), pair))
                    if kept is not None:
                        add_pair(kept, *found[-1])
            one.rest()
    for line in table(found):
        click.echo(line)
    click.echo(f"models loaded {'together' if together else 'for each turn'}")


if __name__ == "__main__":
    sys.exit(main())
