"""What every format of conversations comes down to: nodes with a parent. Nodes become a tree, in bounded time.

No value of a node has been looked at by anybody else: `text_of` and its neighbours take any JSON value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from appliance.database.tables import storable
from appliance.people.imported import ImportedMessage, ImportedTree
from webui.chat.bodies import MAX_TEXT_CHARS

MAX_MESSAGES: Final = 5_000
_ROLES: Final[dict[str, Literal["user", "assistant"]]] = {"user": "user", "assistant": "assistant"}
_MAX_SOURCE_CHARS: Final = 60
_MAX_TITLE_CHARS: Final = 120


class UnusableError(Exception):
    """A file or a conversation that cannot be imported; the message is one sentence for the person."""


@dataclass(frozen=True)
class UnusableConversation:
    """A conversation of a file that cannot be imported, and why."""

    title: str
    reason: str


@dataclass(frozen=True)
class Node:
    """A message as a file has it. A ``role`` other than user and assistant, or no content, leaves it out."""

    key: str
    parent: str | None
    role: str
    content: str
    reasoning: str = ""
    created_us: int | None = None


@dataclass(frozen=True)
class Nodes:
    """A conversation as a file has it. ``shown`` is the key of the last message that was shown."""

    title: str
    source: str
    nodes: list[Node]
    shown: str | None
    created_us: int | None = None
    updated_us: int | None = None
    marking: str = ""  # that the file names


def tree_of(given: Nodes) -> ImportedTree:
    """The questions and answers of `given`.

    Raises:
        UnusableError: there are too many messages or none, they are too long, or they form a circle.
    """
    if len(given.nodes) > MAX_MESSAGES:
        raise UnusableError(f"The conversation has more than {MAX_MESSAGES:,} messages.")
    by_key = {node.key: node for node in given.nodes}
    if len(by_key) != len(given.nodes):
        raise UnusableError("Two messages of the conversation have the same id.")
    if any(len(node.content) + len(node.reasoning) > MAX_TEXT_CHARS for node in given.nodes):
        raise UnusableError(f"A message is longer than {MAX_TEXT_CHARS:,} characters.")
    places: dict[str, int | None] = {}  # of each node: its place, or that of the message before it
    messages: list[ImportedMessage] = []
    for node in _parents_first(given.nodes, by_key):
        before = places.get(node.parent) if node.parent is not None else None
        role, content = _ROLES.get(node.role), storable(node.content)
        if role is not None and content.strip():
            places[node.key] = len(messages)
            messages.append(ImportedMessage(before, role, content, storable(node.reasoning), node.created_us))
        else:
            places[node.key] = before
    if not messages:
        raise UnusableError("The conversation has no question and no answer.")
    shown = places.get(given.shown) if given.shown is not None else None
    return ImportedTree(
        storable(given.title), storable(given.source)[:_MAX_SOURCE_CHARS], tuple(messages),
        len(messages) - 1 if shown is None else _end_of(messages, shown), len(given.nodes) - len(messages),
        given.created_us, given.updated_us, storable(given.marking),
    )  # fmt: skip


def text_of(value: Any) -> str:
    """A text, or "" for any other value."""
    return value if isinstance(value, str) else ""


def title_of(value: Any) -> str:
    return " ".join(text_of(value).split())[:_MAX_TITLE_CHARS] or "Imported conversation"


def key_of(value: Any) -> str | None:
    """The id of a message; a number counts as one."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and str(value) else None


def mapping_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def us_of(seconds: Any) -> int | None:
    """Seconds since 1970 as microseconds; None for what is no such time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return int(seconds * 1_000_000) if 0 <= seconds < 2**33 else None  # NaN compares false


def _parents_first(nodes: list[Node], by_key: dict[str, Node]) -> list[Node]:
    """Every node after its parent; a node whose parent is not there begins a branch.

    Raises:
        UnusableError: some nodes form a circle.
    """
    children: dict[str | None, list[Node]] = {}
    for node in nodes:
        children.setdefault(node.parent if node.parent in by_key else None, []).append(node)
    ordered: list[Node] = []
    waiting = children.get(None, [])[::-1]
    while waiting:
        node = waiting.pop()
        ordered.append(node)
        waiting += children.get(node.key, [])[::-1]
    if len(ordered) != len(nodes):
        raise UnusableError("The messages of the conversation form a circle.")
    return ordered


def _end_of(messages: list[ImportedMessage], place: int) -> int:
    """The newest message of those that follow a place."""
    below = {place}
    for number, message in enumerate(messages):
        if message.parent in below:
            below.add(number)
    return max(below)
