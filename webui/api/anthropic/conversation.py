"""The ``messages`` of a request: each message's blocks, then the conversation as a whole.

The results of tools become messages of their own, before what is said beside them: so the model reads them in every
API of this server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from appliance.turns.request import Message, ToolCall
from installer.formats.checks import Choose, FaultError, Length, Rule
from webui.api.anthropic.blocks import (
    AssistantContent,
    Block,
    TextBlock,
    Thinking,
    ToolResult,
    ToolUse,
    UserContent,
)
from webui.api.messages import MAX_MESSAGES, MAX_TOOL_CALLS, as_conversation


@dataclass(frozen=True, kw_only=True)
class _User:
    role: Literal["user"]
    content: UserContent


@dataclass(frozen=True, kw_only=True)
class _Assistant:
    role: Literal["assistant"]
    content: AssistantContent


def _refuse_role(role: str) -> str:
    if role in ("system", "developer"):
        raise FaultError("must be user or assistant; instructions stand in the field system")
    raise FaultError("must be user or assistant")


@dataclass(frozen=True)
class _Unknown:
    role: Annotated[str, Rule(_refuse_role, takes=str)]


def _role_of(entry: Any) -> str:
    role = entry.get("role") if isinstance(entry, dict) else None
    return role if role in ("user", "assistant") else "unknown"


_MESSAGE: Final = Choose(_role_of, {"user": _User, "assistant": _Assistant, "unknown": _Unknown}, refused=("unknown",))


def _joined(given: tuple[_User | _Assistant, ...]) -> tuple[Message, ...]:
    """The turn's messages.

    Raises:
        FaultError: the result of a tool and a call do not belong together.
    """
    messages, places = list[Message](), list[int]()
    for place, one in enumerate(given):
        for message in _messages(one):
            messages.append(message)
            places.append(place)
    try:
        return as_conversation(tuple(messages))
    except FaultError as fault:
        at = (places[int(fault.at[0])],) if fault.at and isinstance(fault.at[0], int) else ()
        raise FaultError(fault.said, kind=fault.kind, at=at) from None


def _messages(given: _User | _Assistant) -> Iterator[Message]:
    blocks: tuple[Block, ...] = given.content
    text = "".join(block.text for block in blocks if isinstance(block, TextBlock))
    if isinstance(given, _Assistant):
        thought = "".join(block.thinking for block in blocks if isinstance(block, Thinking))
        calls = tuple(_call(block) for block in blocks if isinstance(block, ToolUse))
        if len(calls) > MAX_TOOL_CALLS:
            raise FaultError(f"must have at most {MAX_TOOL_CALLS} calls")
        yield Message("assistant", text, thought or None, calls)
        return
    results = [block for block in blocks if isinstance(block, ToolResult)]
    for result in results:
        yield Message("tool", result.text, tool_call_id=result.tool_use_id)
    if text or not results:
        yield Message("user", text)


def _call(block: ToolUse) -> ToolCall:
    return ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))


_CONVERSATION: Final = {
    "minItems": 1,
    "description": "Results of tools stand in the message after the one with their calls, and each call has one.",
}
Messages = Annotated[
    tuple[Annotated[Any, _MESSAGE], ...],
    Length(most=MAX_MESSAGES),
    Rule(_joined, schema=_CONVERSATION),
]
