"""A job is one turn on its way through the engine; once it has a slot, its answer is generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from appliance.engine.drafting import DraftStream
from appliance.engine.harmony import ORDINARY_TOKENS
from appliance.engine.harmony_parser import Delta, HarmonyParser
from appliance.engine.logit_changes import LogitChanges
from appliance.engine.logprobs import Logprobs
from appliance.engine.sampling import TopLogits, sample
from appliance.engine.slots import Slot
from appliance.engine.text_parser import TextParser
from appliance.engine.token_mask import State
from appliance.turns.events import Done, EngineEvent, Queued
from appliance.turns.request import TurnRequest

Sink = Callable[[EngineEvent], None]


@dataclass(eq=False)
class Job:
    """A turn that was handed to the scheduler.

    Attributes:
        sink: gets the events; it is called from any thread and must not block.
        on_queued: gets news of the queue while the job waits; likewise.
        public: how many tokens at the beginning of the prompt are the appliance's own, the same for everyone.
        grammar: what the answer is held to, from its first token on; set when the job is submitted.
    """

    request: TurnRequest
    prompt: list[int]
    sink: Sink
    public: int = 0
    on_queued: Callable[[Queued], None] = lambda _: None
    grammar: State | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    submitted_at: float = 0.0


@dataclass(eq=False)
class Generation:
    """The answer of a job that has a slot. It belongs to the scheduler's thread.

    Attributes:
        grammar: which tokens may come next; None where the answer is held to nothing.
        limit: how many tokens the answer may have.
        cached: how many tokens of the prompt were not computed, because a slot held them.
        drafts: None where the model takes none.
        changes: what the request adds to logits.
        logprobs: None where the request does not ask for them.
        decoding_since: when the prefill was complete; None before.
    """

    job: Job
    slot: Slot
    parser: HarmonyParser | TextParser
    rng: np.random.Generator
    grammar: State | None
    limit: int
    cached: int
    started_at: float
    drafts: DraftStream | None
    changes: LogitChanges
    logprobs: Logprobs | None = None
    decoding_since: float | None = None
    sampled: list[int] = field(default_factory=list)

    def take(self, top: TopLogits) -> bool:
        """Sample the next token and send what it makes known. True if the answer is complete.

        Raises:
            ConstraintError: the answer cannot be held to its schema any longer. Nothing was sampled.
        """
        request = self.job.request
        mask = None if self.grammar is None else self.grammar.mask
        token = sample(
            self.changes.apply(top), temperature=request.temperature, top_p=request.top_p, rng=self.rng, mask=mask,
            top_k=request.top_k, min_p=request.min_p,
        )  # fmt: skip
        self.changes.note(token)
        self.grammar = None if self.grammar is None else self.grammar.after(token)
        self.sampled.append(token)
        if self.drafts is not None:
            self.drafts.append(token)
        if self.logprobs is not None and self.parser.is_in_text and token < ORDINARY_TOKENS:
            self.logprobs.note(token, top)
        self._send(self.parser.push(token))
        if self.logprobs is not None and token >= ORDINARY_TOKENS:
            self.logprobs.end_message()
        if self.parser.finished is None and len(self.sampled) < self.limit:
            return False
        self._send(self.parser.flush())
        return True

    def _send(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas if self.logprobs is None else self.logprobs.attach(deltas):
            self.job.sink(delta)

    def done(self, now: float) -> Done:
        """The last event of a complete answer."""
        decoding_since = now if self.decoding_since is None else self.decoding_since
        return Done(
            finish_reason=self.parser.finished or "length",
            prompt_tokens=len(self.job.prompt),
            completion_tokens=len(self.sampled),
            reasoning_tokens=self.parser.reasoning_tokens,
            cached_tokens=self.cached,
            queued_s=self.started_at - self.job.submitted_at,
            prefill_s=decoding_since - self.started_at,
            decode_s=now - decoding_since,
            token_ids=tuple(self.sampled),
            malformed=self.parser.malformed,
            notice=self.parser.notice,
            stop_text=self.parser.stop_text,
        )
