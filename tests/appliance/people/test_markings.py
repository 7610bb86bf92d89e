"""The list of markings and what conversations carry: order, names, use, and that nothing falls without a reason.

The attacks come from the owner of a conversation, who means to have it read as lower than what went into it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.attachments.wire import ReadFile
from appliance.audit.details.markings import ConversationMarked
from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.tables import attachments as attachments_table
from appliance.database.transactions import open_database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.attachments import Attachment, Attachments, facts_of
from appliance.people.conversation_markings import MAX_REASON_CHARS, ConversationMarkings, ReasonNeededError
from appliance.people.conversations import ConversationNotFoundError, Conversations, NewMessage
from appliance.people.markings import MAX_NAME_CHARS, MOST_MARKINGS, STYLES, Marking, MarkingError, Markings
from appliance.people.users import NoLongerAdminError, User
from tests.webui.conftest import FAST_PASSWORDS

ROOT = Actor("", "root", "cli")


class House:
    """One person with one conversation, and three markings."""

    def __init__(self, log: AuditLog) -> None:
        self.log = log
        self.ada: User = Accounts(AccountStore(log, passwords=FAST_PASSWORDS)).create_user(
            "ada", None, [Role.USER], by=ROOT
        )
        self.by = Actor(self.ada.id, "ada", "web")
        self.markings = Markings(log)
        self.low, self.middle, self.high = (
            self.markings.add(name, style, by=ROOT)
            for name, style in (("OFFICIAL", "grey"), ("SECRET", "amber"), ("TOP SECRET", "red"))
        )
        self.kept = Conversations(log.database, log)
        self.files = Attachments(log.database)
        self.marks = ConversationMarkings(log.database, log)
        self.chat = self.kept.create(self.ada.id, title="Talk").id

    def choose(self, marking: Marking, reason: str = "") -> None:
        self.marks.choose(self.ada.id, self.chat, marking.id, reason, by=self.by)

    def of(self) -> str:
        found = self.marks.of(self.ada.id, self.chat)
        return found.name if found else ""

    def attach(self, marking: Marking | None, name: str = "plan.txt") -> Attachment:
        facts = facts_of(name, b"x", ReadFile("text", "x"))
        return self.files.add(
            self.ada.id, facts, b"x", "x", tokens=1, marking_id=None if marking is None else marking.id
        )

    def ask(self, *files: Attachment) -> None:
        """What the chat does with a question."""
        self.marks.rise_with(self.ada.id, self.chat, files, by=self.by)
        question = NewMessage("user", "What is in it?", attachments=tuple(file.id for file in files))
        self.kept.append(self.ada.id, self.chat, question)
        self.marks.rise_with(self.ada.id, self.chat, files, by=self.by)

    def changes(self) -> list[tuple[str, str, str, str]]:
        """(before, after, cause, reason) of every change of the conversation's marking."""
        events = (self.log.get(number) for number in range(1, self.log.size() + 1))
        found = [event.content for event in events if event.header.action == "conversation_marked"]
        return [
            (one.details.before, one.details.after, one.details.cause, one.text)
            for one in found
            if one is not None and isinstance(one.details, ConversationMarked)
        ]


@pytest.fixture
def house(log: AuditLog) -> House:
    return House(log)


def said(log: AuditLog) -> list[tuple[str, str]]:
    found = [log.get(number) for number in range(1, log.size() + 1)]
    return [(e.header.subject, e.content.text) for e in found if e.header.action == "marking_changed" and e.content]


