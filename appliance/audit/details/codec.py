"""The base of all details, and their one way to JSON values and back.

A field without a default is always written, and must be there when it is read. A field with a default is left out where
it has that value. The metadata of a field says what differs from that:

- `ALWAYS`: written with its default, too. It may be missing in events that earlier releases wrote.
- `LATER`, in a dataclass that is not `Details`: left out where it has its default, as in `Details`.
- `SPREAD`: a dataclass whose fields stand among those of the details; `spread_without` leaves some of them out.

What is stored beside these fields was written by another release and is kept in ``unknown``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Final, Self, TypeVar, get_args

from appliance.turns.typed import checked, hints_of

ALWAYS: Final[Mapping[str, object]] = {"always": True}
SPREAD: Final[Mapping[str, object]] = {"spread": ()}
UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

D = TypeVar("D", bound="Details")


def spread_without(*names: str) -> Mapping[str, object]:
    """`SPREAD` for a dataclass of which these fields are neither written nor read."""
    return {"spread": names}


@dataclass(frozen=True, kw_only=True)
class Details:
    """What is recorded of an event, or kept of an answer, beside its text."""

    unknown: Mapping[str, object] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "unknown" or "spread" in one.metadata:
                values |= _spread(one, value)
            elif value != one.default or "always" in one.metadata:
                values[one.name] = _plain(value)
        return values

    @classmethod
    def names(cls) -> Iterator[str]:
        """Every name under which something may be stored."""
        for one in fields(cls):
            if "spread" in one.metadata:
                yield from _spread_names(cls, one)
            elif one.name != "unknown":
                yield one.name

    @classmethod
    def read(cls, stored: Mapping[str, object]) -> Self:
        """The details in JSON values.

        Raises:
            ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError: they are not in this form.
        """
        rest, given = dict(stored), dict[str, object]()
        for one in fields(cls):
            if "spread" in one.metadata:
                _read_spread(cls, one, rest, given)
            elif one.name in rest and one.name != "unknown":
                given[one.name] = _read(hints_of(cls)[one.name], rest.pop(one.name))
        return cls(**given, unknown=rest)


@dataclass(frozen=True, kw_only=True)
class UnreadableDetails(Details):
    """Stored details that are in none of the forms that this release reads."""

    problem: str

    def values(self) -> dict[str, Any]:
        """Raises: RuntimeError: they cannot be stored again."""
        raise RuntimeError("internal error: unreadable details are written")


def read_first(kinds: tuple[type[D], ...], stored: object) -> D | UnreadableDetails:
    """The details in the first of the forms that they have."""
    if not isinstance(stored, dict):
        return UnreadableDetails(problem="the details are not a JSON object")
    problem = "this release knows no details of such events"
    for kind in kinds:
        try:
            return kind.read(stored)
        except UNREADABLE as exc:
            problem = f"the details are not in a form that this release reads: {exc}"
    return UnreadableDetails(problem=problem)


def _spread(one: Field[Any], value: Any) -> dict[str, Any]:
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    return {name: item for name, item in _plain(value).items() if name not in one.metadata["spread"]}


def _plain(value: Any) -> Any:
    """The value as JSON has it: objects for dataclasses, arrays for tuples."""
    if isinstance(value, Details):
        return value.values()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        held = {one.name: getattr(value, one.name) for one in fields(value) if not _is_left_out(one, value)}
        return {name: _plain(item) for name, item in held.items()}
    return value


def _is_left_out(one: Field[Any], value: Any) -> bool:
    return "later" in one.metadata and getattr(value, one.name) == one.default


def _read_spread(cls: type[Details], one: Field[Any], rest: dict[str, object], given: dict[str, object]) -> None:
    """Take the fields of a spread dataclass out of `rest`; a field that is optional may lack all of them."""
    found = {name: rest.pop(name) for name in _spread_names(cls, one) if name in rest}
    if found or one.default is MISSING:
        given[one.name] = checked(_dataclass_in(hints_of(cls)[one.name]), found)


def _spread_names(cls: type[Details], one: Field[Any]) -> list[str]:
    parts = fields(_dataclass_in(hints_of(cls)[one.name]))
    return [part.name for part in parts if part.name not in one.metadata["spread"]]


def _read(hint: Any, value: object) -> object:
    kind = _dataclass_in(hint)
    if isinstance(kind, type) and issubclass(kind, Details) and isinstance(value, dict):
        return kind.read(value)
    return checked(hint, value)


def _dataclass_in(hint: Any) -> Any:
    """``X`` of ``X`` and of ``X | None``."""
    return next((option for option in get_args(hint) if is_dataclass(option)), hint)
