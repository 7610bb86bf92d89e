"""JSON Schema from declared types: the dataclasses that requests are checked with, and the shapes of answers.

pydantic walks the types; what a rule checks stands beside the rule (`installer.formats.checks.Rule.schema`). Defaults
are left out: a field holds what its rule made of the request, which the caller never sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from installer.formats.checks import REFUSED

_REFERENCE: Final = "#/components/schemas/"


class _Generator(GenerateJsonSchema):
    def normalize_name(self, name: str) -> str:
        """The name of a schema, which has no private ones."""
        return super().normalize_name(name.replace("._", ".").lstrip("_"))

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Without the options that only word a refusal. The tag is a function's, so several options may fit."""
        refused = schema.get("metadata", {}).get(REFUSED, ())
        return {
            "anyOf": [self.generate_inner(option) for tag, option in schema["choices"].items() if tag not in refused]
        }


@dataclass(frozen=True)
class Components:
    """The schema of each type, and of all that it is made of, by name."""

    schemas: Mapping[str, dict[str, Any]]
    references: Mapping[Any, dict[str, Any]]

    def reference(self, kind: Any) -> dict[str, Any]:
        """Stands for the schema of a type."""
        return self.references[kind]

    def name(self, kind: type) -> str:
        """The name of a dataclass's schema."""
        return str(self.references[kind]["$ref"]).removeprefix(_REFERENCE)


@cache
def components_of(kinds: frozenset[Any]) -> Components:
    """The schemas of these dataclasses, and of unions of dataclasses."""
    inputs = [(kind, "validation", TypeAdapter(kind)) for kind in sorted(kinds, key=repr)]
    references, found = TypeAdapter.json_schemas(
        inputs,  # type: ignore[arg-type]  # types are hashable
        ref_template=_REFERENCE + "{model}",
        schema_generator=_Generator,
    )
    return Components(found["$defs"], {kind: reference for (kind, _), reference in references.items()})


def as_body(
    schema: Mapping[str, Any], sentences: Mapping[str, str], together: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The schema of a request's body: with the fields that may be sent and what is said of them; null is absent.

    Args:
        together: what is checked of several fields at once.
    """
    required = [name for name in schema.get("required", ()) if name in sentences]
    fields = {}
    for name, sentence in sentences.items():
        given = schema["properties"][name]
        fields[name] = (given if name in required else _or_null(given)) | {"description": _plain(sentence, given)}
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": True, **together}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}], "default": None} if schema.get("type") != "null" else schema


def _plain(sentence: str, schema: dict[str, Any]) -> str:
    return f"{sentence}. {schema['description']}" if "description" in schema else sentence
