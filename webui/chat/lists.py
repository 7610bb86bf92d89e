"""The list of conversations as the pages draw it: which view of it is wanted, its groups, and where it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.people.accounts import User
from appliance.people.conversation_list import PAGE, View
from webui.chat.present import grouped
from webui.markings import known_markings
from webui.services import services


def view_of(asked: Mapping[str, str]) -> View:
    """The view that the query of an address asks for: ``q``, and ``view``: archived, folder:NAME, tag:NAME or "" for
    all that is not archived."""
    kind, _, name = asked.get("view", "").partition(":")
    return View(
        words=asked.get("q", ""), archived=kind == "archived", folder=name if kind == "folder" else None,
        tag=name if kind == "tag" else None,
    )  # fmt: skip


def list_values(user: User, asked: Mapping[str, str]) -> dict[str, Any]:
    """What the templates of the list draw: a page of the view that the query asks for.

    Args:
        asked: ``q`` and ``view``; ``current``, the open conversation; ``after``, where the page begins, and ``count``,
            how many conversations it has.
    """
    lists, count = services().conversations.lists, asked.get("count", "")
    limit = int(count) if count.isascii() and count.isdecimal() and len(count) < 5 else PAGE
    page = lists.page(user.id, view_of(asked), after=asked.get("after", ""), limit=limit)
    return {
        "groups": grouped(page.items, services().clock().astimezone()),
        "more": page.more,
        "markings": {one.id: one for one in known_markings()},
        "labels": lists.labels(user.id),
        "current": asked.get("current", ""),
        "search": asked.get("q", ""),
        "view": asked.get("view", ""),
    }
