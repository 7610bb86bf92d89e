"""The list of conversations on both databases: its pages, what is filed where, and the search with its index."""

from __future__ import annotations

import itertools

import pytest
import sqlalchemy as sa

from appliance.audit.log import AuditLog
from appliance.database.tables import conversation_tags, conversations, messages
from appliance.database.transactions import Database
from appliance.people.accounts import User
from appliance.people.conversation_list import MAX_TAGS, Page, View
from appliance.people.conversations import ConversationNotFoundError, Conversations, NewMessage
from appliance.people.imported import ImportedMessage, ImportedTree
from tests.appliance.people.test_conversations import people, say, store
from tests.appliance.records import SYSTEM

__all__ = ["people", "store"]


def titles(page: Page) -> list[str]:
    return [one.conversation.title for one in page.items]


def found(store: Conversations, user: User, words: str) -> list[str]:
    return titles(store.lists.page(user.id, View(words=words)))


def entries(database: Database) -> int:
    """How many messages the index of words has."""
    count = "SELECT count(*) FROM message_words"
    if database.is_sqlite:
        count = "SELECT count(*) FROM message_words_docsize"
    with database.read() as connection:
        return int(connection.scalar(sa.text(count)) or 0)


def assert_index_is_whole(database: Database) -> None:
    if database.is_sqlite:
        with database.write() as connection:
            connection.exec_driver_sql("INSERT INTO message_words(message_words, rank) VALUES ('integrity-check', 1)")


def test_pages_show_the_whole_list_each_conversation_once(
    store: Conversations, people: tuple[User, User], database: Database
) -> None:
    ada, bob = people
    for number in range(23):
        made = store.create(ada.id, title=f"talk {number}")
        if number % 5 == 0:
            store.pin(ada.id, made.id, pinned=True)
        store.create(bob.id, title=f"of bob {number}")
    with database.write() as connection:  # several of the same moment, too
        connection.execute(conversations.update().values(updated_us=conversations.c.updated_us / 8 * 8))
    whole = titles(store.lists.page(ada.id, View(), limit=100))
    assert len(whole) == 23
    for size in (1, 4, 22, 23):
        walked, after = list[str](), ""
        for _ in itertools.count():
            page = store.lists.page(ada.id, View(), after=after, limit=size)
            walked, after = walked + titles(page), page.more
            if not after:
                break
        assert walked == whole


@pytest.mark.parametrize(
    "after", ["x", "2.1.a", "1", "1.", "1..a", "0.99999999999999999999.a", "0.-1.a", "\0", "1.\ud800.x"]
)
def test_a_page_that_begins_nowhere_is_the_first(store: Conversations, people: tuple[User, User], after: str) -> None:
    ada, _ = people
    store.create(ada.id, title="one")
    assert titles(store.lists.page(ada.id, View(), after=after)) == ["one"]


def test_what_is_archived_leaves_the_list_is_found_and_comes_back(
    store: Conversations, people: tuple[User, User]
) -> None:
    ada, _ = people
    one, two = store.create(ada.id, title="one"), store.create(ada.id, title="two")
    assert not store.lists.labels(ada.id).has_archive
    store.lists.archive(ada.id, one.id, archived=True)
    assert titles(store.lists.page(ada.id, View())) == ["two"]
    assert titles(store.lists.page(ada.id, View(archived=True))) == ["one"]
    assert found(store, ada, "one") == ["one"]
    assert store.lists.labels(ada.id).has_archive
    assert store.get(ada.id, one.id).archived
    store.lists.archive(ada.id, one.id, archived=False)
    assert len(titles(store.lists.page(ada.id, View()))) == 2
    store.lists.archive(ada.id, two.id, archived=True)
    say(store, ada, two.id, "a new question")
    assert titles(store.lists.page(ada.id, View(archived=True))) == []


def test_folders_and_tags_file_a_conversation(store: Conversations, people: tuple[User, User]) -> None:
    ada, bob = people
    one, two = store.create(ada.id, title="one"), store.create(ada.id, title="two")
    store.lists.file(ada.id, one.id, folder=" Work  things ", tags=["Tax", "tax", "  ", "2026"])
    store.lists.file(ada.id, two.id, folder="work THINGS", tags=["TAX"])
    labels = store.lists.labels(ada.id)
    assert (labels.folders, labels.tags) == (("Work things",), ("2026", "Tax"))
    assert titles(store.lists.page(ada.id, View(folder="Work things"))) == ["two", "one"]
    assert titles(store.lists.page(ada.id, View(tag="2026"))) == ["one"]
    assert titles(store.lists.page(ada.id, View(folder="Work things", tag="2026", words="one"))) == ["one"]
    assert store.lists.page(ada.id, View(tag="2026")).items[0].tags == ("2026", "Tax")
    store.lists.file(ada.id, one.id, folder="")
    assert store.get(ada.id, one.id).folder == ""
    assert store.lists.page(ada.id, View(tag="2026")).items[0].tags == ("2026", "Tax")  # None changes nothing
    store.lists.file(ada.id, one.id, tags=[])
    assert store.lists.labels(ada.id).tags == ("Tax",)
    assert store.lists.labels(bob.id).folders == ()
    store.lists.file(ada.id, one.id, folder="x" * 500 + "\0", tags=[str(n) for n in range(50)])
    assert store.get(ada.id, one.id).folder == "x" * 40
    assert len(store.lists.page(ada.id, View(words="one")).items[0].tags) == MAX_TAGS


