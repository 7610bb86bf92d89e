"""The order of a schema's properties outlasts the record; nothing else of a schema changes."""

from __future__ import annotations

import json
from typing import Any

from appliance.turns.request import Message, Tool, new_request
from appliance.turns.schemas import in_order, rewritten, with_order

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "why": {"type": "object", "properties": {"z": {"type": "string"}, "b": {"const": {"y": 1, "x": 2}}}},
        "answer": {"anyOf": [{"properties": {"n": {}, "m": {}}}, {"items": {"properties": {"k": {}, "j": {}}}}]},
        "properties": {"type": "string"},
    },
    "required": ["why"],
    "$defs": {"e": {"properties": {"a": {}, "b": {}}}, "d": {"properties": {"b": {}, "a": {}}}},
}


def stored(schema: dict[str, Any]) -> dict[str, Any]:
    """As the record gives it back: all keys sorted."""
    given: dict[str, Any] = json.loads(json.dumps(schema, sort_keys=True))
    return given


def names(schema: dict[str, Any]) -> list[list[str]]:
    """The properties of each schema, in their order, the innermost schema first."""
    found = []

    def note(part: dict[str, Any]) -> dict[str, Any]:
        if "properties" in part:
            found.append(list(part["properties"]))
        return part

    rewritten(schema, note)
    return sorted(found)


def test_the_order_of_properties_comes_back_from_the_record() -> None:
    back = in_order(stored(with_order(SCHEMA)))
    assert back == SCHEMA
    assert names(back) == names(SCHEMA)
    assert list(back["properties"]["why"]["properties"]["b"]["const"]) == ["x", "y"]


def test_without_the_list_the_record_would_lose_it() -> None:
    assert names(in_order(stored(SCHEMA))) != names(SCHEMA)


def test_what_is_read_first_and_what_comes_back_is_one_text() -> None:
    first, back = (json.dumps(in_order(schema)) for schema in (with_order(SCHEMA), stored(with_order(SCHEMA))))
    assert first == back
    assert "propertyOrdering" not in first


def test_an_order_that_is_alphabetical_or_given_stays_as_it_is() -> None:
    alphabetical: dict[str, Any] = {"properties": {"a": {}, "b": {}}}
    assert with_order(alphabetical) == alphabetical
    given: dict[str, Any] = {"properties": {"a": {}, "b": {}, "c": {}}, "propertyOrdering": ["c", "none", "a", "c"]}
    assert with_order(given) == given
    assert list(in_order(given)["properties"]) == ["c", "a", "b"]


def test_a_property_or_a_value_that_looks_like_a_schema_is_none() -> None:
    schema: dict[str, Any] = {
        "properties": {"properties": {"type": "string"}},
        "default": {"properties": {"b": 1, "a": 2}},
    }
    assert with_order(schema) == schema


def test_a_request_keeps_the_order_of_its_schemas() -> None:
    tools = (Tool("f", "", SCHEMA), Tool("g", ""))
    request = new_request("ann", (Message("user", "x"),), tools=tools, answer_schema=SCHEMA)
    assert request.answer_schema == request.tools[0].parameters == with_order(SCHEMA) != SCHEMA
    assert request.tools[1].parameters is None
