"""The shapes of the API's answers. `present` draws them; the tests compare every answer that they see with its shape.

A field with the default `ABSENT` is not in every answer. Source: OpenAI API reference; docs/api.md names the additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

ABSENT: Final[Any] = None


@dataclass(frozen=True)
class Error:
    """What went wrong, and which field is at fault."""

    message: str
    type: str
    param: str | None
    code: str


@dataclass(frozen=True)
class Refusal:
    """Every answer whose status is not 200."""

    error: Error


@dataclass(frozen=True)
class Model:
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int = ABSENT
    context_length: int = ABSENT
    context_window: int = ABSENT


@dataclass(frozen=True)
class ModelList:
    """All models."""

    object: Literal["list"]
    data: list[Model]


@dataclass(frozen=True)
class PromptDetails:
    """Tokens of the prompt that came from the prefix cache."""

    cached_tokens: int


@dataclass(frozen=True)
class CompletionDetails:
    """Tokens of the reasoning."""

    reasoning_tokens: int


@dataclass(frozen=True)
class Usage:
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


@dataclass(frozen=True)
class CalledFunction:
    """Which function is called, and with what: JSON as text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    id: str
    type: Literal["function"]
    function: CalledFunction


@dataclass(frozen=True, kw_only=True)
class ChatMessage:
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str = ABSENT
    reasoning: str = ABSENT
    tool_calls: list[Call] = ABSENT


FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Likelihood:
    """A token and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int] | None


@dataclass(frozen=True)
class TokenLikelihood(Likelihood):
    """A token of the answer, with the likeliest ones at its place."""

    top_logprobs: list[Likelihood]


@dataclass(frozen=True)
class LogProbs:
    """The tokens of the answer."""

    content: list[TokenLikelihood]
    refusal: None


@dataclass(frozen=True)
class ChatChoice:
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: FinishReason
    logprobs: LogProbs | None


@dataclass(frozen=True)
class ChatCompletion:
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class FunctionDelta:
    """What is added to a call."""

    name: str = ABSENT
    arguments: str


@dataclass(frozen=True, kw_only=True)
class CallDelta:
    """The beginning of a call, or more of it."""

    index: int
    id: str = ABSENT
    type: Literal["function"] = ABSENT
    function: FunctionDelta


@dataclass(frozen=True, kw_only=True)
class ChatDelta:
    """What is added to the message."""

    role: Literal["assistant"] = ABSENT
    content: str = ABSENT
    refusal: str = ABSENT
    reasoning_content: str = ABSENT
    reasoning: str = ABSENT
    tool_calls: list[CallDelta] = ABSENT


@dataclass(frozen=True)
class ChoiceDelta:
    """What is added to one answer."""

    index: int
    delta: ChatDelta
    finish_reason: FinishReason | None
    logprobs: LogProbs | None


@dataclass(frozen=True, kw_only=True)
class ChatChunk:
    """One object of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceDelta]
    usage: Usage = ABSENT


@dataclass(frozen=True)
class TextLogProbs:
    """The tokens of a text: each list has one entry for a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


@dataclass(frozen=True)
class TextChoice:
    """One continued text, or a part of it."""

    index: int
    text: str
    logprobs: TextLogProbs | None
    finish_reason: FinishReason | None


@dataclass(frozen=True, kw_only=True)
class TextChunk:
    """One object of a stream of texts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage = ABSENT


@dataclass(frozen=True, kw_only=True)
class TextCompletion:
    """All continued texts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


@dataclass(frozen=True)
class Tokens:
    """The tokens of a prompt."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


@dataclass(frozen=True)
class TokenText:
    """What tokens spell."""

    prompt: str


@dataclass(frozen=True)
class Document:
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
    security: list[Any]
