"""The list of events as the page shows it: one line for each, under its day. Pure. All times are UTC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from markupsafe import Markup

from appliance.audit.event import Header
from appliance.audit.rows import DamagedEvent, EventRow
from appliance.database.transactions import as_datetime
from webui.review.present.asked import beside_words
from webui.review.present.unseen import own_words, visible
from webui.review.present.words import OUTCOME_WORDS, title_of

_MARKDOWN_MARKS: Final = re.compile(r"\*\*(?=\S)|(?<=\S)\*\*|`+|(?:^|(?<= ))#{1,6} ")


@dataclass(frozen=True)
class PageRow:
    """One line of the list. A damaged event has no moment if its time cannot be read."""

    sequence: int
    moment: datetime | None
    who: Markup
    via: str
    action: str
    words: Markup
    outcome: str
    outcome_kind: str


@dataclass(frozen=True)
class PageDay:
    """The rows of one day."""

    title: str
    rows: tuple[PageRow, ...]


def page_days(rows: Sequence[EventRow | DamagedEvent]) -> list[PageDay]:
    """Rows under their days, in the given order. A row without a readable time stays at the place of its number."""
    shown: list[tuple[str, PageRow]] = []
    title = ""
    for row in rows:
        page_row = _damaged_row(row) if isinstance(row, DamagedEvent) else _row(row)
        if page_row.moment is not None:
            title = f"{page_row.moment:%A} {page_row.moment.day} {page_row.moment:%B %Y}"
        shown.append((title or "Day not readable", page_row))
    return [PageDay(day, tuple(row for _, row in group)) for day, group in groupby(shown, key=lambda pair: pair[0])]


def _row(row: EventRow) -> PageRow:
    header = row.header
    word, kind = OUTCOME_WORDS[header.outcome]
    return PageRow(
        header.sequence, as_datetime(header.time_us), visible(header.actor.name or "appliance"), header.actor.via,
        title_of(header.action, header.outcome), _row_words(row), word, kind,
    )  # fmt: skip


def _row_words(row: EventRow) -> Markup:
    """What the row is about and the beginning of its content. The page's own words come first, marked as such."""
    about = _about(row.header)
    words = visible(": ".join(part for part in (about, _first_words(row)) if part))
    own = _own_words(row)
    return Markup(" ").join(part for part in (own, words) if part)


def _damaged_row(row: DamagedEvent) -> PageRow:
    moment = None
    if row.header is not None:
        try:
            moment = as_datetime(row.header.time_us)
        except OverflowError:
            moment = None
    who = visible(row.header.actor.name if row.header is not None else "")
    return PageRow(row.sequence, moment, who, "", f"Event {row.sequence}", visible(row.problem), "Damaged", "bad")


def _first_words(row: EventRow) -> str:
    """The beginning of the content on one line. An answer loses the marks of its Markdown."""
    words = " ".join(row.excerpt.split())
    return _MARKDOWN_MARKS.sub("", words) if row.header.action == "answer" else words


def _own_words(row: EventRow) -> Markup:
    """What the row does not show: that content was erased, how long it is, what else reached the model."""
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
    """What was acted on; "" if it is a turn's id or the person's own name, which tell a reviewer nothing."""
    if header.action == "review_read":
        return f"event {header.subject}"
    if (
        header.action in ("prompt", "answer", "response_deleted")
        or header.action.startswith("conversation_")
        or header.subject == header.actor.name
    ):
        return ""
    return header.subject
