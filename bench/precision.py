"""How far the native operators' roundings carry: logits of a random model, and perplexity of the demo model.

    python -m bench.precision        prints the table of docs/performance.md

Logits are compared with the tests' float64 reference, row by row: max|ours - theirs| / max|theirs|. Every token of
the random model goes to all of its experts: a choice between two that lie closer than a rounding would be counted as an
error of the whole row. Perplexity is of the right answers of the demo model's examination.
"""

from __future__ import annotations

import os
import tempfile
from datetime import date
from pathlib import Path

import click
import numpy as np

from appliance.engine.harmony import Vocabulary, load_vocabulary, render_prompt
from appliance.engine.kernels import load_kernels
from appliance.engine.kv_cache import Append
from appliance.engine.model import OnnxModel, load_model
from appliance.engine.sampling import TopLogits
from bench.demo_model_eval import turn_request
from bundler.checkpoint import open_checkpoint
from bundler.demo_model.corpus import load_corpus
from bundler.demo_model.dialogues import Dialogue
from bundler.demo_model.examination import held_out_dialogues
from bundler.demo_model.expand import expand_demo_checkpoint
from bundler.demo_model.prompts import encode_answer
from bundler.export import export_graph
from bundler.graph_builder import DenseKind
from bundler.random_checkpoint import random_config, write_random_checkpoint
from bundler.tokenizer import load_vocabulary as vocabulary_file
from tests.reference.gpt_oss import ReferenceModel

_LENGTH, _DECODED = 192, 64  # tokens of the random model, the last of them decoded
_DIALOGUES = 40
_KINDS: tuple[DenseKind, ...] = ("bf16", "int8")


def logit_errors(model: OnnxModel, ids: list[int], expected: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> str:
    """Worst row of a prompt's last tokens, whole and one by one."""
    prompt = len(ids) - _DECODED
    errors: dict[str, list[float]] = {"prompt": [], "decode": []}
    for length in range(prompt - _DECODED, prompt):  # each prompt in one step, so that its last row is seen
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


def perplexity(model: OnnxModel, vocabulary: Vocabulary, dialogues: list[Dialogue]) -> float:
    """exp of the mean negative log probability of the right answers' tokens, each after the right ones before it."""
    total, count = 0.0, 0
    for dialogue in dialogues:
        request = turn_request(dialogue, seed=0, temperature=1.0)
        prompt = render_prompt(vocabulary, request, today=date.fromisoformat(dialogue.date))
        answer = encode_answer(dialogue.answer)
        top = model.prefill(0, prompt, 0, want_logits=True)
        if top is None:
            raise RuntimeError("internal error: the last token's logits were wanted")
        for place, token in enumerate(answer):
            total += top.logsumexp - float(top.all_logits()[token])
            count += 1
            (top,) = model.decode([Append(0, token, len(prompt) + place)])
    return float(np.exp(total / count))


@click.command()
def main() -> None:
    """Measure every path of this processor with both kinds of dense weights; a line of Markdown each."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    config = random_config(
        layers=6, hidden=512, intermediate=512, experts=4, experts_per_token=4,
        heads=8, kv_heads=2, head_dim=64, vocab=4096,
    )  # fmt: skip
    dialogues = held_out_dialogues(load_corpus())
    dialogues = dialogues[:: len(dialogues) // _DIALOGUES]
    click.echo("| path | dense | logits, prompt | logits, decode | perplexity |\n|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_random_checkpoint(directory / "random", config, seed=1)
        expand_demo_checkpoint(directory / "demo")
        (directory / "o200k_base.tiktoken").write_bytes(vocabulary_file(directory / "demo"))
        vocabulary = load_vocabulary(directory / "o200k_base.tiktoken")
        ids = [int(i) for i in np.random.default_rng(2).integers(0, 4096, _LENGTH)]
        expected = ReferenceModel(directory / "random").logits(np.array(ids))
        for dense in _KINDS:
            graphs = {
                which: export_graph(
                    open_checkpoint(directory / which), directory / f"{which}-{dense}", accelerator="cpu", dense=dense
                ).model
                for which in ("random", "demo")
            }
            for path in load_kernels().paths():
                load_kernels().use_path(path)
                models = {
                    which: load_model(graph, accelerator="cpu", slots=1, context_tokens=1024)
                    for which, graph in graphs.items()
                }
                errors = logit_errors(models["random"], ids, expected)
                figure = perplexity(models["demo"], vocabulary, dialogues)
                click.echo(f"| {path} | {dense} | {errors} | {figure:.4f} |")


if __name__ == "__main__":
    main()
