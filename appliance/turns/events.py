"""What a turn says: ``Started``, deltas, then ``Done`` or ``Failed``; and what people are told about each failure.

`FAILURES` is the one place with the words and the HTTP status of each failure. `Failed.message` describes one case and
may hold numbers; `failed` makes a `Failed` with the general sentence of its code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from appliance.turns.typed import LATER

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]
FailureCode = Literal[
    "bad_request", "context_exceeded", "overloaded", "too_many_waiting", "engine_failed", "engine_stopped",
    "record_failed",
    "access_ended", "stopped", "closing",  # made by appliance.turns.permits and .running, never by the engine
]  # fmt: skip


@dataclass(frozen=True)
class Started:
    """The prompt fits and has a slot; generation begins.

    ``arithmetic``: what decides the last bits beside the release. A replay needs the same.
    """

    prompt_tokens: int
    queued_s: float
    arithmetic: str | None = None


@dataclass(frozen=True)
class ReasoningDelta:
    """Text of the analysis channel."""

    text: str


@dataclass(frozen=True)
class Likelihood:
    """A token that could be drawn, with the natural logarithm of its probability. A special token has no bytes."""

    text: str
    bytes: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """A token that was drawn, and the likeliest ones at its place, which may include it."""

    token: Likelihood
    top: tuple[Likelihood, ...]


@dataclass(frozen=True)
class AnswerDelta:
    """Text for the user: the final channel, preambles, and answer text whose header is malformed.

    ``tokens`` are those that end in this text, if the request asks for log probabilities.
    """

    text: str
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a call: ``name`` in the first piece of each ``index``, ``arguments`` appended in order."""

    index: int
    id: str
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Done:
    """The turn is complete. ``token_ids`` are the sampled tokens, for replay.

    ``notice``: one plain sentence for the user, written by the appliance and not by the model. It says that the turn
    produced neither an answer nor a call, or that it ended with a call of a function that was not offered.
    ``stop_text``: the text of the request's ``stop`` that ended the answer.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    queued_s: float
    prefill_s: float
    decode_s: float
    token_ids: tuple[int, ...] = ()
    malformed: bool = False  # the parser had to repair the model's Harmony (docs/harmony.md)
    notice: str | None = None
    stop_text: str | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class Failed:
    """The turn ended without a complete answer. ``message`` is one plain sentence for the user."""

    code: FailureCode
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Queued:
    """The turn waits for the engine, which has told how many others come before it and about how long that takes.

    ``wait_s`` is None while no turn has ended from which to tell. It is news of the queue and no part of the answer, so
    it is never recorded.
    """

    ahead: int
    wait_s: float | None


@dataclass(frozen=True)
class Waiting:
    """Nothing of the answer has arrived for half a second, or there is news of the queue. The client makes it; it never
    crosses the wire and is never recorded."""

    queued: Queued | None = None


EngineEvent = Started | ReasoningDelta | AnswerDelta | ToolCallDelta | Done | Failed  # what the engine sends in a turn
TurnEvent = EngineEvent | Waiting  # what Engine.turn yields


@dataclass(frozen=True)
class Failure:
    """One kind of failure: what happened, what a person at the chat page keeps and should do, and the API's answer.

    ``api_code`` and ``param`` are the ``code`` and ``param`` of OpenAI's errors.
    """

    sentence: str
    what_to_do: str
    status: int
    api_code: str
    param: str | None = None

    @property
    def words(self) -> str:
        """Everything that the chat page says about it."""
        return f"{self.sentence} {self.what_to_do}"


FAILURES: Final[dict[FailureCode, Failure]] = {
    "bad_request": Failure(
        "This question cannot be sent as it stands.", "Your question is kept; change it and send it again.",
        400, "invalid_value",
    ),
    "context_exceeded": Failure(
        "The conversation is longer than this model can read.",
        "It is kept. Below the conversation you can choose how to go on.",
        400, "context_length_exceeded", "messages",
    ),
    "overloaded": Failure(
        "The model has too many requests waiting.", "Your question is kept; answer again in a moment.",
        429, "overloaded",
    ),
    "too_many_waiting": Failure(
        "You already have as many questions waiting as one person may have.",
        "Your question is kept; answer again when one of them is done.",
        429, "too_many_waiting",
    ),
    "engine_failed": Failure(
        "The model failed.", "Your question and the answer so far are kept; try again.",
        500, "engine_failed",
    ),
    "engine_stopped": Failure(
        "The model stopped before the answer was complete.",
        "Your question and the answer so far are kept; try again in a minute.",
        503, "engine_stopped",
    ),
    "record_failed": Failure(
        "The record could not be written, and the appliance answers nothing without it.", "Tell your administrator.",
        503, "record_failed",
    ),
    "access_ended": Failure(
        "Your access ended while this was being answered.", "The answer so far is kept. Sign in again to go on.",
        401, "access_ended",
    ),
    "stopped": Failure(
        "Stopped before the end.", "The answer so far is kept.",
        503, "cancelled",
    ),
    "closing": Failure(
        "The appliance was stopped while this was being answered.",
        "The answer so far is kept; answer again in a minute.",
        503, "cancelled",
    ),
}  # fmt: skip

# What the chat page says about a turn that is done but incomplete.
ENDINGS: Final[dict[FinishReason, str]] = {
    "length": "The answer is cut off: it reached the greatest length that this model can write here. Ask it to go on.",
    "cancelled": "Stopped before the end. The answer so far is kept.",
}


def failed(code: FailureCode, *, retry_after_s: float | None = None) -> Failed:
    """A failure with the general sentence of its code."""
    return Failed(code, FAILURES[code].sentence, retry_after_s)
