"""What drafts gain and cost on a random model of a named shape (CPU): `python -m bench.drafts --shape 20b`.

Each task has a prompt and a dictated answer: the model computes every step as ever, and the answer's own tokens are
then drawn instead of what the random weights would say. So the time is that of the shape, and the acceptance that of
the text. A random model's tokens choose their experts independently of each other; those of trained models share more,
so their drafts cost less. Windows of 64 tokens alternate, with drafts and without; printed are the median of each, and
the median and range of the ratios of neighbouring windows.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from appliance.engine.harmony import Vocabulary
from appliance.engine.host import physical_cores
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import Scheduler
from appliance.engine.snapshots import Snapshot
from appliance.engine.steps import Append, Chunk
from appliance.turns.request import Message, TurnRequest
from bench.machine import wait_for_quiet
from bench.memory_probe import MemoryProbe
from bench.random_model import SHAPES, packed_in, prepare, site_of

_WINDOW_TOKENS = 64
_CONTEXT_TOKENS = 8192
_HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Task:
    """A prompt and the answer that is dictated."""

    name: str
    prompt: str
    answer: str


def tasks() -> list[Task]:
    """A file that is edited, fields that are extracted, and a text that repeats nothing of its prompt."""
    source = (_HERE / "appliance/engine/slots.py").read_text()
    edited = source.replace("find_prefix", "longest_prefix").replace("snapshot", "saved state")
    records, fields = "", []
    for n in range(60):
        ward, code = f"{'ABCDE'[n % 5]}{n % 7}", f"J{n * 37 % 90 + 10}.{n % 10}"
        doctor = ("Weber", "Okafor", "Lindqvist", "Moreau")[n % 4]
        records += f"Patient {n}: born {1940 + n * 7 % 60}, ward {ward}, pulse {60 + n * 13 % 50}, diagnosis {code}, "
        records += f"seen by Dr. {doctor}.\n"
        fields.append(f'{{"patient": {n}, "ward": "{ward}", "diagnosis": "{code}"}}')
    prose = [(_HERE / "docs" / name).read_text() for name in ("record.md", "accounts.md")]
    return [
        Task("edit a file", source, edited),
        Task("extract fields", records, "[" + ",\n".join(fields) + "]"),
        Task("write anew", *prose),
    ]


class Dictated:
    """One slot of a model, whose logits say the next token of the answer. Its steps are the real ones."""

    slots, mixes, copies, takes_drafts = 1, False, False, True

    def __init__(self, model: OnnxModel, slot: int, text: Sequence[int]) -> None:
        self._model, self._slot, self._text = model, slot, text
        self.capacity, self.windows, self.arithmetic = model.capacity, model.windows, model.arithmetic
        self.cache_bytes, self.slot_bytes = model.slot_bytes(model.capacity), model.slot_bytes
        self.steps = 0

    def give_back(self, slot: int, kept: int) -> None:
        raise RuntimeError("memory is never short for one stream")

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range:
        return self._model.plan_chunk(past, length, most)

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None:
        top = self._model.prefill(self._slot + slot, tokens, past, want_logits=want_logits)
        return None if top is None else self._said(top, past + len(tokens))

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        self.steps += 1
        tops = self._model.decode([replace(append, slot=self._slot + append.slot) for append in appends])
        return [self._said(top, append.length + 1) for top, append in zip(tops, appends, strict=True)]

    def step(self, appends: Sequence[Append], chunk: Chunk | None) -> tuple[list[TopLogits], TopLogits | None]:
        raise RuntimeError("one stream is measured alone")

    def take_snapshot(self, slot: int, first: int, end: int) -> Snapshot:
        return self._model.take_snapshot(self._slot + slot, first, end)

    def copy_prefix(self, source: int, target: int, length: int, snapshot: Snapshot | None) -> None:
        raise RuntimeError("there is nothing to copy")

    def _said(self, top: TopLogits, place: int) -> TopLogits:
        token = self._text[place] if place < len(self._text) else 0
        return replace(top, ids=np.array([token]), logits=top.logits[:1])


class Run:
    """One task's answer, decoded window by window in a slot of its own."""

    def __init__(self, model: OnnxModel, vocabulary: Vocabulary, task: Task, *, drafts: bool) -> None:
        prompt = vocabulary.encode(task.prompt)[: _CONTEXT_TOKENS // 2]
        answer = vocabulary.encode(task.answer)[: _CONTEXT_TOKENS - len(prompt) - 1]
        self.windows = (len(answer) - 1) // _WINDOW_TOKENS - 1
        self._model = Dictated(model, int(drafts), [*prompt, *answer])
        self.scheduler = Scheduler(self._model, vocabulary, queue_limit=1, drafts=drafts)
        request = TurnRequest(
            id="t", user="u", messages=(Message("user", "x"),), seed=1, temperature=0.0, max_tokens=len(answer)
        )
        self.scheduler.submit(Job(request, prompt, lambda _: None))
        while not self._model.steps:
            self.scheduler.step()

    @property
    def _tokens(self) -> int:
        return self._model.steps + self.scheduler.drafting.accepted

    def window_tok_s(self) -> float:
        """Decode the next tokens; how many a second."""
        before, started = self._tokens, time.perf_counter()
        while self._tokens - before < _WINDOW_TOKENS:
            self.scheduler.step()
        return (self._tokens - before) / (time.perf_counter() - started)


def measure(model: OnnxModel, vocabulary: Vocabulary, task: Task, most_windows: int) -> str:
    """A line of the table: one task, in turns with drafts and without."""
    plain, drafted = (Run(model, vocabulary, task, drafts=drafts) for drafts in (False, True))
    rates: list[tuple[float, float]] = []
    for window in range(min(plain.windows, most_windows)):
        if window % 2:
            ours = drafted.window_tok_s()
            rates.append((plain.window_tok_s(), ours))
        else:
            rates.append((plain.window_tok_s(), drafted.window_tok_s()))
    ratios = [with_drafts / without for without, with_drafts in rates]
    without, with_drafts = (statistics.median(column) for column in zip(*rates, strict=True))
    drafting = drafted.scheduler.drafting
    return (
        f"{task.name:16}{without:10.2f}{with_drafts:10.2f}{statistics.median(ratios):8.2f}"
        f"   {min(ratios):.2f} .. {max(ratios):.2f}   {drafting.accepted:,} of {drafting.drafted:,}"
    )


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="20b", show_default=True)
@click.option("--windows", type=click.IntRange(min=1), default=12, show_default=True, help="Of 64 tokens, each twice.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(shape: str, windows: int, work: Path) -> None:
    """Measure drafts, as the module's docstring says."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    work.mkdir(parents=True, exist_ok=True)
    graph = prepare(work, shape, "cpu", "int8")
    packed = packed_in(site_of(work, graph))
    if not wait_for_quiet(120):
        click.echo("The machine is NOT quiet: compare the ratios alone.")
    model = load_model(graph, accelerator="cpu", slots=2, context_tokens=_CONTEXT_TOKENS, packed_dir=packed)
    vocabulary = Vocabulary(load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS))
    click.echo(f"memory: {MemoryProbe(physical_cores()).gb_s():.1f} GB/s")
    click.echo(f"{'tok/s':16}{'without':>10}{'with':>10}{'ratio':>8}   range          accepted drafts")
    for task in tasks():
        click.echo(measure(model, vocabulary, task, windows))


if __name__ == "__main__":
    sys.exit(main())
