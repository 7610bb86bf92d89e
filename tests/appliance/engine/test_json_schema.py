"""What of a JSON Schema text is held to, and in which words the rest is refused."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.engine.harmony import RETURN, Vocabulary
from appliance.engine.json_schema import MAX_CHARS, SchemaError, check_schema, grammar_of
from appliance.engine.json_text import JsonTexts
from tests.appliance.engine.schema_walk import fits, walk

TEXT = {"type": "string"}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "born": {"type": "integer", "minimum": 1900, "maximum": 2030},
        "kind": {"enum": ["a", 'q"uote\\', "ключ", "\u0001", None, 2.5]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,3}$"}, "maxItems": 3},
        "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/link"}]},
    },
    "required": ["name", "born", "kind", "tags", "next"],
    "additionalProperties": False,
    "$defs": {"link": {"type": "object", "properties": {"to": {"const": [1, {"a": "ü"}]}}, "required": ["to"]}},
}
HELD: list[dict[str, Any]] = [
    PERSON,
    {"type": "object"},
    {},
    {"type": ["integer", "null"], "multipleOf": 7, "minimum": -100, "maximum": 100},
    {"type": "number", "exclusiveMinimum": 0.5, "maximum": 2},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "boolean"}}}]},
    {"oneOf": [TEXT, {"type": "array", "prefixItems": [{"const": "x"}], "items": False, "minItems": 1}]},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": {"type": "null"}},
    {"type": "string", "pattern": "\\d{2}", "minLength": 3, "maxLength": 6},
    {"type": "string", "format": "date-time"},
    {"type": "array", "items": TEXT, "uniqueItems": False, "minItems": 2, "maxItems": 2},
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "definitions": {"n": {"type": "null"}},
     "properties": {"n": {"$ref": "#/definitions/n"}}, "required": ["n"], "x-guidance": {"lenient": True}},
    {"type": "object", "title": "T", "description": "d", "deprecated": True, "examples": [1], "default": {}, "$id": "a",
     "readOnly": True, "discriminator": {"propertyName": "k"}, "minProperties": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def texts(vocabulary: Vocabulary) -> JsonTexts:
    return JsonTexts(vocabulary)


@pytest.mark.parametrize("number", range(len(HELD)))
def test_whatever_the_schema_permits_is_json_that_fits_it(
    number: int, texts: JsonTexts, vocabulary: Vocabulary
) -> None:
    schema, rng = HELD[number], random.Random(number)
    written = [text for _ in range(8) if (text := walk(texts, vocabulary, schema, rng)) is not None]
    assert len(written) > 2
    for text in written:
        assert fits(json.loads(text), schema), text
    assert len(set(written)) > 1


def test_a_fitting_text_is_permitted_in_its_usual_tokens_and_character_by_character(
    texts: JsonTexts, vocabulary: Vocabulary
) -> None:
    schema = {"type": "object", "properties": {"name": TEXT, "ok": {"type": "boolean"}}, "required": ["name", "ok"]}
    before, text, after = '{"name":', ' "Zoë \\"Z\\" 日本 \\n",', '\n  "ok": true}'
    usual = vocabulary.encode(before + text + after)
    single = [token for character in text for token in vocabulary.encode(character)]
    for tokens in (usual, [*vocabulary.encode(before), *single, *vocabulary.encode(after)]):
        state = texts.held(grammar_of(schema, strict=True), RETURN, None)
        for token in tokens:
            assert state.mask.permits(token)
            assert not state.mask.permits(RETURN)
            state = state.after(token)
        assert state.mask.permits(RETURN)


def test_blanks_cannot_go_on_for_ever(texts: JsonTexts, vocabulary: Vocabulary) -> None:
    (blank,) = vocabulary.encode(" ")
    for begun, most in (("[", 0), ("[0,", 64), ('[{"a":', 8), ("[[]", 0)):
        state = texts.held(grammar_of({"type": "array"}, strict=True), RETURN, None)
        for character in begun:
            state = state.after(*vocabulary.encode(character))
        for _ in range(most):
            state = state.after(blank)
        assert not state.mask.permits(blank), begun


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "array", "uniqueItems": True}, "uses uniqueItems, which cannot be held"),
    ({"properties": {"a": {"not": TEXT, "if": TEXT}}}, "uses if, not, which cannot be held"),
    ({"$defs": {"a": {"contains": TEXT}}, "$ref": "#/$defs/a"}, "uses contains, which cannot be held"),
    ({"type": "object", "propertyNames": TEXT}, "uses propertyNames, which cannot be held"),
    ({"dependentRequired": {"a": ["b"]}}, "uses dependentRequired, which cannot be held"),
    ({"type": "object", "unevaluatedProperties": False}, "uses unevaluatedProperties, which cannot be held"),
    ({"$dynamicRef": "#a"}, "uses $dynamicRef, which cannot be held"),
    ({"type": "string", "format": "idn-email"}, 'uses the format "idn-email", which cannot be held; known are'),
    ({"type": "string", "pattern": "(?=a)b"}, "uses a pattern that looks ahead or behind"),
    ({"type": "string", "pattern": "(a)\\1"}, "uses a pattern that refers back to a group"),
    ({"type": "string", "pattern": "("}, "uses a pattern that is no regular expression"),
    ({"oneOf": [TEXT, {"type": "string", "minLength": 3}]}, "uses oneOf with alternatives that may overlap"),
    ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "uses minProperties or maxProperties beside"),
    ({"type": "object", "minProperties": 2}, "uses minProperties above the number of required properties"),
    ({"patternProperties": {"^a": {}, "^ab": {}}}, "uses patternProperties that overlap"),
    ({"$ref": "https://example.com/person.json"}, "uses a $ref that leads out of the schema"),
    ({"$ref": "#/$defs/nobody"}, "uses a $ref that leads out of the schema"),
    ({"$ref": "file:///etc/passwd"}, "uses a $ref that leads out of the schema"),
    ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, TEXT]}}, "$ref": "#/$defs/a"}, "uses a $ref to itself beside"),
    ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "allows no value at all"),
    ({"type": "string", "minLength": 5, "maxLength": 3}, "allows no value at all"),
    ({"enum": []}, "allows no value at all"),
    ({"type": "text"}, "cannot be held: Invalid type: text"),
    ({"const": 2**53 + 1}, "uses a number beyond 2**53"),
    ({"type": "integer", "maximum": 2**63 - 1}, "uses a number beyond 2**53"),
    ({"a": "\ud800", "type": "text"}, "is not JSON that can be read"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_cannot_be_held_is_refused_by_name(number: int) -> None:
    schema, words = REFUSED[number]
    with pytest.raises(SchemaError) as refused:
        check_schema(schema, strict=True)
    assert str(refused.value).startswith(words)


def test_what_cannot_be_held_is_left_out_where_nobody_asked_for_strictness(
    texts: JsonTexts, vocabulary: Vocabulary
) -> None:
    schema = {"type": "array", "items": {"type": "integer", "maximum": 9}, "uniqueItems": True, "maxItems": 2}
    state = texts.held(grammar_of(schema, strict=False), RETURN, None)
    for token in vocabulary.encode("[7,7"):
        state = state.after(token)
    assert not any(state.mask.permits(*vocabulary.encode(text)) for text in (",", "7"))


BOMBS: list[dict[str, Any]] = [
    {"type": "integer", "multipleOf": 999_983},
    {"type": "array", "items": {"anyOf": [{"type": "integer", "multipleOf": m} for m in (997, 991, 983, 977)]}},
    {"$ref": "#/elsewhere/0", "elsewhere": [{"type": "integer", "multipleOf": 999_983}]},
    {"type": "number", "multipleOf": 0.000999983},
    {"properties": {f"p{number}": {} for number in range(1_001)}},
    {"enum": ["x" * MAX_CHARS]},
    {"allOf": [{"anyOf": [{"required": [f"{a}{b}"]} for a in range(8)]} for b in range(8)]},
    {"allOf": [{"type": "string", "pattern": f"[a-z]*{letter}[a-z]{{40}}"} for letter in "abcdefgh"]},
    {"type": "object", "properties": {"x" * n: {"enum": [f"v{n}{m}" for m in range(300)]} for n in range(1, 60)},
     "required": [f"y{n}" for n in range(900)]},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BOMBS)))
def test_a_schema_that_would_take_long_is_refused_at_once(number: int) -> None:
    """The time is not compared; without the checks some of these take a minute and gigabytes."""
    with pytest.raises(SchemaError, match=r"too large|too complex|possible|allows no value"):
        check_schema(BOMBS[number], strict=True)


_WORDS = (
    "type", "properties", "items", "required", "enum", "const", "anyOf", "oneOf", "allOf", "not", "$ref", "$defs",
    "pattern", "format", "minimum", "multipleOf", "minLength", "maxItems", "minProperties", "patternProperties",
    "additionalProperties", "prefixItems", "$id", "$schema", "x-guidance", "propertyOrdering", "uniqueItems",
)  # fmt: skip
_VALUES = (
    "", "a", "string", "object", "#", "#/$defs/a", "^a(", "\\", "a{9999}", "date", "\ud800", "\0", 1, -1, 2.5, 1e300,
    2**62, True, False, None,
)  # fmt: skip
RUBBISH = st.recursive(
    st.sampled_from(_VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(_WORDS), RUBBISH, max_size=4), st.booleans())
@example({"format": ""}, True)
def test_a_schema_of_any_shape_is_held_or_refused(schema: dict[str, Any], strict: bool) -> None:
    with suppress(SchemaError):
        check_schema(schema, strict=strict)


def test_nothing_of_it_runs_in_a_thread_of_its_own(vocabulary: Vocabulary) -> None:
    threads = len(os.listdir("/proc/self/task"))
    state = JsonTexts(vocabulary).held(grammar_of(PERSON, strict=True), RETURN, None)
    assert state.after(*vocabulary.encode("{")).mask.permits(*vocabulary.encode('"'))
    assert len(os.listdir("/proc/self/task")) == threads


def deep(schema: dict[str, Any], levels: int) -> dict[str, Any]:
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def test_a_deep_schema_is_held_or_refused_and_breaks_nothing() -> None:
    check_schema(deep(TEXT, 20), strict=True)
    with pytest.raises(SchemaError):
        check_schema(deep(TEXT, 300), strict=True)
