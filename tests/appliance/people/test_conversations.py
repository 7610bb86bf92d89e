"""Conversations: each user's own alone, with branches."""

from __future__ import annotations

from collections.abc import Callable

import argon2
import pytest
import sqlalchemy as sa

from appliance.audit.log import AuditLog
from appliance.database.tables import messages
from appliance.database.transactions import Database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role, User
from appliance.people.conversation_list import View
from appliance.people.conversations import ConversationNotFoundError, Conversations, NewMessage
from appliance.people.passwords import Passwords
from appliance.turns.answer import Facts
from appliance.turns.request import Message, ToolCall
from tests.appliance.records import SYSTEM


@pytest.fixture
def people(database: Database, log: AuditLog) -> tuple[User, User]:
    fast = Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    accounts = Accounts(AccountStore(log, passwords=fast))
    ada, bob = (accounts.create_user(name, None, {Role.USER}, by=SYSTEM) for name in ("ada", "bob"))
    return ada, bob


@pytest.fixture
def store(database: Database, log: AuditLog) -> Conversations:
    ticks = iter(range(1_000_000, 9_000_000))
    return Conversations(database, log, clock_us=lambda: next(ticks))


def say(store: Conversations, user: User, conversation_id: str, *texts: str) -> list[str]:
    roles = ("user", "assistant")
    return [
        store.append(user.id, conversation_id, NewMessage(roles[n % 2], text)).id  # type: ignore[arg-type]
        for n, text in enumerate(texts)
    ]


def listed(store: Conversations, user: User) -> list[str]:
    return [one.conversation.id for one in store.lists.page(user.id, View()).items]


def test_message_reads_back_as_it_was_stored(store: Conversations, people: tuple[User, User]) -> None:
    ada, _ = people
    conversation = store.create(ada.id, title="A talk")
    new = NewMessage(
        "assistant", "**hi** ☃", "thinking", (ToolCall("c0", "clock", '{"a": 1}'),), Facts(event=12, thought_s=7.5)
    )
    stored = store.append(ada.id, conversation.id, new)
    assert store.messages(ada.id, conversation.id) == [stored]
    assert (stored.role, stored.content, stored.reasoning) == ("assistant", "**hi** ☃", "thinking")
    assert (stored.tool_calls, stored.facts) == (new.tool_calls, new.facts)
    assert stored.as_message() == Message("assistant", "**hi** ☃", "thinking", new.tool_calls)


def test_pinned_come_first_then_the_latest(store: Conversations, people: tuple[User, User]) -> None:
    ada, _ = people
    one, two, three = (store.create(ada.id, title=name) for name in ("one", "two", "three"))
    say(store, ada, one.id, "hello")
    store.pin(ada.id, two.id, pinned=True)
    assert listed(store, ada) == [two.id, one.id, three.id]
    store.pin(ada.id, two.id, pinned=False)
    assert listed(store, ada) == [one.id, three.id, two.id]


@pytest.mark.parametrize(
    ("search", "titles"),
    [("", {"Lunch", "Taxes"}), ("lunch", {"Lunch"}), ("SOUP", {"Lunch"}), ("soup taxes", set()),
     ("lunch soup", {"Lunch"}), ("100%", {"Taxes"}), ("%", {"Taxes"}), ("_", set()), ("nul\0", set()),
     ("\ud800", set())],
)  # fmt: skip
def test_search_looks_in_titles_and_messages(
    store: Conversations, people: tuple[User, User], search: str, titles: set[str]
) -> None:
    ada, _ = people
    say(store, ada, store.create(ada.id, title="Lunch").id, "What soup is there?")
    say(store, ada, store.create(ada.id, title="Taxes").id, "Is 100% right?")
    assert {one.conversation.title for one in store.lists.page(ada.id, View(words=search)).items} == titles


