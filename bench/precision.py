"""What the native operators' rounding changes: the logits of a random model, and what the demo model expects.

    python -m bench.precision        prints the table of docs/performance.md

Logits are compared with the tests' float64 reference, row by row: max|ours - theirs| / max|theirs|. The random model
routes every token to all of its experts, because a choice between two experts that differ by less than a rounding would
count as an error of the whole row. The demo model is given the right answers of its examination, token by token.
Printed are their perplexity and the mean divergence (Kullback-Leibler, nats per token) of what the model expects next
from what it expects on the portable path with dense weights as published and a cache of float32, which rounds nothing
but float32 sums.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import get_args

import click
import numpy as np
from numpy.typing import NDArray

from appliance.config import CacheItem
from appliance.engine.harmony import Vocabulary, load_vocabulary, render_prompt
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.operators import load_operators
from appliance.engine.sampling import TopLogits
from appliance.engine.steps import Append
from bench.demo_model_eval import turn_request
from bundler.checkpoint import open_checkpoint
from bundler.demo_model.corpus import load_corpus
from bundler.demo_model.dialogues import Dialogue
from bundler.demo_model.examination import held_out_dialogues
from bundler.demo_model.expand import expand_demo_checkpoint
from bundler.demo_model.prompts import encode_answer
from bundler.export import export_graph
from bundler.graph.cpu import DenseKind
from bundler.random_checkpoint import random_config, write_random_checkpoint
from bundler.tokenizer import published_vocabulary
from tests.reference.gpt_oss import ReferenceModel

_LENGTH, _DECODED = 192, 64  # tokens given to the random model; how many of them, the last ones, are decoded
_DIALOGUES = 40
_KINDS: tuple[DenseKind, ...] = ("bf16", "int8")
_ITEMS: tuple[CacheItem, ...] = get_args(CacheItem)


def logit_errors(model: OnnxModel, ids: list[int], expected: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> str:
    """The worst row of a prompt's last tokens, prefilled and decoded."""
    prompt = len(ids) - _DECODED
    errors: dict[str, list[float]] = {"prompt": [], "decode": []}
    for length in range(prompt - _DECODED, prompt):  # each prompt in one step, which gives its last row
        top = model.prefill(0, ids[:length], 0, want_logits=True)
        errors["prompt"].append(_error(top, expected[length - 1]))
    model.prefill(0, ids[:prompt], 0, want_logits=False)
    for place in range(prompt, len(ids)):
        (top,) = model.decode([Append(0, ids[place], place)])
        errors["decode"].append(_error(top, expected[place]))
    return " | ".join(f"{max(values):.1e}" for values in errors.values())


def _error(top: TopLogits | None, expected: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    if top is None:
        raise RuntimeError("internal error: the last token's logits were wanted")
    return float(np.abs(top.all_logits() - expected).max() / np.abs(expected).max())


def expectations(
    model: OnnxModel, vocabulary: Vocabulary, dialogues: list[Dialogue]
) -> Iterator[tuple[int, TopLogits]]:
    """Each token of the right answers, and the logits there, which are valid until the next token is asked for."""
    for dialogue in dialogues:
        request = turn_request(dialogue, seed=0, temperature=1.0)
        prompt = render_prompt(vocabulary, request, today=date.fromisoformat(dialogue.date))
        answer = encode_answer(dialogue.answer)
        top = model.prefill_prompt(0, prompt)
        for place, token in enumerate(answer):
            yield token, top
            (top,) = model.decode([Append(0, token, len(prompt) + place)])


@dataclass(frozen=True)
class Expected:
    """The likeliest tokens and the logarithms of their probabilities."""

    ids: NDArray[np.int64]
    logs: NDArray[np.float64]


def log_probabilities(top: TopLogits, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = top.all_logits()[ids].astype(np.float64) - top.logsumexp
    return logs


def perplexity_and_divergence(expected: list[Expected], found: Iterator[tuple[int, TopLogits]]) -> tuple[float, float]:
    """exp of the mean negative log probability of the right tokens, and the mean divergence from ``expected``."""
    costs, divergences = [], []
    for (token, top), known in zip(found, expected, strict=True):
        costs.append(-log_probabilities(top, np.array([token]))[0])
        divergences.append(float(np.sum(np.exp(known.logs) * (known.logs - log_probabilities(top, known.ids)))))
    return float(np.exp(np.mean(costs))), float(np.mean(divergences))


@click.command()
@click.option("--path", "paths", multiple=True, help="Path of the operators; default: all that this processor has.")
def main(paths: tuple[str, ...]) -> None:
    """Measure paths with both kinds of dense weights and both types of cache; print a line of Markdown for each."""
    operators = load_operators()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    config = random_config(
        layers=6, hidden=512, intermediate=512, experts=4, experts_per_token=4,
        heads=8, kv_heads=2, head_dim=64, vocab=4096,
    )  # fmt: skip
    dialogues = held_out_dialogues(load_corpus())
    dialogues = dialogues[:: len(dialogues) // _DIALOGUES]
    columns = ("path", "dense", "cache", "logits, prompt", "logits, decode", "perplexity", "divergence")
    click.echo(f"| {' | '.join(columns)} |\n|---|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_random_checkpoint(directory / "random", config, seed=1)
        expand_demo_checkpoint(directory / "demo")
        (directory / "o200k_base.tiktoken").write_bytes(published_vocabulary())
        vocabulary = load_vocabulary(directory / "o200k_base.tiktoken")
        ids = [int(i) for i in np.random.default_rng(2).integers(0, 4096, _LENGTH)]
        expected = ReferenceModel(directory / "random").logits(np.array(ids))
        graphs = {
            (which, dense): export_graph(
                open_checkpoint(directory / which), directory / f"{which}-{dense}", accelerator="cpu", dense=dense
            ).model
            for which in ("random", "demo")
            for dense in _KINDS
        }

        def load(which: str, dense: DenseKind, cache: CacheItem, path: str) -> OnnxModel:
            operators.use_path(path)
            return load_model(graphs[which, dense], accelerator="cpu", slots=1, context_tokens=1024, cache=cache)

        exact = expectations(load("demo", "bf16", "float32", "portable"), vocabulary, dialogues)
        expectation = [Expected(top.ids, log_probabilities(top, top.ids)) for _, top in exact]
        for dense, cache, path in product(_KINDS, _ITEMS, paths or operators.paths()):
            errors = logit_errors(load("random", dense, cache, path), ids, expected)
            found = expectations(load("demo", dense, cache, path), vocabulary, dialogues)
            perplexity, divergence = perplexity_and_divergence(expectation, found)
            click.echo(f"| {path} | {dense} | {cache} | {errors} | {perplexity:.4f} | {divergence:.1e} |")


if __name__ == "__main__":
    main()
