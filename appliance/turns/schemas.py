"""JSON Schemas in a request: the order of their properties outlasts the record, which sorts all keys.

The model reads the properties in their order and writes them in it, so a replay needs it. It stands in the list
``propertyOrdering`` beside the properties, where it is not the alphabetical one; Gemini's API knows the same keyword.

    with_order({"properties": {"b": {}, "a": {}}})   == {"properties": {..}, "propertyOrdering": ["b", "a"]}
    in_order(what the record gave back)              == {"properties": {"b": {}, "a": {}}}, all other keys sorted
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

_ORDER: Final = "propertyOrdering"
_ONE: Final = frozenset({"items", "additionalItems", "additionalProperties", "contains", "not", "if", "then", "else"})
_LIST: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_MAP: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})


def rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with each schema in it, the innermost first, replaced by what ``change`` makes of it.

    Other objects, like those of ``const`` and of ``properties``, are not schemas and stay.
    """
    if not isinstance(schema, Mapping):
        return schema
    parts: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAP and isinstance(value, Mapping):
            parts[key] = {name: rewritten(part, change) for name, part in value.items()}
        elif key in _LIST and isinstance(value, list):
            parts[key] = [rewritten(part, change) for part in value]
        else:
            parts[key] = rewritten(value, change) if key in _ONE else value
    return change(parts)


def with_order(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the order of its properties as data."""

    def change(part: dict[str, Any]) -> dict[str, Any]:
        names = part.get("properties")
        if not isinstance(names, dict) or _ORDER in part or list(names) == sorted(names):
            return part
        return {**part, _ORDER: list(names)}

    made: dict[str, Any] = rewritten(schema, change)
    return made


def in_order(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its properties in their order, all other keys sorted, and without the list that says so.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deep.
    """

    def change(part: dict[str, Any]) -> dict[str, Any]:
        names, order = part.get("properties"), part.get(_ORDER)
        if not isinstance(names, dict) or not isinstance(order, list):
            return part
        kept = {key: value for key, value in part.items() if key != _ORDER}
        listed = [name for name in dict.fromkeys(map(str, order)) if name in names]
        return {**kept, "properties": {name: names[name] for name in (*listed, *names)}}

    made: dict[str, Any] = rewritten(json.loads(json.dumps(schema, sort_keys=True, allow_nan=False)), change)
    return made
