"""The JSON files that rooms hand each other, read as declared records; a field of another type or form is named.

The installer reads some of them on a bare Python, so `installer.formats.plain` checks them all.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, TypeVar

from installer.formats.checks import FaultError, Must
from installer.formats.plain import check

T = TypeVar("T")

Text = Annotated[str, Must("must be a text", min_length=1)]
Texts = Annotated[tuple[Text, ...], Must("must be a list of texts")]
Whole = Annotated[int, Must("must be a whole number from 0 on", ge=0)]
Positive = Annotated[int, Must("must be a whole number from 1 on", ge=1)]
Real = Annotated[float, Must("must be a finite number")]

_SHOWN_CHARS: Final = 40  # of a wrong value


class FormatError(ValueError):
    """A file is not of the format that it should be; the message says where."""


def parse_file(kind: type[T], data: bytes, *, version: int) -> T:
    """The record in a file whose field `format` has this number.

    Raises:
        FormatError: the file is no JSON object, of another format, or not such a record.
    """
    try:
        body = json.loads(data, object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError) as exc:
        raise FormatError(f"it is no JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise FormatError("it is no JSON object")
    found = body.get("format")
    if type(found) is not int or found != version:
        raise FormatError(f"its format is {found!r:.40}, not {version}")
    return parse_fields(kind, body)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object, unless a field stands there twice: readers differ in which of them counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field stands there twice")
    return found


def parse_fields(kind: type[T], body: Any) -> T:
    """The record in JSON that is parsed already.

    Raises:
        FormatError: it is not such a record.
    """
    try:
        return check(kind, body)
    except FaultError as exc:
        raise FormatError(_sentence(exc)) from exc


def _sentence(fault: FaultError) -> str:
    shown = f", not {fault.value!r:.{_SHOWN_CHARS}}" if fault.kind == "type" else ""
    return f"{fault.where or 'it'} {fault.said}{shown}"
