"""Closes turns whose process died. Nobody knows what they generated, and the record says so.

    lost = LostTurns(log)       # one for each recorder
    lost.close()                # at its start, and every minute

A prompt without an answer is either being answered or lost. It is lost when the process that recorded it is dead
(`appliance.database.presence`); a turn of a living process is never taken for lost. The answer recorded for a lost
prompt has the outcome ``interrupted``; the conversation shows a sentence in place of the answer, and a response in the
background has failed with that sentence.

Exactly once: the search for an answer, the event and the conversation's message or the response's end are one
transaction that excludes every other writer. A kill in the middle leaves the turn as it was, for the next call.

Only memory holds the number up to which every prompt has its answer. If the database held it, anyone who can write
there could advance it, and the prompts before it would stay open for ever. So the first call looks at the newest
events, and every call also looks at a stretch of older ones: a million within an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import sqlalchemy as sa

from appliance.audit.details.turns import Failure, LostAnswer, PromptDetails
from appliance.audit.event import Content, Header, NewEvent
from appliance.audit.log import AuditLog, Event
from appliance.audit.rounds import Rounds
from appliance.audit.rows import load_events
from appliance.audit.stored_tree import log_size
from appliance.database.tables import audit_events
from appliance.database.transactions import Database
from appliance.people.messages import append_interruption
from appliance.people.responses import fail_in
from appliance.turns.answer import Facts

INTERRUPTED: Final = (
    "Interrupted: the process that answered ended before the answer was recorded. What was generated is not known."
)
NEWEST_EVENTS: Final = 50_000  # read by the first call: a tenth of a second
STRETCH_EVENTS: Final = 20_000  # older ones, read by each call
_BATCH_EVENTS: Final = 200


class LostTurns:
    """Finds and closes the lost turns of one log, for as long as one process records."""

    def __init__(self, log: AuditLog, *, newest: int = NEWEST_EVENTS, rounds: Rounds | None = None) -> None:
        """Look after `log`.

        Args:
            newest: how many events the first call looks at.
            rounds: which older events each call also looks at.
        """
        self._log = log
        self._newest = newest
        self._rounds = rounds or Rounds(STRETCH_EVENTS)
        self._closed_to: int | None = None  # up to here every prompt that `newest` covers has its answer

    def close(self) -> int:
        """Record an answer for each lost prompt among the events of this call; return how many.

        Raises:
            DatabaseError, RecordError: the record cannot be read or written; answers recorded before that stay.
        """
        size = self._log.size()
        if self._closed_to is None:
            self._closed_to = max(0, size - self._newest)
        closed, first_open = self._close_between(min(self._closed_to, size), size)
        self._closed_to = first_open - 1
        older, _ = self._close_between(*self._rounds.next(self._closed_to))
        self._log.database.presence.forget_dead()
        return closed + older

    def _close_between(self, after: int, last: int) -> tuple[int, int]:
        """How many prompts were closed, and the number of the first that is still being answered, else `last` + 1."""
        closed, first_open = 0, last + 1
        for prompt in _open_prompts(self._log.database, after, last):
            if _is_running(self._log.database, prompt):
                first_open = min(first_open, prompt.sequence)
                continue
            try:
                closed += _close(self._log, prompt)
            except ValueError:  # no appliance wrote that event; the record refuses an answer with its values, too
                continue
        return closed, first_open


def running_prompts(database: Database, first: int, last: int) -> list[int]:
    """The prompts among the events `first` to `last` that are being answered now.

    Raises:
        DatabaseError: the record cannot be read.
    """
    return [event.sequence for event in _open_prompts(database, first - 1, last) if _is_running(database, event)]


def lost_prompts(database: Database, limit: int) -> list[int]:
    """The first prompts of the whole log that have no answer and that no living process is answering.

    Raises:
        DatabaseError: the record cannot be read.
    """
    with database.read() as connection:
        size = log_size(connection)
    lost = (event.sequence for event in _open_prompts(database, 0, size) if not _is_running(database, event))
    return list(islice(lost, limit))


def _open_prompts(database: Database, after: int, last: int) -> Iterator[Event]:
    """The prompts without an answer that come after `after`, up to `last`. Damaged ones are left out: nobody knows
    whose they are, and a verification names them."""
    while numbers := _unanswered(database, after, last):
        after = numbers[-1]
        for _, event in sorted(load_events(database, numbers).items()):
            if isinstance(event, Event):
                yield event


def _unanswered(database: Database, after: int, last: int) -> list[int]:
    """The next prompts that no later answer with the same subject follows."""
    prompt, answer = audit_events.alias("prompt").c, audit_events.alias("answer").c
    answered = sa.exists().where(
        answer.subject == prompt.subject, answer.action == "answer", answer.sequence > prompt.sequence
    )
    query = sa.select(prompt.sequence).where(
        prompt.sequence > after, prompt.sequence <= last, prompt.action == "prompt", ~answered
    )
    with database.read() as connection:
        return list(connection.scalars(query.order_by(prompt.sequence).limit(_BATCH_EVENTS)))


def _is_running(database: Database, event: Event) -> bool:
    details = None if event.content is None else event.content.details
    process = details.process if isinstance(details, PromptDetails) else None
    return process is not None and database.presence.is_alive(process)


def _close(log: AuditLog, prompt: Event) -> bool:
    """Record the prompt's answer unless another process has recorded one; return whether this call did."""
    header, content = prompt.header, prompt.content
    details = None if content is None else content.details
    conversation = details.conversation if isinstance(details, PromptDetails) else None
    with log.database.write(serial=True) as connection:
        answers = sa.select(audit_events.c.sequence).where(
            audit_events.c.subject == header.subject, audit_events.c.action == "answer",
            audit_events.c.sequence > header.sequence,
        )  # fmt: skip
        if connection.execute(answers.limit(1)).first() is not None:
            return False
        answer = log.append_in(connection, _answer(header, conversation))
        if conversation is not None and content is not None:
            facts = Facts(turn=header.subject, problem=INTERRUPTED, prompt_event=header.sequence, event=answer.sequence)
            append_interruption(connection, conversation, content.text, facts, answer.time_us)
        if conversation is None:
            fail_in(connection, header.subject, INTERRUPTED)
    return True


def _answer(prompt: Header, conversation: str | None) -> NewEvent:
    details = LostAnswer(
        conversation=conversation,
        reasoning="",
        tool_calls=(),
        failure=Failure(code="interrupted", message=INTERRUPTED),
        prompt_event=prompt.sequence,
    )
    return NewEvent(prompt.actor, "answer", "interrupted", prompt.subject, Content(INTERRUPTED, details))
