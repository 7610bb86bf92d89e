"""Sixteen sessions on the memory of four long conversations (CPU): `python -m bench.sessions --shape 20b-4`.

Every session is a person who reads an answer, asks again, and so on; so each has one turn at work or waiting at any
time. The same turns are run twice: with four slots that take the memory of a whole conversation each, as before
docs/decisions/0020, and with as many slots as can share that memory. Printed are the hit rate (the share of the tokens
of follow-ups that were not computed again), the time to the first token of first turns and of follow-ups, and the
longest step that a stream waited for. Weights and prompts are random, so answers are of a given length.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from appliance.engine.harmony import Vocabulary
from appliance.engine.host import physical_cores
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.scheduler import Scheduler
from appliance.turns.events import Done, EngineEvent, Failed
from appliance.turns.request import Message, TurnRequest
from bench.machine import wait_for_quiet
from bench.memory_probe import MemoryProbe
from bench.random_model import SHAPES, packed_in, prepare, site_of

_LONG = 4  # conversations whose memory is shared
_SLOTS = 64
_HEADINGS = (
    f"{'seconds':14}{'hits':>8}{'first 50%':>11}{'99%':>8}{'next 50%':>10}{'99%':>8}"
    f"{'longest step':>14}{'at once':>9}{'all':>9}"
)
_PUBLIC_TOKENS = 61  # what the appliance writes at the beginning of every prompt


@dataclass(frozen=True)
class Load:
    """What the sessions ask: tokens of the first prompt, of what each follow-up adds, and of each answer."""

    sessions: int
    turns: int
    first: int
    added: int
    answer: int


@dataclass
class Figures:
    """What the turns took."""

    first_s: list[float] = field(default_factory=list)  # times to the first token of first turns
    follow_up_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0  # of follow-ups
    cached_tokens: int = 0
    longest_step_s: float = 0.0
    most_at_once: int = 0
    took_s: float = 0.0

    def note(self, done: Done, turn: int) -> None:
        """A turn has ended."""
        (self.follow_up_s if turn else self.first_s).append(done.queued_s + done.prefill_s)
        if turn:
            self.prompt_tokens += done.prompt_tokens
            self.cached_tokens += done.cached_tokens


class Session:
    """One person's conversation. ``ask`` hands the next turn to the scheduler."""

    def __init__(self, number: int, load: Load, scheduler: Scheduler, figures: Figures) -> None:
        self._number, self._load, self._scheduler, self._figures = number, load, scheduler, figures
        self._rng = np.random.default_rng(number)
        self._turn = 0
        self._prompt = [int(token) for token in np.random.default_rng(7).integers(0, 200_000, _PUBLIC_TOKENS)]
        self.waits_for_answer = False

    @property
    def is_over(self) -> bool:
        return self._turn == self._load.turns

    def ask(self) -> None:
        """The next turn: everything that was said, and something new."""
        new = self._load.added if self._turn else self._load.first
        self._prompt += [int(token) for token in self._rng.integers(0, 200_000, new)]
        request = TurnRequest(
            id=f"{self._number}-{self._turn}", user=f"user {self._number}", messages=(Message("user", "x"),), seed=1,
            temperature=0.0, max_tokens=self._load.answer,
        )  # fmt: skip
        self.waits_for_answer = True
        self._scheduler.submit(Job(request, list(self._prompt), self._hear, _PUBLIC_TOKENS))

    def _hear(self, event: EngineEvent) -> None:
        if isinstance(event, Failed):
            raise RuntimeError(f"a turn failed: {event.message}")
        if isinstance(event, Done):
            self._figures.note(event, self._turn)
            self._prompt += event.token_ids
            self._turn += 1
            self.waits_for_answer = False


def run(model: OnnxModel, vocabulary: Vocabulary, load: Load, streams: int | None) -> Figures:
    """All turns of all sessions."""
    figures = Figures()
    scheduler = Scheduler(model, vocabulary, queue_limit=1000, streams=streams, drafts=False)
    sessions = [Session(number, load, scheduler, figures) for number in range(load.sessions)]
    begun = time.perf_counter()
    while any(not session.is_over for session in sessions):
        for session in sessions:
            if not session.is_over and not session.waits_for_answer:
                session.ask()
        streams = any(one.decoding_since is not None for one in scheduler._active)
        before = time.perf_counter()
        scheduler.step()
        if streams:
            figures.longest_step_s = max(figures.longest_step_s, time.perf_counter() - before)
        figures.most_at_once = max(figures.most_at_once, scheduler.load().active)
    figures.took_s = time.perf_counter() - begun
    return figures


def line(name: str, figures: Figures) -> str:
    """A line of the table."""
    first, following = figures.first_s, figures.follow_up_s
    return (
        f"{name:14}{figures.cached_tokens / max(1, figures.prompt_tokens):8.1%}"
        f"{_percentile(first, 50):11.2f}{_percentile(first, 99):8.2f}"
        f"{_percentile(following, 50):10.2f}{_percentile(following, 99):8.2f}"
        f"{figures.longest_step_s:14.2f}{figures.most_at_once:9}{figures.took_s:9.1f}"
    )


def _percentile(times: Sequence[float], share: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[share - 1] if len(times) > 1 else sum(times)


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="20b-4", show_default=True)
@click.option("--sessions", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--turns", type=click.IntRange(min=2), default=4, show_default=True)
@click.option("--first", type=click.IntRange(min=1), default=600, show_default=True, help="Tokens of a first prompt.")
@click.option("--added", type=click.IntRange(min=1), default=40, show_default=True, help="Tokens of each follow-up.")
@click.option("--answer", type=click.IntRange(min=1), default=32, show_default=True, help="Tokens of each answer.")
@click.option("--context", type=click.IntRange(min=1024), default=8192, show_default=True, help="Longest conversation.")
@click.option("--streams", type=click.IntRange(min=1), help="Answers at once where memory is shared; otherwise 4.")
@click.option("--only", type=click.Choice(["whole", "shared"]), help="Run one of the two alone.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(
    shape: str, sessions: int, turns: int, first: int, added: int, answer: int, context: int, streams: int | None,
    only: str | None, work: Path,
) -> None:  # fmt: skip
    """Run the sessions with whole slots and with shared memory, as the module's docstring says."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    work.mkdir(parents=True, exist_ok=True)
    graph = prepare(work, shape, "cpu", "int8")
    packed = packed_in(site_of(work, graph))
    if not wait_for_quiet(120):
        click.echo("The machine is NOT quiet: compare the hit rates alone.")
    vocabulary = Vocabulary(load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS))
    click.echo(f"memory: {MemoryProbe(physical_cores()).gb_s():.1f} GB/s")
    load = Load(sessions, turns, first, added, answer)
    whole = load_model(graph, accelerator="cpu", slots=_LONG, context_tokens=context, packed_dir=packed)
    shared = load_model(
        graph, accelerator="cpu", slots=_SLOTS, context_tokens=context, packed_dir=packed, cache_bytes=whole.cache_bytes
    )
    click.echo(f"{whole.cache_bytes / 1e9:.2f} GB for {_LONG} conversations of {context:,} tokens; {sessions} sessions")
    click.echo(_HEADINGS)
    if only in (None, "whole"):
        click.echo(line("whole slots", run(whole, vocabulary, load, None)))
    if only in (None, "shared"):
        click.echo(line("shared", run(shared, vocabulary, load, streams)))


if __name__ == "__main__":
    sys.exit(main())
