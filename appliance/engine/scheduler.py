"""Decides, step by step, which conversations the model works on: continuous batching with fair admission.

Turns wait in one queue per user, and users take turns. A user has so many places and no more, and whoever has no turn
waiting always finds one: nobody is turned away because of what another sends. A turn that gets a slot is prefilled in
chunks, then decoded together with all others. Each step is at most one chunk of one prompt and one token for every
decoding turn, in one run of the model where that can be, so that a long prompt delays nobody's stream by more than a
chunk; while streams wait, chunks are kept so small that a step is done within the longest pause allowed. Turns join and
leave between steps.

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
from functools import partial
from typing import Protocol

import numpy as np

from appliance.engine.harmony import Vocabulary
from appliance.engine.harmony_grammar import HarmonyGrammars, State
from appliance.engine.harmony_parser import HarmonyParser
from appliance.engine.model import ModelError
from appliance.engine.pacing import Pacing
from appliance.engine.sampling import TopLogits, new_generator, sample
from appliance.engine.slots import Append, Checkpoint, Chunk, Prefix, Slot, SlotTable, Windows
from appliance.turns.events import Done, EngineEvent, Failed, FailureCode, FinishReason, Started
from appliance.turns.request import TurnRequest

_TURN_S_BEFORE_FIRST = 10.0  # assumed length of a turn until one has finished
_log = logging.getLogger("appliance.engine")

Sink = Callable[[EngineEvent], None]


class Model(Protocol):
    """What the scheduler needs of engine/model.py's OnnxModel; see there."""

    slots: int
    capacity: int
    mixes: bool
    windows: Windows | None
    lends: bool

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range: ...

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None: ...

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]: ...

    def step(self, appends: Sequence[Append], chunk: Chunk | None) -> tuple[list[TopLogits], TopLogits | None]: ...

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
    grammar: State | None  # None: the turn is not held to the grammar
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
        user_limit: int | None = None,
        longest_pause_s: float = 0.3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            queue_limit: turns that may wait for a slot; beyond it a turn fails as overloaded if its user has one
                waiting already. 0: none may wait.
            user_limit: turns of one user that may wait; None: as many as of all.
            longest_pause_s: that a stream may stand still while another's prompt is read, if the model can be given so
                little at a time.
        """
        self.context_tokens = model.capacity
        self._model = model
        self._vocabulary = vocabulary
        self._grammars = HarmonyGrammars(vocabulary)
        self._queue_limit = queue_limit
        self._user_limit = queue_limit if user_limit is None else user_limit
        self._clock = clock
        self._slots = SlotTable(model.slots, model.capacity, model.windows)
        self._active: list[Turn] = []  # model's thread only; those being prefilled take turns
        self._turn_s = _TURN_S_BEFORE_FIRST
        self._pacing = Pacing(longest_pause_s)
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
            refusal = self._refusal(turn.request.user)
            if refusal is None:
                turn.submitted_at = self._clock()
                self._waiting.setdefault(turn.request.user, deque()).append(turn)
                self._count()
                self._work.notify()
        if refusal is not None:
            turn.sink(refusal)

    def refusal(self, user: str) -> Failed | None:
        """Why a turn of this user would not be taken now, if so: asked before work is put into its prompt."""
        with self._work:
            return self._refusal(user)

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
        reading = next((turn for turn in self._active if _run(turn).decoding_since is None), None)
        # Whose prompt is read to its end joins the next step: this one is meant to take no longer than the last ones.
        decoding = [turn for turn in self._active if _run(turn).decoding_since is not None]
        if reading is not None and decoding and self._model.mixes:
            if self._guarded([reading], partial(self._read_and_decode, reading, decoding)):
                return True
            reading = None  # the streams still hold what they held: they get their token without it
        if reading is not None:
            self._guarded([reading], partial(self._read, reading))
        if decoding:
            started = self._clock()
            self._guarded(decoding, partial(self._decode, decoding))
            self._pacing.note_decode(len(decoding), self._clock() - started)
        return reading is not None or bool(decoding)

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
            functions = [tool.name for tool in request.tools]
            turn.run = _Run(
                slot=slot,
                parser=HarmonyParser(self._vocabulary, turn_id=request.id, functions=functions, stop=request.stop),
                rng=new_generator(request.seed),
                grammar=self._grammars.start(functions) if request.grammar else None,
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

    def _read(self, turn: Turn) -> None:
        chunk = self._next_chunk(turn)
        top = self._model.prefill(chunk.slot, chunk.tokens, chunk.past, want_logits=chunk.want_logits)
        self._note_read(turn, chunk, top)

    def _decode(self, turns: Sequence[Turn]) -> None:
        self._note_decoded(turns, self._model.decode(_appends(turns)))

    def _read_and_decode(self, reading: Turn, decoding: Sequence[Turn]) -> None:
        started = self._clock()
        chunk = self._next_chunk(reading, self._pacing.chunk_tokens(len(decoding)))
        tops, top = self._model.step(_appends(decoding), chunk)
        self._note_decoded(decoding, tops)
        self._note_read(reading, chunk, top)
        if not chunk.want_logits:  # the end of a prompt, being shorter, says little
            self._pacing.note_chunk(len(chunk.tokens), len(decoding), self._clock() - started)

    def _next_chunk(self, turn: Turn, most: int | None = None) -> Chunk:
        run = _run(turn)
        if self._model.lends and (lent := self._slots.lend(run.slot, turn.prompt, turn.public)) is not None:
            run.cached += lent.length - run.slot.length
            self._take_over(run.slot, lent)
        places = self._model.plan_chunk(run.slot.length, len(turn.prompt), most)
        tokens = turn.prompt[places.start : places.stop]
        return Chunk(run.slot.index, tokens, places.start, want_logits=places.stop == len(turn.prompt))

    def _note_read(self, turn: Turn, chunk: Chunk, top: TopLogits | None) -> None:
        run = _run(turn)
        self._slots.append(run.slot, chunk.past, chunk.tokens)
        for first, end in self._slots.to_set_aside(run.slot, turn.public):
            self._slots.note_checkpoint(run.slot, self._model.set_aside(run.slot.index, first, end))
        if top is not None:
            run.decoding_since = self._clock()
            self._take(turn, top)
        else:  # the next step works on the next prompt
            self._active.remove(turn)
            self._active.append(turn)

    def _note_decoded(self, turns: Sequence[Turn], tops: Sequence[TopLogits]) -> None:
        for turn, top in zip(turns, tops, strict=True):
            run = _run(turn)
            self._slots.append(run.slot, run.slot.length, [run.sampled[-1]])
            self._take(turn, top)

    def _take_over(self, slot: Slot, prefix: Prefix) -> None:
        """Make a slot hold a prefix, and nothing else."""
        if prefix.source is not slot or prefix.checkpoint is not None:
            self._model.take_over(prefix.source.index, slot.index, prefix.length, prefix.checkpoint)
        self._slots.keep(slot, prefix)

    def _take(self, turn: Turn, top: TopLogits) -> None:
        """Sample a turn's next token and send what it makes known."""
        run, request = _run(turn), turn.request
        mask = None if run.grammar is None else run.grammar.mask
        token = sample(top, temperature=request.temperature, top_p=request.top_p, rng=run.rng, mask=mask)
        run.grammar = None if run.grammar is None else run.grammar.after(token)
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
                notice=run.parser.notice,
            )
        )

    def _guarded(self, turns: Sequence[Turn], work: Callable[[], None]) -> bool:
        """Run one part of a step; if the model fails, so do its turns, and what their slots hold is forgotten."""
        try:
            work()
        except ModelError as exc:
            _log.error("%s", exc)
            for turn in turns:
                if turn in self._active:
                    self._leave(turn, keep=False)
                    turn.sink(Failed("engine_failed", "The model could not compute this answer."))
            return False
        return True

    def _leave(self, turn: Turn, *, keep: bool = True) -> None:
        self._active.remove(turn)
        self._slots.release(_run(turn).slot, keep=keep)
        with self._work:
            self._count()

    def _count(self) -> None:
        """Publish the load; called under ``_work``."""
        self._load = Load(len(self._active), sum(len(queue) for queue in self._waiting.values()))

    def _refusal(self, user: str) -> Failed | None:
        """Why no further turn of this user is taken, if so; called under ``_work``."""
        if self._stopped:
            return STOPPED
        free = self._model.slots - self._load.active
        own = sum(not turn.cancelled.is_set() for turn in self._waiting.get(user, ()))
        waiting = self._load.queued
        if waiting >= self._queue_limit + free and (own or not self._queue_limit):
            message = f"The model is busy and {waiting} others are waiting. Please try again shortly."
            return self._busy("overloaded", message, waiting)
        if own and own >= self._user_limit + free:
            message = f"You have {own} requests waiting, as many as one person may. Please wait for their answers."
            return self._busy("too_many_waiting", message, own)
        return None

    def _busy(self, code: FailureCode, message: str, ahead: int) -> Failed:
        wait_s = self._turn_s * (ahead + 1) / self._model.slots
        return Failed(code, message, retry_after_s=round(max(1.0, wait_s), 1))


def context_exceeded(length: str, context_tokens: int) -> Failed:
    """The failure of a conversation of ``length`` (a number and its unit) that does not fit."""
    return Failed(
        "context_exceeded",
        f"The conversation has {length}; this model holds {context_tokens:,} tokens, the answer included. "
        "Please start a new conversation or shorten this one.",
    )


STOPPED = Failed("engine_stopped", "The model was stopped before the answer was complete. Please try again.")


def _appends(turns: Sequence[Turn]) -> list[Append]:
    runs = [_run(turn) for turn in turns]
    return [Append(run.slot.index, run.sampled[-1], run.slot.length) for run in runs]


def _run(turn: Turn) -> _Run:
    if turn.run is None:
        raise RuntimeError("internal error: the turn has no slot")
    return turn.run
