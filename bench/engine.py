"""How fast the engine is with a random model of a named shape, and how near to what memory allows.

    python -m bench.engine --shape 20b --json

The command writes the model once (``--work``), measures the engine itself, then the appliance through its HTTP API.
Beside every decode figure stands its bound: what this machine reads per second, over the bytes that a step must read.
``--accelerator cuda`` measures the same on a GPU. With ``--json`` the last line is one object.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from appliance.engine.harmony import Vocabulary
from appliance.engine.host import physical_cores
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.device import query_device
from appliance.engine.model.load import load_model
from appliance.engine.operators import load_operators
from appliance.engine.scheduler import Scheduler
from appliance.engine.steps import Append
from appliance.turns.events import Done, EngineEvent
from appliance.turns.request import Message, TurnRequest
from bench.machine import MemoryBound, device_copy_gb_s, wait_for_quiet
from bench.memory_probe import MemoryProbe
from bench.random_model import SHAPES, experts_drawn, packed_in, prepare, site_of
from bundler.graph.cpu import DenseKind
from bundler.graph.plan import Accelerator

_QUIET_LIMIT_S = 120.0
_CONTEXT_TOKENS = 8192
_SLOTS = {"cpu": 8, "cuda": 32}


def step_bytes(config: dict[str, int], dense: DenseKind, accelerator: str, sequences: int) -> float:
    """Bytes of weights that one decode step reads: attention, head and the expected number of experts, as packed."""
    layers, experts, hidden, inner = (config[name] for name in ("layers", "experts", "hidden", "intermediate"))
    drawn = experts_drawn(experts, config["experts_per_token"], sequences)
    expert_bytes = 3 * hidden * inner * 17 / 32  # 32 codes of 4 bits and one scale
    width = (config["heads"] + 2 * config["kv_heads"]) * config["head_dim"]
    attention = width * hidden + config["heads"] * config["head_dim"] * hidden
    item = 34 / 32 if accelerator == "cpu" and dense == "int8" else 2
    return layers * (drawn * expert_bytes + attention * item) + config["vocab"] * hidden * item


class Bench:
    """One loaded model and its figures."""

    def __init__(self, model: OnnxModel, bytes_of: Callable[[int], float], memory: MemoryBound) -> None:
        self.model = model
        self.bytes_of = bytes_of
        self.memory = memory
        self.rng = np.random.default_rng(7)
        self.figures: dict[str, float] = {}

    def tokens(self, count: int) -> list[int]:
        return [int(token) for token in self.rng.integers(0, self.model.shape.vocab, count)]

    def prefill(self, slot: int, length: int) -> float:
        """Prefill a random prompt; the seconds that it took."""
        ids = self.tokens(length)
        started = time.perf_counter()
        self.model.prefill_prompt(slot, ids)
        return time.perf_counter() - started

    def decode(self, name: str, sequences: int, depth: int) -> None:
        """Decode random tokens in so many slots that hold ``depth`` tokens. The figure is that of all slots together,
        with its share of what memory allowed just before or after."""

        def step_s(step: int) -> float:
            appends = [Append(slot, token, depth + step) for slot, token in enumerate(self.tokens(sequences))]
            started = time.perf_counter()
            self.model.decode(appends)
            return time.perf_counter() - started

        best = self.memory.decoded(sequences, self.bytes_of(sequences), step_s)
        self.say(name, best.tok_s, f"tok/s, {best.share:.0%} of what memory allowed then")
        self.figures[name.replace("_tok_s", "_share")] = round(best.share, 3)

    def prefill_rate(self, name: str, length: int) -> None:
        """Prefill a prompt twice; the better figure counts."""
        self.say(name, length / min(self.prefill(0, length) for _ in range(2)), "tok/s")

    def say(self, name: str, figure: float, unit: str) -> None:
        self.figures[name] = round(figure, 3)
        click.echo(f"{name:22}{figure:12.2f} {unit}")


def longest_wait_s(model: OnnxModel, vocabulary: Vocabulary) -> float:
    """The longest step of a stream while a prompt of 400 tokens is prefilled beside it, through the scheduler."""
    scheduler = Scheduler(model, vocabulary, queue_limit=2)
    rng = np.random.default_rng(11)
    events: dict[str, list[EngineEvent]] = {"stream": [], "prompt": []}
    for user, length, answer in (("stream", 32, 2000), ("prompt", 400, 1)):
        # Temperature 0: a random model's logits are so flat that sampling would need all of them at every step.
        messages = (Message("user", "x"),)
        request = TurnRequest(id=user, user=user, messages=messages, seed=1, max_tokens=answer, temperature=0.0)
        ids = [int(token) for token in rng.integers(0, 190_000, length)]
        scheduler.submit(Job(request, ids, events[user].append))
        scheduler.step()
    longest = 0.0
    while not isinstance(events["prompt"][-1], Done):
        started = time.perf_counter()
        scheduler.step()
        longest = max(longest, time.perf_counter() - started)
    if scheduler.load().active != 1:
        raise RuntimeError("the stream ended before the prompt was prefilled; try again")
    return longest


def follow_up_s(model: OnnxModel, vocabulary: Vocabulary) -> float:
    """The time to the first token of a one-line follow-up of 3,000 tokens, through the scheduler; the best of three."""
    scheduler, rng = Scheduler(model, vocabulary, queue_limit=2), np.random.default_rng(13)
    prompt, best = [int(token) for token in rng.integers(0, 190_000, 3000)], math.inf
    for number in range(4):  # the first computes the conversation
        events: list[EngineEvent] = []
        request = TurnRequest(
            id=f"{number}", user="ann", messages=(Message("user", "x"),), seed=1, max_tokens=16, temperature=0.0
        )
        started, before = time.perf_counter(), scheduler.generated
        scheduler.submit(Job(request, prompt, events.append))
        while scheduler.generated == before:
            scheduler.step()
        if number:
            best = min(best, time.perf_counter() - started)
        while scheduler.step():
            pass
        done = events[-1]
        if not isinstance(done, Done):
            raise RuntimeError(f"the conversation's answer ended otherwise: {done}")
        prompt = [*prompt, *done.token_ids, *(int(token) for token in rng.integers(0, 190_000, 15))]
    return best


def measure_model(bench: Bench, sequences: tuple[int, ...]) -> None:
    for slot in range(bench.model.slots):
        bench.prefill(slot, 32)
    bench.decode("decode_tok_s", 1, 32)
    for count in sequences:
        bench.decode(f"decode_x{count}_tok_s", count, 32)
    bench.prefill_rate("prefill_512_tok_s", 512)
    bench.prefill_rate("prefill_4096_tok_s", 4096)
    bench.decode("decode_4096_tok_s", 1, 4096)
    vocabulary = Vocabulary(load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS))
    wait_s = longest_wait_s(bench.model, vocabulary)
    bench.say("longest_wait_s", wait_s, "s that a stream waits while another prompt is prefilled")
    again_s = follow_up_s(bench.model, vocabulary)
    bench.say("follow_up_s", again_s, "s to the first token of a one-line follow-up of 3,000 tokens")


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="20b", show_default=True)
@click.option("--accelerator", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--dense", type=click.Choice(["int8", "bf16"]), default="int8", show_default=True, help="On a CPU only.")
@click.option("--path", help="Path of the operators; default: the best that the processor has.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
@click.option("--http/--no-http", default=True, help="Also measure the appliance, through its API.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(
    shape: str, accelerator: Accelerator, dense: DenseKind, path: str | None, work: Path, http: bool, as_json: bool
) -> None:  # fmt: skip
    """Measure the engine, as the module's docstring says."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    work.mkdir(parents=True, exist_ok=True)
    graph = prepare(work, shape, accelerator, dense)
    quiet = wait_for_quiet(_QUIET_LIMIT_S)
    if not quiet:
        click.echo("The machine is NOT quiet: the figures below are lower than they could be.")
    if path is not None:
        load_operators().use_path(path)
    config = SHAPES[shape]
    free_bytes = query_device().free_bytes if accelerator == "cuda" else 0
    site = site_of(work, graph)
    packed_dir = packed_in(site) if accelerator == "cpu" else None
    load = partial(
        load_model, graph, accelerator=accelerator, slots=_SLOTS[accelerator], context_tokens=_CONTEXT_TOKENS,
        packed_dir=packed_dir,
    )  # fmt: skip
    if packed_dir is not None and not packed_dir.exists():
        load()  # packs
    started = time.perf_counter()
    model = load()
    memory = MemoryBound(_bandwidth(accelerator))
    bench = Bench(model, lambda count: step_bytes(config, dense, accelerator, count), memory)
    bench.say("load_s", time.perf_counter() - started, "s to load the model")
    measure_model(bench, (4, 8) if accelerator == "cpu" else (4, 8, 32))
    if accelerator == "cuda":
        held = (free_bytes - query_device().free_bytes) / 2**30
        cache = model.slots * model.shape.cache.slot_bytes(model.capacity) / 2**30
        bench.say("gpu_memory_gib", held, f"GiB, {cache:.2f} of them for {model.slots} x {model.capacity:,} tokens")
    del model, bench.model  # the appliance loads a model of its own
    figures: dict[str, Any] = {"shape": shape, "accelerator": accelerator, "dense": dense, "quiet": quiet}
    figures |= {"threads": physical_cores(), "path": path or _best_path(accelerator)}
    if http:
        from bench.served import measure_served, prepare_site  # a machine with a GPU may lack what the web needs

        key = prepare_site(site, graph, work / f"{shape}-config.json", accelerator, dense, _CONTEXT_TOKENS)
        for name, figure, unit in measure_served(site, key):
            bench.say(name, figure, unit)
    bench.say("read_gb_s", memory.most_gb_s, "GB/s of memory at most")
    if as_json:
        click.echo(json.dumps(figures | bench.figures))


def _bandwidth(accelerator: str) -> Callable[[], float]:
    """Measures memory at each call; on a GPU, which no other program uses, only once."""
    if accelerator == "cpu":
        return MemoryProbe(physical_cores()).gb_s
    return cache(device_copy_gb_s)


def _best_path(accelerator: str) -> str:
    return load_operators().paths()[0] if accelerator == "cpu" else "cuda"


if __name__ == "__main__":
    sys.exit(main())
