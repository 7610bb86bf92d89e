"""Open WebUI's export: a list of chats, each with ``chat.history``: messages by id, and the id of the one shown last.

An answer's reasoning stands in its text, as a ``<details type="reasoning">`` block whose lines are quoted.
"""

from __future__ import annotations

import re
from typing import Any, Final

from webui.chat.imports.nodes import Node, Nodes, key_of, list_of, mapping_of, text_of, title_of, us_of

_REASONING: Final = re.compile(r'\A\s*<details type="reasoning"[^>]*>(.*?)</details>\s*', re.DOTALL)
_SUMMARY: Final = re.compile(r"<summary>[^<]*</summary>")


def fits(given: dict[str, Any]) -> bool:
    return isinstance(mapping_of(mapping_of(given.get("chat")).get("history")).get("messages"), dict)


def read(given: dict[str, Any]) -> Nodes:
    chat = mapping_of(given["chat"])
    history = mapping_of(chat["history"])
    nodes = [_node(key, mapping_of(message)) for key, message in history["messages"].items()]
    title = title_of(given.get("title") or chat.get("title"))
    times = us_of(given.get("created_at")), us_of(given.get("updated_at"))
    return Nodes(title, "Open WebUI", nodes, key_of(history.get("currentId")), *times)


def _node(key: str, message: dict[str, Any]) -> Node:
    content, reasoning = _content(message.get("content")), ""
    found = _REASONING.match(content)
    if found:
        lines = _SUMMARY.sub("", found[1], count=1).strip().splitlines()
        reasoning = "\n".join(line.removeprefix("&gt; ").removeprefix("> ") for line in lines)
        content = content[found.end() :]
    role, created_us = text_of(message.get("role")), us_of(message.get("timestamp"))
    return Node(key, key_of(message.get("parentId")), role, content, reasoning, created_us)


def _content(value: Any) -> str:
    """A text, or a list of parts of which some are texts."""
    parts = [text_of(mapping_of(part).get("text")) for part in list_of(value)]
    return text_of(value) or "\n\n".join(part for part in parts if part)
