"""One page of a list of items.

Source: OpenAI API reference, "List input items".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from webui.api.errors import ApiError

MAX_ITEMS: Final = 100
_DEFAULT_ITEMS: Final = 20
_ORDERS: Final = ("desc", "asc")
QUERY: Final[Mapping[str, Mapping[str, Any]]] = {
    "after": {"type": "string", "description": "The id of the item of the list after which the page begins."},
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_ITEMS, "default": _DEFAULT_ITEMS},
    "order": {"enum": list(_ORDERS), "default": _ORDERS[0]},
}


def page_of(items: Sequence[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The page that ``after``, ``limit`` and ``order`` ask for; the newest item first, if nothing else is asked.

    Raises:
        ApiError: 400, one of them cannot be taken.
    """
    ordered = list(items) if _order(query) == "asc" else list(reversed(items))
    rest = _after(ordered, query.get("after"))
    page = rest[: _limit(query)]
    return {
        "object": "list", "data": page, "has_more": len(rest) > len(page),
        "first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None,
    }  # fmt: skip


def _order(query: Mapping[str, str]) -> str:
    order = query.get("order", _ORDERS[0])
    if order not in _ORDERS:
        raise ApiError(400, "invalid_value", "order must be asc or desc.", param="order")
    return order


def _limit(query: Mapping[str, str]) -> int:
    limit = query.get("limit", str(_DEFAULT_ITEMS))
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 3 and 1 <= int(limit) <= MAX_ITEMS):
        raise ApiError(400, "invalid_value", f"limit must be from 1 to {MAX_ITEMS}.", param="limit")
    return int(limit)


def _after(items: list[dict[str, Any]], item_id: str | None) -> list[dict[str, Any]]:
    if item_id is None:
        return items
    place = next((place for place, item in enumerate(items) if item["id"] == item_id), None)
    if place is None:
        raise ApiError(400, "invalid_value", "after must be the id of an item of the list.", param="after")
    return items[place + 1 :]
