"""The ``response_format`` of a request: text, any JSON object, or JSON that is held to a schema.

A schema is held whole or refused, whatever ``strict`` says. Its name and description become its title and description,
unless it has its own: the model reads them there, and so does the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from appliance.engine.json_schema import SchemaError, check_schema
from installer.formats.checks import FaultError, Place, Rule
from webui.api.tools import FunctionName
from webui.api.values import UNSUPPORTED, Text, json_tree, one_of

_Kind = Literal["text", "json_object", "json_schema"]
_AnySchema = Annotated[dict[str, Any], Rule(json_tree)]
ANY_OBJECT: Final = {"type": "object"}


@dataclass(frozen=True, kw_only=True)
class NamedSchema:
    """``json_schema`` of a chat completion, and ``text.format`` of a response."""

    schema: _AnySchema
    name: FunctionName | None = None
    description: Text | None = None
    strict: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _Format:
    type: Annotated[_Kind, one_of(_Kind)]
    json_schema: NamedSchema | None = None
    schema: _AnySchema | None = None  # with json_object, as llama.cpp and others take it


def held_schema(named: NamedSchema, *, at: Place) -> dict[str, Any]:
    """The schema to which the answer is held.

    Args:
        at: where the schema stands.
    Raises:
        FaultError: text cannot be held to it.
    """
    given = {"title": named.name, "description": named.description}
    schema = {**{key: value for key, value in given.items() if value is not None}, **named.schema}
    try:
        check_schema(schema, strict=True)
    except SchemaError as exc:
        raise FaultError(str(exc), kind=UNSUPPORTED, at=at) from exc
    return schema


def _answer_schema(form: _Format) -> dict[str, Any] | None:
    if form.type == "json_object":
        given = ANY_OBJECT if form.schema is None else form.schema
        return held_schema(NamedSchema(schema=given), at=("schema",))
    if form.type == "text":
        return None
    if form.json_schema is None:
        raise FaultError("is missing", kind="missing", at=("json_schema",))
    return held_schema(form.json_schema, at=("json_schema", "schema"))


_NEEDED: Final = {
    "anyOf": [
        {"properties": {"type": {"enum": ["text", "json_object"]}}},
        {"properties": {"json_schema": {"type": "object"}}, "required": ["json_schema"]},
    ]
}
ResponseFormat = Annotated[dict[str, Any] | None, Rule(_answer_schema, takes=_Format, schema=_NEEDED)]
