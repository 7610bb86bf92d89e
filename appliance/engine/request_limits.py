"""What is refused of a request before its prompt is rendered: numbers out of range, and what cannot fit.

Tokenising costs time, which every other user would wait for; these checks count without it.
"""

from __future__ import annotations

from appliance.engine.sampling import check_settings
from appliance.engine.wire import ProtocolError
from appliance.turns.events import Failed
from appliance.turns.request import TurnRequest

_MAX_CHARS_PER_TOKEN = 16  # English has 4 to 5, code 3
_LEAST_TOKENS = 4  # the frame of a message, a call or a function
_MAX_STOPS, _MAX_STOP_CHARS = 16, 256


def check_request(request: TurnRequest) -> None:
    """Raises ProtocolError for a number out of range, for a stop text that is empty or too long, or for settings that
    contradict each other."""
    try:
        check_settings(temperature=request.temperature, top_p=request.top_p)
    except ValueError as exc:
        raise ProtocolError(str(exc)) from exc
    if request.seed < 0:
        raise ProtocolError("seed must not be negative")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise ProtocolError("max_tokens must be at least 1")
    if len(request.stop) > _MAX_STOPS or not all(0 < len(text) <= _MAX_STOP_CHARS for text in request.stop):
        raise ProtocolError(f"stop takes up to {_MAX_STOPS} texts of 1 to {_MAX_STOP_CHARS} characters")
    _check_form(request)
    if not {*request.must_call} <= {tool.name for tool in request.tools}:
        raise ProtocolError("must_call names a function that is not offered")


def _check_form(request: TurnRequest) -> None:
    holds = request.must_call or request.answer_schema is not None
    if request.continues and holds:
        raise ProtocolError("an answer that the last message begins cannot be held to a call or a schema")
    if request.form != "text":
        return
    if [message.role for message in request.messages] != ["user"]:
        raise ProtocolError("a bare text is one message of the user")
    if request.tools or request.continues or holds:
        raise ProtocolError("a bare text has no tools, no schema and no message to go on from")


def surely_too_long(request: TurnRequest, context_tokens: int) -> Failed | None:
    """The failure of a request that cannot fit into the context, however its texts are tokenised."""
    parts = _count_parts(request)
    if _LEAST_TOKENS * parts > context_tokens:
        return context_exceeded(f"{parts:,} messages, calls and functions", context_tokens)
    chars = _count_chars(request)
    if chars > _MAX_CHARS_PER_TOKEN * context_tokens:
        return context_exceeded(f"{chars:,} characters", context_tokens)
    return None


def context_exceeded(length: str, context_tokens: int) -> Failed:
    """The failure of a conversation of ``length`` (a number and its unit) that does not fit."""
    return Failed(
        "context_exceeded",
        f"The conversation has {length}; this model holds {context_tokens:,} tokens, the answer included. "
        "Please start a new conversation or shorten this one.",
    )


def _count_parts(request: TurnRequest) -> int:
    """How many parts cost tokens even if empty: a hundred thousand empty messages take half a minute to tokenise."""
    return len(request.messages) + sum(len(message.tool_calls) for message in request.messages) + len(request.tools)


def _count_chars(request: TurnRequest) -> int:
    """Length of the conversation's texts, without the system message and what stands between the texts."""
    return sum(
        len(message.content) + len(message.reasoning or "") + sum(len(call.arguments) for call in message.tool_calls)
        for message in request.messages
    )
