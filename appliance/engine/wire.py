"""What travels between a web worker and the engine process, and the lines in which it does.

A worker makes a Unix socket pair for each turn and sends one end through the supervisor's doorbell
(`appliance.doorbell.ring`). The pair is a stream and carries JSON objects in UTF-8, one per line: first the request,
then events until ``Done`` or ``Failed``. If the worker closes its end, the turn is cancelled; if the engine closes its
end early, the engine has died. A line has at most ``MAX_LINE_BYTES``.

This module is pure: it turns records into lines and lines into records, and opens nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from appliance.turns.engine import (
    Answered,
    CountRequest,
    Question,
    Status,
    TextRequest,
    TokenCount,
    Tokens,
    TokensRequest,
    TokenText,
)
from appliance.turns.events import (
    AnswerDelta,
    Done,
    EngineEvent,
    Failed,
    Queued,
    ReasoningDelta,
    Started,
    ToolCallDelta,
)
from appliance.turns.request import TurnRequest
from appliance.turns.typed import checked

MAX_LINE_BYTES = 16 * 1024 * 1024


class ProtocolError(Exception):
    """A line from the other side is not what this module writes."""


@dataclass(frozen=True)
class StatusRequest:
    """Asks the engine what it serves; answered by one ``Status``."""


Record = TurnRequest | StatusRequest | Question | EngineEvent | Queued | Status | Answered

_TYPES: dict[str, type[Any]] = {
    t.__name__: t
    for t in (
        TurnRequest, StatusRequest, Queued, Started, ReasoningDelta, AnswerDelta, ToolCallDelta, Done, Failed, Status,
        TokensRequest, CountRequest, TextRequest, Tokens, TokenCount, TokenText,
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
        record: Record = checked(_TYPES[body.pop("type")], body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ProtocolError(f"unreadable record: {type(exc).__name__}: {exc}") from exc
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
