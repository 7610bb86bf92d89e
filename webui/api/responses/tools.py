"""The ``tools`` of a response: functions, each described without a ``function`` around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from appliance.turns.request import Tool
from installer.formats.checks import Length, Rule
from webui.api.tools import CHOICES, MAX_TOOLS, Choice, FunctionName, distinct, or_other
from webui.api.values import Text, json_tree


@dataclass(frozen=True)
class _Tool:
    type: Literal["function"]
    name: FunctionName
    strict: bool | None = None
    parameters: Annotated[dict[str, Any], Rule(json_tree)] | None = None
    description: Text | None = None


def _tool(entry: _Tool) -> Tool:
    return Tool(entry.name, entry.description or "", entry.parameters, strict=bool(entry.strict))


Tools = Annotated[
    tuple[Annotated[Tool | None, or_other(Annotated[Tool | None, Rule(_tool, takes=_Tool)])], ...],
    Length(most=MAX_TOOLS),
    distinct("name"),
]


def choice_object(choice: Choice) -> str | dict[str, Any]:
    """The choice as an answer repeats it."""
    if choice.names is None:
        return next(word for word, known in CHOICES.items() if known == choice)
    tools = [{"type": "function", "name": name} for name in choice.names]
    if choice.must and len(tools) == 1:
        return tools[0]
    return {"type": "allowed_tools", "mode": "required" if choice.must else "auto", "tools": tools}


def tool_objects(tools: tuple[Tool | None, ...]) -> list[dict[str, Any]]:
    """The functions among the tools as an answer repeats them."""
    return [
        {
            "type": "function", "name": tool.name, "description": tool.description or None,
            "parameters": tool.parameters, "strict": tool.strict,
        }
        for tool in tools
        if tool is not None
    ]  # fmt: skip
