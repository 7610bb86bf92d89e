"""What the review pages show of events. Pure: records in, words and safe HTML out. All times are UTC."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from appliance.audit.event import Action, Header, Outcome, encode_header
from appliance.audit.log import Event
from appliance.audit.merkle import leaf_hash
from appliance.audit.review import EventRow, ReadEvent
from appliance.database import as_datetime
from appliance.engine.protocol import ToolCall
from webui.chat.view import MessageView
from webui.rendering import render_markdown

ACTION_WORDS: Final[dict[Action, str]] = {
    "prompt": "Asked",
    "answer": "Was answered",
    "sign_in": "Signed in",
    "sign_out": "Signed out",
    "denied": "Was refused",
    "link_made": "Made a one-time link",
    "user_created": "Added an account",
    "user_disabled": "Disabled an account",
    "user_enabled": "Enabled an account",
    "roles_changed": "Changed roles",
    "password_changed": "Changed a password",
    "api_key_created": "Made an API key",
    "api_key_revoked": "Revoked an API key",
    "approval_requested": "Asked a second administrator",
    "approval_confirmed": "Confirmed a request",
    "approval_refused": "Refused a request",
    "approval_expired": "A request expired",
    "review_search": "Searched the record",
    "review_read": "Read an event",
    "evidence_exported": "Exported evidence",
    "content_erased": "Erased content",
    "conversation_deleted": "Deleted a conversation",
    "settings_changed": "Changed settings",
    "appliance_started": "Appliance started",
    "appliance_stopped": "Appliance stopped",
    "engine_restarted": "Engine restarted",
}

# The choices of the filter: the value in the address, the words, the actions (none: everything but reviewing).
ACTION_GROUPS: Final[tuple[tuple[str, str, tuple[Action, ...]], ...]] = (
    ("", "Everything", ()),
    ("turns", "Questions and answers", ("prompt", "answer")),
    ("prompts", "Questions", ("prompt",)),
    ("answers", "Answers", ("answer",)),
    ("access", "Signing in, refusals", ("sign_in", "sign_out", "denied")),
    (
        "accounts", "Accounts and keys",
        ("link_made", "user_created", "user_disabled", "user_enabled", "roles_changed", "password_changed",
         "api_key_created", "api_key_revoked", "approval_requested", "approval_confirmed", "approval_refused",
         "approval_expired"),
    ),
    ("review", "Reviewing", ("review_search", "review_read", "evidence_exported", "content_erased")),
    ("appliance", "The appliance", ("settings_changed", "appliance_started", "appliance_stopped", "engine_restarted")),
)  # fmt: skip

_OUTCOMES: Final[dict[Outcome, tuple[str, str]]] = {  # word, kind of tag
    "ok": ("", ""),
    "denied": ("Refused", "bad"),
    "failed": ("Failed", "bad"),
    "cancelled": ("Stopped", "warn"),
    "abandoned": ("Ended early", "warn"),
}
_MARKDOWN_MARKS: Final = re.compile(r"\*\*(?=\S)|(?<=\S)\*\*|`+|(?:^|(?<= ))#{1,6} ")


@dataclass(frozen=True)
class RowView:
    """One line of the list."""

    sequence: int
    moment: datetime
    who: str
    via: str
    action: str
    words: str
    outcome: str
    outcome_kind: str


@dataclass(frozen=True)
class DayView:
    """The rows of one day."""

    title: str
    rows: tuple[RowView, ...]


@dataclass(frozen=True)
class EventView:
    """One event in full: what was seen, the facts, the proof."""

    sequence: int
    title: str
    who: str
    moment: datetime
    outcome: str
    outcome_kind: str
    seen: tuple[MessageView, ...]  # the question and the answer, as the person saw them
    text: str  # of an event that is neither
    erased: bool
    facts: tuple[tuple[str, str], ...]
    turn: tuple[int, ...]  # numbers of question and answer
    leaf_index: int
    leaf_hash: str
    commitment: str  # empty: it never had content
    tree_size: int
    proof: tuple[str, ...]


def day_views(rows: Sequence[EventRow]) -> list[DayView]:
    """Rows under their days, in the order given."""
    views = [_row_view(row) for row in rows]
    return [
        DayView(f"{day:%A} {day.day} {day:%B %Y}", tuple(group))
        for day, group in groupby(views, key=lambda view: view.moment.date())
    ]


def event_view(read: ReadEvent, turn: Sequence[Event]) -> EventView:
    """The event that was read; `turn` are the question and answer it belongs to, itself among them."""
    header, content = read.event.header, read.event.content
    word, kind = _OUTCOMES[header.outcome]
    seen = tuple(view for event in turn if (view := _seen(event)) is not None)
    return EventView(
        sequence=header.sequence, title=ACTION_WORDS[header.action], who=header.actor.name,
        moment=as_datetime(header.time_us), outcome=word, outcome_kind=kind, seen=seen,
        text=content.text if content and not seen else "", erased=read.event.erased,
        facts=tuple(_facts(header, content.details if content else {})), turn=read.turn,
        leaf_index=header.sequence - 1, leaf_hash=leaf_hash(encode_header(header)).hex(),
        commitment=header.commitment.hex() if header.commitment else "", tree_size=read.tree_size,
        proof=tuple(value.hex() for value in read.proof),
    )  # fmt: skip


def _row_view(row: EventRow) -> RowView:
    header = row.header
    word, kind = _OUTCOMES[header.outcome]
    words = "content erased" if row.erased else _first_words(row)
    about = _about(header)
    return RowView(
        header.sequence, as_datetime(header.time_us), header.actor.name or "appliance", header.actor.via,
        ACTION_WORDS[header.action], ": ".join(part for part in (about, words) if part), word, kind,
    )  # fmt: skip


def _first_words(row: EventRow) -> str:
    """The beginning of the content on one line; of an answer without the marks of its Markdown."""
    words = " ".join(row.excerpt.split())
    return _MARKDOWN_MARKS.sub("", words) if row.header.action == "answer" else words


def _about(header: Header) -> str:
    """What was acted on, where it says something to people: ids of turns do not, nor does one's own name."""
    if header.action == "review_read":
        return f"event {header.subject}"
    if header.action in ("prompt", "answer", "conversation_deleted") or header.subject == header.actor.name:
        return ""
    return header.subject


