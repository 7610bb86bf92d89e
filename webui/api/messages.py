"""The ``messages`` of a request, checked one by one, then as a conversation: every tool call answered once, in place.

Keys of a message that are not read here are ignored, because clients send back whole messages as servers gave them
(``refusal``, ``annotations``, ``audio``..). What carries content that the model cannot take (images, audio, files) is
refused.
"""

from __future__ import annotations

from typing import Any, Final, cast

from appliance.turns.request import Message, Role, ToolCall
from webui.api.tools import function_name
from webui.api.values import choice, fields, invalid, items, missing, text, unsupported, wrong_type

MAX_MESSAGES: Final = 4096
MAX_PARTS: Final = 1024
MAX_TOOL_CALLS: Final = 128
MAX_ID_CHARS: Final = 256

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")


def parse_messages(value: Any) -> tuple[Message, ...]:
    """The conversation.

    Raises:
        ApiError: a message is not one this server takes, or a tool's answer and a call do not belong together.
    """
    entries = items(value, "messages", MAX_MESSAGES)
    if not entries:
        invalid("messages", "must have at least one message")
    messages: list[Message] = []
    open_calls: dict[str, str] = {}  # id -> function's name, of calls not yet answered
    for index, entry in enumerate(entries):
        param = f"messages[{index}]"
        message = _parse_message(fields(entry, param), param)
        if message.role == "tool":
            name = open_calls.pop(cast(str, message.tool_call_id), None)
            if name is None:
                invalid(f"{param}.tool_call_id", "must be that of an unanswered call in the message before it")
            message = Message(role="tool", content=message.content, tool_call_id=message.tool_call_id, name=name)
        elif open_calls:
            invalid(param, "comes before every tool call has been answered")
        for number, call in enumerate(message.tool_calls):
            if call.id in open_calls:
                invalid(f"{param}.tool_calls[{number}].id", "is used twice")
            open_calls[call.id] = call.name
        messages.append(message)
    if open_calls:
        invalid("messages", "ends before every tool call has been answered")
    return tuple(messages)


def _parse_message(body: dict[str, Any], param: str) -> Message:
    if body.get("role") is None:
        missing(f"{param}.role")
    role = cast(Role, choice(body["role"], f"{param}.role", _ROLES))
    if body.get("name") is not None:
        text(body["name"], f"{param}.name")
    if role == "assistant":
        return _parse_assistant(body, param)
    if body.get("content") is None:
        missing(f"{param}.content")
    content = _parse_content(body["content"], f"{param}.content")
    if role != "tool":
        return Message(role=role, content=content)
    if body.get("tool_call_id") is None:
        missing(f"{param}.tool_call_id")
    call_id = _identifier(body["tool_call_id"], f"{param}.tool_call_id")
    return Message(role="tool", content=content, tool_call_id=call_id)


def _parse_assistant(body: dict[str, Any], param: str) -> Message:
    if body.get("function_call") is not None:
        unsupported(f"{param}.function_call", "this is the old form; use tool_calls")
    if body.get("audio") is not None:
        unsupported(f"{param}.audio", "this model takes text only")
    calls = _parse_calls(body.get("tool_calls"), f"{param}.tool_calls")
    if body.get("content") is None and not calls:
        missing(f"{param}.content")
    content = "" if body.get("content") is None else _parse_content(body["content"], f"{param}.content")
    reasoning_key = "reasoning" if body.get("reasoning_content") is None else "reasoning_content"
    reasoning = body.get(reasoning_key)
    if reasoning is not None:
        text(reasoning, f"{param}.{reasoning_key}")
    return Message(role="assistant", content=content, reasoning=reasoning, tool_calls=calls)


def _parse_content(value: Any, param: str) -> str:
    """A string, or text parts joined as they stand."""
    if isinstance(value, str):
        return text(value, param)
    if not isinstance(value, list):
        wrong_type(param, "a string or a list of text parts")
    parts = [_parse_part(part, f"{param}[{index}]") for index, part in enumerate(items(value, param, MAX_PARTS))]
    if not parts:
        invalid(param, "must have at least one part")
    return "".join(parts)


def _parse_part(value: Any, param: str) -> str:
    part = fields(value, param)
    if part.get("type") is None:
        missing(f"{param}.type")
    if part["type"] != "text":
        unsupported(f"{param}.type", 'this model takes text only, so "text" is the only kind of part')
    if part.get("text") is None:
        missing(f"{param}.text")
    return text(part["text"], f"{param}.text")


def _parse_calls(value: Any, param: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    return tuple(
        _parse_call(fields(call, f"{param}[{index}]"), f"{param}[{index}]")
        for index, call in enumerate(items(value, param, MAX_TOOL_CALLS))
    )


def _parse_call(body: dict[str, Any], param: str) -> ToolCall:
    if body.get("id") is None:
        missing(f"{param}.id")
    if body.get("type", "function") != "function":
        unsupported(f"{param}.type", 'only "function" tools exist here')
    if body.get("function") is None:
        missing(f"{param}.function")
    function = fields(body["function"], f"{param}.function")
    for key in ("name", "arguments"):
        if function.get(key) is None:
            missing(f"{param}.function.{key}")
    return ToolCall(
        id=_identifier(body["id"], f"{param}.id"),
        name=function_name(function["name"], f"{param}.function.name"),
        arguments=text(function["arguments"], f"{param}.function.arguments"),
    )


def _identifier(value: Any, param: str) -> str:
    if not 1 <= len(text(value, param)) <= MAX_ID_CHARS:
        invalid(param, f"must have 1 to {MAX_ID_CHARS} characters")
    return cast(str, value)
