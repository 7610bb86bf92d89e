"""The ``tools`` and ``tool_choice`` of a request: functions, and which of them the model may or must call.

Tools of other kinds (a search in the web, an interpreter of the server..) do not exist here. Programs offer them
whether they need them or not, so they are left out, and `other_tools` names them.

`offered` says what both fields mean together. The arguments of a strict function, and of one that must be called, are
held to its schema. A strict function's schema must be one that can be held whole; of another's, the rest is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

from appliance.engine.constraint import check_tool
from appliance.engine.json_schema import SchemaError
from appliance.turns.request import Tool
from installer.formats.checks import Choose, FaultError, Length, Place, Rule
from webui.api.values import UNSUPPORTED, Text, json_tree, only

MAX_TOOLS: Final = 128
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise FaultError("must be 1 to 64 letters, digits, _ or -")
    return text


FunctionName = Annotated[Text, Rule(_name, schema={"pattern": f"^{_NAME.pattern}$"})]
FunctionKind = Annotated[
    Any, only(lambda kind: kind == "function", 'only "function" tools exist here', schema={"const": "function"})
]


@dataclass(frozen=True)
class _Function:
    name: FunctionName
    strict: bool | None = None
    parameters: Annotated[dict[str, Any], Rule(json_tree)] | None = None
    description: Text | None = None


@dataclass(frozen=True)
class _Tool:
    type: FunctionKind
    function: _Function


def _tool(entry: _Tool) -> Tool:
    function = entry.function
    return Tool(function.name, function.description or "", function.parameters, strict=bool(function.strict))


OWN_KINDS: Final = ("function",)  # the types of tools that the caller runs


@dataclass(frozen=True)
class _Other:
    type: Text


def _kind_of_tool(entry: Any, own: Collection[str] = OWN_KINDS) -> str:
    kind = entry.get("type") if isinstance(entry, dict) else None
    return "other" if isinstance(kind, str) and kind not in own else "function"


def or_other(function: Any, *, own: Collection[str] = OWN_KINDS) -> Choose:
    """An entry of ``tools``: a function of one of the types ``own``, or a tool of another kind, which becomes None."""
    not_own = {"properties": {"type": {"not": {"enum": sorted(own)}}}}
    other = Annotated[Tool | None, Rule(lambda _: None, takes=_Other, schema=not_own)]
    return Choose(partial(_kind_of_tool, own=own), {"function": function, "other": other})


def other_tools(tools: Any, own: Collection[str] = OWN_KINDS) -> tuple[str, ...]:
    """Where the tools stand that are left out, in a list that is not checked yet."""
    entries = tools if isinstance(tools, list) else []
    return tuple(f"tools[{number}]" for number, entry in enumerate(entries) if _kind_of_tool(entry, own) == "other")


_DISTINCT: Final = {"description": "No two have the same name."}


def _functions(tools: tuple[Tool | None, ...]) -> list[tuple[int, Tool]]:
    """The functions among the tools, each with its place."""
    return [(number, tool) for number, tool in enumerate(tools) if tool is not None]


def distinct(*name: str) -> Rule:
    """Tools of which no two have the same name. ``name``: where in an entry it stands."""

    def check(tools: tuple[Tool | None, ...]) -> tuple[Tool | None, ...]:
        seen: set[str] = set()
        for number, tool in _functions(tools):
            if tool.name in seen:
                raise FaultError("is used twice", at=(number, *name))
            seen.add(tool.name)
        return tools

    return Rule(check, schema=_DISTINCT)


Tools = Annotated[
    tuple[Annotated[Tool | None, or_other(Annotated[Tool | None, Rule(_tool, takes=_Tool)])], ...],
    Length(most=MAX_TOOLS),
    distinct("function", "name"),
]


@dataclass(frozen=True)
class Choice:
    """What the request says of calls: ``must`` there be one, and of which functions (None: of any)?"""

    may: bool = True
    must: bool = False
    names: tuple[str, ...] | None = None


def read_choice(choice: Any) -> Choice:
    """A ``tool_choice`` in the form of chat completions or in the flat form of responses."""
    if isinstance(choice, str) and choice in CHOICES:
        return CHOICES[choice]
    if isinstance(choice, dict) and choice.get("type") == "function":
        return Choice(must=True, names=(_named(choice),))
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _allowed(choice.get("allowed_tools", choice))
    if isinstance(choice, str | dict):
        raise FaultError('must be "none", "auto", "required", a function, or allowed_tools', kind=UNSUPPORTED)
    raise FaultError('must be "none", "auto", "required" or an object', kind="type")


def offered(
    tools: tuple[Tool | None, ...], choice: Choice, *, parameters: Place
) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools that the model is offered, and the names of those of which it must call one.

    Args:
        parameters: where in an entry of ``tools`` its schema stands.
    Raises:
        FaultError: there is no such function, or a call's arguments cannot be held to the schema.
    """
    functions = _functions(tools)
    names = [tool.name for _, tool in functions]
    unknown = next((name for name in choice.names or () if name not in names), None)
    if unknown is not None:
        raise FaultError(f'names "{unknown}", which is not among the tools', at=("tool_choice",))
    if choice.must and not functions:
        raise FaultError("asks for a call, and there are no tools of the type function", at=("tool_choice",))
    wanted = names if choice.names is None else choice.names
    for number, tool in functions:
        if choice.may and (tool.strict or (choice.must and tool.name in wanted)):
            _check_schema(tool, ("tools", number, *parameters))
    is_narrowed = choice.names is not None and not choice.must
    kept = tuple(tool for _, tool in functions if choice.may and (tool.name in wanted or not is_narrowed))
    return kept, tuple(name for name in names if name in wanted) if choice.must else ()