def test_the_list_is_ordered_and_every_change_is_an_event(house: House) -> None:
    markings = house.markings
    markings.change(house.low.id, "  OFFICIAL:  SENSITIVE ", "blue", by=ROOT)
    markings.raise_one(house.low.id, by=ROOT)
    assert [(one.name, one.level, one.style) for one in markings.all()] == [
        ("SECRET", 0, "amber"), ("OFFICIAL: SENSITIVE", 1, "blue"), ("TOP SECRET", 2, "red"),
    ]  # fmt: skip
    markings.remove(house.middle.id, by=ROOT)
    assert [(one.name, one.level) for one in markings.all()] == [("OFFICIAL: SENSITIVE", 0), ("TOP SECRET", 1)]
    assert said(house.log)[3:] == [
        ("OFFICIAL: SENSITIVE", "was OFFICIAL; blue, was grey"), ("OFFICIAL: SENSITIVE", "now above SECRET"),
        ("SECRET", "removed"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "  ", "x" * (MAX_NAME_CHARS + 1), "a\u202eb", "a\x00b", "secret", "Top  Secret"])
def test_a_name_that_is_none_or_taken_is_refused(house: House, name: str) -> None:
    with pytest.raises(MarkingError):
        house.markings.add(name, "red", by=ROOT)
    with pytest.raises(MarkingError):
        house.markings.change(house.low.id, name, "red", by=ROOT)
    assert [one.name for one in house.markings.all()] == ["OFFICIAL", "SECRET", "TOP SECRET"]


def test_what_cannot_be_is_refused(house: House) -> None:
    with pytest.raises(MarkingError, match="colours"):
        house.markings.add("X", "url(x)", by=ROOT)
    with pytest.raises(MarkingError, match="highest"):
        house.markings.raise_one(house.high.id, by=ROOT)
    for number in range(MOST_MARKINGS - 3):
        house.markings.add(f"M{number}", STYLES[number % len(STYLES)], by=ROOT)
    with pytest.raises(MarkingError, match="as many"):
        house.markings.add("one more", "red", by=ROOT)
    with pytest.raises(NoLongerAdminError):
        house.markings.add("mine", "red", by=house.by)


def test_a_marking_in_use_stays_and_its_new_name_is_everywhere(house: House) -> None:
    house.choose(house.middle)
    house.attach(house.low)
    for one in (house.middle, house.low):
        with pytest.raises(MarkingError, match="carries the marking"):
            house.markings.remove(one.id, by=ROOT)
    assert house.markings.uses() == {house.low.id: 1, house.middle.id: 1, house.high.id: 0}
    house.markings.change(house.middle.id, "GEHEIM", "red", by=ROOT)
    assert house.of() == "GEHEIM"
    house.kept.delete(house.ada.id, house.chat, by=house.by)
    house.markings.remove(house.middle.id, by=ROOT)


def test_not_set_is_no_marking_and_can_become_any(house: House) -> None:
    assert house.of() == ""
    house.choose(house.low)
    assert (house.of(), house.changes()) == ("OFFICIAL", [("", "OFFICIAL", "", "")])


def test_it_is_raised_freely_and_lowered_with_a_reason_alone(house: House) -> None:
    house.choose(house.low)
    house.choose(house.high)
    for reason in ("", "   \n "):
        with pytest.raises(ReasonNeededError):
            house.choose(house.low, reason)
    with pytest.raises(MarkingError, match="at most"):
        house.choose(house.low, "x" * (MAX_REASON_CHARS + 1))
    assert house.of() == "TOP SECRET"
    house.choose(house.low, "  declassified by\tthe board ")
    assert house.changes()[1:] == [
        ("OFFICIAL", "TOP SECRET", "", ""), ("TOP SECRET", "OFFICIAL", "", "declassified by the board"),
    ]  # fmt: skip


def test_it_rises_with_a_file_and_not_below_it_again(house: House) -> None:
    house.choose(house.low)
    house.ask(house.attach(None), house.attach(house.high, "crown.txt"), house.attach(house.middle))
    assert house.of() == "TOP SECRET"
    assert house.changes()[-1] == ("OFFICIAL", "TOP SECRET", "crown.txt", "")
    with pytest.raises(MarkingError, match=r"“crown\.txt” in this conversation is marked TOP SECRET"):
        house.choose(house.middle, "I want to")
    house.ask(house.attach(house.low))
    assert house.of() == "TOP SECRET"


