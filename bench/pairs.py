"""Pairs of windows that two engines took in turns: the table of them, and the file to which runs add theirs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.engine import step_bytes
from bench.random_model import SHAPES

# What bench/contender.py is asked for each figure.
FIGURES = {
    "decode": "decode 1 32", "decode at 4,096": "decode 1 4096", "decode x4": "decode 4 32",
    "decode x8": "decode 8 32", "prefill 512": "prefill 512", "prefill 4,096": "prefill 4096",
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What is compared: a figure, by our engine on one path and by one peer, with models of one shape."""

    shape: str
    peer: str
    path: str
    figure: str


@dataclass(frozen=True)
class Pair:
    """Tokens a second of a window of ours and of one of the peer's, and what memory allowed just before or after."""

    ours: float
    theirs: float
    memory_gb_s: float


def row(figure: str, pairs: Sequence[Pair], token_gb: float | None) -> str:
    """A line of the table. ``token_gb``: GB of weights that are read for one token; None for a prompt."""
    both = [pair.ours for pair in pairs], [pair.theirs for pair in pairs]
    ratios = [pair.ours / pair.theirs for pair in pairs]
    speeds = "".join(f"{statistics.median(column):9.2f}" for column in both)
    line = f"{figure:17}{speeds}{statistics.median(ratios):8.2f}   {min(ratios):.2f} .. {max(ratios):.2f}"
    if token_gb is None:
        return f"{line}{'':16}{len(pairs):7}"
    shares = [
        [tok_s * token_gb / pair.memory_gb_s for tok_s, pair in zip(column, pairs, strict=True)] for column in both
    ]
    return line + "".join(f"{statistics.median(share):8.0%}" for share in shares) + f"{len(pairs):7}"


def weights_gb(subject: Subject) -> float | None:
    """GB of weights that a decode step reads, divided by the tokens that it gives; None for a prompt."""
    kind, *numbers = FIGURES[subject.figure].split()
    if kind == "prefill":
        return None
    sequences = int(numbers[0])
    return step_bytes(SHAPES[subject.shape], "int8", "cpu", sequences) / sequences / 1e9


def table(pairs: Sequence[tuple[Subject, Pair]]) -> Iterator[str]:
    """The lines of all comparisons, those with the same peer, path and shape together."""
    subjects = list(dict.fromkeys(subject for subject, _ in pairs))
    for shape, peer, path in dict.fromkeys((one.shape, one.peer, one.path) for one in subjects):
        yield f"{shape} against {peer}, ours on the path {path}"
        yield f"{'tok/s':17}{'ours':>9}{'peer':>9}{'ratio':>8}   {'range':12}{'ours':>8}{'peer':>8}  pairs"
        for one in subjects:
            if (one.shape, one.peer, one.path) == (shape, peer, path):
                yield row(one.figure, [pair for subject, pair in pairs if subject == one], weights_gb(one))
    gb_s = [pair.memory_gb_s for _, pair in pairs]
    yield f"memory: {min(gb_s):.1f} to {max(gb_s):.1f} GB/s; the last percentages are weights read, as a share of it"


def read_pairs(path: Path) -> list[tuple[Subject, Pair]]:
    """What earlier runs found; nothing if there was none."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(Subject(**line["subject"]), Pair(**line["pair"])) for line in lines]


def add_pair(path: Path, subject: Subject, pair: Pair) -> None:
    """Keep a pair, so that later runs print it, too, also if this one is stopped."""
    with path.open("a") as stream:
        stream.write(json.dumps({"subject": asdict(subject), "pair": asdict(pair)}) + "\n")
