"""The shapes of the answers, events and errors of /v1/messages.

Source: Anthropic API reference, "Create a message", "Streaming messages", "Errors".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


@dataclass(frozen=True)
class ErrorDetails:
    """This server's own word for what went wrong, and the field at fault."""

    error_code: str
    param: str | None


@dataclass(frozen=True)
class Error:
    """What went wrong."""

    type: str
    message: str
    details: ErrorDetails


@dataclass(frozen=True)
class MessageRefusal:
    """Every answer whose status is not 200, and the end of a stream that fails."""

    type: Literal["error"]
    error: Error
    request_id: str | None


@dataclass(frozen=True)
class Usage:
    """Tokens. The prompt has all three kinds of input together."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class TextContent:
    """Words."""

    type: Literal["text"]
    text: str


@dataclass(frozen=True)
class ThinkingContent:
    """What the model thought. The signature signs nothing."""

    type: Literal["thinking"]
    thinking: str
    signature: str


@dataclass(frozen=True)
class ToolUseContent:
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


Content = TextContent | ThinkingContent | ToolUseContent


@dataclass(frozen=True)
class AnsweredMessage:
    """An answer; in the event that begins a stream it is empty."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Content]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


@dataclass(frozen=True)
class MessageStart:
    type: Literal["message_start"]
    message: AnsweredMessage


@dataclass(frozen=True)
class Ping:
    type: Literal["ping"]


@dataclass(frozen=True)
class BlockStart:
    type: Literal["content_block_start"]
    index: int
    content_block: Content


@dataclass(frozen=True)
class TextDelta:
    type: Literal["text_delta"]
    text: str


@dataclass(frozen=True)
class InputDelta:
    type: Literal["input_json_delta"]
    partial_json: str


@dataclass(frozen=True)
class ThinkingDelta:
    type: Literal["thinking_delta"]
    thinking: str


@dataclass(frozen=True)
class SignatureDelta:
    type: Literal["signature_delta"]
    signature: str


@dataclass(frozen=True)
class BlockDelta:
    type: Literal["content_block_delta"]
    index: int
    delta: TextDelta | InputDelta | ThinkingDelta | SignatureDelta


@dataclass(frozen=True)
class BlockStop:
    type: Literal["content_block_stop"]
    index: int


@dataclass(frozen=True)
class Stopped:
    stop_reason: StopReason
    stop_sequence: str | None


@dataclass(frozen=True)
class MessageDelta:
    type: Literal["message_delta"]
    delta: Stopped
    usage: Usage


@dataclass(frozen=True)
class MessageStop:
    type: Literal["message_stop"]


MessageEvent = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


@dataclass(frozen=True)
class TokenCount:
    """How many tokens a prompt has."""

    input_tokens: int
