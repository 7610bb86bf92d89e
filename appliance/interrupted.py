"""Gives an end to turns whose process died: what it generated is not known, and that is what the record says.

A prompt without an answer is either being answered or lost. It is lost when the process that recorded it no longer
lives (`appliance.presence`), which a living sibling's turn never is. The answer recorded for it has the outcome
``interrupted``; a conversation shows it in words.

Exactly once: the search for an answer, the event and the conversation's message are one transaction that excludes
every other writer. A kill in the middle leaves the turn as it was, for the next call.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from appliance.audit.event import Content, Header, NewEvent
from appliance.audit.log import AuditLog, Event
from appliance.audit.rows import load_events
from appliance.conversations import append_interruption
from appliance.database import read_number, write_setting
from appliance.tables import audit_events

INTERRUPTED: Final = (
    "Interrupted: the process that answered ended before the answer was recorded. What was generated is not known."
)
_CLOSED_TO: Final = "turns_closed_to"  # setting: every prompt up to this number has its answer
_BATCH_EVENTS: Final = 200


def close_interrupted(log: AuditLog) -> int:
    """Record an answer for every prompt that will get none; returns how many.

    Raises:
        DatabaseError, RecordError: the record cannot be read or written; what is done is done.
    """
    database, closed = log.database, 0
    with database.read() as connection:
        begin = _closed_to(connection, log.size())
    size = log.size()
    done_to, first_open = begin, size + 1
    while numbers := _unanswered(log, done_to, size):
        for number, event in sorted(load_events(database, numbers).items()):
            if not isinstance(event, Event):  # damaged: there is nobody to say whose it was; a verification names it
                continue
            if _is_running(log, event):
                first_open = min(first_open, number)
                continue
            try:
                closed += _close(log, event)
            except ValueError:  # what no appliance records: an answer with the same words would be refused as well
                continue
        done_to = numbers[-1]
    if first_open - 1 > begin:
        with database.write() as connection:
            write_setting(connection, _CLOSED_TO, str(first_open - 1))
    if database.presence is not None:
        database.presence.forget_dead()
    return closed


def running_prompts(log: AuditLog) -> list[int]:
    """Numbers of the prompts that are being answered now.

    Raises:
        DatabaseError: the record cannot be read.
    """
    with log.database.read() as connection:
        begin = _closed_to(connection, log.size())
    numbers = _unanswered(log, begin, log.size(), limit=None)
    events = load_events(log.database, numbers)
    return [number for number, event in events.items() if isinstance(event, Event) and _is_running(log, event)]


def _unanswered(log: AuditLog, after: int, last: int, *, limit: int | None = _BATCH_EVENTS) -> list[int]:
    """Prompts with these numbers that no later answer with the same subject follows."""
    prompt, answer = audit_events.alias("prompt").c, audit_events.alias("answer").c
    answered = sa.exists().where(
        answer.subject == prompt.subject, answer.action == "answer", answer.sequence > prompt.sequence
    )
    query = sa.select(prompt.sequence).where(
        prompt.sequence > after, prompt.sequence <= last, prompt.action == "prompt", ~answered
    )
    with log.database.read() as connection:
        return list(connection.scalars(query.order_by(prompt.sequence).limit(limit)))


def _is_running(log: AuditLog, event: Event) -> bool:
    presence, content = log.database.presence, event.content
    if presence is None or content is None:
        return False
    process = content.details.get("process")
    return isinstance(process, str) and presence.is_alive(process)


def _close(log: AuditLog, prompt: Event) -> bool:
    """Record the prompt's answer unless somebody has meanwhile; True if this call did."""
    header, content = prompt.header, prompt.content
    details = {} if content is None else content.details
    with log.database.write(serial=True) as connection:
        answers = sa.select(audit_events.c.sequence).where(
            audit_events.c.subject == header.subject, audit_events.c.action == "answer",
            audit_events.c.sequence > header.sequence,
        )  # fmt: skip
        if connection.execute(answers.limit(1)).first() is not None:
            return False
        answer = log.append_in(connection, _answer(header, details.get("conversation")))
        conversation = details.get("conversation")
        if isinstance(conversation, str) and content is not None:
            facts = {"problem": INTERRUPTED, "prompt_event": header.sequence, "event": answer.sequence}
            append_interruption(connection, conversation, content.text, facts, answer.time_us)
    return True


def _answer(prompt: Header, conversation: object) -> NewEvent:
    details = {
        "conversation": conversation,
        "failure": {"code": "interrupted", "message": INTERRUPTED},
        "prompt_event": prompt.sequence,
        "reasoning": "",
        "tool_calls": [],
    }
    return NewEvent(prompt.actor, "answer", "interrupted", prompt.subject, Content(INTERRUPTED, details))


def _closed_to(connection: sa.Connection, size: int) -> int:
    """Up to where the setting says that every prompt has its answer; from the beginning if it cannot be so."""
    stored = read_number(connection, _CLOSED_TO) or 0
    return stored if stored <= size else 0
