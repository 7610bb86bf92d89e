"""Keeps the answer of a turn that is over, beside the record: in its conversation, or wherever its asker keeps it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from appliance.database.transactions import DatabaseError
from appliance.people.conversations import ConversationNotFoundError, Conversations, NewMessage
from appliance.turns.journal import Head
from appliance.turns.run import Turn

_log = logging.getLogger(__name__)

Keep = Callable[[], str | None]  # keeps a recorded answer; the value is `appliance.turns.journal.Kept.message`


def keep_message(
    conversations: Conversations, user_id: str, conversation_id: str, head: Head, turn: Turn
) -> str | None:
    """Put an answer under its question, or behind what it continues. The value is the id of the message; None where the
    conversation is gone.

    Raises:
        DatabaseError: the database is busy.
    """
    words = turn.answer.words
    facts = turn.answer.facts(head.about, turn=turn.request.id, prompt_event=turn.prompt_event, event=turn.answer_event)
    new = NewMessage("assistant", words.text, words.reasoning or None, words.calls, facts)
    try:
        if head.begun is not None:
            return conversations.go_on(user_id, conversation_id, head.begun, new).id
        return conversations.append(user_id, conversation_id, new, parent_id=head.question).id
    except ConversationNotFoundError:  # deleted meanwhile; the record has the answer
        return None


def kept(turn: Turn, keep: Keep) -> str | None:
    """What `keep` kept; None where it failed.

    Raises:
        DatabaseError: the database is busy.
    """
    try:
        return keep()
    except DatabaseError:
        raise
    except Exception:  # damaged rows, too; if the file stayed, the conversation would take no more questions
        _log.exception("turn %s: its answer is in the record alone", turn.request.id)
        return None
