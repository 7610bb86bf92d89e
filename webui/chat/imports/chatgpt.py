"""ChatGPT's data export: conversations.json, a list of conversations whose ``mapping`` holds a tree of nodes.

A node has a message or none, and a message has parts: texts, and objects for what is no text. Code that the model ran,
its output, web pages it read and its thoughts are messages of their own; they are left out.
"""

from __future__ import annotations

from typing import Any, Final

from webui.chat.imports.nodes import Node, Nodes, key_of, list_of, mapping_of, text_of, title_of, us_of

_TEXTS: Final = ("text", "multimodal_text")
_NO_TEXT: Final = "[What stood here is no text and was not imported.]"


def fits(given: dict[str, Any]) -> bool:
    return isinstance(given.get("mapping"), dict)


def read(given: dict[str, Any]) -> Nodes:
    nodes = [_node(key, mapping_of(node)) for key, node in given["mapping"].items()]
    times = us_of(given.get("create_time")), us_of(given.get("update_time"))
    return Nodes(title_of(given.get("title")), "ChatGPT", nodes, key_of(given.get("current_node")), *times)


def _node(key: str, node: dict[str, Any]) -> Node:
    message = mapping_of(node.get("message"))
    hidden = mapping_of(message.get("metadata")).get("is_visually_hidden_from_conversation") is True
    role = text_of(mapping_of(message.get("author")).get("role"))
    is_said = not hidden and message.get("recipient", "all") == "all"
    content = _content(mapping_of(message.get("content"))) if is_said else ""
    return Node(key, key_of(node.get("parent")), role, content, "", us_of(message.get("create_time")))


def _content(content: dict[str, Any]) -> str:
    if content.get("content_type") not in _TEXTS:
        return ""
    return "\n\n".join(part if isinstance(part, str) else _NO_TEXT for part in list_of(content.get("parts")))
