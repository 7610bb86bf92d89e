"""Converts values from JSON into declared types: dataclasses, tuples, literals, ``X | None``.

`installer.formats.plain` reads files that come from outside: it tells a person which field is wrong, and ignores fields
that it does not know. What comes here was written by this appliance (the wire, running turns, details of events). A
field that is unknown shows that it was not, so it is refused, and nobody needs a sentence. The wire checks each token,
so this is as short as it can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

# Metadata of a field that earlier releases do not know: the record leaves it out where it has its default.
LATER: Final[Mapping[str, object]] = {"later": True}

_hints = cache(get_type_hints)


def hints_of(kind: Any) -> dict[str, Any]:
    """The declared types of a dataclass's fields."""
    return _hints(kind)


def checked(kind: Any, value: Any) -> Any:
    """``value`` as an instance of the declared type ``kind``; a whole number is taken where a float is declared.

    Raises:
        ValueError, TypeError, KeyError: ``value`` does not fit: a field is missing, is unknown or has another type.
    """
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType or origin is Union:  # X | None is the only union in use
        return None if value is None and NoneType in options else checked(options[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(checked(options[0], item) for item in value)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = hints_of(kind)
        return kind(**{name: checked(hints[name], item) for name, item in value.items()})
    if kind is float and type(value) is int:
        return _as_float(value)
    if (
        kind is Any
        or (origin is Literal and value in options)
        or (origin is dict and isinstance(value, dict))
        or type(value) is kind
    ):
        return value
    raise ValueError(f"{value!r:.40} is not a {kind}")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError as exc:
        raise ValueError("a number is too large for a float") from exc