def _seen(event: Event) -> MessageView | None:
    """A question or an answer as the person saw it; None for what is neither, or erased."""
    content = event.content
    if content is None or event.header.action not in ("prompt", "answer"):
        return None
    number = str(event.header.sequence)
    if event.header.action == "prompt":
        return MessageView(number, content.text)
    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in content.details["tool_calls"])
    reasoning = content.details["reasoning"]
    return MessageView(number, None, render_markdown(content.text), content.text, reasoning, "Reasoning", calls)


def _facts(header: Header, details: dict[str, Any]) -> list[tuple[str, str]]:
    """The event's facts for the table; what does not apply is left out."""
    actor = header.actor
    facts = [
        ("Event", f"{header.sequence:,}"),
        ("Time", as_datetime(header.time_us).strftime("%Y-%m-%d %H:%M:%S.%f UTC")),
        ("Who", f"{actor.name} ({actor.user_id or 'no account'})"),
        ("From", actor.via + (f", {actor.address}" if actor.address else "")),
        ("Action", header.action),
        ("Outcome", header.outcome),
    ]
    if header.subject:
        facts.append(("Turn" if header.action in ("prompt", "answer") else "About", header.subject))
    for name, value in details.items():
        if name == "request":
            facts += _request_facts(value)
        elif name not in ("searchable", "reasoning", "tool_calls", "token_ids") and value is not None:
            facts.append(_fact(name, value))
    if "token_ids" in details:
        facts.append(("Sampled tokens", f"{len(details['token_ids']):,}, kept for replay"))
    return facts


def _request_facts(asked: dict[str, Any]) -> list[tuple[str, str]]:
    """The settings that decided the answer."""
    names = ("effort", "temperature", "top_p", "seed", "max_tokens", "stop")
    given = [(name, asked[name]) for name in names if asked[name] not in (None, [])]
    facts = [_fact(name, value) for name, value in given]
    if asked["tools"]:
        facts.append(("Tools", ", ".join(tool["name"] for tool in asked["tools"])))
    if len(asked["messages"]) > 1:
        facts.append(("Before it", f"{len(asked['messages']) - 1} earlier messages went with it"))
    return facts


def _fact(name: str, value: object) -> tuple[str, str]:
    """A recorded detail in words; a name that ends in _s is a number of seconds."""
    words = name.removesuffix("_s").replace("_", " ").capitalize()
    if isinstance(value, float):
        return words, f"{value:g}" + (" s" if name.endswith("_s") else "")
    return words, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