def test_nobody_files_or_archives_what_is_another_persons(store: Conversations, people: tuple[User, User]) -> None:
    ada, bob = people
    one = store.create(ada.id, title="one")
    with pytest.raises(ConversationNotFoundError):
        store.lists.file(bob.id, one.id, folder="mine", tags=["mine"])
    with pytest.raises(ConversationNotFoundError):
        store.lists.archive(bob.id, one.id, archived=True)
    assert store.lists.page(ada.id, View()).items[0].tags == ()
    assert store.get(ada.id, one.id) == one


def test_tags_go_with_the_conversation(store: Conversations, people: tuple[User, User], database: Database) -> None:
    ada, _ = people
    one = store.create(ada.id)
    store.lists.file(ada.id, one.id, tags=["a", "b"])
    store.delete(ada.id, one.id, by=SYSTEM)
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(conversation_tags)) == 0


def test_a_hit_shows_the_words_and_names_the_message_also_of_a_branch_that_is_not_shown(
    store: Conversations, people: tuple[User, User]
) -> None:
    ada, bob = people
    conversation = store.create(ada.id, title="Kitchen")
    question, hidden = say(store, ada, conversation.id, "What soup is there?", "Borscht, a soup of beetroots.")
    store.append(ada.id, conversation.id, NewMessage("assistant", "No idea."), parent_id=question)
    say(store, bob, store.create(bob.id, title="Beetroot").id, "beetroot soup")
    (listed,) = store.lists.page(ada.id, View(words="SOUP beet")).items
    assert [(hit.message_id, hit.role) for hit in listed.hits] == [(hidden, "assistant"), (question, "user")]
    assert [piece.text for piece in listed.hits[0].pieces if piece.is_marked] == ["soup", "beet"]
    assert "".join(piece.text for piece in listed.hits[0].pieces) == "Borscht, a soup of beetroots."
    (listed,) = store.lists.page(ada.id, View(words="kitchen")).items
    assert listed.hits == ()


@pytest.mark.parametrize(
    ("text", "words", "is_found"),
    [
        ("snake_case and kebab-case", "case", True), ("Wirtschaft", "schaft", False), ("don't", "don't", True),
        ("一起吃火锅吗", "火锅", True), ("ラーメン", "ーメ", True), ("it costs 5 %", "%", True), ("costs", "%", False),
        ("quoted \"words\"", '"words"', True), ("a'b\\c", "a'b\\c", True), ("x" * 150_000 + " needle", "needle", True),
        ("word " * 50_000 + "needle", "needle", True), ("one", "one AND", False), ("one", "on*", True),
        ("ROBERT'); DROP TABLE messages;--", "');", True),
    ],
)  # fmt: skip
def test_words_are_found_as_words_and_signs_as_signs(
    store: Conversations, people: tuple[User, User], text: str, words: str, is_found: bool
) -> None:
    ada, _ = people
    say(store, ada, store.create(ada.id, title="t").id, text)
    assert found(store, ada, words) == (["t"] if is_found else [])
    assert found(store, ada, " ".join(["nothing"] * 40)) == []


def test_the_index_follows_what_is_said_continued_imported_and_deleted(
    store: Conversations, people: tuple[User, User], database: Database
) -> None:
    ada, _ = people
    one = store.create(ada.id, title="t")
    _, part = say(store, ada, one.id, "question", "The first ha")
    store.go_on(ada.id, one.id, part, NewMessage("assistant", "lf and the second"))
    assert entries(database) == 2
    assert found(store, ada, "half") == ["t"]
    assert found(store, ada, "second") == ["t"]
    tree = ImportedTree(
        "imported", "X", (ImportedMessage(None, "user", "zebra"), ImportedMessage(0, "assistant", "gnu")), 1
    )
    made, _ = store.take_in(ada.id, tree, sha256="0" * 64, by=SYSTEM)
    assert found(store, ada, "zebra gnu") == ["imported"]
    assert_index_is_whole(database)
    store.delete(ada.id, made.id, by=SYSTEM)
    assert found(store, ada, "zebra") == []
    store.delete(ada.id, one.id, by=SYSTEM)
    assert entries(database) == 0
    assert_index_is_whole(database)


def test_a_message_that_somebody_changed_can_be_deleted_all_the_same(
    store: Conversations, people: tuple[User, User], database: Database, log: AuditLog
) -> None:
    ada, _ = people
    one, two = store.create(ada.id, title="one"), store.create(ada.id, title="two")
    say(store, ada, one.id, "before")
    say(store, ada, two.id, "untouched")
    with database.write() as connection:
        connection.execute(messages.update().where(messages.c.content == "before").values(content="after"))
    assert found(store, ada, "untouched") == ["two"]
    store.delete(ada.id, one.id, by=SYSTEM)
    assert found(store, ada, "untouched") == ["two"]
    assert log.get(log.size()).header.action == "conversation_deleted"
