"""What a request chooses: its tools and which of them must be called, how much the model thinks, and the answer's form.

Tools of the server's own (a search in the web, a shell..) do not exist here. They are left out and named in a header.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from appliance.turns.request import Effort, Tool, TurnRequest
from installer.formats.checks import Length, Rule
from webui.api.body import nearest_effort
from webui.api.response_format import NamedSchema, held_schema
from webui.api.tools import MAX_TOOLS, Choice, FunctionName, distinct, or_other
from webui.api.values import Text, between, json_tree

_LITTLE, _MUCH = 4_000, 16_000  # tokens of a budget: below the first a low effort, below the second a medium one
_EFFORTS: Final = {"max": "high"}  # beside those that the other addresses know
_PLACE: Final = ("output_config", "format", "schema")
JsonObject = Annotated[dict[str, Any], Rule(json_tree)]


@dataclass(frozen=True, kw_only=True)
class _Tool:
    type: Literal["custom"] | None = None
    name: FunctionName
    input_schema: JsonObject
    description: Text | None = None
    strict: bool | None = None


def _tool(given: _Tool) -> Tool:
    return Tool(given.name, given.description or "", given.input_schema, strict=bool(given.strict))


OWN: Final = ("custom",)  # the type of a tool that the caller runs, where it says one
Tools = Annotated[
    tuple[Annotated[Tool | None, or_other(Annotated[Tool | None, Rule(_tool, takes=_Tool)], own=OWN)], ...],
    Length(most=MAX_TOOLS),
    distinct("name"),
]


@dataclass(frozen=True, kw_only=True)
class _Choice:
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _OneTool:
    type: Literal["tool"]
    name: FunctionName
    disable_parallel_tool_use: bool | None = None


def _choice(given: _Choice | _OneTool) -> Choice:
    if isinstance(given, _OneTool):
        return Choice(must=True, names=(given.name,))
    return Choice(may=given.type != "none", must=given.type == "any")


ToolChoice = Annotated[Choice, Rule(_choice, takes=_Choice | _OneTool)]


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """Whether the answer shows what the model thought, and how much it thinks. It always thinks."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, between(1, 2**31 - 1)] | None = None
    display: Literal["summarized", "omitted"] | None = None

    @property
    def is_shown(self) -> bool:
        return self.type != "disabled" and self.display != "omitted"

    @property
    def effort(self) -> Effort:
        if self.type == "disabled":
            return "low"
        if self.budget_tokens is None:
            return TurnRequest.effort
        return "low" if self.budget_tokens < _LITTLE else "medium" if self.budget_tokens < _MUCH else "high"


@dataclass(frozen=True)
class _Format:
    type: Literal["json_schema"]
    schema: JsonObject


def _effort(name: str) -> Effort:
    return nearest_effort(_EFFORTS.get(name, name))


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """How hard the model thinks, and the schema to which the answer is held."""

    effort: (
        Annotated[
            Effort,
            Rule(_effort, takes=str, schema={"enum": ["low", "medium", "high", "none", "minimal", "xhigh", "max"]}),
        ]
        | None
    ) = None
    format: _Format | None = None

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """Raises: FaultError: text cannot be held to it."""
        if self.format is None:
            return None
        return held_schema(NamedSchema(schema=self.format.schema), at=_PLACE)
