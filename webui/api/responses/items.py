"""The items of ``input``: what each kind may hold, and what is kept of it. `conversation` makes messages of them.

Keys of an item that are not declared here are ignored, because clients send back whole items as servers gave them
(``status``, ``annotations``..). Items of tools that do not exist here are refused.

Source: OpenAI API reference, "Create a model response", ``input``.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args

from installer.formats.checks import Choose, FaultError, Length, Must, Rule
from webui.api.contents import MAX_PARTS, Content
from webui.api.messages import MAX_ID_CHARS, MAX_MESSAGES
from webui.api.tools import FunctionName
from webui.api.values import UNSUPPORTED, Text, chars, form_of, only, storable

SEAL: Final = "plain:"  # begins the reasoning that `encrypted_content` carries; it is not encrypted

_TAKEN: Final = "message, function_call, function_call_output, reasoning and item_reference"
_Role = Literal["system", "developer", "user", "assistant"]


@dataclass(frozen=True)
class Said:
    """What somebody says."""

    role: _Role
    text: str


@dataclass(frozen=True)
class Reasoned:
    """What the model thought before it said or called something."""

    text: str


@dataclass(frozen=True)
class Called:
    """A call of a function."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Result:
    """What a function answered."""

    call_id: str
    text: str


@dataclass(frozen=True)
class Reference:
    """An item of a kept response, by its id."""

    id: str


Item = Said | Reasoned | Called | Result
InputItem = Item | Reference


_Id = Annotated[Text, chars(1, MAX_ID_CHARS, f"must have 1 to {MAX_ID_CHARS} characters")]


_NO_ROLE: Final = "must be system, developer, user or assistant"


@dataclass(frozen=True, kw_only=True)
class _Message:
    type: Literal["message"] | None = None
    role: Annotated[Any, only(lambda role: role in _ROLES, _NO_ROLE, schema={"enum": list(get_args(_Role))})]
    content: Content


@dataclass(frozen=True)
class _ReasoningPart:
    text: Text


_ReasoningParts = Annotated[tuple[_ReasoningPart, ...] | None, Length(most=MAX_PARTS)]


@dataclass(frozen=True)
class _Reasoning:
    type: Literal["reasoning"]
    content: _ReasoningParts = None
    summary: _ReasoningParts = None
    encrypted_content: Text | None = None


@dataclass(frozen=True)
class _Call:
    type: Literal["function_call"]
    call_id: _Id
    name: FunctionName
    arguments: Text


@dataclass(frozen=True)
class _Output:
    type: Literal["function_call_output"]
    call_id: _Id
    output: Content


@dataclass(frozen=True, kw_only=True)
class _Reference:
    type: Literal["item_reference"] | None = None
    id: _Id


def _reasoned(given: _Reasoning) -> Reasoned:
    parts = given.content or ()
    if not parts and given.encrypted_content is not None:
        return Reasoned(_opened(given.encrypted_content))
    return Reasoned("".join(part.text for part in parts or given.summary or ()))


def sealed(reasoning: str) -> str:
    """Reasoning as a value that clients carry and give back unread."""
    return SEAL + base64.b64encode(reasoning.encode("utf-8", "surrogatepass")).decode()


def _opened(value: str) -> str:
    """The reasoning that `sealed` packed; empty for what another server packed, which nobody here can read."""
    if not value.startswith(SEAL):
        return ""
    try:
        text = base64.b64decode(value.removeprefix(SEAL), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise FaultError("is not what this server gave out", at=("encrypted_content",)) from exc
    return storable(text)


def item_object(item: InputItem, item_id: str) -> dict[str, Any]:
    """An input item as it is kept and listed."""
    match item:
        case Said(role, text):
            kind = "output_text" if role == "assistant" else "input_text"
            beside: dict[str, Any] = {"annotations": [], "logprobs": []} if role == "assistant" else {}
            content = [{"type": kind, "text": text, **beside}]
            return {"id": item_id, "type": "message", "role": role, "status": "completed", "content": content}
        case Reasoned(text):
            content = [{"type": "reasoning_text", "text": text}]
            return {"id": item_id, "type": "reasoning", "summary": [], "content": content}
        case Called(call_id, name, arguments):
            called = {"call_id": call_id, "name": name, "arguments": arguments, "status": "completed"}
            return {"id": item_id, "type": "function_call", **called}
        case Result(call_id, text):
            result = {"call_id": call_id, "output": text, "status": "completed"}
            return {"id": item_id, "type": "function_call_output", **result}
        case Reference():
            return {"type": "item_reference", "id": item.id}


def _unknown(entry: Any) -> InputItem:
    if not isinstance(entry, dict):
        raise FaultError("must be an object", kind="type")
    if entry.get("type") is None:
        raise FaultError("is required", kind="missing", at=("type",))
    raise FaultError(f"is of a kind that does not exist here; {_TAKEN} items are taken", kind=UNSUPPORTED, at=("type",))


def _form_of_item(entry: Any) -> str:
    kind = entry.get("type") if isinstance(entry, dict) else "unknown"
    if kind is None and "role" in entry:
        return "message"
    if kind is None and set(entry) == {"id"}:
        return "item_reference"
    return kind if isinstance(kind, str) and kind in _FORMS else "unknown"


_ROLES: Final = get_args(_Role)
_NAMED: Final = {
    "anyOf": [{"properties": {"type": {"const": "item_reference"}}, "required": ["type"]}, {"maxProperties": 1}]
}
_FORMS: Final[dict[str, Any]] = {
    "message": Annotated[InputItem, Rule(lambda given: Said(given.role, given.content), takes=_Message)],
    "reasoning": Annotated[InputItem, Rule(_reasoned, takes=_Reasoning)],
    "function_call": Annotated[
        InputItem, Rule(lambda given: Called(given.call_id, given.name, given.arguments), takes=_Call)
    ],
    "function_call_output": Annotated[
        InputItem, Rule(lambda given: Result(given.call_id, given.output), takes=_Output)
    ],
    "item_reference": Annotated[InputItem, Rule(lambda given: Reference(given.id), takes=_Reference, schema=_NAMED)],
    "unknown": Annotated[InputItem, Rule(_unknown, takes=Any)],
}
_ITEM: Final = Choose(_form_of_item, _FORMS, refused=("unknown",))
KeptItems = tuple[Annotated[InputItem, _ITEM], ...]  # of a response that is kept, read again
_CALLS_AND_OUTPUTS: Final = {"description": "Outputs follow the calls at once, and each call has exactly one."}
_Items = Annotated[KeptItems, Length(least=1, most=MAX_MESSAGES), Rule(lambda items: items, schema=_CALLS_AND_OUTPUTS)]
Input = Annotated[
    tuple[InputItem, ...],
    Choose(
        form_of,
        {
            "text": Annotated[tuple[InputItem, ...], Rule(lambda text: (Said("user", text),), takes=Text)],
            "list": _Items,
            "other": Annotated[tuple[InputItem, ...], Must("must be a string or a list of items")],
        },
        refused=("other",),
    ),
]
