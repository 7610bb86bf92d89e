"""Files of conversations from this appliance, ChatGPT and Open WebUI -> trees of messages.

    parse_file(data) -> [ImportedTree | UnusableConversation, ..]

The bytes come from anywhere. Sizes, counts and depth are bounded, and whatever is not understood is refused with a
sentence. Only questions and answers are taken: instructions, tools' messages and empty ones are left out, and what
followed one of them follows the message before it.

    nodes          what the three formats have in common, and how nodes become a tree
    ours           this appliance's own JSON
    chatgpt        conversations.json of ChatGPT's data export
    open_webui     Open WebUI's export of chats
"""

from __future__ import annotations

import json
from typing import Any, Final

from appliance.people.imported import ImportedTree
from webui.chat.imports import chatgpt, open_webui, ours
from webui.chat.imports.nodes import UnusableConversation, UnusableError, tree_of

MAX_CONVERSATIONS: Final = 2_000
_FORMATS: Final = (ours, chatgpt, open_webui)
_UNKNOWN: Final = (
    "This is no conversation that can be imported: choose a JSON export of this appliance, conversations.json of "
    "ChatGPT, or an export of Open WebUI."
)


def parse_file(data: bytes) -> list[ImportedTree | UnusableConversation]:
    """The conversations of a file, those that cannot be used with the reason.

    Raises:
        UnusableError: the whole file cannot be used.
    """
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise UnusableError("The file is not JSON, or it is nested too deeply.") from exc
    listed = found if isinstance(found, list) else [found]
    if not listed:
        raise UnusableError("The file has no conversation.")
    if len(listed) > MAX_CONVERSATIONS:
        raise UnusableError(f"The file has more than {MAX_CONVERSATIONS:,} conversations; split it.")
    if not any(_format_of(one) for one in listed):
        raise UnusableError(_UNKNOWN)
    return [_parse(one) for one in listed]


def _parse(given: Any) -> ImportedTree | UnusableConversation:
    kind = _format_of(given)
    if kind is None:
        return UnusableConversation("", _UNKNOWN)
    read = kind.read(given)
    try:
        return tree_of(read)
    except UnusableError as exc:
        return UnusableConversation(read.title, str(exc))


def _format_of(given: Any) -> Any:
    return next((kind for kind in _FORMATS if isinstance(given, dict) and kind.fits(given)), None)
