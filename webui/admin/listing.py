"""The list of people on the first page of the administration: what the address asks for, and what is found."""

from __future__ import annotations

from typing import Any, Final, cast, get_args

from flask import request, url_for

from appliance.people.directory import Search, State, find_people
from appliance.people.users import Role
from webui.services import services

_MAX_TEXT_CHARS: Final = 100
STATE_WORDS: Final[dict[State, str]] = {
    "": "Any state", "active": "is active", "disabled": "is disabled", "invited": "never chose a password",
}  # fmt: skip


def listed_people() -> dict[str, Any]:
    """What the template of the list takes: ``found``, ``search``, the choices, and the addresses of other pages."""
    search = search_of_address()
    found = find_people(services().record.database, search)
    return {
        "found": found,
        "search": search,
        "groups": services().groups.list_groups(),
        "state_words": STATE_WORDS,
        "earlier": _address(search, found.page - 1) if found.page > 1 else None,
        "later": _address(search, found.page + 1) if found.page < found.pages else None,
    }


def search_of_address() -> Search:
    """What this request looks for. A word that is none of the choices looks for nothing."""
    asked = request.args
    role, state, page = asked.get("role", ""), asked.get("state", ""), asked.get("page", "")
    return Search(
        text=asked.get("q", "").strip()[:_MAX_TEXT_CHARS],
        role=Role(role) if role in set(Role) else None,
        group_id=asked.get("group", ""),
        state=cast(State, state) if state in get_args(State) else "",
        page=int(page) if page.isascii() and page.isdecimal() and len(page) < 7 else 1,
    )


def _address(search: Search, page: int) -> str:
    role = None if search.role is None else search.role.value
    return url_for(
        "admin.index", q=search.text or None, role=role, group=search.group_id or None, state=search.state or None,
        page=page,
    )  # fmt: skip
