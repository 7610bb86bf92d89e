"""Turns in trouble: a full disk, no thread left, damaged rows, ends at the wrong moment."""

from __future__ import annotations

import errno
import threading
from html import unescape
from pathlib import Path

import pytest

from appliance.audit.erasure import erase
from appliance.audit.event import Actor
from appliance.database.transactions import DatabaseError
from appliance.isolation.files import scratch_dir
from appliance.isolation.policy import Kind
from appliance.people.conversations import Conversations, NewMessage, StoredMessage
from appliance.turns.answer import Facts
from appliance.turns.interrupted import INTERRUPTED
from appliance.turns.unkept import NOT_KEPT, NOT_READABLE
from tests.fakes import Gate
from tests.waiting import wait_for
from tests.webui.test_chat import Chat, lines_of
from tests.webui.test_chat_turns import answered, begin, chat, follow, gate, until

__all__ = ["chat", "gate"]  # fixtures, used here


def turn_files(chat: Chat) -> list[Path]:
    """What lies in the directory of the running turns."""
    return list((scratch_dir(chat.site.services.config.state_dir, Kind.WEB) / "turns").iterdir())


def test_a_turn_that_ends_while_the_page_is_made_is_not_called_unanswered(
    chat: Chat, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = chat.create()
    _, seen = begin(chat, conversation)
    messages = Conversations.messages

    def slowly(self: Conversations, user_id: str, conversation_id: str) -> list[StoredMessage]:
        found = messages(self, user_id, conversation_id)
        gate.go_on.set()
        wait_for(lambda: messages(self, user_id, conversation_id)[-1].role == "assistant")
        wait_for(lambda: chat.site.services.turns.find(user_id, conversation_id) is None)
        return found

    monkeypatch.setattr(Conversations, "messages", slowly)
    page = chat.browser.get(f"/chat/{conversation}").text
    assert "This question has no answer" not in page
    assert f'data-turn="{seen[0]["turn"]}"' in page
    assert "answer to Hello" in list(lines_of(follow(chat, conversation, seen[0]["turn"])))[-1]["html"]


def test_a_full_disk_takes_the_words_from_the_page_and_nothing_from_the_answer(
    chat: Chat, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = chat.create()
    earlier = NewMessage("assistant", "", facts=Facts(problem=INTERRUPTED))
    chat.site.services.conversations.append(chat.user.id, conversation, NewMessage("user", "Anyone?"))
    chat.site.services.conversations.append(chat.user.id, conversation, earlier)
    response = chat.start(conversation, text="Hello")
    lines = lines_of(response)
    until(lines, "tool_call")
    monkeypatch.setattr("appliance.turns.journal.os.write", _no_space)
    gate.go_on.set()
    end = list(lines)[-1]
    monkeypatch.undo()
    assert "answer to Hello" in end["html"]
    assert INTERRUPTED not in end["html"]
    assert end["complete"] is True


def _no_space(_descriptor: int, _data: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_answer_that_cannot_be_kept_does_not_close_the_conversation(
    chat: Chat, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = chat.create()
    response, _ = begin(chat, conversation)
    monkeypatch.setattr(Conversations, "append", _damaged)
    gate.go_on.set()
    wait_for(lambda: chat.site.services.turns.find(chat.user.id, conversation) is None)
    monkeypatch.undo()
    assert chat.site.events()[-1].header.action == "answer"
    assert chat.start(conversation, regenerate=True).status_code == 200
    response.close()


class Busy:
    """Every write of a conversation is refused, as by a database that another process holds, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times
        self._append = Conversations.append

    def append(self, user_id: str, conversation_id: str, new: NewMessage, *, parent_id: str | None) -> StoredMessage:
        if self.left > 0:
            self.left -= 1
            raise DatabaseError("the database failed: another process holds it")
        return self._append(self.conversations, user_id, conversation_id, new, parent_id=parent_id)

    def patch(self, monkeypatch: pytest.MonkeyPatch, conversations: Conversations) -> None:
        self.conversations = conversations
        monkeypatch.setattr(conversations, "append", self.append)


def test_an_answer_waits_for_a_busy_database_and_comes_to_its_conversation(
    chat: Chat, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = chat.create()
    response, _ = begin(chat, conversation)
    monkeypatch.setattr("appliance.turns.running._KEEP_AGAIN_S", 0.01)
    Busy(3).patch(monkeypatch, chat.site.services.conversations)
    gate.go_on.set()
    end = list(lines_of(response))[-1]
    assert "answer to Hello" in end["html"]
    assert end["complete"] is True
    assert "answer to Hello" in chat.messages(conversation)[-1].content


def test_an_answer_that_a_busy_database_keeps_out_is_said_and_comes_later_with_its_facts(
    chat: Chat, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process had died between the record of the answer and the conversation."""
    conversation = chat.create()
    response, seen = begin(chat, conversation)
    turns = chat.site.services.turns
    monkeypatch.setattr(turns, "_keep_limit_s", 0.0)
    busy = Busy(1_000_000)
    busy.patch(monkeypatch, chat.site.services.conversations)
    gate.go_on.set()
    end = list(lines_of(response))[-1]
    assert NOT_KEPT in unescape(end["html"])
    assert end["complete"] is False
    assert chat.messages(conversation)[-1].role == "user"
    with pytest.raises(DatabaseError):
        turns.find(chat.user.id, conversation)
    busy.left = 0
    assert chat.browser.get(f"/chat/{conversation}").status_code == 200
    answer = chat.messages(conversation)[-1]
    assert "answer to Hello" in answer.content
    recorded = chat.site.events()[-1]
    assert recorded.header.action == "answer"
    facts = answer.facts
    assert isinstance(facts, Facts)
    assert (facts.turn, facts.event, facts.prompt_event) == (seen[0]["turn"], recorded.sequence, recorded.sequence - 1)
    assert facts.about is not None
    assert facts.about.model == chat.site.services.model.id
    assert facts.done is not None
    assert facts.problem is None
    turns.clear_dead()
    assert [message.role for message in chat.messages(conversation)] == ["user", "assistant"]
    assert not turn_files(chat)


@pytest.fixture
def left(chat: Chat, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Busy]:
    """A conversation whose answer is in the record alone, and what keeps it out."""
    conversation = chat.create()
    begin(chat, conversation)
    monkeypatch.setattr(chat.site.services.turns, "_keep_limit_s", 0.0)
    busy = Busy(1_000_000)
    busy.patch(monkeypatch, chat.site.services.conversations)
    gate.go_on.set()
    wait_for(lambda: chat.site.events()[-1].header.action == "answer" and busy.left < 1_000_000)
    return conversation, busy


def test_a_recorded_answer_whose_words_were_erased_is_said_in_the_conversation(
    chat: Chat, left: tuple[str, Busy]
) -> None:
    conversation, busy = left
    record = chat.site.services.record
    erase(record, 1, record.size(), by=Actor("", "admin", "cli"), reason="for this test")
    busy.left = 0
    wait_for(lambda: chat.site.services.turns.find(chat.user.id, conversation) is None)
    answer = chat.messages(conversation)[-1]
    assert isinstance(answer.facts, Facts)
    assert (answer.content, answer.facts.problem) == ("", NOT_READABLE)


def test_a_recorded_answer_of_a_conversation_that_is_gone_leaves_nothing(chat: Chat, left: tuple[str, Busy]) -> None:
    conversation, busy = left
    by = Actor(chat.user.id, chat.user.name, "web")
    chat.site.services.conversations.delete(chat.user.id, conversation, by=by)
    busy.left = 0
    turns = chat.site.services.turns
    wait_for(lambda: turns.find(chat.user.id, conversation) is None)
    assert not turn_files(chat)


def test_the_next_question_comes_after_the_answer_that_was_left(chat: Chat, left: tuple[str, Busy]) -> None:
    conversation, busy = left
    busy.left = 0
    wait_for(lambda: chat.start(conversation, text="And then?").status_code == 200)
    roles = [message.role for message in chat.messages(conversation)]
    assert roles[:3] == ["user", "assistant", "user"]


def _damaged(*_: object, **__: object) -> None:
    raise TypeError("a message whose values have other types")


def test_a_machine_without_a_thread_left_refuses_and_closes_the_record(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = chat.create()
    chat.browser.client.application.config["PROPAGATE_EXCEPTIONS"] = False
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        assert chat.start(conversation, text="Hello").status_code == 500
    last = chat.site.events()[-1]
    assert (last.header.action, last.header.outcome) == ("answer", "abandoned")
    assert begin(chat, conversation, "Again")[1][-1]["type"] == "tool_call"


_start = threading.Thread.start


def _no_thread(thread: threading.Thread) -> None:
    """The fake engine, which is another process in truth, still has threads."""
    if thread.name == "turn":
        raise RuntimeError("can't start new thread")
    _start(thread)


def test_what_dead_workers_left_goes_and_what_is_no_file_stops_nobody(chat: Chat) -> None:
    conversation = chat.create()
    begin(chat, conversation)
    turns = chat.site.services.turns
    (file,) = turn_files(chat)
    (file.parent / "odd.one").mkdir()
    (file.parent / f"{'0' * 32}.stop").touch()
    turns.clear_dead()
    assert sorted(left.name for left in file.parent.iterdir()) == sorted([file.name, "odd.one"])
    assert turns.stop(chat.user.id, conversation)
    turns.clear_dead()
    answered(chat, conversation)
    assert chat.messages(conversation)[-1].facts.values()["failure"] == "stopped"
