"""Checks data from outside against declared types with the standard library alone.

The installer runs on a host that has a bare Python, and pydantic is compiled code. So this module reads the files of a
release (`installer.formats.fields`). It reads the settings, too: every process does that first, and the import of
pydantic would delay each of them by a tenth of a second. It understands the same declarations as
`installer.formats.checks`, and gives the same record or the same fault; tests/installer/test_plain.py compares both on
random data. docs/decisions/0012 says why there are two.

Types: str, int, float, bool, Any, Literal, lists, tuples of one type, mappings from str, frozen dataclasses, each of
these or None, and all of them annotated with `Must`, `Length`, `Rule` and `Choose`; other marks are ignored, and an
instance of any other class is taken as it is. Records that are `closed` are left out, because neither has one.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from math import isfinite
from operator import ge, gt, le, lt
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from installer.formats.checks import Choose, FaultError, Length, Must, Rule

T = TypeVar("T")

_UNIONS: Final = (Union, getattr(types, "UnionType", Union))  # Python 3.9 has one kind
_LIMITS: Final = {"ge": ge, "gt": gt, "le": le, "lt": lt}
_SCALARS: Final = {int: "must be a whole number", str: "must be a string", bool: "must be true or false"}
_NOT_UNICODE: Final = "has a key that is not Unicode text"


def check(kind: type[T], value: object) -> T:
    """``value`` as the declared type.

    Raises:
        FaultError: it is not of that type; the fault that stands first in the data.
    """
    if not (is_dataclass(kind) and isinstance(value, dict)):
        read: T = _read(kind, value)
        return read
    found, faults = _fields(kind, value)
    if faults:
        order = {name: number for number, name in enumerate(value)}
        raise min(faults, key=lambda fault: order.get(fault.at[0] if fault.at else None, len(order)))
    return kind(**found)


def _read(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(inner[0], inner[1:], value)
    if origin in _UNIONS:
        return None if value is None else _read(next(part for part in inner if part is not type(None)), value)
    if origin is Literal:
        return _literal(inner, value)
    if origin in (list, tuple):
        return origin(_entries(inner[0], value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(inner[1], value)
    if is_dataclass(kind):
        return _record(kind, value)
    return value if kind is Any else _scalar(kind, value)


def _scalar(kind: type, value: Any) -> Any:
    if kind is float:
        return _float(value)
    if kind not in _SCALARS:
        if isinstance(kind, type) and isinstance(value, kind):
            return value  # what our own code put there, such as a path
        raise RuntimeError(f"internal error: no data is checked against {kind}")
    if type(value) is not kind:
        raise FaultError(_SCALARS[kind], kind="type", value=value)
    if kind is str and not _is_unicode(value):
        raise FaultError(_NOT_UNICODE, value=value)
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float):
        raise FaultError("must be a number", kind="type", value=value)
    try:
        number = float(value)
    except OverflowError:
        raise FaultError("must be a number that a float can hold", value=value) from None
    if not isfinite(number):
        raise FaultError("must be a finite number", value=value)
    return number


def _literal(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise FaultError("cannot be taken", value=value)


def _entries(kind: Any, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise FaultError("must be a list", kind="type", value=value)
    return [_below(number, kind, entry) for number, entry in enumerate(value)]


def _mapping(kind: Any, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FaultError("must be an object", kind="type", value=value)
    for key in value:
        if not _is_unicode(key):
            raise FaultError(_NOT_UNICODE, at=(key, "[key]"), value=key)
    return {key: _below(key, kind, entry) for key, entry in value.items()}


def _record(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise FaultError("must be an object", kind="type", value=value)
    found, faults = _fields(kind, value)
    if faults:
        raise faults[0]
    return kind(**found)


def _fields(kind: Any, value: dict[str, Any]) -> tuple[dict[str, Any], list[FaultError]]:
    """The checked fields of a record, and one fault for each wrong field, in the order of the declaration."""
    for name in value:
        if not _is_unicode(name):
            return {}, [FaultError(_NOT_UNICODE, value=name)]
    found: dict[str, Any] = {}
    faults: list[FaultError] = []
    hints = _hints(kind)
    for field in fields(kind):
        try:
            if field.name in value:
                found[field.name] = _below(field.name, hints[field.name], value[field.name])
            elif not _has_default(field):
                raise FaultError("is missing", kind="missing", at=(field.name,), value=value)
        except FaultError as fault:
            faults.append(fault)
    return found, faults


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _below(place: str | int, kind: Any, value: Any) -> Any:
    """Check what stands at a place; its fault gets the place."""
    try:
        return _read(kind, value)
    except FaultError as fault:
        raise FaultError(fault.said, kind=fault.kind, at=(place, *fault.at), value=fault.value) from None


def _annotated(kind: Any, marks: tuple[Any, ...], value: Any) -> Any:
    """Check against a type with marks; the last mark is the outermost."""
    if not marks:
        return _read(kind, value)
    inner, mark = marks[:-1], marks[-1]
    if isinstance(mark, Must):
        return _must(kind, inner, mark, value)
    if isinstance(mark, Rule):
        return _rule(kind, inner, mark, value)
    if isinstance(mark, Length):
        return _length(kind, inner, mark, value)
    if isinstance(mark, Choose):
        return _read(mark.options[mark.pick(value)], value)
    return _annotated(kind, inner, value)  # a mark for others, such as a setting's name


def _must(kind: Any, inner: tuple[Any, ...], mark: Must, value: Any) -> Any:
    try:
        checked = _annotated(kind, inner, value) if mark.takes is None else _read(mark.takes, value)
    except FaultError:
        raise FaultError(mark.said, kind="type", value=value) from None
    if checked is not None and not _keeps(checked, mark.limits):
        raise FaultError(mark.said, kind="type", value=value)
    return checked


def _keeps(checked: Any, limits: Mapping[str, Any]) -> bool:
    for name, limit in limits.items():
        if name in ("min_length", "max_length"):
            if len(checked) < limit if name == "min_length" else len(checked) > limit:
                return False
        elif not _LIMITS[name](checked, limit):
            return False
    return True


def _rule(kind: Any, inner: tuple[Any, ...], mark: Rule, value: Any) -> Any:
    try:
        checked = _annotated(kind, inner, value) if mark.takes is None else _read(mark.takes, value)
        return mark.function(checked)
    except ValueError as exc:
        if mark.said is not None:
            raise FaultError(mark.said, kind="type", value=value) from None
        if not isinstance(exc, FaultError):
            raise RuntimeError("internal error: a rule without words") from exc
        shown = value if exc.value is ... else exc.value
        raise FaultError(exc.said, kind=exc.kind, at=exc.at, value=shown) from None


def _length(kind: Any, inner: tuple[Any, ...], mark: Length, value: Any) -> Any:
    """The number of entries is compared after the entries that may be there; in a tuple, after the next one, too."""
    if not isinstance(value, list):
        return _annotated(kind, inner, value)
    most = len(value) if mark.most is None else mark.most
    checked = _annotated(kind, inner, value[: most + (get_origin(kind) is tuple)])
    if len(value) < mark.least:
        raise FaultError(f"must have at least {mark.least} entries", value=value)
    if len(value) > most:
        raise FaultError(f"must have at most {mark.most} entries", value=value)
    return checked


def _is_unicode(text: Any) -> bool:
    """False if it holds half of a surrogate pair, which no file and no page can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
