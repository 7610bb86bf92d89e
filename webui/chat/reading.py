"""What the model reads of a conversation: its messages from some point on, or those of the chat that it sums up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from appliance.people.conversations import QuestionFacts, StoredMessage
from appliance.turns.request import Message
from webui.errors import BadRequestError


def facts_of_question(message: StoredMessage) -> QuestionFacts:
    """The facts of a question; of any other message none."""
    return message.facts if isinstance(message.facts, QuestionFacts) else QuestionFacts()


def first_read(messages: Sequence[StoredMessage], reads_from: str | None = None) -> int:
    """The index of the first message that the model reads for the next answer.

    Args:
        messages: a whole branch.
        reads_from: what the next question says of it, as in `QuestionFacts`; None leaves it to the earlier questions.
    """
    ids = [message.id for message in messages]
    if reads_from == "":
        return len(messages)
    if reads_from is not None:
        return ids.index(reads_from) if reads_from in ids else 0
    for index in reversed(range(len(messages))):
        begins = facts_of_question(messages[index]).reads_from
        if begins is not None:
            return ids.index(begins) if begins in ids else index
    return 0


def check_reads_from(messages: Sequence[StoredMessage], reads_from: str | None) -> None:
    """Raises BadRequestError: the conversation has no such message that the model could begin with."""
    if reads_from and reads_from not in [message.id for message in messages if message.role == "user"]:
        raise BadRequestError(message="The message from which the model is to read is not in this conversation.")


def as_read(messages: Sequence[StoredMessage]) -> tuple[Message, ...]:
    """Messages as the model reads them: without empty answers and past reasoning."""
    said = [message.as_message() for message in messages if message.content or message.tool_calls]
    return tuple(message if message.tool_calls else replace(message, reasoning=None) for message in said)


def as_developer(instructions: str) -> tuple[Message, ...]:
    """A person's instructions as the model reads them, before everything else; nothing for none."""
    return (Message("developer", instructions),) if instructions else ()
