"""Where the time of a step goes, by operator, on a random model of a named shape (CPU).

    python -m bench.profile --shape 20b

ONNX Runtime times each node. That takes some microseconds per node, so small operators look larger than they are.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import click
import numpy as np

from appliance.engine.model.load import load_model
from appliance.engine.steps import Append, Chunk
from bench.machine import wait_for_quiet
from bench.random_model import SHAPES, packed_in, prepare, site_of

_REPEATS = 8
_DEPTH = 32
_SLOTS, _CONTEXT_TOKENS = 8, 2048
_NAMES = {
    "ExpertLayer": "experts", "Dense": "projections", "Attention": "attention", "Gemm": "router",
    "SkipSimplifiedLayerNormalization": "norms", "SimplifiedLayerNormalization": "norms", "TopLogits": "top logits",
}  # fmt: skip


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="20b", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(shape: str, work: Path) -> None:
    """Print how much time each operator takes of a decode step and of a chunk of a prompt."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    work.mkdir(parents=True, exist_ok=True)
    graph = prepare(work, shape, "cpu", "int8")
    packed = packed_in(site_of(work, graph))
    if not wait_for_quiet(120):
        click.echo("The machine is NOT quiet: the figures below are higher than they could be.")
    model = load_model(
        graph, accelerator="cpu", slots=_SLOTS, context_tokens=_CONTEXT_TOKENS, packed_dir=packed,
        profile=work / "profile",
    )  # fmt: skip
    rng = np.random.default_rng(7)

    def tokens(count: int) -> list[int]:
        return [int(token) for token in rng.integers(0, model.shape.vocab, count)]

    steps: list[str] = []
    for slot in range(_SLOTS):
        model.prefill(slot, tokens(_DEPTH), 0, want_logits=False)
        steps.append("first")

    def appends(sequences: int, held: int) -> list[Append]:
        return [Append(slot, token, held) for slot, token in enumerate(tokens(sequences))]

    for sequences in (1, 8):
        for step in range(_REPEATS):
            model.decode(appends(sequences, _DEPTH + step))
            steps.append(f"decode, {sequences} sequence{'s' * (sequences > 1)}")
    for step in range(_REPEATS):
        model.step(appends(4, _DEPTH + step), Chunk(_SLOTS - 1, tokens(16), 0, want_logits=False))
        steps.append("4 sequences beside 16 tokens of a prompt")
    for chunk in (8, 64, 256):
        for _ in range(_REPEATS):
            model.prefill(0, tokens(chunk), 0, want_logits=False)
            steps.append(f"prompt, {chunk} tokens")
    path = model.end_profile()
    events = json.loads(path.read_text())
    path.unlink()
    spent = [Counter[str]() for _ in steps]
    runs = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run")
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            step = next(at for at, (start, end) in enumerate(runs) if start <= event["ts"] <= end)
            kind = "head" if event["name"].startswith("logits_") else _NAMES.get(event["args"]["op_name"], "other")
            spent[step][kind] += event["dur"]
    for name in dict.fromkeys(steps[_SLOTS:]):
        times = sum((spent[at] for at, step in enumerate(steps) if step == name), Counter[str]())
        count, total = steps.count(name), sum(times.values())
        parts = ", ".join(f"{kind} {us / 1000 / count:.1f} ({us / total:.0%})" for kind, us in times.most_common())
        click.echo(f"{name}: {total / 1000 / count:.1f} ms: {parts}")


if __name__ == "__main__":
    sys.exit(main())
