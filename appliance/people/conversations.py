"""Conversations as people see them: titles, messages, branches. Each is one user's, and every call names that user.

A conversation's messages form a tree (messages.py): asking again, or editing a question, adds a sibling. A deleted
conversation is gone with its messages; the record keeps its events.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import sqlalchemy as sa

from appliance.audit.details.exchange import ConversationImported
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.message_words import forget_messages
from appliance.database.tables import conversations, messages
from appliance.database.transactions import Database, now_us
from appliance.people.attachments import files_in
from appliance.people.conversation_list import ConversationLists
from appliance.people.conversation_rows import (
    Conversation,
    ConversationDamagedError,
    conversation_of,
    own_row,
    telling_damage,
)
from appliance.people.imported import ImportedTree, insert_tree
from appliance.people.messages import (
    ConversationNotFoundError,
    NewMessage,
    QuestionFacts,
    StoredMessage,
    all_messages,
    branch_of,
    branches_of,
    check_message,
    continue_message,
    insert_message,
    newest_leaf,
)
from appliance.people.sampling import Sampling
from appliance.turns.answer import Facts, facts_of

__all__ = [
    "Conversation", "ConversationDamagedError", "ConversationNotFoundError", "Conversations", "NewMessage",
    "QuestionFacts", "StoredMessage",
]  # fmt: skip

MAX_TITLE_CHARS = 120
_NEW_TITLE = "New conversation"


class Conversations:
    """The conversations of one database; thread-safe."""

    def __init__(self, database: Database, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._database = database
        self._record = record
        self._clock_us = clock_us
        self.lists = ConversationLists(database, clock_us=clock_us)

    def get(self, user_id: str, conversation_id: str) -> Conversation:
        """One conversation.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        with telling_damage(), self._database.read() as connection:
            return conversation_of(own_row(connection, user_id, conversation_id))

    def create(self, user_id: str, *, title: str = "") -> Conversation:
        """Begin a conversation."""
        now = self._clock_us()
        values = {
            "id": secrets.token_hex(8), "user_id": user_id, "title": _clean_title(title), "pinned": False,
            "created_us": now, "updated_us": now,
        }  # fmt: skip
        with self._database.write() as connection:
            connection.execute(conversations.insert().values(values))
        return self.get(user_id, str(values["id"]))

    def take_in(self, user_id: str, tree: ImportedTree, *, sha256: str, by: Actor) -> tuple[Conversation, Content]:
        """Add a conversation that comes from elsewhere; the event, whose content is returned, holds its whole text.

        Args:
            sha256: the digest of the file.
        """
        details = ConversationImported(
            source=tree.source, messages=len(tree.messages), left_out=tree.left_out, sha256=sha256
        )
        content = Content(tree.transcript, details)
        with self._database.write(serial=True) as connection:
            made = insert_tree(connection, user_id, _clean_title(tree.title), tree, self._clock_us())
            self._record.append_in(connection, NewEvent(by, "conversation_imported", subject=made, content=content))
        return self.get(user_id, made), content

    def rename(self, user_id: str, conversation_id: str, title: str) -> None:
        """Give it another title."""
        self._update(user_id, conversation_id, title=_clean_title(title))

    def pin(self, user_id: str, conversation_id: str, *, pinned: bool) -> None:
        """Keep it on top of the list, or no longer."""
        self._update(user_id, conversation_id, pinned=pinned)

    def set_choices(
        self, user_id: str, conversation_id: str, sampling: Sampling, *, without_instructions: bool
    ) -> None:
        """Keep how its answers are drawn from now on, and whether its owner's instructions are left out."""
        chosen = sampling.chosen() or None
        self._update(user_id, conversation_id, sampling=chosen, without_instructions=without_instructions)

    def delete(self, user_id: str, conversation_id: str, *, by: Actor) -> None:
        """Delete it with its messages; that it was deleted is recorded.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        with self._database.write(serial=True) as connection:
            own_row(connection, user_id, conversation_id)
            forget_messages(connection, "conversation_id", conversation_id)
            connection.execute(conversations.delete().where(conversations.c.id == conversation_id))
            self._record.append_in(connection, NewEvent(by, "conversation_deleted", subject=conversation_id))

    def messages(self, user_id: str, conversation_id: str) -> list[StoredMessage]:
        """The branch that is shown, from the first message to the last.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
            ConversationDamagedError: a stored value is not one that was stored.
        """
        with telling_damage(), self._database.read() as connection:
            conversation = own_row(connection, user_id, conversation_id)
            return branch_of(
                all_messages(connection, conversation_id), conversation.leaf_id, files_in(connection, conversation_id)
            )

    def tree(self, user_id: str, conversation_id: str) -> list[StoredMessage]:
        """The messages of every branch, oldest first.

        Raises:
            ConversationNotFoundError: the conversation does not exist or is someone else's.
            ConversationDamagedError: a stored value is not one that was stored.
        """
        with telling_damage(), self._database.read() as connection:
            own_row(connection, user_id, conversation_id)
            return branches_of(all_messages(connection, conversation_id), files_in(connection, conversation_id))

    def branch_to(self, user_id: str, conversation_id: str, message_id: str) -> list[StoredMessage]:
        """The messages from the first to this one, whichever branch is shown.

        Raises:
            ConversationNotFoundError: the conversation or the message does not exist or is someone else's.
            ConversationDamagedError: a stored value is not one that was stored.
        """
        with telling_damage(), self._database.read() as connection:
            own_row(connection, user_id, conversation_id)
            check_message(connection, conversation_id, message_id)
            return branch_of(
                all_messages(connection, conversation_id), message_id, files_in(connection, conversation_id)
            )

    def append(
        self, user_id: str, conversation_id: str, message: NewMessage, *, parent_id: str | None = "leaf"
    ) -> StoredMessage:
        """Add a message and show the branch that ends with it.

        Args:
            parent_id: the message it follows; "leaf" is the last one shown, None makes it a first message.
        Raises:
            ConversationNotFoundError: the conversation or the parent does not exist or is someone else's.
            ConversationDamagedError: a stored value is not one that was stored.
        """
        with telling_damage():
            with self._database.write() as connection:
                conversation = own_row(connection, user_id, conversation_id)
                parent_id = conversation.leaf_id if parent_id == "leaf" else parent_id
                if parent_id is not None:
                    check_message(connection, conversation_id, parent_id)
                message_id = insert_message(connection, conversation_id, parent_id, message, self._clock_us())
                rows = all_messages(connection, conversation_id)
            return branch_of(rows, message_id)[-1]

    def go_on(self, user_id: str, conversation_id: str, begun_id: str, more: NewMessage) -> StoredMessage:
        """Put an answer and what continues it in the place of the answer, and show the branch that ends with it.

        Raises:
            ConversationNotFoundError, ConversationDamagedError: as `append`.
        """
        with telling_damage():
            with self._database.write() as connection:
                own_row(connection, user_id, conversation_id)
                check_message(connection, conversation_id, begun_id)
                begun = branch_of(all_messages(connection, conversation_id), begun_id)[-1]
                whole = continue_message(connection, begun, more)
                message_id = insert_message(connection, conversation_id, begun.parent_id, whole, self._clock_us())
                rows = all_messages(connection, conversation_id)
            return branch_of(rows, message_id)[-1]

    def set_question_facts(self, user_id: str, conversation_id: str, question_id: str, facts: QuestionFacts) -> None:
        """Keep other facts of a question that is asked again.

        Raises:
            ConversationNotFoundError: there is no such conversation of this user, or no such message in it.
        """
        with self._database.write() as connection:
            own_row(connection, user_id, conversation_id)
            check_message(connection, conversation_id, question_id)
            mine = sa.and_(messages.c.id == question_id, messages.c.role == "user")
            connection.execute(messages.update().where(mine).values(details=facts.values()))

    def has_answer(self, user_id: str, conversation_id: str, question_id: str, *, turn: str) -> bool:
        """Whether the question has the answer of this turn.

        Raises:
            ConversationNotFoundError: there is no such conversation of this user, or no such question in it.
            ConversationDamagedError: a stored value is not one that was stored.
        """
        columns = messages.c
        query = sa.select(columns.details).where(
            columns.conversation_id == conversation_id, columns.parent_id == question_id
        )
        with telling_damage(), self._database.read() as connection:
            own_row(connection, user_id, conversation_id)
            check_message(connection, conversation_id, question_id)
            found = [facts_of(stored) for stored in connection.scalars(query)]
        return any(isinstance(facts, Facts) and facts.turn == turn for facts in found)

    def show_branch(self, user_id: str, conversation_id: str, message_id: str) -> list[StoredMessage]:
        """Show the newest branch through `message_id`; returns it.

        Raises:
            ConversationNotFoundError: as `append`.
        """
        with self._database.write() as connection:
            own_row(connection, user_id, conversation_id)
            check_message(connection, conversation_id, message_id)
            rows = all_messages(connection, conversation_id)
            leaf_id = newest_leaf(rows, message_id)
            mine = conversations.c.id == conversation_id
            connection.execute(conversations.update().where(mine).values(leaf_id=leaf_id))
        return branch_of(rows, leaf_id)

    def _update(self, user_id: str, conversation_id: str, **values: object) -> None:
        with self._database.write() as connection:
            own_row(connection, user_id, conversation_id)
            connection.execute(conversations.update().where(conversations.c.id == conversation_id).values(values))


def _clean_title(title: str) -> str:
    return " ".join(title.split())[:MAX_TITLE_CHARS] or _NEW_TITLE
