"""A conversation as a file: Markdown or HTML of the branch that is shown, JSON of all branches.

Pure: records in, bytes out.
The HTML is one file with its own styles. It has no script, loads nothing, and says so in a policy that the browser
enforces. `webui.chat.imports` reads the JSON again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from flask import render_template
from markupsafe import Markup

from appliance.people.attachments import Attachment
from appliance.people.conversations import Conversation, StoredMessage
from appliance.turns.answer import Facts
from webui.chat.present import imported_words, page_message

FORMAT: Final = "gpt-oss-appliance/conversation"
VERSION: Final = 1
Form = Literal["markdown", "html", "json"]
ENDINGS: Final[dict[Form, tuple[str, str]]] = {
    "markdown": ("md", "text/markdown"), "html": ("html", "text/html"), "json": ("json", "application/json"),
}  # fmt: skip
_MAX_NAME_CHARS: Final = 60
_STYLES: Final = ("tokens.css", "prose.css", "exported.css")
_CSS: Final = Path(__file__).parents[1] / "static" / "css"


@dataclass(frozen=True)
class Export:
    """What an export says of itself: the site, its marking where one is set, who took it and when (UTC)."""

    site: str
    marking: str | None
    by: str
    at: datetime

    @property
    def sentence(self) -> str:
        return f"Exported from {self.site} by {self.by} on {_time(self.at)}."


def file_name(title: str, form: Form, at: datetime) -> str:
    """A name that every file system takes: letters, digits and hyphens of the title, then the day."""
    words = re.sub(r"[\W_]+", "-", title)[:_MAX_NAME_CHARS].strip("-").lower()
    return f"{words or 'conversation'}-{at:%Y-%m-%d}.{ENDINGS[form][0]}"


def as_markdown(conversation: Conversation, branch: Sequence[StoredMessage], export: Export) -> bytes:
    """The branch as Markdown; questions and answers as they were written."""
    parts = [f"# {conversation.title}", export.sentence]
    for message in branch:
        parts += [_heading(message), message.content or "(no text)"]
        said = _said_of(message)
        parts += [f"> {line}" for line in (said, *map(file_words, message.files)) if line]
    if export.marking:
        parts = [f"**{export.marking}**", *parts, f"**{export.marking}**"]
    return ("\n\n".join(parts) + "\n").encode()


def as_html(conversation: Conversation, branch: Sequence[StoredMessage], export: Export) -> bytes:
    """The branch as one HTML file."""
    styles = "\n".join((_CSS / name).read_text(encoding="utf-8") for name in _STYLES)
    turns = [(page_message(message), _time(message.created_at)) for message in branch]
    # The one place with styles inside a page: this one is read from a disk, where no style sheet lies beside it.
    style = Markup("<style>\n{}</style>").format(Markup(styles))  # noqa: S704 - our own style sheets
    page = render_template(
        "exported.html", conversation=conversation, turns=turns, export=export, style=style, file_words=file_words
    )
    return page.encode()


def as_json(
    conversation: Conversation, tree: Sequence[StoredMessage], shown: StoredMessage | None, export: Export
) -> bytes:
    """Every branch, with what is known of each answer."""
    body = {
        "format": FORMAT,
        "version": VERSION,
        "site": export.site,
        "marking": export.marking,
        "exported_by": export.by,
        "exported_at": export.at.isoformat(),
        "conversation": {
            "id": conversation.id,
            "title": conversation.title,
            "created_at": conversation.created_at.isoformat(),
            "updated_at": conversation.updated_at.isoformat(),
            "shown": None if shown is None else shown.id,
        },
        "messages": [_as_values(message) for message in tree],
    }
    return (json.dumps(body, ensure_ascii=False, indent=1) + "\n").encode()


def file_words(file: Attachment) -> str:
    """What is said of a file that went with a question. The file itself stays at the site."""
    return f"The file {file.facts.name} went with this question. Its SHA-256 is {file.facts.sha256}."


def _as_values(message: StoredMessage) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": message.id, "parent": message.parent_id, "role": message.role, "content": message.content,
        "created_at": message.created_at.isoformat(),
    }  # fmt: skip
    if message.reasoning:
        values["reasoning"] = message.reasoning
    if message.tool_calls:
        values["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    if message.files:
        values["files"] = [
            {"name": file.facts.name, "size_bytes": file.facts.size_bytes, "sha256": file.facts.sha256}
            for file in message.files
        ]
    if isinstance(message.facts, Facts):
        facts = message.facts.values()
        imported = facts.pop("imported", None)
        values |= {"imported_from": imported} if imported else {"facts": facts}
    return values


def _heading(message: StoredMessage) -> str:
    facts = message.facts
    about = facts.about if isinstance(facts, Facts) else None
    by = f", {about.model}, release {about.release}" if about is not None else ""
    return f"## {'Answer' if message.role == 'assistant' else 'Question'} ({_time(message.created_at)}{by})"


def _said_of(message: StoredMessage) -> str:
    """What a reader must know of an answer: that it was imported, or why it is incomplete."""
    facts = message.facts
    if not isinstance(facts, Facts):
        return ""
    return imported_words(facts.imported) if facts.imported is not None else facts.problem or ""


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
