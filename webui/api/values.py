"""The types that fields of a request are made of: text, ranges, choices, and what this server cannot honour.

Text must be Unicode that can be stored: no lone surrogate (JSON's ``"\\ud800"`` alone), no NUL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar, get_args

from appliance.audit.event import check_storable
from installer.formats.checks import FaultError, Rule

T = TypeVar("T")

MAX_JSON_DEPTH: Final = 64
MAX_JSON_INT: Final = 2**63 - 1

UNSUPPORTED: Final = "unsupported"  # kinds of fault beside those of `installer.formats.checks`
REFUSED: Final = "refused"


def storable(text: str) -> str:
    """The text, if it can be kept and sent on.

    Raises:
        FaultError: it cannot.
    """
    try:
        check_storable(text)
    except ValueError as exc:
        raise FaultError(f"cannot be taken: {exc}") from exc
    return text


Text = Annotated[str, Rule(storable)]


def form_of(value: Any) -> str:
    """For `Choose`: which of "text", "list" and "other" the value is."""
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "other"


def between(low: int, high: int) -> Rule:
    """A number from ``low`` to ``high``."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise FaultError(f"must be from {low} to {high}")
        return value

    return Rule(check, schema={"minimum": low, "maximum": high})


def one_of(names: Any, *, only: tuple[str, ...] = (), why: str = "") -> Rule:
    """One of the names of a Literal. With ``only``, the others are known, but not to be had here."""
    known = get_args(names)

    def check(value: str) -> str:
        if value not in known:
            raise FaultError("must be one of " + ", ".join(known))
        if only and value not in only:
            raise FaultError(why, kind=UNSUPPORTED)
        return value

    return Rule(check, takes=str, schema={"enum": list(only or known)})


def only(is_possible: Callable[[Any], bool], why: str, *, schema: Mapping[str, Any] | None = None) -> Rule:
    """A value with which this server can do what the field asks for. ``schema`` says the same in JSON Schema."""

    def check(value: T) -> T:
        if not is_possible(value):
            raise FaultError(why, kind=UNSUPPORTED)
        return value

    return Rule(check, schema=schema)


def never(why: str, *, kind: str = UNSUPPORTED) -> Rule:
    """A field that only null may stand in."""

    def check(value: object) -> None:
        if value is not None:
            raise FaultError(why, kind=kind)

    return Rule(check, takes=Any, schema={"type": "null"})


def null_is(default: Any, takes: Any) -> Rule:
    """Null is the same as absent, in an object within the body."""
    return Rule(lambda value: default if value is None else value, takes=takes | None)


def chars(least: int, most: int, said: str) -> Rule:
    """Text of so many characters."""

    def check(text: str) -> str:
        if not least <= len(text) <= most:
            raise FaultError(said)
        return text

    return Rule(check, schema={"minLength": least, "maxLength": most})


def json_tree(value: Any, depth: int = 0) -> Any:
    """Any JSON value, as long as each string in it can be stored, each number is finite, and the nesting moderate."""
    if depth > MAX_JSON_DEPTH:
        raise FaultError(f"is nested more than {MAX_JSON_DEPTH} deep")
    if isinstance(value, str):
        storable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise FaultError("contains a number that is not finite")
    elif isinstance(value, int) and not -MAX_JSON_INT <= value <= MAX_JSON_INT:
        raise FaultError("contains a whole number of more than 63 bits")
    elif isinstance(value, list):
        for entry in value:
            json_tree(entry, depth + 1)
    elif isinstance(value, dict):
        for key, entry in value.items():
            storable(key)
            json_tree(entry, depth + 1)
    return value