def test_one_that_is_not_set_stays_so_with_a_file_and_cannot_be_marked_below_it(house: House) -> None:
    house.ask(house.attach(house.middle))
    assert (house.of(), house.changes()) == ("", [])
    with pytest.raises(MarkingError, match="cannot be marked OFFICIAL"):
        house.choose(house.low)
    house.choose(house.middle)
    assert house.of() == "SECRET"


def test_nobody_marks_the_conversation_of_another_or_with_what_is_no_marking(house: House) -> None:
    eve = Accounts(AccountStore(house.log, passwords=FAST_PASSWORDS)).create_user("eve", None, [Role.USER], by=ROOT)
    with pytest.raises(ConversationNotFoundError):
        house.marks.choose(eve.id, house.chat, house.low.id, "", by=Actor(eve.id, "eve", "web"))
    with pytest.raises(ConversationNotFoundError):
        house.marks.rise_with(eve.id, house.chat, [house.attach(house.high)], by=ROOT)
    with pytest.raises(ConversationNotFoundError):
        house.marks.of(eve.id, house.chat)
    for wrong in ("", "none", "' OR 1=1 --", house.low.id + "x"):
        with pytest.raises(MarkingError, match="no such marking"):
            house.marks.choose(house.ada.id, house.chat, wrong, "", by=house.by)
    assert house.changes() == []


def test_an_id_that_no_marking_has_counts_as_not_set(house: House) -> None:
    with house.log.database.write() as connection:
        connection.execute(attachments_table.insert().values(_row_with(house, "ghost")))
        connection.exec_driver_sql("UPDATE conversations SET marking_id = 'ghost'")
    assert house.of() == ""
    house.choose(house.low)
    assert house.of() == "OFFICIAL"


def _row_with(house: House, marking_id: str) -> dict[str, object]:
    return {
        "id": "f", "user_id": house.ada.id, "conversation_id": house.chat, "created_us": 0, "tokens": 1,
        "facts": {"name": "x"}, "text": "x", "data": b"x", "marking_id": marking_id,
    }  # fmt: skip


def test_a_rise_and_a_lowering_at_once_leave_it_where_the_file_is(house: House) -> None:
    for _ in range(10):
        house.choose(house.middle, "again")
        file = house.attach(house.middle)

        def lower() -> None:
            with contextlib.suppress(MarkingError):
                house.choose(house.low, "quickly")

        both = [threading.Thread(target=house.ask, args=(file,)), threading.Thread(target=lower)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert house.of() == "SECRET"  # lowered before, it rose; lowered after, the file forbade it
        house.kept.delete(house.ada.id, house.chat, by=house.by)
        house.chat = house.kept.create(house.ada.id, title="Talk").id


STEPS = st.lists(st.tuples(st.sampled_from(["choose", "choose with reason", "ask"]), st.integers(0, 2)), max_size=12)


@pytest.fixture(scope="module")
def one_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('markings')}/site.sqlite3")
    yield House(AuditLog(database))
    database.close()


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_it_never_falls_but_by_a_reason_and_never_below_a_file(one_house: House, steps: list[tuple[str, int]]) -> None:
    house, known, floor = one_house, one_house.markings.all(), -1
    house.chat = house.kept.create(house.ada.id, title="Talk").id
    already = len(house.changes())
    for step, level in steps:
        before, marking = house.of(), known[level]
        if step == "ask":
            house.ask(house.attach(marking))
            floor = max(floor, level)
        else:
            try:
                house.choose(marking, "because" if step.endswith("reason") else "")
            except MarkingError:
                assert house.of() == before
        levels = {one.name: one.level for one in known}
        if house.of():
            assert levels[house.of()] >= floor
        if before and levels[house.of()] < levels[before]:
            assert step == "choose with reason"
            assert house.changes()[-1] == (before, house.of(), "", "because")
    chain = [(one[0], one[1]) for one in house.changes()[already:]]
    assert [after for _, after in chain[:-1]] == [before for before, _ in chain[1:]]  # no change without an event
    assert (chain[-1][1] if chain else "") == house.of()
