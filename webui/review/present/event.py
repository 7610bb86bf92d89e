"""One event as the page shows it: what was seen, the facts, the exact source. Pure. All times are UTC.

A damaged event is shown with the values of its row. In every text, invisible characters are named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from markupsafe import Markup

from appliance.attachments.words import form_words, notes_of, size_words
from appliance.audit.details.codec import Details, UnreadableDetails
from appliance.audit.details.turns import FileFacts, FinishedAnswer, PromptDetails
from appliance.audit.event import Content, Header, encode_header
from appliance.audit.log import Event
from appliance.audit.merkle import leaf_hash
from appliance.audit.review import ReadEvent
from appliance.audit.rows import DamagedEvent
from appliance.database.transactions import as_datetime, as_iso
from appliance.turns.answer import words_of
from appliance.turns.request import ToolCall, TurnRequest
from webui.chat.present import PageMessage
from webui.rendering import render_markdown
from webui.review.present.asked import AskedRequest, asked_request
from webui.review.present.unseen import visible, visible_html
from webui.review.present.words import OUTCOME_WORDS, title_of
from webui.review.present.written import WrittenAnswer, written_answer

MAX_SOURCE_CHARS: Final = 20_000  # the page shows so much of the exact details; the file has all
_NO_FACTS: Final = ("beside", "index", "searchable", "reasoning", "tool_calls", "token_ids")  # shown elsewhere


@dataclass(frozen=True)
class SeenMessage:
    """A question or an answer as the person saw it."""

    sequence: int
    words: Markup | None  # None for an answer
    answer: PageMessage | None = None
    written: WrittenAnswer | None = None  # an answer's text as written, because rendering leaves things out


@dataclass(frozen=True)
class PageEvent:
    """One event in full: what was seen, the facts, the proof."""

    sequence: int
    title: str
    who: Markup
    moment: datetime
    outcome: str
    outcome_kind: str
    seen: tuple[SeenMessage, ...]  # question and answer as the person saw them
    text: Markup  # the text of an event that is neither
    erased: bool
    facts: tuple[tuple[str, Markup], ...]
    turn: tuple[int, ...]  # the numbers of question and answer
    leaf_index: int
    leaf_hash: str
    commitment: str  # "" if it never had content
    tree_size: int
    proof: tuple[str, ...]
    asked: AskedRequest | None = None  # the whole request; None if the event is no question
    source: Markup | str = ""  # the exact details
    source_left_out: int = 0
    unread: str | None = None  # why only the source of its content is shown
    marking: str | None = None  # of the conversation when it was asked


@dataclass(frozen=True)
class PageDamagedEvent:
    """A row that cannot be read as an event."""

    sequence: int
    problem: str
    raw: tuple[tuple[str, Markup], ...]


def page_event(read: ReadEvent, turn: Sequence[Event | DamagedEvent]) -> PageEvent | PageDamagedEvent:
    """The event that was read. Args: turn: the question and the answer that it belongs to, itself included."""
    if isinstance(read.event, DamagedEvent):
        raw = tuple((name, visible(value)) for name, value in read.event.raw)
        return PageDamagedEvent(read.event.sequence, read.event.problem, raw)
    header, content = read.event.header, read.event.content
    word, kind = OUTCOME_WORDS[header.outcome]
    unread = None
    if content is not None and isinstance(content.details, UnreadableDetails):
        unread = "Its details are not in the form that this release writes."
    seen = tuple(view for event in turn if isinstance(event, Event) and (view := _seen(event)) is not None)
    stored = "" if read.event.sealed is None else read.event.sealed.details
    return PageEvent(
        sequence=header.sequence, title=title_of(header.action, header.outcome), who=visible(header.actor.name),
        moment=as_datetime(header.time_us), outcome=word, outcome_kind=kind, seen=seen,
        text=visible(content.text if content and not seen else ""), erased=read.event.erased,
        facts=tuple((name, visible(value)) for name, value in _facts(header, content)), turn=read.turn,
        leaf_index=header.sequence - 1, leaf_hash=leaf_hash(encode_header(header)).hex(),
        commitment=header.commitment.hex() if header.commitment else "", tree_size=read.tree_size,
        proof=tuple(value.hex() for value in read.proof), asked=_asked(header, content),
        source=visible(stored[:MAX_SOURCE_CHARS]), source_left_out=max(0, len(stored) - MAX_SOURCE_CHARS),
        unread=unread, marking=_marking(turn),
    )  # fmt: skip


def _marking(turn: Sequence[Event | DamagedEvent]) -> str | None:
    """What the question says of the marking of its conversation then; None: nothing."""
    details = (event.content.details for event in turn if isinstance(event, Event) and event.content is not None)
    found = [visible(one.marking) for one in details if isinstance(one, PromptDetails) and one.marking is not None]
    return None if not found else found[0] or "not set"


def _asked(header: Header, content: Content | None) -> AskedRequest | None:
    if content is None or not isinstance(content.details, PromptDetails):
        return None
    return asked_request(content.details.request, as_datetime(header.time_us))


def _seen(event: Event) -> SeenMessage | None:
    """A question or an answer as the person saw it; None if the event is neither or is erased."""
    content = event.content
    if content is None or event.header.action not in ("prompt", "answer"):
        return None
    number = event.header.sequence
    if event.header.action == "prompt":
        return SeenMessage(number, visible(content.text))
    rendered = render_markdown(content.text)
    html, written = visible_html(rendered), written_answer(content.text, rendered)
    words = words_of(content)
    if words is None:
        return SeenMessage(number, None, PageMessage(str(number), None, html, content.text), written)
    calls = tuple(ToolCall(call.id, visible(call.name), visible(call.arguments)) for call in words.calls)
    shown = PageMessage(str(number), None, html, words.text, visible(words.reasoning), "Reasoning", calls)
    return SeenMessage(number, None, shown, written)


def _facts(header: Header, content: Content | None) -> list[tuple[str, str]]:
    """The event's facts for the table. What does not apply is left out."""
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
    return facts if content is None else [*facts, *_detail_facts(content.details)]


