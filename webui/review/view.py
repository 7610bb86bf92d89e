"""What the review pages show of events. Pure: records in, words and safe HTML out. All times are UTC.

A damaged event is shown with what stands in its row. Characters that are not seen are named in every text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from markupsafe import Markup

from appliance.audit.event import Content, Header, encode_header
from appliance.audit.log import Event
from appliance.audit.merkle import leaf_hash
from appliance.audit.review import ReadEvent
from appliance.audit.rows import DamagedEvent, EventRow
from appliance.database.transactions import as_datetime, as_iso
from appliance.turns.answer import words_of
from appliance.turns.request import ToolCall
from webui.chat.view import MessageView
from webui.rendering import render_markdown
from webui.review.asked import AskedView, asked_view, beside_words
from webui.review.unseen import own_words, visible, visible_html
from webui.review.words import OUTCOME_WORDS, title_of
from webui.review.written import WrittenView, written_view

MAX_SOURCE_CHARS: Final = 20_000  # of the exact details on the page; the file has all
_MARKDOWN_MARKS: Final = re.compile(r"\*\*(?=\S)|(?<=\S)\*\*|`+|(?:^|(?<= ))#{1,6} ")
_NO_FACTS: Final = ("beside", "index", "searchable", "reasoning", "tool_calls", "token_ids")  # details shown elsewhere
_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True)
class RowView:
    """One line of the list. A damaged event has no moment where its time cannot be read."""

    sequence: int
    moment: datetime | None
    who: Markup
    via: str
    action: str
    words: Markup
    outcome: str
    outcome_kind: str


@dataclass(frozen=True)
class DayView:
    """The rows of one day."""

    title: str
    rows: tuple[RowView, ...]


@dataclass(frozen=True)
class SeenView:
    """A question or an answer as the person saw it."""

    sequence: int
    words: Markup | None  # of a question
    answer: MessageView | None = None
    written: WrittenView | None = None  # of an answer: rendering leaves things out


@dataclass(frozen=True)
class EventView:
    """One event in full: what was seen, the facts, the proof."""

    sequence: int
    title: str
    who: Markup
    moment: datetime
    outcome: str
    outcome_kind: str
    seen: tuple[SeenView, ...]  # the question and the answer, as the person saw them
    text: Markup  # of an event that is neither
    erased: bool
    facts: tuple[tuple[str, Markup], ...]
    turn: tuple[int, ...]  # numbers of question and answer
    leaf_index: int
    leaf_hash: str
    commitment: str  # empty: it never had content
    tree_size: int
    proof: tuple[str, ...]
    asked: AskedView | None = None  # of a question
    source: Markup | str = ""  # its exact details
    source_left_out: int = 0
    unread: str | None = None  # why its content is shown as its source alone


@dataclass(frozen=True)
class DamagedView:
    """A row that is no event any more."""

    sequence: int
    problem: str
    raw: tuple[tuple[str, Markup], ...]


def day_views(rows: Sequence[EventRow | DamagedEvent]) -> list[DayView]:
    """Rows under their days, in the order given; one without a readable time stands where its number puts it."""
    views: list[tuple[str, RowView]] = []
    title = ""
    for row in rows:
        view = _damaged_row(row) if isinstance(row, DamagedEvent) else _row_view(row)
        if view.moment is not None:
            title = f"{view.moment:%A} {view.moment.day} {view.moment:%B %Y}"
        views.append((title or "Day not readable", view))
    return [DayView(day, tuple(view for _, view in group)) for day, group in groupby(views, key=lambda pair: pair[0])]


def event_view(read: ReadEvent, turn: Sequence[Event | DamagedEvent]) -> EventView | DamagedView:
    """The event that was read; `turn` are the question and answer it belongs to, itself among them."""
    if isinstance(read.event, DamagedEvent):
        raw = tuple((name, visible(value)) for name, value in read.event.raw)
        return DamagedView(read.event.sequence, read.event.problem, raw)
    header, content = read.event.header, read.event.content
    word, kind = OUTCOME_WORDS[header.outcome]
    try:
        facts, unread = _facts(header, content.details if content else {}), None
    except _UNREADABLE:
        facts, unread = _facts(header, {}), "Its details are not in the form that this release writes."
    seen = tuple(view for event in turn if isinstance(event, Event) and (view := _seen(event)) is not None)
    details = "" if read.event.sealed is None else read.event.sealed.details
    return EventView(
        sequence=header.sequence, title=title_of(header.action, header.outcome), who=visible(header.actor.name),
        moment=as_datetime(header.time_us), outcome=word, outcome_kind=kind, seen=seen,
        text=visible(content.text if content and not seen else ""), erased=read.event.erased,
        facts=tuple((name, visible(value)) for name, value in facts), turn=read.turn,
        leaf_index=header.sequence - 1, leaf_hash=leaf_hash(encode_header(header)).hex(),
        commitment=header.commitment.hex() if header.commitment else "", tree_size=read.tree_size,
        proof=tuple(value.hex() for value in read.proof), asked=_asked(header, content),
        source=visible(details[:MAX_SOURCE_CHARS]), source_left_out=max(0, len(details) - MAX_SOURCE_CHARS),
        unread=unread,
    )  # fmt: skip


def _row_view(row: EventRow) -> RowView:
    header = row.header
    word, kind = OUTCOME_WORDS[header.outcome]
    return RowView(
        header.sequence, as_datetime(header.time_us), visible(header.actor.name or "appliance"), header.actor.via,
        title_of(header.action, header.outcome), _row_words(row), word, kind,
    )  # fmt: skip


def _row_words(row: EventRow) -> Markup:
    """What the row is about and the beginning of its content; the page's own words come first, in marks."""
    about = _about(row.header)
    words = visible(": ".join(part for part in (about, _first_words(row)) if part))
    own = _own_words(row)
    return Markup(" ").join(part for part in (own, words) if part)


