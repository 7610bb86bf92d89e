"""``text.format`` of a response: text, any JSON object, or JSON that is held to a schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from installer.formats.checks import FaultError, Rule
from webui.api.response_format import ANY_OBJECT, NamedSchema, held_schema
from webui.api.tools import FunctionName
from webui.api.values import Text, json_tree, one_of

_PLACE: Final = ("text", "format", "schema")
_Kind = Literal["text", "json_object", "json_schema"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the answer is written."""

    type: Annotated[_Kind, one_of(_Kind)] = "text"
    name: FunctionName | None = None
    schema: Annotated[dict[str, Any], Rule(json_tree)] | None = None
    description: Text | None = None
    strict: bool | None = None

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The schema to which the answer is held.

        Raises:
            FaultError: text cannot be held to it.
        """
        if self.type == "text":
            return None
        if self.schema is None:
            return ANY_OBJECT
        return held_schema(NamedSchema(schema=self.schema, name=self.name, description=self.description), at=_PLACE)

    def as_object(self) -> dict[str, Any]:
        """The format as an answer repeats it."""
        if self.type != "json_schema":
            return {"type": self.type}
        described = {} if self.description is None else {"description": self.description}
        return {"type": self.type, "name": self.name, "schema": self.schema, "strict": self.strict, **described}


def _whole(given: Format) -> Format:
    if given.type == "json_schema":
        for name in ("name", "schema"):
            if getattr(given, name) is None:
                raise FaultError("is required", kind="missing", at=(name,))
    return given


TEXT: Final = Format()
_NEEDED: Final = {
    "anyOf": [
        {"properties": {"type": {"enum": ["text", "json_object"]}}},
        {"properties": {"name": {"type": "string"}, "schema": {"type": "object"}}, "required": ["name", "schema"]},
    ]
}
TextFormat = Annotated[Format, Rule(_whole, schema=_NEEDED)]
