"""JSON Schemas as grammars: which of them text can be held to, and in which words the others are refused.

llguidance compiles the schemas and names most of what it cannot hold. What is checked here beside that:

1. The schema has a moderate size, and so has each object in it.
2. ``multipleOf`` is small: each value becomes an automaton with so many states, and several are multiplied.
3. Numbers are exact as doubles, because the library reads them as such.
4. ``minProperties`` asks for no more than the required properties, or one: the grammar lets a further key be repeated.

Not covered: what a schema costs while text is held to it. `appliance.engine.json_text` bounds that at each token.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from appliance.errors import ApplianceError
from appliance.turns.schemas import in_order, rewritten

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance._lib import JsonCompileOptions

MAX_CHARS: Final = 100_000
_MAX_KEYS: Final = 1_000  # of one object: with 5,000 optional properties the first token takes 160 ms
_MAX_STATES: Final = 10_000  # of all multipleOf together: 1,000,000 take 7 s and 300 MB
_MAX_EXACT: Final = 2**53
_MAX_LEXER_STATES: Final = 50_000  # of one turn, 1 to 2 kB each

# A model that can write blanks for ever sometimes does. There may be some behind a comma or colon, and none elsewhere.
_AFTER_COMMA: Final = r",[\x20\n\r\t]{0,64}"
_AFTER_COLON: Final = r":\x20{0,8}"

_NUMBERS: Final = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_DROPPED: Final = ("$schema", "x-guidance")  # the newest version is meant; and nobody instructs the library

_KNOWN_FORMATS: Final = "date-time, time, date, duration, email, hostname, ipv4, ipv6, uuid, uri"
_WORDS: Final = (  # what the library says, and what is said here
    (r"Unimplemented keys: \[(.*)\]", "uses {0}, which cannot be held"),
    (r"Unknown format: (.*)", 'uses the format "{0}", which cannot be held; known are ' + _KNOWN_FORMATS),
    (r"oneOf constraints", "uses oneOf with alternatives that may overlap, which cannot be held; use anyOf"),
    (r"min/maxProperties", "uses minProperties or maxProperties beside optional properties, which cannot be held"),
    (r"patternProperty regexes|disjoint", "uses patternProperties that overlap, which cannot be held"),
    (r"look-around", "uses a pattern that looks ahead or behind, which cannot be held"),
    (r"backreferences", "uses a pattern that refers back to a group, which cannot be held"),
    (r"regex parse error|invalid regex", "uses a pattern that is no regular expression"),
    (r"circular references", "uses a $ref to itself beside other keywords, which cannot be held"),
    (r"\$ref|Resource '|Pointer '|Definition not found|Reference segment", "uses a $ref that leads out of the schema"),
    (r"Invalid URI", "has a $ref or $id that is no address"),
    (r"Unsatisfiable schema", "allows no value at all"),
    (r"too (large|big|many|complex)|fuel|limit|Unable to determine|Failed to generate", "is too large or too complex"),
)


class SchemaError(ApplianceError):
    """Text cannot be held to the schema; the message is a sentence that lacks its subject, the schema."""


def grammar_of(schema: Mapping[str, Any], *, strict: bool) -> str:
    """The schema as a grammar in the library's own notation, not compiled yet.

    Args:
        strict: refuse what cannot be held; otherwise such a keyword is left out, and ``oneOf`` is taken as ``anyOf``.
    Raises:
        SchemaError: check 1, 2, 3 or 4 of this module fails.
    """
    from llguidance import LLMatcher  # only a turn that needs it waits for it

    kept = {key: value for key, value in schema.items() if key not in _DROPPED}
    try:
        length = len(json.dumps(kept))
        if length > MAX_CHARS:  # 1
            raise SchemaError(f"has {length:,} characters; {MAX_CHARS:,} are possible")
        plain = rewritten(in_order(kept), _without_effectless)
    except (ValueError, RecursionError) as exc:
        raise SchemaError("is not JSON that can be read") from exc
    _check_parts(plain, strict=strict)
    options: JsonCompileOptions = {
        "whitespace_flexible": False, "item_separator": _AFTER_COMMA, "key_separator": _AFTER_COLON,
        "lenient": not strict,
    }  # fmt: skip
    try:
        return LLMatcher.grammar_from_json_schema(plain, overrides=options)
    except ValueError as exc:
        raise SchemaError("is not JSON that can be read") from exc


def compile_grammar(grammar: str, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher at the beginning of the text.

    Raises:
        SchemaError: the library cannot hold the schema; the message names the keyword.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=_limits())
    if matcher.is_error():
        raise SchemaError(_words(matcher.get_error()))
    return matcher


def check_schema(schema: Mapping[str, Any], *, strict: bool) -> None:
    """Raises SchemaError unless text can be held to the schema. Needs no vocabulary."""
    compile_grammar(grammar_of(schema, strict=strict), _bytes_tokenizer())


@cache
def _bytes_tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


@cache
def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)


def _words(message: str) -> str:
    for pattern, words in _WORDS:
        found = re.search(pattern, message)
        if found:
            return words.format(*((group or "").replace('"', "") for group in found.groups()))
    return "cannot be held: " + message.partition("\n")[0][:200]


def _check_parts(schema: Any, *, strict: bool) -> None:
    states = 1
    for part in _objects(schema):
        if len(part) > _MAX_KEYS:  # 1
            raise SchemaError(f"has an object of {len(part):,} keys; {_MAX_KEYS:,} are possible")
        states *= _states(part.get("multipleOf"))
        if states > _MAX_STATES:  # 2
            raise SchemaError("uses multipleOf with numbers too large to be held")
        if any(abs(number) > _MAX_EXACT for key in _NUMBERS for number in _numbers(part.get(key))):  # 3
            raise SchemaError("uses a number beyond 2**53, which cannot be held exactly")
        least, required = part.get("minProperties"), part.get("required")
        sure = len(set(map(str, required))) if isinstance(required, list) else 0
        if strict and isinstance(least, int) and least > max(1, sure):  # 4
            raise SchemaError("uses minProperties above the number of required properties, which cannot be held")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object at any depth: a $ref may make a schema of each."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _objects(part)
    elif isinstance(value, list):
        for part in value:
            yield from _objects(part)


def _states(multiple: Any) -> int:
    """How many states the automaton of a ``multipleOf`` has, about."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float) or not math.isfinite(multiple):
        return 1
    digits = Decimal(str(multiple)).normalize()
    return max(1, abs(int(multiple if digits == int(digits) else int("".join(map(str, digits.as_tuple().digits))))))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def _without_effectless(part: dict[str, Any]) -> dict[str, Any]:
    """A schema without ``uniqueItems: false``, which says nothing, but which the library refuses."""
    return {key: value for key, value in part.items() if key != "uniqueItems" or value is not False}
