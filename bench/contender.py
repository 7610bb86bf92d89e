"""One engine in a process of its own, which measures what it is told to: `python -m bench.contender ENGINE MODEL ..`.

It loads the model, has every weight in memory, prints `ready`, and answers each line of its input
(`decode SEQUENCES DEPTH` or `prefill LENGTH`) with tokens a second and with the pages that the kernel read from the
disk meanwhile. bench/turns.py asks two of them in turns.

A decode figure counts every step after the prompt, the first one included, and divides by the time of all. llama-bench
does so, and a mean cannot be compared with a median.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import click
import numpy as np

from appliance.engine.host import physical_cores
from appliance.engine.model.load import load_model
from appliance.engine.operators import load_operators
from appliance.engine.packed_weights import load_packing
from appliance.engine.steps import Append
from bench.machine import seconds
from bench.random_model import SHAPES
from installer.formats.packing import Source

SEQUENCES = 8
CONTEXT_TOKENS = 4608
STEPS = 32  # of a window
_PART_BYTES = 1 << 22
_WARM_TOKENS = 128  # a prompt of so many uses all of 32 experts in every layer, but for one time in a million


class Engine(Protocol):
    """A loaded model with room for `SEQUENCES` of `CONTEXT_TOKENS`."""

    def prefill_s(self, length: int) -> float:
        """Seconds that a random prompt takes in an empty sequence."""

    def fill(self, sequence: int, length: int) -> None:
        """Have a sequence hold a random prompt."""

    def step_s(self, sequences: int, depth: int) -> float:
        """Seconds that one decode step of so many sequences takes, each of which holds ``depth`` tokens."""


class Ours:
    """The engine of this checkout."""

    def __init__(self, graph: Path, packed: Path) -> None:
        read_unpacked(graph.parent)
        self._model = load_model(
            graph, accelerator="cpu", slots=SEQUENCES, context_tokens=CONTEXT_TOKENS, packed_dir=packed
        )
        self._rng = np.random.default_rng(7)

    def _tokens(self, count: int) -> list[int]:
        return [int(token) for token in self._rng.integers(0, self._model.shape.vocab, count)]

    def prefill_s(self, length: int) -> float:
        return seconds(partial(self._model.prefill_prompt, 0, self._tokens(length)))

    def fill(self, sequence: int, length: int) -> None:
        self._model.prefill_prompt(sequence, self._tokens(length))

    def step_s(self, sequences: int, depth: int) -> float:
        appends = [Append(slot, token, depth) for slot, token in enumerate(self._tokens(sequences))]
        return seconds(lambda: self._model.decode(appends))


class Theirs:
    """llama.cpp, through llama-cpp-python, with flash attention for prompts and without it for decoded tokens."""

    def __init__(self, gguf: Path, vocab: int) -> None:
        from bench.llama import Context, Llama  # needs the extra [bench]

        room = partial(
            Context, Llama(gguf), threads=physical_cores(), sequences=SEQUENCES, context_tokens=CONTEXT_TOKENS,
            vocab=vocab,
        )  # fmt: skip
        self._prompts, self._steps = room(flash_attention=True), room(flash_attention=False)

    def prefill_s(self, length: int) -> float:
        return self._prompts.prefill(0, length)

    def fill(self, sequence: int, length: int) -> None:
        self._steps.prefill(sequence, length)

    def step_s(self, sequences: int, depth: int) -> float:
        return self._steps.run([(sequence, depth) for sequence in range(sequences)])


def pages_read() -> int:
    """How often this process waited for a page from the disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def read_unpacked(directory: Path) -> int:
    """Read the stored weights that are used as they are stored, so that they are in memory; the value is their bytes.

    It is the embedding. A token uses one row of it, so the model can run long before all of it was read.
    """
    packed: dict[Path, list[Source]] = {path: [] for path in directory.glob("*.bin")}
    for entry in load_packing(directory).entries:
        for source in entry.sources:
            packed[directory / source.file].append(source)
    size_bytes = 0
    for path, sources in packed.items():
        with path.open("rb") as stream:
            for source in sorted(sources, key=lambda source: source.offset):
                size_bytes += _read(stream, source.offset - stream.tell())
                stream.seek(source.offset + source.size_bytes)
            size_bytes += _read(stream, path.stat().st_size - stream.tell())
    return size_bytes


def _read(stream: BinaryIO, size_bytes: int) -> int:
    for start in range(0, size_bytes, _PART_BYTES):
        stream.read(min(_PART_BYTES, size_bytes - start))
    return size_bytes


def warm(engine: Engine) -> None:
    """Use every weight once, so that no window waits for the disk or for a mapping."""
    engine.prefill_s(_WARM_TOKENS)
    engine.fill(0, _WARM_TOKENS)
    engine.step_s(1, _WARM_TOKENS)


def measure(engine: Engine, line: str, pages: Callable[[], int] = pages_read) -> tuple[float, int]:
    """Tokens a second of what a line asks for, and pages that were read from the disk meanwhile."""
    kind, *numbers = line.split()
    if kind == "prefill":
        (length,) = map(int, numbers)
        before = pages()
        return length / engine.prefill_s(length), pages() - before
    sequences, depth = map(int, numbers)
    for sequence in range(sequences):
        engine.fill(sequence, depth)
    before = pages()
    spent_s = sum(engine.step_s(sequences, depth + step) for step in range(STEPS))
    return sequences * STEPS / spent_s, pages() - before


@click.command()
@click.argument("engine", type=click.Choice(["ours", "llama"]))
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--packed", type=click.Path(path_type=Path), help="Where our packed weights lie.")
@click.option("--path", help="Path of our operators; default: the best that the processor has.")
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
def main(engine: str, model: Path, packed: Path, path: str | None, shape: str) -> None:
    """Measure one engine, as the module's docstring says."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if path is not None:
        load_operators().use_path(path)
    loaded: Engine = Ours(model, packed) if engine == "ours" else Theirs(model, SHAPES[shape]["vocab"])
    warm(loaded)
    click.echo("ready")
    for line in sys.stdin:
        tok_s, pages = measure(loaded, line)
        click.echo(f"{tok_s:.4f} {pages}")


if __name__ == "__main__":
    main()
