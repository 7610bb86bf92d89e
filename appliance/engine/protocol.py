"""What travels between a web worker and the engine process.

A worker makes a Unix socket pair for each turn and sends one end through the supervisor's doorbell (a
``SOCK_SEQPACKET`` pair) with SCM_RIGHTS and the one payload byte ``DOORBELL_BYTE``. Over the turn's own pair (a stream)
go JSON objects, one a line, UTF-8: first the request, then events until ``Done`` or ``Failed``. A closed socket is a
cancellation (worker's side) or a dead engine (engine's side). Lines are at most ``MAX_LINE_BYTES``.

This module is pure: it turns records into lines and lines into records, and opens nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

DOORBELL_BYTE = b"\x01"
MAX_LINE_BYTES = 16 * 1024 * 1024

Effort = Literal["low", "medium", "high"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]
FailureCode = Literal[
    "bad_request", "context_exceeded", "overloaded", "too_many_waiting", "engine_failed", "engine_stopped",
    "record_failed",
    "access_ended",  # made by appliance.permits, never by the engine
]  # fmt: skip


class ProtocolError(Exception):
    """A line from the other side is not what this module writes."""


@dataclass(frozen=True)
class ToolCall:
    """One call the model asked for, or asked for earlier in the conversation."""

    id: str
    name: str
    arguments: str  # JSON text, exactly as the model wrote it


@dataclass(frozen=True)
class Message:
    """One message of the conversation, in the OpenAI API's terms."""

    role: Role
    content: str
    reasoning: str | None = None  # assistant only; kept while its tool calls are being answered
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None  # tool only
    name: str | None = None  # tool only: the function's name


@dataclass(frozen=True)
class Tool:
    """A function offered to the model; ``parameters`` is its JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class TurnRequest:
    """Everything that decides one answer, but for roundings: tokens that an earlier turn decoded, and that are still
    held, may have been multiplied more finely than those of a prompt (docs/decisions/0004).

    ``user`` serves fair scheduling only. ``seed`` is always set by the caller, so that the record can replay the turn.
    """

    id: str
    user: str
    messages: tuple[Message, ...]
    seed: int
    tools: tuple[Tool, ...] = ()
    effort: Effort = "medium"
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None  # completion tokens, reasoning included; None: what the context leaves
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class StatusRequest:
    """Asks the engine what it serves; answered by one ``Status``."""


@dataclass(frozen=True)
class Started:
    """The prompt fits and has a slot; generation begins."""

    prompt_tokens: int
    queued_s: float


@dataclass(frozen=True)
class ReasoningDelta:
    """Text of the analysis channel."""

    text: str


@dataclass(frozen=True)
class AnswerDelta:
    """Text of the final channel (or salvaged text that belongs to no channel)."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a call: ``name`` in the first piece of each ``index``, ``arguments`` appended in order."""

    index: int
    id: str
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Done:
    """The turn is complete. ``token_ids`` are the sampled tokens, for replay."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    queued_s: float
    prefill_s: float
    decode_s: float
    token_ids: tuple[int, ...] = ()
    malformed: bool = False  # the model's Harmony had to be salvaged


@dataclass(frozen=True)
class Failed:
    """The turn ended without a complete answer. ``message`` is one plain sentence for the user."""

    code: FailureCode
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Waiting:
    """Nothing has arrived for half a second. The client makes it; it never crosses the wire and is never recorded."""


@dataclass(frozen=True)
class Status:
    """What the engine serves and how busy it is."""

    model: str
    release: str
    accelerator: str
    context_tokens: int
    slots: int
    active: int
    queued: int
    details: dict[str, Any] = field(default_factory=dict)


EngineEvent = Started | ReasoningDelta | AnswerDelta | ToolCallDelta | Done | Failed  # what the engine sends in a turn
TurnEvent = EngineEvent | Waiting  # what EngineClient.turn yields
Record = TurnRequest | StatusRequest | EngineEvent | Status

_TYPES: dict[str, type[Any]] = {
    t.__name__: t
    for t in (
        TurnRequest, StatusRequest, Started, ReasoningDelta, AnswerDelta, ToolCallDelta, Done, Failed, Status,
    )
}  # fmt: skip


def encode(record: Record) -> bytes:
    """One line, newline included.

    Raises:
        ProtocolError: the line would be too long, or a free-form part is not JSON or nested too deep.
    """
    try:
        body = {"type": type(record).__name__, **asdict(record)}
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"unwritable record: {type(exc).__name__}") from exc
    line = text.encode("utf-8", "surrogatepass") + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"a record of {len(line)} bytes exceeds the limit of {MAX_LINE_BYTES}")
    return line


def decode(line: bytes) -> Record:
    """The record of one line: every field present without a default, none unknown, each of its declared type.

    Raises:
        ProtocolError: the line is not JSON, or not one of this module's records.
    """
    try:
        body = json.loads(line, parse_constant=_refuse_constant)
        record: Record = _checked(_TYPES[body.pop("type")], body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ProtocolError(f"unreadable record: {type(exc).__name__}: {exc}") from exc
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_hints = cache(get_type_hints)


def _checked(kind: Any, value: Any) -> Any:
    """``value``, as JSON gave it, as an instance of the declared type ``kind``; ValueError, TypeError if it is not."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType:  # X | None is the only union in use
        return None if value is None and NoneType in options else _checked(options[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(options[0], item) for item in value)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = _hints(kind)
        return kind(**{name: _checked(hints[name], item) for name, item in value.items()})
    if kind is float and type(value) is int:
        return float(value)
    if (
        kind is Any
        or (origin is Literal and value in options)
        or (origin is dict and isinstance(value, dict))
        or type(value) is kind
    ):
        return value
    raise ValueError(f"{value!r:.40} is not a {kind}")
