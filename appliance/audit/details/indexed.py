"""Which words of a stored content the search index holds.

This reads the JSON values themselves, unlike all other readers: an index is compared with a million contents, of which
each would be checked field by field, and the text must stay what it was for the contents of every earlier release.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from appliance.audit.unseen import UNSEEN, plain_words, seen_only

INDEX_VERSION: Final = 2  # kept in the details of prompts and answers as ``index``: what of them was indexed


def indexed_text(text: str, stored_details: str) -> str:
    """What of a content can be found: everything that was said, reasoned, passed to tools or told to the model.

    Only the stored form decides, so that the index can be made anew and compared: storing sorts the keys of a tool's
    parameters.

    The earlier messages of a prompt count when a program sent them; those of a conversation have events of their own.
    Words in disguise are found as they would be typed, too (`appliance.audit.unseen`).

    A change for events that are already stored needs a rebuilt index: SQLite removes an entry by the text that made it.
    Whoever changes what is indexed gives ``index`` another number. Events without it stay indexed as they were.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, RecursionError: somebody else wrote the details.
    """
    details = json.loads(stored_details)
    parts = [text, details.get("reasoning", "")]
    named = details.get("index") == INDEX_VERSION
    for call in details.get("tool_calls", ()):
        parts += [call["name"], call["arguments"]] if named else [call["arguments"]]
    request = details.get("request", {})
    if "beside" in details:
        parts += _told(request, with_messages=details.get("conversation") is None)
    elif details.get("conversation") is None:
        parts += [message["content"] for message in request.get("messages", ())]
    text = "\n".join(part for part in parts if part)
    if details.get("index") == INDEX_VERSION:
        disguised = " ".join(plain_words(text))
        return f"{text}\n{disguised}" if disguised else text
    return f"{text}\n{seen_only(text)}" if "beside" in details and UNSEEN.search(text) else text


def _told(request: dict[str, Any], *, with_messages: bool) -> Iterator[str]:
    """Everything in a request that reaches the model."""
    for message in request["messages"] if with_messages else ():
        yield from (message["content"], message.get("reasoning") or "", message.get("name") or "")
        for call in message.get("tool_calls", ()):
            yield from (call["name"], call["arguments"])
    for tool in request.get("tools", ()):
        yield from (tool["name"], tool["description"])
        if tool.get("parameters"):
            yield json.dumps(tool["parameters"], ensure_ascii=False)
    yield from request.get("stop", ())
    if request.get("answer_schema"):
        yield json.dumps(request["answer_schema"], ensure_ascii=False)
