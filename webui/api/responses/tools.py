"""The ``tools`` and ``tool_choice`` of a response: functions only, each described without a ``function`` around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from appliance.turns.request import Tool
from installer.formats.checks import FaultError, Length, Rule
from webui.api.tools import MAX_TOOLS, FunctionName
from webui.api.values import UNSUPPORTED, Text, json_tree


def _function_kind(kind: Any) -> Any:
    if kind != "function":
        why = "only functions exist here, which you run yourself; this machine has no way out for other tools"
        raise FaultError(why, kind=UNSUPPORTED)
    return kind


@dataclass(frozen=True)
class _Tool:
    type: Annotated[Any, Rule(_function_kind, takes=Any)]
    name: FunctionName
    strict: bool | None = None
    parameters: Annotated[dict[str, Any], Rule(json_tree)] | None = None
    description: Text | None = None


def _tool(entry: _Tool) -> Tool:
    return Tool(entry.name, entry.description or "", entry.parameters, strict=bool(entry.strict))


def _distinct(tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    seen: set[str] = set()
    for number, tool in enumerate(tools):
        if tool.name in seen:
            raise FaultError("is used twice", at=(number, "name"))
        seen.add(tool.name)
    return tools


Tools = Annotated[tuple[Annotated[Tool, Rule(_tool, takes=_Tool)], ...], Length(most=MAX_TOOLS), Rule(_distinct)]


@dataclass(frozen=True)
class Choice:
    """What the request says of calls: ``must`` there be one, and of which functions (None: of any)?"""

    may: bool = True
    must: bool = False
    names: tuple[str, ...] | None = None


AUTO: Final = Choice()
_CHOICES: Final = {"auto": AUTO, "none": Choice(may=False), "required": Choice(must=True)}


def _choice(given: Any) -> Choice:
    if isinstance(given, str) and given in _CHOICES:
        return _CHOICES[given]
    if isinstance(given, dict) and given.get("type") == "function":
        return Choice(must=True, names=(_named(given),))
    if isinstance(given, dict) and given.get("type") == "allowed_tools":
        return _allowed(given)
    if isinstance(given, str | dict):
        raise FaultError('must be "none", "auto", "required", a function, or allowed_tools', kind=UNSUPPORTED)
    raise FaultError('must be "none", "auto", "required" or an object', kind="type")


def _named(given: Any) -> str:
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str):
        raise FaultError("must name a function")
    return name


def _allowed(given: dict[str, Any]) -> Choice:
    tools = given.get("tools")
    if not isinstance(tools, list) or not 0 < len(tools) <= MAX_TOOLS or given.get("mode") not in ("auto", "required"):
        raise FaultError('must have a mode, "auto" or "required", and a list of tools')
    return Choice(must=given["mode"] == "required", names=tuple(map(_named, tools)))


ToolChoice = Annotated[Choice, Rule(_choice, takes=Any)]


def offered(tools: tuple[Tool, ...], choice: Choice) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools that the model is offered, and the names of those of which it must call one.

    Raises:
        FaultError: there is no such function.
    """
    names = [tool.name for tool in tools]
    if any(name not in names for name in choice.names or ()):
        raise FaultError("names a function that is not among the tools", at=("tool_choice",))
    if choice.must and not tools:
        raise FaultError("asks for a call, and there are no tools", at=("tool_choice",))
    wanted = names if choice.names is None else choice.names
    is_narrowed = choice.names is not None and not choice.must
    kept = tuple(tool for tool in tools if choice.may and (tool.name in wanted or not is_narrowed))
    return kept, tuple(name for name in names if name in wanted) if choice.must else ()


def choice_object(choice: Choice) -> str | dict[str, Any]:
    """The choice as an answer repeats it."""
    if choice.names is None:
        return next(word for word, known in _CHOICES.items() if known == choice)
    tools = [{"type": "function", "name": name} for name in choice.names]
    if choice.must and len(tools) == 1:
        return tools[0]
    return {"type": "allowed_tools", "mode": "required" if choice.must else "auto", "tools": tools}


def tool_object(tool: Tool) -> dict[str, Any]:
    """The tool as an answer repeats it."""
    return {
        "type": "function", "name": tool.name, "description": tool.description or None,
        "parameters": tool.parameters, "strict": tool.strict,
    }  # fmt: skip
