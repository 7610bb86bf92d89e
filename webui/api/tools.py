"""The ``tools`` and ``tool_choice`` of a request: functions only; the model decides whether to call one.

The engine can neither force a call nor hold arguments to a schema, so the server refuses ``required``, a named choice
and ``strict`` rather than half keep them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from appliance.turns.request import Tool
from installer.formats.checks import FaultError, Length, Rule
from webui.api.values import UNSUPPORTED, Text, json_tree, only

MAX_TOOLS: Final = 128
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise FaultError("must be 1 to 64 letters, digits, _ or -")
    return text


FunctionName = Annotated[Text, Rule(_name)]
FunctionKind = Annotated[Any, only(lambda kind: kind == "function", 'only "function" tools exist here')]


@dataclass(frozen=True)
class _Function:
    name: FunctionName
    strict: (
        Annotated[bool, only(lambda on: not on, "arguments cannot be held to the schema here; send false")] | None
    ) = None
    parameters: Annotated[dict[str, Any], Rule(json_tree)] | None = None
    description: Text | None = None


@dataclass(frozen=True)
class _Tool:
    type: FunctionKind
    function: _Function


def _tool(entry: _Tool) -> Tool:
    function = entry.function
    return Tool(name=function.name, description=function.description or "", parameters=function.parameters)


def _distinct(tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """The tools, if no two have the same name."""
    seen: set[str] = set()
    for number, tool in enumerate(tools):
        if tool.name in seen:
            raise FaultError("is used twice", at=(number, "function", "name"))
        seen.add(tool.name)
    return tools


Tools = Annotated[
    tuple[Annotated[Tool, Rule(_tool, takes=_Tool)], ...],
    Length(most=MAX_TOOLS),
    Rule(_distinct),
]


def _offered(choice: Any) -> bool:
    """Whether the tools are offered at all: true for "auto", false for "none"."""
    if choice in ("auto", "none"):
        return bool(choice == "auto")
    if isinstance(choice, str | dict):
        raise FaultError('this model decides for itself whether to call; use "auto" or "none"', kind=UNSUPPORTED)
    raise FaultError('must be "auto" or "none"', kind="type")


ToolChoice = Annotated[bool, Rule(_offered, takes=Any)]
