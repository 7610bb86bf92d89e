"""The room that is left in a conversation: counted, said, refused before it is recorded, and made anew.

The fake engine's context has 4,096 tokens, and each character is one.
"""

from __future__ import annotations

from typing import Any

import pytest

from appliance.people.conversations import NewMessage, QuestionFacts
from appliance.turns.engine import Answered, CountRequest, Question
from appliance.turns.events import Failed
from tests.webui.conftest import Site
from tests.webui.test_chat import Chat, lines_of

CONTEXT = 4096
LONG = "a" * 900


@pytest.fixture
def chat(site: Site) -> Chat:
    return Chat(site)


@pytest.fixture
def full(chat: Chat) -> str:
    """A conversation of two turns with 3,620 tokens; the fake repeats what it is told."""
    conversation = chat.create()
    for _ in range(2):
        chat.ask(conversation, LONG, last=last(chat, conversation))
    return conversation


def last(chat: Chat, conversation: str) -> str:
    messages = chat.messages(conversation)
    return messages[-1].id if messages else ""


def room(chat: Chat, conversation: str, text: str = "", **draft: object) -> dict[str, Any]:
    path = f"/chat/{conversation}/room" if conversation else "/chat/room"
    response = chat.send("POST", path, {"effort": "medium", "text": text, **draft})
    assert response.status_code == 200, response.text
    return dict(response.json or {})


def read(chat: Chat) -> list[str]:
    """What the model was given last."""
    return [message.content for message in chat.site.engine.requests[-1].messages]


def read_to_the_end(chat: Chat, conversation: str) -> None:
    """Read the turn that runs, if it still does: a scripted answer may be kept before anybody reads along."""
    while (running := chat.send("GET", f"/chat/{conversation}/turns/current?after=0")).status_code == 200:
        list(lines_of(running))
    assert running.status_code == 404


def test_the_room_of_a_question_is_told(chat: Chat) -> None:
    assert room(chat, "", "x" * 1200)["line"] == "1,200 of 4,096 tokens"
    conversation = chat.create()
    chat.ask(conversation, "Hello")  # answered by "You said: Hello"
    told = room(chat, conversation, "x" * 10)
    assert told == {
        "line": "30 of 4,096 tokens", "tight": False, "problem": None, "sums_up": True, "leave_out": None,
    }  # fmt: skip
    tight = room(chat, conversation, "x" * 3700)
    assert (tight["line"], tight["tight"], tight["problem"]) == (
        "Only 376 tokens are left for the answer. It may be cut off.", True, None,
    )  # fmt: skip


def test_a_long_conversation_is_counted_once_however_often_its_question_changes(chat: Chat, full: str) -> None:
    def counted() -> list[int]:
        asked = [one.request for one in chat.site.engine.questions if isinstance(one, CountRequest)]
        chat.site.engine.questions.clear()
        return [sum(len(message.content) for message in request.messages) for request in asked]

    room(chat, full, "first")
    counted()
    for text in ("second", "and third"):
        room(chat, full, text)
        assert counted() == [len(text)]


def test_what_does_not_fit_is_neither_recorded_nor_kept(chat: Chat, full: str) -> None:
    before, kept = len(chat.site.events()), len(chat.messages(full))
    told = room(chat, full, LONG)
    assert told["problem"].startswith("This does not fit. The conversation and your question have 4,520 tokens")
    response = chat.start(full, text=LONG)
    assert (response.status_code, (response.json or {})["error"]["code"]) == (400, "too_long")
    assert len(chat.messages(full)) == kept
    assert [event.header.action for event in chat.site.events()[before:]] == []


def test_a_question_that_is_too_long_alone_can_only_be_shortened(chat: Chat, full: str) -> None:
    for conversation in ("", full):
        told = room(chat, conversation, "x" * 5000)
        assert told["problem"].startswith("Your question is too long. It has 5,000 tokens")
        assert "Shorten it by at least 19 %" in told["problem"]
        assert told["leave_out"] is None
    assert room(chat, "", "x" * 300_000)["problem"]


def test_a_full_conversation_is_told_before_anything_is_written(chat: Chat, full: str) -> None:
    told = room(chat, full)
    assert told["problem"].startswith("This conversation is full. It has 3,6")
    assert told["sums_up"] is True


def test_the_oldest_turns_are_left_out_from_then_on_and_it_is_said(chat: Chat, full: str) -> None:
    way = room(chat, full, "x" * 500)["leave_out"]
    assert way["words"] == "Leave out the 2 oldest messages"
    second = chat.messages(full)[2]
    assert way["reads_from"] == second.id
    assert room(chat, full, "x" * 90, reads_from=second.id)["problem"] is None
    chat.ask(full, "Go on", reads_from=second.id)
    assert [text[:8] for text in read(chat)] == ["aaaaaaaa", "You said", "Go on"]
    chat.ask(full, "And on")  # no choice is made again
    assert [text[:8] for text in read(chat)] == ["aaaaaaaa", "You said", "Go on", "You said", "And on"]
    recorded = [event.content for event in chat.site.events() if event.header.action == "prompt"][-1]
    assert recorded is not None
    assert recorded.details.request.messages == chat.site.engine.requests[-1].messages  # type: ignore[attr-defined]
    page = chat.browser.get(f"/chat/{full}").text
    above, _, below = page.partition("2 earlier messages are no longer read by the model.")
    assert (above.count('data-asked="'), below.count('data-asked="')) == (1, 3)