def _detail_facts(details: Details) -> Iterator[tuple[str, str]]:
    """The details by their names, whatever action they belong to; none that cannot be read."""
    if isinstance(details, UnreadableDetails):
        return
    for name, value in sorted(details.values().items()):
        if name == "request" and isinstance(details, PromptDetails):
            yield from _request_facts(details.request)
        elif name == "files" and isinstance(details, PromptDetails):
            yield from map(_file_fact, details.files)
        elif name not in _NO_FACTS and value is not None:
            yield _fact(name, value)
    if isinstance(details, FinishedAnswer):
        yield "Sampled tokens", f"{len(details.done.token_ids):,}, kept for replay"


def _request_facts(asked: TurnRequest) -> Iterator[tuple[str, str]]:
    """The settings that decided the answer."""
    for name in ("effort", "temperature", "top_p", "seed", "max_tokens", "stop"):
        value = getattr(asked, name)
        if value not in (None, ()):
            yield _fact(name, value)
    if asked.tools:
        yield "Tools", ", ".join(tool.name + (" (strict)" if tool.strict else "") for tool in asked.tools)
    if asked.must_call:
        yield "Must call", " or ".join(asked.must_call)
    if asked.answer_schema is not None:
        yield "Answer held to", json.dumps(asked.answer_schema, ensure_ascii=False)
    if len(asked.messages) > 1:
        yield "Before it", f"{len(asked.messages) - 1} earlier messages went with it"


def _file_fact(file: FileFacts) -> tuple[str, str]:
    """A file that went with a question. Its text is part of what was seen, between two marks."""
    read = f"{file.characters:,} characters were read of it, SHA-256 {file.text_sha256}"
    what = f"{', '.join(form_words(file))}, {size_words(file.size_bytes)}, SHA-256 {file.sha256}"
    return "Attached file", " ".join((f"{file.name}: {what}; {read}.", *notes_of(file)))


def _fact(name: str, value: object) -> tuple[str, str]:
    """A recorded detail in words. A name that ends in _s is a number of seconds."""
    words = name.removesuffix("_s").replace("_", " ").capitalize()
    if isinstance(value, float):
        return words, f"{value:g}" + (" s" if name.endswith("_s") else "")
    return words, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