@pytest.mark.parametrize(
    "action",
    [
        lambda store, user, cid, mid: store.get(user, cid),
        lambda store, user, cid, mid: store.messages(user, cid),
        lambda store, user, cid, mid: store.rename(user, cid, "mine now"),
        lambda store, user, cid, mid: store.pin(user, cid, pinned=True),
        lambda store, user, cid, mid: store.append(user, cid, NewMessage("user", "intruding")),
        lambda store, user, cid, mid: store.show_branch(user, cid, mid),
        lambda store, user, cid, mid: store.delete(user, cid, by=SYSTEM),
    ],
)
def test_nothing_of_somebody_else_can_be_reached(
    store: Conversations, people: tuple[User, User], action: Callable[[Conversations, str, str, str], object]
) -> None:
    ada, bob = people
    conversation = store.create(ada.id, title="private")
    (message,) = say(store, ada, conversation.id, "secret")
    before = store.get(ada.id, conversation.id), store.messages(ada.id, conversation.id)
    with pytest.raises(ConversationNotFoundError):
        action(store, bob.id, conversation.id, message)
    assert (store.get(ada.id, conversation.id), store.messages(ada.id, conversation.id)) == before
    assert store.lists.page(bob.id, View()).items == ()
    assert store.lists.page(bob.id, View(words="secret")).items == ()


def test_message_of_another_conversation_is_no_parent_and_no_branch(
    store: Conversations, people: tuple[User, User]
) -> None:
    ada, _ = people
    one, two = store.create(ada.id), store.create(ada.id)
    (message,) = say(store, ada, one.id, "hello")
    with pytest.raises(ConversationNotFoundError):
        store.append(ada.id, two.id, NewMessage("user", "x"), parent_id=message)
    with pytest.raises(ConversationNotFoundError):
        store.show_branch(ada.id, two.id, message)
    assert store.messages(ada.id, two.id) == []


def test_answering_again_adds_a_branch_and_shows_it(store: Conversations, people: tuple[User, User]) -> None:
    ada, _ = people
    conversation = store.create(ada.id)
    question, first = say(store, ada, conversation.id, "question", "first answer")
    follow_up = store.append(ada.id, conversation.id, NewMessage("user", "follow-up")).id
    second = store.append(ada.id, conversation.id, NewMessage("assistant", "second answer"), parent_id=question)
    assert second.siblings == (first, second.id)
    assert [m.content for m in store.messages(ada.id, conversation.id)] == ["question", "second answer"]
    shown = store.show_branch(ada.id, conversation.id, first)
    assert [m.id for m in shown] == [question, first, follow_up]
    assert store.messages(ada.id, conversation.id) == shown


def test_editing_the_first_question_begins_another_branch(store: Conversations, people: tuple[User, User]) -> None:
    ada, _ = people
    conversation = store.create(ada.id)
    say(store, ada, conversation.id, "old question", "old answer")
    edited = store.append(ada.id, conversation.id, NewMessage("user", "new question"), parent_id=None)
    assert [m.id for m in store.messages(ada.id, conversation.id)] == [edited.id]
    assert len(edited.siblings) == 2


def test_title_is_one_line_of_limited_length(store: Conversations, people: tuple[User, User]) -> None:
    ada, _ = people
    conversation = store.create(ada.id)
    assert conversation.title == "New conversation"
    store.rename(ada.id, conversation.id, "  two\nlines\t" + "x" * 500)
    title = store.get(ada.id, conversation.id).title
    assert (title[:12], len(title)) == ("two lines xx", 120)


def test_deleting_takes_the_messages_and_is_recorded(
    store: Conversations, people: tuple[User, User], database: Database, log: AuditLog
) -> None:
    ada, _ = people
    conversation = store.create(ada.id)
    say(store, ada, conversation.id, "hello", "hi")
    store.delete(ada.id, conversation.id, by=ada.actor("web"))
    with pytest.raises(ConversationNotFoundError):
        store.get(ada.id, conversation.id)
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(messages)) == 0
    header = log.get(log.size()).header
    assert (header.action, header.subject, header.actor.name) == ("conversation_deleted", conversation.id, "ada")