def test_answering_again_can_leave_out_too(chat: Chat, full: str) -> None:
    """A question that no longer fits, as in conversations of a larger model, is no dead end."""
    conversations, user = chat.site.services.conversations, chat.user.id
    conversations.append(user, full, NewMessage("user", "b" * 1000))
    refused = chat.start(full, regenerate=True)
    assert (refused.json or {})["error"]["code"] == "too_long"
    way = room(chat, full)["leave_out"]
    assert way is not None
    list(lines_of(chat.start(full, regenerate=True, reads_from=way["reads_from"])))
    assert read(chat)[-1] == "b" * 1000
    assert sum(map(len, read(chat))) < CONTEXT
    question = chat.messages(full)[-2]
    assert way["reads_from"] == question.id  # only the question itself is left
    assert question.facts == QuestionFacts(reads_from="")


def test_a_choice_that_names_no_question_of_the_conversation_is_refused(chat: Chat, full: str) -> None:
    other = chat.create()
    chat.ask(other, "Hello")
    for wrong in (chat.messages(other)[0].id, chat.messages(full)[1].id, "nothing"):
        assert chat.start(full, text="Hi", reads_from=wrong).status_code == 400
        assert chat.send("POST", f"/chat/{full}/room", {"effort": "low", "reads_from": wrong}).status_code == 400


def test_a_new_chat_begins_with_a_recorded_summary_of_the_newest_that_fits(chat: Chat, full: str) -> None:
    response = chat.send("POST", f"/chat/{full}/summary", {"effort": "low"})
    assert response.status_code == 201
    made = str((response.json or {})["id"])
    read_to_the_end(chat, made)
    asked = chat.site.engine.requests[-1]
    assert [message.content[:8] for message in asked.messages] == ["aaaaaaaa", "You said", "Sum up o"]
    recorded = [event for event in chat.site.events() if event.header.action == "prompt"][-1]
    assert recorded.content is not None
    assert recorded.content.details.request.messages == asked.messages  # type: ignore[attr-defined]
    assert recorded.content.details.conversation == made  # type: ignore[attr-defined]
    page = chat.browser.get(f"/chat/{made}").text
    assert f'href="/chat/{full}">Hello there</a>' in page
    chat.ask(made, "Go on")
    assert [text[:8] for text in read(chat)] == [
        "Sum up o",
        "You said",
        "Go on",
    ]  # of the earlier chat nothing but this
    chat.send("DELETE", f"/chat/{full}")
    assert "This chat goes on from one that was deleted." in chat.browser.get(f"/chat/{made}").text


def test_a_summary_of_a_deleted_chat_is_not_written_again(chat: Chat) -> None:
    old = chat.create()
    chat.ask(old, "Hello")
    made = str((chat.send("POST", f"/chat/{old}/summary", {"effort": "low"}).json or {})["id"])
    read_to_the_end(chat, made)
    chat.send("DELETE", f"/chat/{old}")
    refused = chat.start(made, regenerate=True)
    assert (refused.json or {})["error"]["code"] == "summed_up_is_gone"


def test_nobody_counts_or_sums_up_the_conversation_of_another(chat: Chat, site: Site) -> None:
    mine = chat.create()
    eve = Chat(site, "eve")
    assert eve.send("POST", f"/chat/{mine}/room", {"effort": "low"}).status_code == 404
    assert eve.send("POST", f"/chat/{mine}/summary", {"effort": "low"}).status_code == 404
    theirs = eve.create()
    assert eve.start(theirs, text="x", reads_from=mine).status_code == 400


def test_without_a_count_the_page_says_nothing_and_the_engine_decides(chat: Chat) -> None:
    def refuse(_: Question) -> Answered | Failed:
        return Failed("overloaded", "Too many questions about tokens are waiting.")

    chat.site.engine.answer = refuse
    assert chat.send("POST", "/chat/room", {"effort": "low", "text": "Hello"}).status_code == 503
    conversation = chat.create()
    assert chat.ask(conversation, "Hello")[-1]["complete"] is True


def test_a_page_that_has_not_seen_the_last_message_is_told_before_it_asks(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "Hello", last="")
    refused = chat.start(conversation, text="Hello", last="")
    assert (refused.status_code, (refused.json or {})["error"]["code"]) == (409, "gone_on")
    assert len(chat.messages(conversation)) == 2
    chat.ask(conversation, "And now?", last=last(chat, conversation))
    assert len(chat.messages(conversation)) == 4
