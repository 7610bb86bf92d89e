"""The longest conversation that gpt-oss has, in the real engine: `python -m bench.long_prompt`.

A random model with one layer of each kind is given 131,071 tokens chunk by chunk, and the last is decoded. Logits are
compared with the tests' float64 reference at sampled positions: max|ours - theirs| / max|theirs|. Dense weights are as
published, and every token is routed to all experts (bench/precision.py says why). Then the scheduler prefills the same
prompt beside a stream, and printed is the longest that the stream stood still.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from appliance.config import CacheItem, Config
from appliance.engine.cache_memory import CHUNK_TOKENS
from appliance.engine.harmony import Vocabulary
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.operators import load_operators
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import Scheduler
from appliance.engine.steps import Append
from appliance.turns.events import Done, EngineEvent
from appliance.turns.request import Message, TurnRequest
from bench.depth import ITEMS
from bundler.checkpoint import open_checkpoint
from bundler.export import export_graph
from bundler.random_checkpoint import random_config, write_random_checkpoint
from tests.reference.gpt_oss import ReferenceModel

_VOCAB = 201_088
_SHAPE = {
    "layers": 2, "hidden": 64, "intermediate": 64, "experts": 4, "experts_per_token": 4, "heads": 8, "kv_heads": 1,
    "head_dim": 32, "vocab": _VOCAB,
}  # fmt: skip
_SAMPLED = (256, 4096, 4352, 8192, 8448, 32_768, 65_536, 98_304, 130_816)  # where sampled chunks end
_STREAMED = 1 << 16  # tokens, more than a stream has time for


def sampled_rows(length: int) -> NDArray[np.int64]:
    """The positions that are compared: the ends of some chunks, and the last two."""
    return np.array([*(end - 1 for end in _SAMPLED if end < length - 1), length - 2, length - 1])


def found_logits(model: OnnxModel, ids: list[int], rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """The engine's logits after the tokens of ``rows``; the last token is decoded."""
    past, last = 0, len(ids) - 1
    while past < last:
        end = min(past + CHUNK_TOKENS["cpu"], last)
        top = model.prefill(0, ids[past:end], past, want_logits=end - 1 in rows)
        if top is not None:
            yield top.all_logits()
        past = end
    tops: list[TopLogits] = model.decode([Append(0, ids[last], last)])
    yield tops[0].all_logits()


def longest_wait_s(model: OnnxModel, vocabulary: Vocabulary, ids: list[int]) -> tuple[float, int, float]:
    """The longest step of a stream while the prompt is prefilled beside it, how many steps that took, and how long."""
    scheduler = Scheduler(model, vocabulary, queue_limit=2, longest_pause_s=Config.longest_pause_s)
    events: dict[str, list[EngineEvent]] = {"stream": [], "prompt": []}
    for user, prompt, answer in (("stream", ids[:32], _STREAMED), ("prompt", ids, 1)):
        request = TurnRequest(user, user, (Message("user", "x"),), seed=1, max_tokens=answer, temperature=0.0)
        scheduler.submit(Job(request, prompt, events[user].append))
        scheduler.step()
    took: list[float] = []
    while not isinstance(events["prompt"][-1], Done):
        started = time.perf_counter()
        scheduler.step()
        took.append(time.perf_counter() - started)
    if scheduler.load().active != 1:
        raise RuntimeError("the stream ended before the prompt was prefilled; try again")
    return max(took), len(took), sum(took)


@click.command()
@click.option("--length", type=click.IntRange(min=512), default=131_072, show_default=True)
@click.option("--cache", "items", type=click.Choice(ITEMS), multiple=True, default=ITEMS, show_default=True)
@click.option("--path", help="Path of the operators; default: the best that the processor has.")
@click.option("--stream/--no-stream", default=True, show_default=True, help="Also prefill beside a stream.")
def main(length: int, items: tuple[CacheItem, ...], path: str | None, stream: bool) -> None:
    """Prefill the longest prompt and compare, as the module's docstring says."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    load_operators().use_path(path or load_operators().paths()[0])
    ids = [int(token) for token in np.random.default_rng(4).integers(0, _VOCAB, length)]
    rows = sampled_rows(length)
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name, "checkpoint")
        write_random_checkpoint(checkpoint, random_config(**_SHAPE), seed=1)
        graph = export_graph(open_checkpoint(checkpoint), Path(name, "graph"), accelerator="cpu", dense="bf16").model
        expected = ReferenceModel(checkpoint).logits(np.array(ids), rows)
        for item in items:
            model = load_model(graph, accelerator="cpu", slots=2, context_tokens=length, cache=item)
            started = time.perf_counter()
            found = list(found_logits(model, ids, rows))
            click.echo(f"{model.arithmetic}: {length:,} tokens in {time.perf_counter() - started:.1f} s")
            for row, ours, theirs in zip(rows, found, expected, strict=True):
                click.echo(f"{row:10,}  {np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}")
            if stream:
                vocabulary = Vocabulary(load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS))
                wait_s, steps, all_s = longest_wait_s(model, vocabulary, ids[: length - 1])
                click.echo(
                    f"beside a stream: {steps:,} steps in {all_s:.1f} s; longest wait of the stream {wait_s:.2f} s"
                )


if __name__ == "__main__":
    main()
