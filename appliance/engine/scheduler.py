"""Decides, step by step, which jobs the model works on: continuous batching with fair admission.

Jobs wait in a queue (job_queue.py). The first of it begins as soon as there is memory and time for it; no other
overtakes it. A job that gets a slot is prefilled in chunks, then decoded together with all the others. A step has at
most one chunk of one prompt and one token of every answer that is being decoded, in one run of the model where the
model can do that; without a chunk, it may have drafts of the next tokens, too (drafting.py). So a long prompt delays no
stream by more than a chunk. While streams wait, chunks are so small that a step takes no longer than the longest pause
allowed (pacing.py). While nobody streams, a step deep in a long prompt still ends within seconds. Jobs join and leave
between steps. Where memory is short, younger streams may have no part in a step (cache_budget.py).

``submit``, ``refusal``, ``cancel``, ``load`` and ``wait_for_work`` may be called from any thread; ``step`` and ``stop``
belong to the model's thread. Events go to the job's sink, from either; a sink must not block.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from appliance.engine.drafting import Drafting, DraftStream
from appliance.engine.harmony import Vocabulary
from appliance.engine.harmony_grammar import HarmonyGrammars
from appliance.engine.harmony_parser import HarmonyParser
from appliance.engine.job_queue import JobQueue, Load
from appliance.engine.jobs import Generation, Job
from appliance.engine.json_schema import SchemaError
from appliance.engine.json_text import ConstraintError
from appliance.engine.logit_changes import LogitChanges
from appliance.engine.logprobs import Logprobs
from appliance.engine.model import ModelError
from appliance.engine.pacing import LONE_STEP_S, Pacing
from appliance.engine.request_limits import context_exceeded
from appliance.engine.sampling import TopLogits, new_generator
from appliance.engine.slots import Prefix, Slot, SlotMemory, SlotTable
from appliance.engine.steps import Append, Chunk, Model
from appliance.engine.text_parser import TextParser
from appliance.turns.events import Failed, Started
from appliance.turns.request import TurnRequest

_log = logging.getLogger("appliance.engine")
_ALL_TOKENS = 1 << 20  # more than any model takes in a step
MOST_STREAMS = 16  # at once, where nothing else is set: with more, each would be slower than people read


class Scheduler:
    """The jobs of one model."""

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        *,
        queue_limit: int,
        user_limit: int | None = None,
        streams: int | None = None,
        longest_pause_s: float = 0.3,
        drafts: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            queue_limit: how many jobs may wait for a slot. Beyond it, a job fails as overloaded if its user already has
                one waiting. 0: none may wait.
            user_limit: how many jobs of one user may wait; None: as many as of all.
            streams: how many answers are worked on at once, at most. None: as many as memory could hold at their
                longest, and up to `MOST_STREAMS` while decoding them leaves time for prompts.
            longest_pause_s: how long a stream may stand still while another's prompt is prefilled. The model may need
                longer even for the smallest chunk.
            drafts: whether to draft tokens where the model can verify them.
        """
        self.context_tokens = model.capacity
        self._model = model
        self._vocabulary = vocabulary
        self._grammars = HarmonyGrammars(vocabulary)
        self._clock = clock
        user_limit = queue_limit if user_limit is None else user_limit
        full = min(model.slots, model.cache_bytes // model.slot_bytes(model.capacity))
        self.most_streams = min(model.slots, streams or max(full, MOST_STREAMS))
        self._sure_streams = min(model.slots, streams or full)  # however long a step takes
        self._queue = JobQueue(places=self._sure_streams, limit=queue_limit, user_limit=user_limit)
        memory = SlotMemory(model.cache_bytes, model.slot_bytes, model.give_back, model.copies)
        self._slots = SlotTable(model.slots, model.capacity, memory, model.windows)
        self._active: list[Generation] = []  # the model's thread only; those being prefilled take turns
        self._pacing = Pacing(longest_pause_s)
        self._lone_pacing = Pacing(LONE_STEP_S, _ALL_TOKENS)  # of prompts while nobody streams
        self._takes_drafts = drafts and model.takes_drafts
        self.drafting = Drafting(longest_pause_s)
        self.generated = 0  # tokens so far, of all answers
        self.prompted = 0  # tokens of the prompts of complete answers
        self.reused = 0  # how many of these were in the prefix cache

    # Any thread

    def submit(self, job: Job) -> None:
        """Queue a job, or fail it at once if it cannot fit or too many wait."""
        if len(job.prompt) >= self.context_tokens:
            job.sink(context_exceeded(f"{len(job.prompt):,} tokens", self.context_tokens))
            return
        try:
            job.grammar = self._grammars.of(job.request)
        except SchemaError as exc:
            job.sink(Failed("bad_request", f"The schema of the answer or of a call {exc}."))
            return
        job.submitted_at = self._clock()
        refusal = self._queue.put(job)
        if refusal is not None:
            job.sink(refusal)

    def refusal(self, user: str) -> Failed | None:
        """Why a job of this user would be refused now, if so: to be asked before its prompt is rendered."""
        return self._queue.refusal(user)

    def cancel(self, job: Job) -> None:
        """Give up a job. Its slot is free after the step in progress, and no further event is sent."""
        job.cancelled.set()
        self._queue.wake()

    def load(self) -> Load:
        return self._queue.load()

    def wait_for_work(self, timeout_s: float) -> None:
        """Block until there may be something to do."""
        self._queue.wait_for_work(timeout_s)

    # The model's thread

    def step(self) -> bool:
        """Do one step; False if there was nothing to do."""
        self._drop_cancelled()
        self._admit()
        for job, queued in self._queue.news():
            job.on_queued(queued)
        # An answer whose prefill ends in this step decodes from the next step on, so that this one does not get longer.
        decoding = [one for one in self._active if one.decoding_since is not None]
        # The oldest stream never waits for memory, so a step without any part is one without streams.
        decoding = [one for one in decoding if self._slots.grow_to_decode(one.slot)]
        mixes = bool(decoding) and self._model.mixes
        pacing, streams = (self._pacing, len(decoding)) if mixes else (self._lone_pacing, 0)
        prefill = self._next_prefill(pacing.chunk_tokens(streams))
        if prefill is not None and mixes:
            if self._guarded([prefill[0]], partial(self._prefill_and_decode, *prefill, decoding)):
                return True
            prefill = None  # the streams still hold what they held: they get their token without it
        if prefill is not None:
            self._guarded([prefill[0]], partial(self._prefill, *prefill))
        if decoding:
            self._guarded(decoding, partial(self._decode, decoding))
        return bool(self._active) or prefill is not None or bool(decoding)

    def stop(self, failure: Failed) -> None:
        """End every job with ``failure`` and refuse new ones with it."""
        waiting = self._queue.close(failure)
        for job in [one.job for one in self._active] + waiting:
            job.sink(failure)
        for generation in self._active[:]:
            self._leave(generation)

    def _admit(self) -> None:
        """Let waiting jobs begin while there is a place for the next."""
        while self._has_time() and (job := self._queue.peek()) is not None:
            limit = self._limit(job)
            if not self._slots.admits(job.prompt, len(job.prompt) + limit):
                self._queue.note_active(len(self._active), len(self._active))
                return
            self._queue.take()
            generation = self._start(job, limit)
            self._active.append(generation)
            queued_s = generation.started_at - job.submitted_at
            job.sink(Started(len(job.prompt), queued_s, self._model.arithmetic))
        self._note_active()

    def _has_time(self) -> bool:
        """Whether one more stream may join."""
        streams = len(self._active) + 1
        return streams <= self._sure_streams or (streams <= self.most_streams and self._pacing.has_time_for(streams))

    def _limit(self, job: Job) -> int:
        """How many tokens the answer may have."""
        room = self._model.capacity - len(job.prompt)
        return room if job.request.max_tokens is None else min(room, job.request.max_tokens)

    def _start(self, job: Job, limit: int) -> Generation:
        """Take a slot for a job that was admitted, with what the slot already holds of its prompt."""
        now, request = self._clock(), job.request
        slot, prefix = self._slots.acquire(request.user, job.prompt, len(job.prompt) + limit)
        self._copy(slot, prefix)
        return Generation(
            job=job,
            slot=slot,
            parser=self._parser(request),
            rng=new_generator(request.seed),
            grammar=job.grammar,
            limit=limit,
            cached=slot.length,
            started_at=now,
            drafts=DraftStream(job.prompt) if self._takes_drafts else None,
            changes=LogitChanges(request),
            logprobs=None if request.top_logprobs is None else Logprobs(self._vocabulary, request.top_logprobs),
        )

    def _parser(self, request: TurnRequest) -> HarmonyParser | TextParser:
        if request.form == "text":
            return TextParser(self._vocabulary, turn_id=request.id, stop=request.stop)
        functions = [tool.name for tool in request.tools]
        begun = request.messages[-1].content if request.continues else None
        return HarmonyParser(self._vocabulary, turn_id=request.id, functions=functions, stop=request.stop, begun=begun)

    def _drop_cancelled(self) -> None:
        for generation in [one for one in self._active if one.job.cancelled.is_set()]:
            self._leave(generation)
        self._queue.drop_cancelled(len(self._active))

    def _prefill(self, prefilling: Generation, chunk: Chunk) -> None:
        started = self._clock()
        top = self._model.prefill(chunk.slot, chunk.tokens, chunk.past, want_logits=chunk.want_logits)
        self._note_prefilled(prefilling, chunk, top)
        if not chunk.want_logits:
            self._lone_pacing.note_chunk(len(chunk.tokens), 0, self._clock() - started)

    def _decode(self, decoding: Sequence[Generation]) -> None:
        started = self._clock()
        streams = [one.drafts for one in decoding if one.drafts is not None]
        rooms = [min(one.limit - len(one.sampled), one.slot.granted - one.slot.length) - 1 for one in decoding]
        drafts = self.drafting.plan(streams, rooms) if streams else [[] for _ in decoding]
        tops = self._model.decode(_appends(decoding, drafts))
        accepted = self._note_decoded(decoding, tops, drafts)
        took_s = self._clock() - started
        if streams:
            self.drafting.note(streams, drafts, accepted, took_s)
        if not any(drafts):
            self._pacing.note_decode(len(decoding), took_s)

    def _prefill_and_decode(self, prefilling: Generation, chunk: Chunk, decoding: Sequence[Generation]) -> None:
        started = self._clock()
        none: list[list[int]] = [[] for _ in decoding]
        tops, top = self._model.step(_appends(decoding, none), chunk)
        self._note_decoded(decoding, tops, none)
        self._note_prefilled(prefilling, chunk, top)
        if not chunk.want_logits:  # the last chunk of a prompt is shorter, so its time says little
            self._pacing.note_chunk(len(chunk.tokens), len(decoding), self._clock() - started)

    def _next_prefill(self, most: int) -> tuple[Generation, Chunk] | None:
        """The next part of a prompt, of the first that need not wait for memory."""
        for prefilling in [one for one in self._active if one.decoding_since is None]:
            chunk = self._next_chunk(prefilling, most)
            if chunk is not None:
                return prefilling, chunk
        return None

    def _next_chunk(self, prefilling: Generation, most: int) -> Chunk | None:
        """The next part of a prompt, after what another slot holds of it was copied; None: it must wait for memory."""
        slot, prompt = prefilling.slot, prefilling.job.prompt
        while True:
            prefix = self._slots.find_prefix(slot, prompt, prefilling.job.public) if self._model.copies else None
            held = slot.length if prefix is None else prefix.length
            places = self._model.plan_chunk(held, len(prompt), most)
            if not self._slots.grow(slot, places.stop, None if prefix is None else prefix.source):
                return None
            if prefix is None or prefix.source.length >= prefix.length:
                break  # otherwise the source lost what it held, because memory is short
        if prefix is not None:
            prefilling.cached += prefix.length - slot.length
            self._copy(slot, prefix)
        tokens = prompt[places.start : places.stop]
        return Chunk(slot.index, tokens, places.start, want_logits=places.stop == len(prompt))

    def _note_prefilled(self, prefilling: Generation, chunk: Chunk, top: TopLogits | None) -> None:
        slot = prefilling.slot
        self._slots.append(slot, chunk.past, chunk.tokens)
        for first, end in self._slots.snapshots_due(slot, prefilling.job.public):
            self._slots.add_snapshot(slot, self._model.take_snapshot(slot.index, first, end))
        if top is not None:
            prefilling.decoding_since = self._clock()
            self._take(prefilling, top)
        else:  # the next step works on the next prompt
            self._active.remove(prefilling)
            self._active.append(prefilling)

    def _note_decoded(
        self, decoding: Sequence[Generation], tops: Sequence[TopLogits], drafts: Sequence[Sequence[int]]
    ) -> list[int]:
        """Continue each answer by the token that was computed, and by one for each draft that is what it draws.

        Returns:
            How many drafts of each were.
        """
        left, accepted = iter(tops), []
        for generation, own in zip(decoding, drafts, strict=True):
            computed = [next(left) for _ in range(1 + len(own))]
            count = 0
            while True:
                self._slots.append(generation.slot, generation.slot.length, [generation.sampled[-1]])
                if self._take(generation, computed[count]) or count == len(own) or generation.sampled[-1] != own[count]:
                    break
                count += 1
            accepted.append(count)
        return accepted

    def _copy(self, slot: Slot, prefix: Prefix) -> None:
        """Make a slot hold a prefix, and nothing else."""
        if prefix.source is not slot or prefix.snapshot is not None:
            self._model.copy_prefix(prefix.source.index, slot.index, prefix.length, prefix.snapshot)
        self._slots.keep(slot, prefix)

    def _take(self, generation: Generation, top: TopLogits) -> bool:
        """Continue an answer by one token, and end the job with its last; True if it was the last."""
        try:
            is_last = generation.take(top)
        except ConstraintError as exc:
            self._leave(generation)
            generation.job.sink(Failed("bad_request", str(exc)))
            return True
        self.generated += 1
        if not is_last:
            return False
        self.prompted += len(generation.job.prompt)
        self.reused += generation.cached
        now = self._clock()
        self._queue.note_finished(now - generation.started_at)
        self._leave(generation)
        generation.job.sink(generation.done(now))
        return True

    def _guarded(self, generations: Sequence[Generation], work: Callable[[], None]) -> bool:
        """Run a part of a step. If the model fails, so do these answers, and what their slots hold is forgotten."""
        try:
            work()
        except ModelError as exc:
            _log.error("%s", exc)
            for generation in generations:
                if generation in self._active:
                    self._leave(generation, keep=False)
                    generation.job.sink(Failed("engine_failed", "The model could not compute this answer."))
            return False
        return True

    def _leave(self, generation: Generation, *, keep: bool = True) -> None:
        self._active.remove(generation)
        self._slots.release(generation.slot, keep=keep)
        self._note_active()

    def _note_active(self) -> None:
        places = len(self._active) + 1 if self._has_time() else len(self._active)
        self._queue.note_active(len(self._active), max(places, self._sure_streams))


STOPPED = Failed("engine_stopped", "The model was stopped before the answer was complete. Please try again.")


def _appends(decoding: Sequence[Generation], drafts: Sequence[Sequence[int]]) -> list[Append]:
    return [
        Append(one.slot.index, token, place)
        for one, own in zip(decoding, drafts, strict=True)
        for place, token in enumerate([one.sampled[-1], *own], one.slot.length)
    ]