def _check_schema(tool: Tool, place: Place) -> None:
    try:
        check_tool(tool)
    except SchemaError as exc:
        raise FaultError(str(exc), kind=UNSUPPORTED, at=place) from exc


def _named(choice: Any) -> str:
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise FaultError("must name a function")
    return name


def _allowed(choice: Any) -> Choice:
    tools = choice.get("tools") if isinstance(choice, dict) else None
    if not isinstance(tools, list) or not 0 < len(tools) <= MAX_TOOLS or choice.get("mode") not in ("auto", "required"):
        raise FaultError('must have a mode, "auto" or "required", and a list of tools')
    return Choice(must=choice["mode"] == "required", names=tuple(map(_named, tools)))


AUTO: Final = Choice()
CHOICES: Final = {"auto": AUTO, "none": Choice(may=False), "required": Choice(must=True)}

_NAMED: Final = {"properties": {"name": {"type": "string", "pattern": f"^{_NAME.pattern}$"}}, "required": ["name"]}


def _one_or_within(field: str, what: dict[str, Any]) -> dict[str, Any]:
    """``what`` stands in the object itself, as responses have it, or in a field of it, as chats have it."""
    within = {"properties": {field: {"type": "object", **what}}, "required": [field]}
    return {"type": "object", "anyOf": [within, {**what, "not": {"required": [field]}}]}


def _of_type(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {"type": {"const": kind}}, "required": ["type"]}


_FUNCTION: Final = _one_or_within("function", _NAMED)
_LIST: Final = {"type": "array", "minItems": 1, "maxItems": MAX_TOOLS, "items": _FUNCTION}
_MODE: Final = {
    "properties": {"mode": {"enum": ["auto", "required"]}, "tools": _LIST},
    "required": ["mode", "tools"],
}
_SCHEMA: Final = {
    "anyOf": [
        {"enum": list(CHOICES)},
        _of_type("function", _FUNCTION),
        _of_type("allowed_tools", _one_or_within("allowed_tools", _MODE)),
    ],
    "description": "A function that is named must be among the tools.",
}
ToolChoice = Annotated[Choice, Rule(read_choice, takes=Any, schema=_SCHEMA)]
