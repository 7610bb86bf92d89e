"""This appliance's own export (`webui.chat.exports.as_json`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from webui.chat.exports import FORMAT
from webui.chat.imports.nodes import Node, Nodes, key_of, list_of, mapping_of, text_of, title_of

_SOURCE: Final = "a gpt-oss appliance"


def fits(given: dict[str, Any]) -> bool:
    return given.get("format") == FORMAT


def read(given: dict[str, Any]) -> Nodes:
    about = mapping_of(given.get("conversation"))
    messages = [mapping_of(one) for one in list_of(given.get("messages"))]
    imported = {text_of(one.get("imported_from")) for one in messages} - {""}
    nodes = [
        Node(
            key_of(one.get("id")) or f"message {number}", key_of(one.get("parent")), text_of(one.get("role")),
            text_of(one.get("content")), text_of(one.get("reasoning")), _us(one.get("created_at")),
        )
        for number, one in enumerate(messages)
    ]  # fmt: skip
    source = min(imported, default=_SOURCE)
    times = _us(about.get("created_at")), _us(about.get("updated_at"))
    return Nodes(
        title_of(about.get("title")), source, nodes, key_of(about.get("shown")), *times, text_of(given.get("marking"))
    )


def _us(value: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(text_of(value)).timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        return None
