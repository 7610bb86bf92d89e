"""Decides, step by step, which jobs the model works on: continuous batching with fair admission.

Jobs wait in a queue (job_queue.py). A job that gets a slot is prefilled in chunks, then decoded together with all the
others. A step has at most one chunk of one prompt and one token of every answer that is being decoded, in one run of
the model where the model can do that; without a chunk, it may have drafts of the next tokens, too (drafting.py). So a
long prompt delays no stream by more than a chunk. While streams wait, chunks are so small that a step takes no longer
than the longest pause allowed (pacing.py). While nobody streams, a step deep in a long prompt still ends within
seconds. Jobs join and leave between steps.

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
from appliance.engine.model import ModelError
from appliance.engine.pacing import LONE_STEP_S, Pacing
from appliance.engine.request_limits import context_exceeded
from appliance.engine.sampling import TopLogits, new_generator
from appliance.engine.slots import Prefix, Slot, SlotTable
from appliance.engine.steps import Append, Chunk, Model
from appliance.turns.events import Failed, Started

_log = logging.getLogger("appliance.engine")
_ALL_TOKENS = 1 << 20  # more than any model takes in a step


class Scheduler:
    """The jobs of one model."""

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        *,
        queue_limit: int,
        user_limit: int | None = None,
        longest_pause_s: float = 0.3,
        drafts: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            queue_limit: how many jobs may wait for a slot. Beyond it, a job fails as overloaded if its user already has
                one waiting. 0: none may wait.
            user_limit: how many jobs of one user may wait; None: as many as of all.
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
        self._queue = JobQueue(slots=model.slots, limit=queue_limit, user_limit=user_limit)
        self._slots = SlotTable(model.slots, model.capacity, model.windows)
        self._active: list[Generation] = []  # the model's thread only; those being prefilled take turns
        self._pacing = Pacing(longest_pause_s)
        self._lone_pacing = Pacing(LONE_STEP_S, _ALL_TOKENS)  # of prompts while nobody streams
        self._takes_drafts = drafts and model.takes_drafts
        self.drafting = Drafting(longest_pause_s)
        self.generated = 0  # tokens so far, of all answers

    # Any thread

    def submit(self, job: Job) -> None:
        """Queue a job, or fail it at once if it cannot fit or too many wait."""
        if len(job.prompt) >= self.context_tokens:
            job.sink(context_exceeded(f"{len(job.prompt):,} tokens", self.context_tokens))
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
        prefilling = next((one for one in self._active if one.decoding_since is None), None)
        # An answer whose prefill ends in this step decodes from the next step on, so that this one does not get longer.
        decoding = [one for one in self._active if one.decoding_since is not None]
        if prefilling is not None and decoding and self._model.mixes:
            if self._guarded([prefilling], partial(self._prefill_and_decode, prefilling, decoding)):
                return True
            prefilling = None  # the streams still hold what they held: they get their token without it
        if prefilling is not None:
            self._guarded([prefilling], partial(self._prefill, prefilling))
        if decoding:
            self._guarded(decoding, partial(self._decode, decoding))
        return prefilling is not None or bool(decoding)

    def stop(self, failure: Failed) -> None:
        """End every job with ``failure`` and refuse new ones with it."""
        waiting = self._queue.close(failure)
        for job in [one.job for one in self._active] + waiting:
            job.sink(failure)
        for generation in self._active[:]:
            self._leave(generation)

    def _admit(self) -> None:
        """Give free slots to waiting jobs."""
        while self._slots.free and (job := self._queue.take()) is not None:
            generation = self._start(job)
            self._active.append(generation)
            queued_s = generation.started_at - job.submitted_at
            job.sink(Started(len(job.prompt), queued_s, self._model.arithmetic))
        self._queue.note_active(len(self._active))

    def _start(self, job: Job) -> Generation:
        """Take a slot for a job, with what the slot already holds of its prompt."""
        now, request = self._clock(), job.request
        acquired = self._slots.acquire(request.user, job.prompt)
        if acquired is None:
            raise RuntimeError("internal error: a free slot could not be acquired")
        slot, prefix = acquired
        self._copy(slot, prefix)
        room = self._model.capacity - len(job.prompt)
        functions = [tool.name for tool in request.tools]
        return Generation(
            job=job,
            slot=slot,
            parser=HarmonyParser(self._vocabulary, turn_id=request.id, functions=functions, stop=request.stop),
            rng=new_generator(request.seed),
            grammar=self._grammars.start(functions) if request.grammar else None,
            limit=room if request.max_tokens is None else min(room, request.max_tokens),
            cached=slot.length,
            started_at=now,
            drafts=DraftStream(job.prompt) if self._takes_drafts else None,
        )

    def _drop_cancelled(self) -> None:
        for generation in [one for one in self._active if one.job.cancelled.is_set()]:
            self._leave(generation)
        self._queue.drop_cancelled(len(self._active))

    def _prefill(self, prefilling: Generation) -> None:
        started = self._clock()
        chunk = self._next_chunk(prefilling, self._lone_pacing.chunk_tokens(0))
        top = self._model.prefill(chunk.slot, chunk.tokens, chunk.past, want_logits=chunk.want_logits)
        self._note_prefilled(prefilling, chunk, top)
        if not chunk.want_logits:
            self._lone_pacing.note_chunk(len(chunk.tokens), 0, self._clock() - started)

    def _decode(self, decoding: Sequence[Generation]) -> None:
        started = self._clock()
        streams = [one.drafts for one in decoding if one.drafts is not None]
        rooms = [one.limit - len(one.sampled) - 1 for one in decoding]
        drafts = self.drafting.plan(streams, rooms) if streams else [[] for _ in decoding]
        tops = self._model.decode(_appends(decoding, drafts))
        accepted = self._note_decoded(decoding, tops, drafts)
        took_s = self._clock() - started
        if streams:
            self.drafting.note(streams, drafts, accepted, took_s)
        if not any(drafts):
            self._pacing.note_decode(len(decoding), took_s)

    def _prefill_and_decode(self, prefilling: Generation, decoding: Sequence[Generation]) -> None:
        started = self._clock()
        chunk = self._next_chunk(prefilling, self._pacing.chunk_tokens(len(decoding)))
        none: list[list[int]] = [[] for _ in decoding]
        tops, top = self._model.step(_appends(decoding, none), chunk)
        self._note_decoded(decoding, tops, none)
        self._note_prefilled(prefilling, chunk, top)
        if not chunk.want_logits:  # the last chunk of a prompt is shorter, so its time says little
            self._pacing.note_chunk(len(chunk.tokens), len(decoding), self._clock() - started)

    def _next_chunk(self, prefilling: Generation, most: int) -> Chunk:
        """The next part of a prompt, after what another slot holds of it was copied."""
        slot, prompt = prefilling.slot, prefilling.job.prompt
        if self._model.copies:
            prefix = self._slots.find_prefix(slot, prompt, prefilling.job.public)
            if prefix is not None:
                prefilling.cached += prefix.length - slot.length
                self._copy(slot, prefix)
        places = self._model.plan_chunk(slot.length, len(prompt), most)
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
        self.generated += 1
        if not generation.take(top):
            return False
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
        self._queue.note_active(len(self._active))


STOPPED = Failed("engine_stopped", "The model was stopped before the answer was complete. Please try again.")


def _appends(decoding: Sequence[Generation], drafts: Sequence[Sequence[int]]) -> list[Append]:
    return [
        Append(one.slot.index, token, place)
        for one, own in zip(decoding, drafts, strict=True)
        for place, token in enumerate([one.sampled[-1], *own], one.slot.length)
    ]
