"""The ``tools`` and ``tool_choice`` of a request: functions only; the model decides whether to call one.

The engine can neither force a call nor hold arguments to a schema, so ``required``, a named choice and ``strict`` are
refused rather than half kept.
"""

from __future__ import annotations

import re
from typing import Any, Final

from appliance.turns.request import Tool
from webui.api.values import fields, flag, invalid, items, json_tree, missing, text, unsupported, wrong_type

MAX_TOOLS: Final = 128
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def function_name(value: Any, param: str) -> str:
    if not _NAME.fullmatch(text(value, param)):
        invalid(param, "must be 1 to 64 letters, digits, _ or -")
    return str(value)


def parse_tools(value: Any) -> tuple[Tool, ...]:
    """The functions offered, in order, with distinct names."""
    tools: list[Tool] = []
    for index, entry in enumerate(items(value, "tools", MAX_TOOLS)):
        param = f"tools[{index}]"
        tool = _parse_tool(fields(entry, param), param)
        if any(tool.name == earlier.name for earlier in tools):
            invalid(f"{param}.function.name", "is used twice")
        tools.append(tool)
    return tuple(tools)


def parse_tool_choice(value: Any) -> bool:
    """Whether the tools are offered at all: true for "auto", false for "none"."""
    if value not in ("auto", "none"):
        if isinstance(value, str | dict):
            unsupported("tool_choice", 'this model decides for itself whether to call; use "auto" or "none"')
        wrong_type("tool_choice", '"auto" or "none"')
    return bool(value == "auto")


def _parse_tool(body: dict[str, Any], param: str) -> Tool:
    if body.get("type") is None:
        missing(f"{param}.type")
    if body["type"] != "function":
        unsupported(f"{param}.type", 'only "function" tools exist here')
    if body.get("function") is None:
        missing(f"{param}.function")
    function = fields(body["function"], f"{param}.function")
    if function.get("name") is None:
        missing(f"{param}.function.name")
    if function.get("strict") is not None and flag(function["strict"], f"{param}.function.strict"):
        unsupported(f"{param}.function.strict", "arguments cannot be held to the schema here; send false")
    parameters = function.get("parameters")
    if parameters is not None:
        json_tree(fields(parameters, f"{param}.function.parameters"), f"{param}.function.parameters")
    description = function.get("description")
    return Tool(
        name=function_name(function["name"], f"{param}.function.name"),
        description="" if description is None else text(description, f"{param}.function.description"),
        parameters=parameters,
    )
