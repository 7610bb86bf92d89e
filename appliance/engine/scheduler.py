"""Decides, step by step, which conversations the model works on: continuous batching with fair admission.

Turns wait in one queue per user, and users take turns; a turn that gets a slot is prefilled in chunks, then decoded
together with all others. Each step is at most one chunk of one prompt followed by one token for every decoding turn, so
that a long prompt delays nobody's stream by more than a chunk; while streams wait, chunks are kept so small that a step
is done within the longest pause allowed. Turns join and leave between steps.

``submit``, ``cancel`` and ``load`` may be called from any thread; ``step`` and ``stop`` belong to the model's thread.
Events go to the turn's sink, called from either; a sink must not block.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from appliance.engine.harmony import Vocabulary
from appliance.engine.harmony_parser import HarmonyParser
from appliance.engine.kv_cache import Checkpoint, DecodeRun, Prefix, Slot, SlotTable, Windows, plan_decode
from appliance.engine.model import ModelError
from appliance.engine.protocol import Done, EngineEvent, Failed, FinishReason, Started, TurnRequest
from appliance.engine.sampling import TopLogits, new_generator, sample

_PAUSE_SHARE = 0.9  # of the longest pause that a step is meant to take; the rest is for what cannot be foreseen
_LARGEST_SHARED_CHUNK = 512  # tokens
_LEAST_CHUNK_S = 1e-4  # of which a clock can be trusted
_TURN_S_BEFORE_FIRST = 10.0  # assumed length of a turn until one has finished
_log = logging.getLogger("appliance.engine")

Sink = Callable[[EngineEvent], None]


class Model(Protocol):
    """What the scheduler needs of engine/model.py's OnnxModel; see there."""

    slots: int
    capacity: int
    decode_widths: tuple[int, ...]
    windows: Windows | None
    lends: bool

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range: ...

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None: ...

    def decode(self, run: DecodeRun) -> list[TopLogits]: ...

    def set_aside(self, slot: int, first: int, end: int) -> Checkpoint: ...

    def take_over(self, source: int, target: int, length: int, checkpoint: Checkpoint | None) -> None: ...


@dataclass(frozen=True)
class Load:
    """How busy the scheduler is."""

    active: int
    queued: int


@dataclass(eq=False)
class Turn:
    """One request on its way through the engine. Fields below ``public`` belong to the scheduler.

    ``public``: so many tokens at the beginning of the prompt are the appliance's own, the same for everyone.
    """

    request: TurnRequest
    prompt: list[int]
    sink: Sink
    public: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    submitted_at: float = 0.0
    run: _Run | None = None


@dataclass
class _Run:
    """What a turn with a slot needs."""

    slot: Slot
    parser: HarmonyParser
    rng: np.random.Generator
    limit: int  # completion tokens
    cached: int
    started_at: float
    decoding_since: float | None = None
    sampled: list[int] = field(default_factory=list)


