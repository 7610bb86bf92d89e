"""Measures the exported graph against three independent computations of the same checkpoint.

    python -m tests.bundler.parity      prints the table of docs/parity.md

The error of one row of logits is max|ours - theirs| / max|theirs|. A figure is that of the worst row of a run. The
three computations:

- a float64 reference in NumPy (`tests.reference.gpt_oss`),
- Transformers' GptOssForCausalLM, float32, eager attention, on the dequantised weights,
- the graph optimum-onnx exports from that model, run by ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.operators import load_operators
from bundler.checkpoint import open_checkpoint
from bundler.export import export_graph
from bundler.random_checkpoint import random_config, write_random_checkpoint
from tests.bundler.onnx_model import GraphRunner, open_session
from tests.reference.gpt_oss import ReferenceModel

TOLERANCE = 1e-4

Ids = NDArray[np.int64]
Logits = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """The sizes of a random checkpoint, and the lengths of its sequences."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    experts: int
    experts_per_token: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    sliding_window: int
    lengths: tuple[int, ...]
    chunk: int
    steps: int  # tokens the references decode one by one at the end of the longest sequence

    def config(self) -> dict[str, Any]:
        return random_config(
            layers=self.layers, hidden=self.hidden, intermediate=self.intermediate, experts=self.experts,
            experts_per_token=self.experts_per_token, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim,
            vocab=self.vocab, sliding_window=self.sliding_window,
        )  # fmt: skip

    def __str__(self) -> str:
        return self.name


SHAPES = (
    Shape("1 layer, 4 experts, top 1, window 8", 1, 64, 96, 4, 1, 2, 2, 32, 199, 8, (5, 40), 7, 20),
    Shape("3 layers, 8 experts, top 2, window 16", 3, 96, 64, 8, 2, 6, 3, 16, 300, 16, (11, 90), 13, 40),
    Shape("5 layers, 32 experts, top 4, window 128", 5, 128, 128, 32, 4, 8, 1, 64, 501, 128, (60, 300), 47, 40),
    Shape("6 layers, 16 experts, top 3, window 32", 6, 64, 160, 16, 3, 4, 2, 64, 257, 32, (20, 150), 32, 40),
    Shape("2 layers, 6 experts, top 2, window 128, to 4,352", 2, 64, 64, 6, 2, 2, 1, 64, 300, 128, (4352,), 512, 24),
)

MODES = ("prefill", "prefill in chunks", "decode", "decode, 3 slots")
REFERENCES = ("NumPy float64", "Transformers", "optimum-onnx")


@dataclass(frozen=True)
class Row:
    """One line of the table: worst error and agreement of the largest logit, per reference."""

    shape: str
    mode: str
    logits: int  # rows of logits compared
    errors: tuple[float, ...]
    same_argmax: bool


