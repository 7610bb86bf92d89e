"""The shapes of the events of a streamed response. `sequence_number` counts the events from 0.

Source: OpenAI API reference, "Streaming events".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from webui.api.responses.shapes import OutputItem, OutputText, ReasoningText, RefusalPart, Response


@dataclass(frozen=True)
class StatusEvent:
    """The response begins or ends; the last one has the whole response."""

    type: Literal[
        "response.created", "response.queued", "response.in_progress", "response.completed", "response.incomplete",
        "response.failed",
    ]  # fmt: skip
    sequence_number: int
    response: Response


@dataclass(frozen=True)
class ItemEvent:
    """An item begins or is done."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


@dataclass(frozen=True)
class _OfItem:
    sequence_number: int
    item_id: str
    output_index: int


@dataclass(frozen=True)
class PartEvent(_OfItem):
    """A part of an item begins or is done."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: OutputText | RefusalPart | ReasoningText


@dataclass(frozen=True)
class StreamedLikelihood:
    """A token and the logarithm of its probability."""

    token: str
    logprob: float


@dataclass(frozen=True)
class StreamedTokenLikelihood(StreamedLikelihood):
    """A token of the text, with the likeliest ones at its place."""

    top_logprobs: list[StreamedLikelihood]


@dataclass(frozen=True)
class TextDelta(_OfItem):
    """More text."""

    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[StreamedTokenLikelihood]


@dataclass(frozen=True)
class TextDone(_OfItem):
    """The whole text."""

    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[StreamedTokenLikelihood]


@dataclass(frozen=True)
class PieceDelta(_OfItem):
    """More reasoning, or the refusal."""

    type: Literal["response.reasoning_text.delta", "response.refusal.delta"]
    content_index: int
    delta: str


@dataclass(frozen=True)
class ReasoningDone(_OfItem):
    """The whole reasoning."""

    type: Literal["response.reasoning_text.done"]
    content_index: int
    text: str


@dataclass(frozen=True)
class RefusalDone(_OfItem):
    """The whole refusal."""

    type: Literal["response.refusal.done"]
    content_index: int
    refusal: str


@dataclass(frozen=True)
class ArgumentsDelta(_OfItem):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


@dataclass(frozen=True)
class ArgumentsDone(_OfItem):
    """The whole arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    arguments: str
    name: str


ResponseEvent = (
    StatusEvent | ItemEvent | PartEvent | TextDelta | TextDone | PieceDelta
    | ReasoningDone | RefusalDone | ArgumentsDelta | ArgumentsDone
)  # fmt: skip
