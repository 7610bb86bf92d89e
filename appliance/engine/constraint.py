"""To what a request holds its turn: the functions of which one must be called, and the schemas of answer and arguments.

Arguments are held to a function's schema where the function is strict or must be called. Only a strict function's
schema must be held whole. Where the turn is held to Harmony's grammar, the arguments of every other call are a JSON
object: programs parse them. Everything else about Harmony is in `appliance.engine.harmony_grammar`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from appliance.engine.json_schema import check_schema, grammar_of
from appliance.turns.request import Tool, TurnRequest

_ANY_ARGUMENTS: Final = {"type": "object"}
_NO_ARGUMENTS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class Constraint:
    """What a turn is held to.

    Attributes:
        must_call: names of functions, one of which the turn calls; empty: the model decides.
        answer: the grammar of the answer's text; None: any text.
        arguments: name and grammar of each function whose arguments are held.
    """

    must_call: tuple[str, ...] = ()
    answer: str | None = None
    arguments: tuple[tuple[str, str], ...] = ()


NONE: Final = Constraint()


def constraint_of(request: TurnRequest) -> Constraint:
    """
    Raises:
        SchemaError: a schema is too large, or has a number that cannot be held.
    """
    answer = None if request.answer_schema is None else grammar_of(request.answer_schema, strict=True)
    any_arguments = grammar_of(_ANY_ARGUMENTS, strict=False) if request.grammar and request.tools else None
    arguments = [(tool.name, _arguments(tool, request, any_arguments)) for tool in request.tools]
    held = tuple((name, grammar) for name, grammar in arguments if grammar is not None)
    return Constraint(request.must_call, answer, held)


def _arguments(tool: Tool, request: TurnRequest, otherwise: str | None) -> str | None:
    """The grammar of a call's arguments, ``otherwise`` where they are not held to the function's schema."""
    if tool.strict or tool.name in request.must_call:
        return grammar_of(arguments_schema(tool), strict=tool.strict)
    return otherwise


def arguments_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema of a call's arguments. They are an object; a function without parameters gets an empty one."""
    return _NO_ARGUMENTS if tool.parameters is None else {"type": "object", **tool.parameters}


def check_tool(tool: Tool) -> None:
    """Raises SchemaError unless a call's arguments can be held to the function's schema."""
    check_schema(arguments_schema(tool), strict=tool.strict)