def _damaged_row(row: DamagedEvent) -> RowView:
    moment = None
    if row.header is not None:
        try:
            moment = as_datetime(row.header.time_us)
        except OverflowError:
            moment = None
    who = visible(row.header.actor.name if row.header is not None else "")
    return RowView(row.sequence, moment, who, "", f"Event {row.sequence}", visible(row.problem), "Damaged", "bad")


def _first_words(row: EventRow) -> str:
    """The beginning of the content on one line; of an answer without the marks of its Markdown."""
    words = " ".join(row.excerpt.split())
    return _MARKDOWN_MARKS.sub("", words) if row.header.action == "answer" else words


def _own_words(row: EventRow) -> Markup:
    """What the row cannot show: that content was erased, how long it is, what of a question stands elsewhere."""
    if row.erased:
        return own_words("content erased")
    notes = []
    if row.length > len(row.excerpt):
        blank = "" if row.excerpt.strip() else ", blank at first"
        notes.append(f"{row.length:,} characters{blank}")
    if row.header.action == "prompt" and (beside := beside_words(row.beginning)):
        notes.append(f"+ {beside}")
    return own_words(f"[{'; '.join(notes)}]") if notes else Markup("")


def _about(header: Header) -> str:
    """What was acted on, where it says something to people: ids of turns do not, nor does one's own name."""
    if header.action == "review_read":
        return f"event {header.subject}"
    if header.action in ("prompt", "answer", "conversation_deleted") or header.subject == header.actor.name:
        return ""
    return header.subject


def _asked(header: Header, content: Content | None) -> AskedView | None:
    if content is None or header.action != "prompt":
        return None
    return asked_view(content.details, as_datetime(header.time_us))


def _seen(event: Event) -> SeenView | None:
    """A question or an answer as the person saw it; None for what is neither, or erased."""
    content = event.content
    if content is None or event.header.action not in ("prompt", "answer"):
        return None
    number = event.header.sequence
    if event.header.action == "prompt":
        return SeenView(number, visible(content.text))
    rendered = render_markdown(content.text)
    html, written = visible_html(rendered), written_view(content.text, rendered)
    try:
        words = words_of(content)
        calls = tuple(ToolCall(call.id, visible(call.name), visible(call.arguments)) for call in words.calls)
        view = MessageView(str(number), None, html, words.text, visible(words.reasoning), "Reasoning", calls)
    except _UNREADABLE:
        view = MessageView(str(number), None, html, content.text)
    return SeenView(number, None, view, written)


def _facts(header: Header, details: dict[str, Any]) -> list[tuple[str, str]]:
    """The event's facts for the table; what does not apply is left out."""
    actor = header.actor
    facts = [
        ("Event", f"{header.sequence:,}"),
        ("Time", as_iso(header.time_us).replace("T", " ").replace("Z", " UTC")),
        ("Who", f"{actor.name} ({actor.user_id or 'no account'})"),
        ("From", actor.via + (f", {actor.address}" if actor.address else "")),
        ("Action", header.action),
        ("Outcome", header.outcome),
    ]
    if header.subject:
        facts.append(("Turn" if header.action in ("prompt", "answer") else "About", header.subject))
    for name, value in details.items():
        if name == "request" and header.action == "prompt":
            facts += _request_facts(value)
        elif name not in _NO_FACTS and value is not None:
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
