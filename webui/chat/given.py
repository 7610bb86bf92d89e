"""What the model is given for one question. A question that does not fit is refused before it is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from appliance.people.accounts import User
from appliance.people.conversations import ConversationNotFoundError, QuestionFacts, StoredMessage
from appliance.turns.request import Effort, Message
from webui.allowances import allowance
from webui.chat.asking import Asked
from webui.chat.bodies import Question
from webui.chat.reading import as_developer, as_read, check_reads_from, facts_of_question, first_read
from webui.chat.room import UncountableError, token_counts
from webui.chat.room_words import room_words
from webui.errors import BadRequestError, ConflictError
from webui.services import Services

_SUMMARY_SHARE = 4  # the answer that sums up has at least one in so many of the context's tokens


class TooLongError(BadRequestError):
    """The question does not fit into what the model can read at once."""

    code = "too_long"
    what_to_do = "Your question was not sent."


@dataclass(frozen=True)
class Given:
    """The messages of a turn, the question last, and what is kept of the question."""

    messages: tuple[Message, ...]
    facts: QuestionFacts


def check_seen(shown: Sequence[StoredMessage], question: Question) -> None:
    """Refuse a question from a page that has not seen the last of the messages that are shown now.

    Raises:
        ConflictError: the conversation has gone on elsewhere, or this question has come before.
    """
    if question.last is not None and question.last != (shown[-1].id if shown else ""):
        words = "This conversation has gone on since this page showed it, in another tab or on another machine."
        raise ConflictError("gone_on", words, "Your question was not sent. Read what is new, then send it if you like.")


def given_for(
    service: Services, user: User, asked: Asked, question: Question, facts: QuestionFacts, instructions: str
) -> Given:  # fmt: skip
    """What the model is given for a turn.

    Args:
        facts: of a new question.
        instructions: the person's, "" for none.
    Raises:
        TooLongError: it does not fit. If the engine cannot count now, it decides itself.
        RefusedError: it has more bytes than any prompt may have, or the day's allowance is spent.
        BadRequestError: the message to read from, or the conversation to sum up, does not exist.
    """
    if asked.goes_on:
        return _continued(user, asked.history, question.effort, instructions)
    earlier, words, reads_from = asked.history, asked.words, question.reads_from
    if words is None:
        *earlier, last = asked.history
        facts, words = facts_of_question(last), last.as_message().content
        reads_from = "" if reads_from == last.id else reads_from
    if reads_from is not None:
        check_reads_from(earlier, reads_from)
        facts = replace(facts, reads_from=reads_from)
    read: Sequence[StoredMessage] = earlier[first_read(earlier, facts.reads_from) :]
    if facts.sums_up is not None:
        read = _summed_up(service, user, facts.sums_up, words, question.effort, instructions)
    messages = (*as_developer(instructions), *as_read(read), Message("user", words))
    _check_fits(user, read, messages, words, question.effort, instructions)
    return Given(messages, facts)


def _continued(user: User, history: Sequence[StoredMessage], effort: Effort, instructions: str) -> Given:
    """The messages up to the answer that is continued."""
    read = history[first_read(history) :]
    messages = (*as_developer(instructions), *as_read(read))
    _check_fits(user, read, messages, "", effort, instructions)
    return Given(messages, QuestionFacts())


def _summed_up(
    service: Services, user: User, conversation_id: str, words: str, effort: Effort, instructions: str
) -> Sequence[StoredMessage]:
    """The messages of the conversation that is summed up: the newest, as many as fit beside the summary."""
    try:
        messages = service.conversations.messages(user.id, conversation_id)
    except ConversationNotFoundError:
        said = "The chat that is to be summed up here was deleted."
        raise BadRequestError("summed_up_is_gone", said, "Nothing was asked.") from None
    read = messages[first_read(messages) :]
    try:
        context = token_counts().measure(user.id, (), words, effort).context
        share = context // _SUMMARY_SHARE
        start = token_counts().cut(user.id, read, words, effort, for_answer=share, instructions=instructions)
    except UncountableError:
        return read
    return read[start or 0 :]


def _check_fits(
    user: User,
    earlier: Sequence[StoredMessage],
    messages: Sequence[Message],
    words: str,
    effort: Effort,
    instructions: str,
) -> None:
    """Refuse by size first: that costs no counting, and the record has the digest of what was refused.

    Args:
        messages: the earlier ones and the words, as the model reads them.
    """
    allowance().check_texts(user.id, [message.content.encode(errors="surrogatepass") for message in messages])
    try:
        room = token_counts().measure(user.id, earlier, words, effort, instructions=instructions)
    except UncountableError:
        return
    if not room.fits:
        raise TooLongError(message=room_words(room, has_text=bool(words)).problem)
