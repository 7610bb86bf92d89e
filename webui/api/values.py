"""Checks of single JSON values, shared by the modules that read a request. Each returns the value or raises `ApiError`.

``bool`` is not a number here, NaN and infinities are refused, and text must be Unicode that can be stored: no lone
surrogate (JSON's ``"\\ud800"`` alone), no NUL.
"""

from __future__ import annotations

import math
from typing import Any, Final, NoReturn

from appliance.audit.event import check_storable
from webui.api.errors import ApiError

MAX_JSON_DEPTH: Final = 64
MAX_JSON_INT: Final = 2**63 - 1


def missing(param: str) -> NoReturn:
    raise ApiError(400, "missing_required_parameter", f"{param} is required.", param=param)


def wrong_type(param: str, expected: str) -> NoReturn:
    raise ApiError(400, "invalid_type", f"{param} must be {expected}.", param=param)


def invalid(param: str, must: str) -> NoReturn:
    raise ApiError(400, "invalid_value", f"{param} {must}.", param=param)


def unsupported(param: str, why: str) -> NoReturn:
    raise ApiError(400, "unsupported_value", f"{param}: {why}.", param=param)


def text(value: Any, param: str) -> str:
    """A string that can be stored and sent on."""
    if not isinstance(value, str):
        wrong_type(param, "a string")
    try:
        check_storable(value)
    except ValueError as exc:
        invalid(param, f"cannot be taken: {exc}")
    return value


def flag(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        wrong_type(param, "true or false")
    return value


def whole(value: Any, param: str, low: int, high: int) -> int:
    if type(value) is not int:
        wrong_type(param, "a whole number")
    if not low <= value <= high:
        invalid(param, f"must be from {low} to {high}")
    return value


def number(value: Any, param: str, low: float, high: float) -> float:
    if type(value) not in (int, float):
        wrong_type(param, "a number")
    if not low <= value <= high:  # also refuses NaN, infinities and integers no float can hold
        invalid(param, f"must be from {low:g} to {high:g}")
    return float(value)


def choice(value: Any, param: str, known: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        wrong_type(param, "a string")
    if value not in known:
        invalid(param, "must be one of " + ", ".join(known))
    return value


def items(value: Any, param: str, max_items: int) -> list[Any]:
    if not isinstance(value, list):
        wrong_type(param, "a list")
    if len(value) > max_items:
        invalid(param, f"must have at most {max_items} entries")
    return value


def fields(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        wrong_type(param, "an object")
    return value


def json_tree(value: Any, param: str, depth: int = 0) -> None:
    """Any JSON value, as long as each string in it is `text`, each number finite, and the nesting moderate."""
    if depth > MAX_JSON_DEPTH:
        invalid(param, f"is nested more than {MAX_JSON_DEPTH} deep")
    if isinstance(value, str):
        text(value, param)
    elif isinstance(value, float) and not math.isfinite(value):
        invalid(param, "contains a number that is not finite")
    elif isinstance(value, int) and not -MAX_JSON_INT <= value <= MAX_JSON_INT:
        invalid(param, "contains a whole number of more than 63 bits")
    elif isinstance(value, list):
        for entry in value:
            json_tree(entry, param, depth + 1)
    elif isinstance(value, dict):
        for key, entry in value.items():
            text(key, param)
            json_tree(entry, param, depth + 1)
