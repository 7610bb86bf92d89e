"""Typed fields of a JSON object. What has another type or form is refused by the name of the field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]


class FormatError(ValueError):
    """A file is not of the format that it should be; the message says where."""


def parse_object(data: bytes, *, version: int) -> Fields:
    """The object of a file whose field `format` has this number.

    Raises:
        FormatError: the file is no JSON object, or of another format.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise FormatError(f"it is no JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise FormatError("it is no JSON object")
    found = body.get("format")
    if type(found) is not int or found != version:
        raise FormatError(f"its format is {found!r:.40}, not {version}")
    return body


def value(body: Fields, key: str) -> Any:
    if key not in body:
        raise FormatError(f"{key} is missing")
    return body[key]


def text(body: Fields, key: str) -> str:
    found = value(body, key)
    if not isinstance(found, str) or not found:
        raise FormatError(f"{key} must be a text")
    return found


def optional_text(body: Fields, key: str) -> str | None:
    return None if body.get(key) is None else text(body, key)


def whole(body: Fields, key: str, *, least: int = 0) -> int:
    return whole_number(value(body, key), key, least=least)


def whole_number(found: object, what: str, *, least: int = 0) -> int:
    if type(found) is not int or found < least:
        raise FormatError(f"{what} must be a whole number from {least} on, not {found!r:.40}")
    return found


def real_number(found: object, what: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise FormatError(f"{what} must be a finite number, not {found!r:.40}")
    return float(found)


def nested(body: Fields, key: str) -> Fields:
    found = value(body, key)
    if not isinstance(found, dict):
        raise FormatError(f"{key} must be an object")
    return found


def items(body: Fields, key: str) -> list[Any]:
    found = value(body, key)
    if not isinstance(found, list):
        raise FormatError(f"{key} must be a list")
    return found


def texts(body: Fields, key: str) -> tuple[str, ...]:
    found = items(body, key)
    if not all(isinstance(item, str) and item for item in found):
        raise FormatError(f"{key} must be a list of texts")
    return tuple(found)


def objects(body: Fields, key: str) -> list[Fields]:
    found = items(body, key)
    if not all(isinstance(item, dict) for item in found):
        raise FormatError(f"{key} must be a list of objects")
    return found