def measure(shape: Shape, directory: Path) -> list[Row]:
    """Write, export and run one checkpoint: one row for each mode. The operators use the path that rounds nothing."""
    load_operators().use_path("portable")
    checkpoint = directory / "checkpoint"
    write_random_checkpoint(checkpoint, shape.config(), seed=2)
    graph = export_graph(open_checkpoint(checkpoint), directory / "graph", accelerator="cpu", dense="bf16")
    ours = GraphRunner(open_session(graph.model))
    reference = ReferenceModel(checkpoint)
    model = _transformers_model(reference)
    theirs = (_NumPy(reference), _Transformers(model), _Optimum(model, directory / "optimum"))
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, shape.vocab, length) for length in shape.lengths]
    longest = prompts[-1]
    expected = [[side.logits(ids, shape.steps if ids is longest else 0) for ids in prompts] for side in theirs]
    start = 0 if len(longest) < 1000 else len(longest) - shape.steps
    slots = [longest, longest[: 2 * len(longest) // 3], longest[: len(longest) // 3]]
    # In a causal model the logits of a prefix are a prefix of the logits, so the slots need no run of their own.
    sliced = [[side[-1][: len(ids)] for ids in slots] for side in expected]
    produced = (
        (ours.prefill(ids) for ids in prompts),
        (ours.prefill(ids, chunk=shape.chunk) for ids in prompts),
        [ours.decode(longest, start)],
        ours.decode_together(slots, 8),
    )
    wanted = (expected, expected, [side[-1:] for side in expected], sliced)
    return [_row(shape, mode, list(p), w) for mode, p, w in zip(MODES, produced, wanted, strict=True)]


def _row(shape: Shape, mode: str, produced: list[Logits], expected: list[list[Logits]]) -> Row:
    errors, same = [], True
    for sequences in expected:
        pairs = [(ours, theirs[-len(ours) :]) for ours, theirs in zip(produced, sequences, strict=True)]
        errors.append(float(np.max([relative_error(ours, theirs) for ours, theirs in pairs])))  # NaN stays NaN
        same &= all(bool((ours.argmax(-1) == theirs.argmax(-1)).all()) for ours, theirs in pairs)
    return Row(shape.name, mode, sum(len(ours) for ours in produced), tuple(errors), same)


def relative_error(ours: Logits, theirs: Logits) -> float:
    """Worst row of max|ours - theirs| / max|theirs|; both (rows, vocabulary). NaN if either holds one."""
    return float((np.abs(ours - theirs).max(axis=-1) / np.abs(theirs).max(axis=-1)).max())


class _NumPy:
    """The float64 model has no cache: its decode is its prefill."""

    def __init__(self, model: ReferenceModel) -> None:
        self.model = model

    def logits(self, ids: Ids, decoded: int) -> Logits:
        return self.model.logits(ids)


class _Cached:
    """A model with a cache: logits (S, vocabulary), the last ``decoded`` tokens taken one by one after the others."""

    def logits(self, ids: Ids, decoded: int) -> Logits:
        prompt = len(ids) - decoded
        logits, cache = self.run(ids[:prompt], None)
        rows = [logits]
        for position in range(prompt, len(ids)):
            logits, cache = self.run(ids[position : position + 1], cache)
            rows.append(logits)
        return np.concatenate(rows)

    def run(self, ids: Ids, cache: Any) -> tuple[Logits, Any]:
        raise NotImplementedError


class _Transformers(_Cached):
    def __init__(self, model: Any) -> None:
        self.model = model

    def run(self, ids: Ids, cache: Any) -> tuple[Logits, Any]:
        import torch

        with torch.inference_mode(), third_party():
            output = self.model(torch.from_numpy(ids)[None], past_key_values=cache, use_cache=True)
        return output.logits[0].numpy(), output.past_key_values


class _Optimum(_Cached):
    def __init__(self, model: Any, directory: Path) -> None:
        with third_party():
            from optimum.exporters.onnx import onnx_export_from_model  # type: ignore[import-untyped]

            onnx_export_from_model(model, directory, task="text-generation-with-past", do_validation=False, opset=18)
        self.session = open_session(directory / "model.onnx")
        self.past_names = [item.name for item in self.session.get_inputs() if item.name.startswith("past_key_values")]
        present_names = [name.replace("past_key_values", "present") for name in self.past_names]
        self.output_names = ["logits", *present_names]
        self.empty = np.zeros((1, model.config.num_key_value_heads, 0, model.config.head_dim), np.float32)

    def run(self, ids: Ids, cache: Any) -> tuple[Logits, Any]:
        past = cache or [self.empty] * len(self.past_names)
        mask = np.ones((1, past[0].shape[2] + len(ids)), np.int64)
        feed = {"input_ids": ids[None], "attention_mask": mask, **dict(zip(self.past_names, past, strict=True))}
        logits, *present = self.session.run(self.output_names, feed)
        return logits[0], present


def _transformers_model(reference: ReferenceModel) -> Any:
    """GptOssForCausalLM with the reference's dequantised weights, in float32."""
    with third_party():
        import torch
        from transformers import GptOssConfig, GptOssForCausalLM

        fields = {name: value for name, value in reference.config.items() if name != "quantization_config"}
        config = GptOssConfig(**json.loads(json.dumps(fields)))
        config._attn_implementation = "eager"
        model: Any = GptOssForCausalLM(config)  # type: ignore[no-untyped-call]
        model = model.float().eval()
        weights = {
            name: torch.from_numpy((w.swapaxes(1, 2) if w.ndim == 3 else w).astype(np.float32, order="C"))
            for name, w in reference.tensors.items()
        }  # Transformers keeps expert matrices as [E, in, out]
        model.load_state_dict(weights, strict=True)
    return model


@contextmanager
def third_party() -> Iterator[None]:
    """Use one thread, because the tensors are tiny, and ignore their warnings (deprecations, the tracer's)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        f"| shape | mode | rows | {' | '.join(REFERENCES)} | same argmax |",
        f"|---|---|---|{'---|' * len(REFERENCES)}---|",
    ]
    for row in rows:
        errors = " | ".join(f"{error:.1e}" for error in row.errors)
        lines.append(f"| {row.shape} | {row.mode} | {row.logits} | {errors} | {'yes' if row.same_argmax else 'NO'} |")
    return "\n".join(lines)


def main() -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    rows: list[Row] = []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as directory:
            rows += measure(shape, Path(directory))
    print(table(rows))


if __name__ == "__main__":
    main()