class Scheduler:
    """The turns of one model."""

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        *,
        queue_limit: int,
        longest_pause_s: float = 0.3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            queue_limit: turns that may wait for a slot; beyond it a turn fails as overloaded.
            longest_pause_s: that a stream may stand still while another's prompt is read, if the model can be given so
                little at a time.
        """
        self.context_tokens = model.capacity
        self._model = model
        self._vocabulary = vocabulary
        self._queue_limit = queue_limit
        self._clock = clock
        self._slots = SlotTable(model.slots, model.capacity, model.windows)
        self._active: list[Turn] = []  # model's thread only; those being prefilled take turns
        self._turn_s = _TURN_S_BEFORE_FIRST
        self._longest_pause_s = longest_pause_s
        self._decode_s = 0.0  # what the last decode step took, sampling included
        self._shared: tuple[int, float] | None = None  # tokens of the last chunk read while streams waited, and seconds
        self._work = threading.Condition()
        self._waiting: OrderedDict[str, deque[Turn]] = OrderedDict()  # by user; held under _work, as are the next two
        self._load = Load(0, 0)
        self._stopped = False

    # Any thread

    def submit(self, turn: Turn) -> None:
        """Queue a turn, or fail it at once if it cannot fit or too many wait."""
        if len(turn.prompt) >= self.context_tokens:
            turn.sink(context_exceeded(f"{len(turn.prompt):,} tokens", self.context_tokens))
            return
        with self._work:
            refusal = self._refusal()
            if refusal is None:
                turn.submitted_at = self._clock()
                self._waiting.setdefault(turn.request.user, deque()).append(turn)
                self._count()
                self._work.notify()
        if refusal is not None:
            turn.sink(refusal)

    def cancel(self, turn: Turn) -> None:
        """Give up a turn; its slot is free after the step in progress. No further event is sent."""
        turn.cancelled.set()
        with self._work:
            self._work.notify()

    def load(self) -> Load:
        with self._work:
            return self._load

    def wait_for_work(self, timeout_s: float) -> None:
        """Block until there may be something to do."""
        with self._work:
            if not self._load.active and not self._load.queued and not self._stopped:
                self._work.wait(timeout_s)

    # The model's thread

    def step(self) -> bool:
        """Do one step; False if there was nothing to do."""
        self._drop_cancelled()
        self._admit()
        prefilling = next((turn for turn in self._active if _run(turn).decoding_since is None), None)
        # Whose prompt is read to its end joins the next step: this one is meant to take no longer than the last ones.
        decoding = [turn for turn in self._active if _run(turn).decoding_since is not None]
        if prefilling is not None:
            self._guarded([prefilling], lambda: self._prefill(prefilling))
        if decoding:
            started = self._clock()
            self._guarded(decoding, lambda: self._decode(decoding))
            self._decode_s = self._clock() - started
        return prefilling is not None or bool(decoding)

    def stop(self, failure: Failed) -> None:
        """End every turn with ``failure`` and refuse new ones with it."""
        with self._work:
            self._stopped = True
            waiting = [turn for queue in self._waiting.values() for turn in queue]
            self._waiting.clear()
        for turn in self._active[:] + waiting:
            turn.sink(failure)
        for turn in self._active[:]:
            self._leave(turn)

    def _admit(self) -> None:
        """Give free slots to waiting turns, one user after the other."""
        while self._slots.free and (turn := self._next_waiting()) is not None:
            now = self._clock()
            request = turn.request
            acquired = self._slots.acquire(request.user, turn.prompt)
            if acquired is None:
                raise RuntimeError("internal error: a free slot could not be acquired")
            slot, prefix = acquired
            self._take_over(slot, prefix)
            room = self._model.capacity - len(turn.prompt)
            turn.run = _Run(
                slot=slot,
                parser=HarmonyParser(
                    self._vocabulary,
                    turn_id=request.id,
                    functions=[tool.name for tool in request.tools],
                    stop=request.stop,
                ),
                rng=new_generator(request.seed),
                limit=room if request.max_tokens is None else min(room, request.max_tokens),
                cached=slot.length,
                started_at=now,
            )
            self._active.append(turn)
            turn.sink(Started(prompt_tokens=len(turn.prompt), queued_s=now - turn.submitted_at))
        with self._work:
            self._count()

    def _next_waiting(self) -> Turn | None:
        with self._work:
            if not self._waiting:
                return None
            user, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[user] = queue  # to the end of the round
            return turn

    def _drop_cancelled(self) -> None:
        for turn in [turn for turn in self._active if turn.cancelled.is_set()]:
            self._leave(turn)
        with self._work:
            for user, queue in list(self._waiting.items()):
                kept = deque(turn for turn in queue if not turn.cancelled.is_set())
                if kept:
                    self._waiting[user] = kept
                else:
                    del self._waiting[user]
            self._count()

    def _prefill(self, turn: Turn) -> None:
        run = _run(turn)
        if self._model.lends and (lent := self._slots.lend(run.slot, turn.prompt, turn.public)) is not None:
            run.cached += lent.length - run.slot.length
            self._take_over(run.slot, lent)
        shared = any(_run(other).decoding_since is not None for other in self._active)
        most = self._fitting_chunk() if shared else None
        chunk = self._model.plan_chunk(run.slot.length, len(turn.prompt), most)
        tokens, last = turn.prompt[chunk.start : chunk.stop], chunk.stop == len(turn.prompt)
        started = self._clock()
        top = self._model.prefill(run.slot.index, tokens, chunk.start, want_logits=last)
        if len(tokens) == most:  # the end of a prompt, being shorter, says little
            self._shared = len(tokens), self._clock() - started
        self._slots.append(run.slot, chunk.start, tokens)
        for first, end in self._slots.to_set_aside(run.slot, turn.public):
            self._slots.note_checkpoint(run.slot, self._model.set_aside(run.slot.index, first, end))
        if top is not None:
            run.decoding_since = self._clock()
            self._take(turn, top)
        else:  # the next step works on the next prompt
            self._active.remove(turn)
            self._active.append(turn)

    def _take_over(self, slot: Slot, prefix: Prefix) -> None:
        """Make a slot hold a prefix, and nothing else."""
        if prefix.source is not slot or prefix.checkpoint is not None:
            self._model.take_over(prefix.source.index, slot.index, prefix.length, prefix.checkpoint)
        self._slots.keep(slot, prefix)

    def _fitting_chunk(self) -> int:
        """Tokens that can be read beside the next decode step without too long a pause, as far as is known.

        More tokens at a time take less each, and fewer save less than their share: the number rises from one towards
        what fits without going beyond, and falls faster than time is short.
        """
        if self._shared is None:
            return 1
        tokens, seconds = self._shared
        budget_s = max(0.0, _PAUSE_SHARE * self._longest_pause_s - self._decode_s)
        ratio = budget_s / max(seconds, _LEAST_CHUNK_S)
        return min(max(1, int(tokens * ratio * min(1.0, ratio))), _LARGEST_SHARED_CHUNK)

    def _decode(self, turns: Sequence[Turn]) -> None:
        by_slot = {_run(turn).slot.index: turn for turn in turns}
        appended = {index: _run(turn).sampled[-1] for index, turn in by_slot.items()}
        plan = plan_decode(self._slots.slots, appended, self._model.decode_widths)
        results = self._model.decode(plan)
        for row, top in zip(plan.rows, results, strict=True):
            turn = by_slot[plan.first + row]
            slot = _run(turn).slot
            self._slots.append(slot, slot.length, [plan.tokens[row]])
            self._take(turn, top)

    def _take(self, turn: Turn, top: TopLogits) -> None:
        """Sample a turn's next token and send what it makes known."""
        run, request = _run(turn), turn.request
        token = sample(top, temperature=request.temperature, top_p=request.top_p, rng=run.rng)
        run.sampled.append(token)
        for delta in run.parser.push(token):
            turn.sink(delta)
        if run.parser.finished is not None or len(run.sampled) >= run.limit:
            for delta in run.parser.flush():
                turn.sink(delta)
            self._finish(turn, run.parser.finished or "length")

    def _finish(self, turn: Turn, reason: FinishReason) -> None:
        run, now = _run(turn), self._clock()
        decoding_since = now if run.decoding_since is None else run.decoding_since
        self._turn_s += (now - run.started_at - self._turn_s) / 8
        self._leave(turn)
        turn.sink(
            Done(
                finish_reason=reason,
                prompt_tokens=len(turn.prompt),
                completion_tokens=len(run.sampled),
                reasoning_tokens=run.parser.reasoning_tokens,
                cached_tokens=run.cached,
                queued_s=run.started_at - turn.submitted_at,
                prefill_s=decoding_since - run.started_at,
                decode_s=now - decoding_since,
                token_ids=tuple(run.sampled),
                malformed=run.parser.malformed,
            )
        )

    def _guarded(self, turns: Sequence[Turn], work: Callable[[], None]) -> None:
        """Run one part of a step; if the model fails, so do its turns, and what their slots hold is forgotten."""
        try:
            work()
        except ModelError as exc:
            _log.error("%s", exc)
            for turn in turns:
                if turn in self._active:
                    self._leave(turn, keep=False)
                    turn.sink(Failed("engine_failed", "The model could not compute this answer."))

    def _leave(self, turn: Turn, *, keep: bool = True) -> None:
        self._active.remove(turn)
        self._slots.release(_run(turn).slot, keep=keep)
        with self._work:
            self._count()

    def _count(self) -> None:
        """Publish the load; called under ``_work``."""
        self._load = Load(len(self._active), sum(len(queue) for queue in self._waiting.values()))

    def _refusal(self) -> Failed | None:
        """Why no further turn is taken, if so; called under ``_work``."""
        if self._stopped:
            return STOPPED
        free = self._model.slots - self._load.active
        if self._load.queued < self._queue_limit + free:
            return None
        wait_s = self._turn_s * (self._load.queued + 1) / self._model.slots
        return Failed(
            "overloaded",
            f"The model is busy and {self._load.queued} others are waiting. Please try again shortly.",
            retry_after_s=round(max(1.0, wait_s), 1),
        )


def context_exceeded(length: str, context_tokens: int) -> Failed:
    """The failure of a conversation of ``length`` (a number and its unit) that does not fit."""
    return Failed(
        "context_exceeded",
        f"The conversation has {length}; this model holds {context_tokens:,} tokens, the answer included. "
        "Please start a new conversation or shorten this one.",
    )


STOPPED = Failed("engine_stopped", "The model was stopped before the answer was complete. Please try again.")


def _run(turn: Turn) -> _Run:
    if turn.run is None:
        raise RuntimeError("internal error: the turn has no slot")
    return turn.run
