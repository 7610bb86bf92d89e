"""The ``messages`` of a request: first each message by its role, then the conversation as a whole.

In a conversation, results of tools follow the calls at once, and each call has exactly one. Keys of a message that are
not declared here are ignored, because clients send back whole messages as servers gave them (``refusal``,
``annotations``..).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, get_args

from appliance.turns.request import Message, Role, ToolCall
from installer.formats.checks import Choose, FaultError, Length, Rule, check
from webui.api.contents import Content
from webui.api.tools import FunctionKind, FunctionName
from webui.api.values import Text, chars, json_tree, never

MAX_MESSAGES: Final = 4096
MAX_TOOL_CALLS: Final = 128
MAX_ID_CHARS: Final = 256
_OWN_IDS: Final = "call_without_id_"
_ANSWERED: Final = "every tool call has been answered; send a tool message for each, or leave the calls out"

_Id = Annotated[Text, chars(0, MAX_ID_CHARS, f"must have at most {MAX_ID_CHARS} characters")]


@dataclass(frozen=True, kw_only=True)
class _Statement:
    """A message of a role that only says something."""

    role: Literal["system", "developer", "user"]
    name: Text | None = None
    content: Content


def _refuse_role(role: str) -> Role:
    if role == "function":
        raise FaultError('is of the old form; send the role "tool" with the tool_call_id of its call')
    raise FaultError("must be one of " + ", ".join(get_args(Role)))


@dataclass(frozen=True)
class _Unknown:
    """A message of any other role, which is refused."""

    role: Annotated[Role, Rule(_refuse_role, takes=str)]


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What a tool answered."""

    role: Literal["tool"]
    name: Text | None = None
    content: Content | None = None  # a tool that returns nothing
    tool_call_id: _Id | None = None


def _arguments(value: Any) -> str:
    """Some programs send the arguments as the object that they read, or null if there are none."""
    if value is None:
        return "{}"
    if isinstance(value, dict):
        return json.dumps(json_tree(value), ensure_ascii=False)
    return check(Text, value)


@dataclass(frozen=True)
class _Function:
    name: FunctionName
    arguments: Annotated[str, Rule(_arguments, takes=Any, schema={"type": ["string", "object"]})] = "{}"


@dataclass(frozen=True, kw_only=True)
class _Call:
    id: _Id = ""
    type: FunctionKind = "function"
    function: _Function


@dataclass(frozen=True)
class _Assistant:
    role: Literal["assistant"]
    name: Text | None = None
    function_call: Annotated[None, never("this is the old form; use tool_calls")] = None
    audio: Annotated[None, never("this model takes text only")] = None
    tool_calls: Annotated[tuple[_Call, ...] | None, Length(most=MAX_TOOL_CALLS)] = None
    content: Content | None = None
    reasoning_content: Text | None = None
    reasoning: Any = None  # looked at only where there is no reasoning_content


def _form_of_message(entry: Any) -> str:
    role = entry.get("role") if isinstance(entry, dict) else None
    return _FORMS.get(role, "unknown") if isinstance(role, str) else "unknown"


def _statement(given: _Statement) -> Message:
    return Message(given.role, given.content)


def _result(given: _Result) -> Message:
    return Message("tool", given.content or "", tool_call_id=given.tool_call_id)


def _assistant(given: _Assistant) -> Message:
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in given.tool_calls or ())
    return Message("assistant", given.content or "", _reasoning(given), calls)


def _reasoning(given: _Assistant) -> str | None:
    if given.reasoning_content is not None or given.reasoning is None:
        return given.reasoning_content
    try:
        return check(Text, given.reasoning)
    except FaultError as exc:
        raise FaultError(exc.said, kind=exc.kind, at=("reasoning",)) from None


def as_conversation(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, each result of a tool with the name of the function that it answers.

    Calls without ids get some. A result without an id, or with an id where its call has none, answers the first call
    that is still open.

    Raises:
        FaultError: the result of a tool and a call do not belong together.
    """
    if not messages:
        raise FaultError("must have at least one message")
    conversation: list[Message] = []
    open_calls: dict[str, str] = {}  # id -> function's name, of calls not yet answered
    for index, message in enumerate(messages):
        if message.role == "tool":
            message = _answering(message, open_calls, index)
        elif open_calls:
            raise FaultError(f"comes before {_ANSWERED}", at=(index,))
        message = replace(message, tool_calls=_with_ids(message.tool_calls, index))
        for number, call in enumerate(message.tool_calls):
            if call.id in open_calls:
                raise FaultError("is used twice", at=(index, "tool_calls", number, "id"))
            open_calls[call.id] = call.name
        conversation.append(message)
    if open_calls:
        raise FaultError(f"ends before {_ANSWERED}")
    return tuple(conversation)


def _answering(result: Message, open_calls: dict[str, str], index: int) -> Message:
    """The result of a tool with its call's id and the function's name; the call is no longer open."""
    first = next(iter(open_calls), "")
    called = result.tool_call_id or first
    if called not in open_calls and first.startswith(_OWN_IDS):
        called = first
    if called not in open_calls:
        raise FaultError("must be that of an unanswered call in the message before it", at=(index, "tool_call_id"))
    return replace(result, tool_call_id=called, name=open_calls.pop(called))


def _with_ids(calls: tuple[ToolCall, ...], index: int) -> tuple[ToolCall, ...]:
    return tuple(call if call.id else replace(call, id=f"{_OWN_IDS}{index}_{n}") for n, call in enumerate(calls))


_FORMS: Final[dict[str, str]] = {  # role -> form below
    "system": "statement",
    "developer": "statement",
    "user": "statement",
    "assistant": "assistant",
    "tool": "tool",
}
_READ_SECOND: Final = {
    "anyOf": [
        {"properties": {"reasoning": {"type": ["string", "null"]}}},
        {"properties": {"reasoning_content": {"type": "string"}}, "required": ["reasoning_content"]},
    ]
}
_MESSAGE = Choose(
    _form_of_message,
    {
        "unknown": _Unknown,
        "statement": Annotated[Message, Rule(_statement, takes=_Statement)],
        "tool": Annotated[Message, Rule(_result, takes=_Result)],
        "assistant": Annotated[Message, Rule(_assistant, takes=_Assistant, schema=_READ_SECOND)],
    },
    refused=("unknown",),
)
_CONVERSATION: Final = {
    "minItems": 1,
    "description": "Messages of tools follow the message with their calls at once, and each call has one.",
}
Messages = Annotated[
    tuple[Annotated[Message, _MESSAGE], ...],
    Length(most=MAX_MESSAGES),
    Rule(as_conversation, schema=_CONVERSATION),
]
