"""Runs a part in all its trials, and says how far its outputs are from those of another run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from appliance.engine.model.onnx_file import GraphFile
from appliance.engine.model.parts import Array, Part, PartSession
from appliance.engine.selftest.inputs import Trial, carried, trials_of
from appliance.engine.selftest.sketch import Float64Array, distance, folded, sketch

Kind = Literal["decoded", "prompt"]


@dataclass(frozen=True)
class Row:
    """The sketch of a row of an output, or of rows that count together."""

    kind: Kind
    name: str
    sketch: Float64Array


def rows_of(graph: GraphFile, part: Part, session: PartSession) -> list[Row]:
    """What a part gives in all its trials.

    Raises:
        ModelError: the part cannot be run.
    """
    rows: list[Row] = []
    kept: dict[str, Array] = {}
    for trial in trials_of(graph, part):
        outputs = session.run({**kept, **trial.inputs})
        made = dict(zip(part.node.outputs, outputs, strict=True))
        kept = {into: made[out] for into, out in carried(part).items()}
        for output in outputs[: trial.compares]:
            rows += _sketched(trial, output)
    return rows


def largest(found: Sequence[Row], expected: Sequence[Row]) -> dict[Kind, tuple[float, str]]:
    """For each kind of token that occurs, the largest distance and the name of its row."""
    worst: dict[Kind, tuple[float, str]] = {}
    for row, known in zip(found, expected, strict=True):
        far = distance(row.sketch, known.sketch)
        if row.kind not in worst or far > worst[row.kind][0]:
            worst[row.kind] = (far, row.name)
    return worst


def _sketched(trial: Trial, output: Array) -> Iterator[Row]:
    table = output.reshape(len(output), -1)
    if trial.folds:
        table = np.concatenate([folded(table[at : at + trial.folds]) for at in range(0, len(table), trial.folds)])
    for number, one in enumerate(sketch(table)):
        kind: Kind = "decoded" if number < trial.decoded else "prompt"
        yield Row(kind, trial.rows[number] if number < len(trial.rows) else f"row {number}", one)
