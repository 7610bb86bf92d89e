"""What the chat page shows of conversations and messages. Pure: records in, words and safe HTML out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup

from appliance.people.attachments import Attachment
from appliance.people.conversation_list import Listed
from appliance.people.conversations import Conversation, StoredMessage
from appliance.turns.answer import Facts, Part, Words
from appliance.turns.events import Done
from appliance.turns.request import ToolCall
from webui.rendering import render_markdown, render_question

MAX_TITLE_CHARS = 60
_DAMAGED = "What is kept of this answer is damaged: somebody has changed the database. Tell your administrator."


@dataclass(frozen=True)
class ConversationGroup:
    """A heading of the list and what stands below it."""

    title: str
    items: tuple[Listed, ...]


@dataclass(frozen=True)
class SummedUp:
    """The conversation that the first answer of another one sums up; None: it was deleted."""

    conversation: Conversation | None


@dataclass(frozen=True)
class PageMessage:
    """One message of the page: the person's `words`, or an answer if these are None."""

    id: str
    words: str | None
    html: Markup | str = ""
    source: str = ""
    reasoning: str = ""
    thought: str = "Thought"
    calls: tuple[ToolCall, ...] = ()
    imported: str = ""  # where it comes from, if this appliance did not write it
    problem: str | None = None  # what happened, what was kept, what to do
    facts: tuple[tuple[str, str], ...] = ()
    can_go_on: bool = False
    branch_number: int = 1
    branch_count: int = 1
    branch_before: str | None = None
    branch_after: str | None = None
    files: tuple[Attachment, ...] = ()


UNANSWERED = PageMessage(
    "", None, problem="This question has no answer, and none is being written. Choose Answer again to ask it once more."
)


def grouped(listed: Sequence[Listed], now: datetime) -> list[ConversationGroup]:
    """Conversations that are pinned, of today, of this week, and older, by the calendar of `now`."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    groups: dict[str, list[Listed]] = {"Pinned": [], "Today": [], "This week": [], "Older": []}
    for one in listed:
        if one.conversation.pinned:
            groups["Pinned"].append(one)
        elif one.conversation.updated_at >= midnight:
            groups["Today"].append(one)
        else:
            groups["This week" if one.conversation.updated_at >= midnight - timedelta(days=6) else "Older"].append(one)
    return [ConversationGroup(title, tuple(items)) for title, items in groups.items() if items]


def title_of(text: str) -> str:
    """A title for the conversation that begins with `text`: its first words."""
    words = " ".join(text.split())
    if len(words) <= MAX_TITLE_CHARS:
        return words
    return words[: MAX_TITLE_CHARS - 1].rsplit(" ", 1)[0] + "…"


def page_message(message: StoredMessage) -> PageMessage:
    """A message as the page shows it."""
    at = message.siblings.index(message.id)
    branch: dict[str, Any] = {
        "branch_number": at + 1,
        "branch_count": len(message.siblings),
        "branch_before": message.siblings[at - 1] if at > 0 else None,
        "branch_after": message.siblings[at + 1] if at + 1 < len(message.siblings) else None,
    }
    if message.role != "assistant":
        html = render_question(message.content) or ""
        return PageMessage(message.id, message.content, html, message.content, files=message.files, **branch)
    if not isinstance(message.facts, Facts):
        return page_answer(message.id, Words(message.content), Facts(problem=_DAMAGED), **branch)
    words = Words(message.content, message.reasoning or "", message.tool_calls)
    return page_answer(message.id, words, message.facts, can_go_on=message.can_go_on, **branch)


def imported_words(source: str) -> str:
    """What is said of an answer that came in a file."""
    return f"Imported from {source}. This appliance did not write this answer."


def page_answer(message_id: str, words: Words, facts: Facts, **branch: Any) -> PageMessage:
    """An answer as the page shows it."""
    seconds = facts.thought_s
    return PageMessage(
        message_id, None, render_markdown(words.text), words.text, words.reasoning,
        thought=f"Thought for {max(1, round(seconds))} s" if seconds is not None else "Thought",
        calls=words.calls, imported="" if facts.imported is None else imported_words(facts.imported),
        problem=facts.problem, facts=tuple(_in_words(facts)), **branch,
    )  # fmt: skip


def _in_words(facts: Facts) -> list[tuple[str, str]]:
    """The details of an answer. What is not known is left out."""
    words: list[tuple[str, str]] = []
    if facts.about is not None:
        about = facts.about
        words += [("Model", f"{about.model}, release {about.release}"), ("Effort", about.effort)]
    if facts.done is not None:
        words += _figures(facts.done)
    own = Part(facts.turn, facts.prompt_event, facts.event)
    for number, part in enumerate((*facts.earlier, own)):
        events = _events(part)
        if events:
            words.append(("Continued" if number else "Record", events))
    return words


def _events(part: Part) -> str:
    numbers = [f"{number:,}" for number in (part.prompt_event, part.event) if number is not None]
    return ("event " if len(numbers) == 1 else "events ") + " and ".join(numbers) if numbers else ""


def _figures(done: Done) -> list[tuple[str, str]]:
    cached = f", {done.cached_tokens:,} of them reused" if done.cached_tokens else ""
    words = [
        ("Prompt", f"{done.prompt_tokens:,} tokens{cached}"),
        ("Answer", f"{done.completion_tokens:,} tokens, {done.reasoning_tokens:,} of them reasoning"),
        ("Time", f"waited {done.queued_s:.1f} s, prefill {done.prefill_s:.1f} s, decode {done.decode_s:.1f} s"),
    ]
    if done.decode_s > 0:
        words.append(("Speed", f"{done.completion_tokens / done.decode_s:.1f} tokens per second"))
    if done.malformed:
        words.append(("Form", "the model's output was malformed and was repaired"))
    return words
