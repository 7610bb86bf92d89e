"""One engine in a process of its own, which measures what it is told to: `python -m bench.contender ENGINE MODEL ..`.

It loads the model, prints `ready`, and answers each line of its input (`decode SEQUENCES DEPTH` or `prefill LENGTH`)
with tokens a second. bench/turns.py asks two of them in turns.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Protocol

import click
import numpy as np

from appliance.engine.host import physical_cores
from appliance.engine.model.load import load_model
from appliance.engine.steps import Append
from bench.machine import seconds
from bench.random_model import SHAPES

SEQUENCES = 8
CONTEXT_TOKENS = 4608
_STEPS, _WARM_STEPS = 24, 4  # of a window, and steps before them that do not count


class Engine(Protocol):
    """A loaded model with room for `SEQUENCES` of `CONTEXT_TOKENS`."""

    def prefill_s(self, sequence: int, length: int) -> float:
        """Seconds that a random prompt takes in an empty sequence."""

    def step_s(self, sequences: int, depth: int) -> float:
        """Seconds that one decode step of so many sequences takes, each of which holds ``depth`` tokens."""


class Ours:
    """The engine of this checkout."""

    def __init__(self, graph: Path, packed: Path) -> None:
        self._model = load_model(
            graph, accelerator="cpu", slots=SEQUENCES, context_tokens=CONTEXT_TOKENS, packed_dir=packed
        )
        self._rng = np.random.default_rng(7)

    def _tokens(self, count: int) -> list[int]:
        return [int(token) for token in self._rng.integers(0, self._model.shape.vocab, count)]

    def prefill_s(self, sequence: int, length: int) -> float:
        ids = self._tokens(length)
        return seconds(lambda: self._model.prefill_prompt(sequence, ids))

    def step_s(self, sequences: int, depth: int) -> float:
        appends = [Append(slot, token, depth) for slot, token in enumerate(self._tokens(sequences))]
        return seconds(lambda: self._model.decode(appends))


class Theirs:
    """llama.cpp, through llama-cpp-python."""

    def __init__(self, gguf: Path, vocab: int) -> None:
        from bench.llama import Llama  # needs the extra [bench]

        self._llama = Llama(
            gguf, threads=physical_cores(), sequences=SEQUENCES, context_tokens=CONTEXT_TOKENS, vocab=vocab
        )

    def prefill_s(self, sequence: int, length: int) -> float:
        return self._llama.prefill(sequence, length)

    def step_s(self, sequences: int, depth: int) -> float:
        return self._llama.run([(sequence, depth) for sequence in range(sequences)])


def measure(engine: Engine, line: str) -> float:
    """Tokens a second of what a line asks for."""
    kind, *numbers = line.split()
    if kind == "prefill":
        (length,) = map(int, numbers)
        return length / engine.prefill_s(0, length)
    sequences, depth = map(int, numbers)
    for sequence in range(sequences):
        engine.prefill_s(sequence, depth)
    times = [engine.step_s(sequences, depth + step) for step in range(_WARM_STEPS + _STEPS)]
    return sequences / statistics.median(times[_WARM_STEPS:])


@click.command()
@click.argument("engine", type=click.Choice(["ours", "llama"]))
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--packed", type=click.Path(path_type=Path), help="Where our packed weights lie.")
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
def main(engine: str, model: Path, packed: Path, shape: str) -> None:
    """Measure one engine, as the module's docstring says."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    loaded: Engine = Ours(model, packed) if engine == "ours" else Theirs(model, SHAPES[shape]["vocab"])
    click.echo("ready")
    for line in sys.stdin:
        click.echo(f"{measure(loaded, line):.4f}")


if __name__ == "__main__":
    main()
