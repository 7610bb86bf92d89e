"""Puts a recorded answer into its conversation where the conversation lacks it, and ends a response that lacks its end.

The record gets an answer first, then the conversation. If the database stays busy or the process ends in between, the
conversation lacks the answer. The turn's file then stays behind; it names the conversation, the question and the turn.
The process that finds the file calls `keep_recorded`. It holds the file's lock, so no other process does the same.

A response in the background can lack its end in the same way. Its items are not drawn again from the record: it fails,
like a response whose whole answer could not be kept, and `fail_response` says why.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from appliance.audit.log import AuditLog, Event
from appliance.audit.rows import load_events
from appliance.database.tables import audit_events
from appliance.people.conversations import ConversationNotFoundError, Conversations, NewMessage
from appliance.people.responses import fail_in
from appliance.turns.answer import Answer, Facts, end_of, words_of
from appliance.turns.events import FAILURES
from appliance.turns.journal import Head

NOT_KEPT: Final = (
    "This answer is in the record, but could not be put into the conversation just now. "
    "Copy it if you need it; reload the page in a minute."
)
RESPONSE_NOT_KEPT: Final = "The answer is in the record, but the response could not be kept."
NOT_READABLE: Final = "The answer was recorded, but its words can no longer be read. Ask again."


def fail_response(log: AuditLog, response_id: str) -> None:
    """End a response that no process is writing any more, unless it has its end.

    Raises:
        DatabaseError: the database cannot be read or written now.
    """
    is_recorded = "answer" in _events_of(log, response_id)
    why = RESPONSE_NOT_KEPT if is_recorded else FAILURES["record_failed"].sentence
    with log.database.write(serial=True) as connection:
        fail_in(connection, response_id, why)


def keep_recorded(log: AuditLog, conversations: Conversations, user_id: str, conversation_id: str, head: Head) -> bool:
    """Add the recorded answer under its question unless it is there already; return whether this call did.

    Raises:
        DatabaseError: the database cannot be read or written now.
        ConversationDamagedError: a stored value is not one that the appliance stored.
    """
    events = _events_of(log, head.turn)
    answer = events.get("answer")
    if answer is None or answer.header.outcome == "interrupted":  # the same transaction told its conversation
        return False
    try:
        if conversations.has_answer(user_id, conversation_id, head.question, turn=head.turn):
            return False
        message = _message(head, events.get("prompt"), answer)
        if head.begun is not None:
            conversations.go_on(user_id, conversation_id, head.begun, message)
        else:
            conversations.append(user_id, conversation_id, message, parent_id=head.question)
    except ConversationNotFoundError:  # deleted meanwhile
        return False
    return True


def _events_of(log: AuditLog, turn: str) -> dict[str, Event]:
    """The newest whole event of each action of a turn."""
    columns = audit_events.c
    query = sa.select(columns.sequence).where(columns.subject == turn, columns.action.in_(("prompt", "answer")))
    with log.database.read() as connection:
        numbers = list(connection.scalars(query.order_by(columns.sequence)))
    found = sorted(load_events(log.database, numbers).items())
    return {event.header.action: event for _, event in found if isinstance(event, Event)}


def _message(head: Head, prompt: Event | None, event: Event) -> NewMessage:
    prompt_event = None if prompt is None else prompt.sequence
    words = None if event.content is None else words_of(event.content)
    if event.content is None or words is None:  # erased, or not recorded by the appliance
        facts = Facts(
            about=head.about, turn=head.turn, prompt_event=prompt_event, event=event.sequence, problem=NOT_READABLE
        )
        return NewMessage("assistant", "", facts=facts)
    answer = Answer()
    answer.end = end_of(event.content)
    facts = answer.facts(head.about, turn=head.turn, prompt_event=prompt_event, event=event.sequence)
    return NewMessage("assistant", words.text, words.reasoning or None, words.calls, facts)
