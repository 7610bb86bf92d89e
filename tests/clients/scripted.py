"""An engine that obeys each request: it calls what must be called, keeps to the schema, and else repeats.

A request that lost its tools, its choice of tool or its schema on the way here is answered otherwise than its client
expects. No model does that on every run, so these tests can say what a client must get.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from appliance.turns.events import AnswerDelta, ReasoningDelta, Started, ToolCallDelta, TurnEvent
from appliance.turns.request import TurnRequest
from tests.fakes import done

WEATHER = {"city": "Paris", "degrees": 21}
_OF_TYPE: dict[str, Any] = {
    "string": "Paris", "integer": 21, "number": 21.5, "boolean": True, "null": None, "array": [], "object": WEATHER,
}  # fmt: skip


def instance(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """A value that the schema allows; of the features, it knows those that the clients here write."""
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return instance(schema[choice][0], root)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if schema.get("properties"):
        return {name: instance(inner, root) for name, inner in schema["properties"].items()}
    return _OF_TYPE[schema.get("type", "object")]


def called(request: TurnRequest) -> set[str]:
    """Names of the functions that the conversation has called so far."""
    return {call.name for message in request.messages for call in message.tool_calls}


def next_call(request: TurnRequest) -> str | None:
    """The function to call now: one that must be called, or the first of those offered to a new question."""
    if request.must_call:
        return next((name for name in request.must_call if name not in called(request)), request.must_call[-1])
    asked = request.messages[-1].role == "user"
    return request.tools[0].name if request.tools and asked else None


def obey(request: TurnRequest) -> Iterator[TurnEvent]:
    """The script: reasoning, then one call or an answer in two pieces."""
    yield Started(prompt_tokens=20, queued_s=0.0)
    yield ReasoningDelta("I do as the request says.")
    name = next_call(request)
    if name is None:
        yield from in_two(answer_to(request))
        yield done()
        return
    parameters = next(tool.parameters for tool in request.tools if tool.name == name) or {}
    arguments = instance(parameters, parameters) if parameters.get("properties") else {}
    yield ToolCallDelta(0, "call_1", name, "")
    yield ToolCallDelta(0, "call_1", None, json.dumps(arguments))
    yield done(finish_reason="tool_calls")


def answer_to(request: TurnRequest) -> str:
    last = request.messages[-1]
    if request.answer_schema is not None:
        return json.dumps(instance(request.answer_schema, request.answer_schema))
    return f"It is {last.content}." if last.role == "tool" else f"You said: {last.content}"


def in_two(text: str) -> Iterator[TurnEvent]:
    yield AnswerDelta(text[:5])
    yield AnswerDelta(text[5:])
