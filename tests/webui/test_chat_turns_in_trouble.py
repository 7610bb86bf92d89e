"""Turns in trouble: a full disk, no thread left, damaged rows, ends at the wrong moment."""

from __future__ import annotations

import errno
import threading

import pytest

from appliance.people.conversations import Conversations, NewMessage, StoredMessage
from appliance.turns.answer import Facts
from appliance.turns.interrupted import INTERRUPTED
from tests.webui.test_chat import Chat, lines_of
from tests.webui.test_chat_turns import Gate, answered, begin, chat, follow, gate, until, wait_for

__all__ = ["chat", "gate"]  # fixtures, used here


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


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_dead_workers_left_goes_and_what_is_no_file_stops_nobody(chat: Chat) -> None:
    conversation = chat.create()
    begin(chat, conversation)
    turns = chat.site.services.turns
    (file,) = turns._directory.iterdir()
    (file.parent / "odd.one").mkdir()
    (file.parent / f"{'0' * 32}.stop").touch()
    turns.clear_dead()
    assert sorted(left.name for left in file.parent.iterdir()) == sorted([file.name, "odd.one"])
    assert turns.stop(chat.user.id, conversation)
    turns.clear_dead()
    answered(chat, conversation)
    assert chat.messages(conversation)[-1].facts.values()["failure"] == "stopped"
