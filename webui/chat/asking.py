"""Where a new turn stands in the conversation's tree: what the model reads before it, and what it follows."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.attachments.prompt import with_files
from appliance.people.attachments import Attachments, AttachmentText
from appliance.people.conversations import Conversation, ConversationNotFoundError, Conversations, StoredMessage
from webui.chat.bodies import Question
from webui.errors import BadRequestError


@dataclass(frozen=True)
class Asked:
    """The branch that the model reads, from the first message on. With a new ``text`` its question follows the last
    of these messages; without one the last of them is the question, or the answer that is continued."""

    history: list[StoredMessage]
    text: str | None
    goes_on: bool = False
    files: tuple[AttachmentText, ...] = ()  # of the question, an earlier one included

    @property
    def parent_id(self) -> str | None:
        """The message that a new question follows."""
        return self.history[-1].id if self.history else None

    @property
    def words(self) -> str | None:
        """A new question as the model reads it, after its files."""
        return None if self.text is None else with_files(self.text, [file.as_read() for file in self.files])

    @property
    def begun(self) -> StoredMessage | None:
        """The answer that is continued."""
        return self.history[-1] if self.goes_on else None


def asked_of(
    conversations: Conversations,
    conversation: Conversation,
    shown: list[StoredMessage],
    question: Question,
    attachments: Attachments,
) -> Asked:
    """Where a turn stands that asks this question now.

    Args:
        shown: the branch of the conversation that is shown.
    Raises:
        AttachmentNotFoundError: a file is not this person's, or belongs to another conversation.
        BadRequestError: there is no question to ask again, or no answer to continue.
        ConversationNotFoundError: the question to be asked anew is none of this conversation's.
    """
    if question.instead_of is not None:
        branch = conversations.branch_to(conversation.user_id, conversation.id, question.instead_of)
        if branch[-1].role != "user":
            raise ConversationNotFoundError
        files = branch[-1].files
        if question.files is not None:
            files = attachments.take(conversation.user_id, conversation.id, question.files)
        return Asked(branch[:-1], question.text, files=files)
    if question.regenerate:
        history = _until_last_question(shown)
        return Asked(history, None, files=history[-1].files)
    if question.go_on:
        if not shown or not shown[-1].can_go_on:
            raise BadRequestError(message="The last answer was not cut off, so there is nothing to continue.")
        return Asked(shown, None, goes_on=True, files=_until_last_question(shown)[-1].files)
    files = attachments.take(conversation.user_id, conversation.id, question.files or ())
    return Asked(shown, question.text, files=files)


def _until_last_question(messages: list[StoredMessage]) -> list[StoredMessage]:
    while messages and messages[-1].role != "user":
        messages = messages[:-1]
    if not messages:
        raise BadRequestError(message="There is no question to answer again.")
    return messages
