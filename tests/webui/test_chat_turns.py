"""A turn outlives its readers: they come back and read on in any tab, and only Stop and the limits end it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from werkzeug.test import TestResponse

from appliance.people.conversations import Conversations, NewMessage, StoredMessage
from appliance.turns.events import AnswerDelta, ReasoningDelta, Started, ToolCallDelta, TurnEvent
from appliance.turns.request import TurnRequest
from appliance.turns.running import RunningTurns
from tests.fakes import FakeEngine, Gate, done
from tests.waiting import HELD_S, wait_for
from tests.webui.conftest import SYSTEM, MakeSite
from tests.webui.test_chat import Chat, lines_of, shown
from webui.chat.watchers import MOST_WATCHED

HALF = (
    Started(20, 0.25), ReasoningDelta("Let me "), ReasoningDelta("see. "), AnswerDelta("# Half\n\nan "),
    ToolCallDelta(0, "c1", "clock", "{"),
)  # fmt: skip


def rest(request: TurnRequest) -> Iterable[TurnEvent]:
    yield ToolCallDelta(0, "c1", None, "}")
    yield AnswerDelta("answer to " + request.messages[-1].content)
    yield done()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(HALF, rest)
    yield gate
    gate.go_on.set()


@pytest.fixture
def chat(make_site: MakeSite, gate: Gate) -> Chat:
    return Chat(make_site(FakeEngine(gate.script)))


def begin(chat: Chat, conversation: str, text: str = "Hello") -> tuple[TestResponse, list[dict[str, Any]]]:
    """Begin a turn that stops half-way: its stream, and the lines up to there."""
    response = chat.start(conversation, text=text)
    return response, until(lines_of(response), "tool_call")


def until(lines: Iterator[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    got = []
    for line in lines:
        got.append(line)
        if line["type"] == kind:
            return got
    raise AssertionError(f"no {kind} in {got}")


def follow(chat: Chat, conversation: str, turn: str, after: int = 0) -> TestResponse:
    return chat.send("GET", f"/chat/{conversation}/turns/{turn}?after={after}")


def answered(chat: Chat, conversation: str) -> StoredMessage:
    """The answer, once it is kept."""
    wait_for(lambda: chat.messages(conversation)[-1].role == "assistant")
    return chat.messages(conversation)[-1]


def test_a_reader_who_leaves_takes_nothing_along(chat: Chat, gate: Gate) -> None:
    conversation = chat.create()
    response, _ = begin(chat, conversation)
    response.close()
    gate.go_on.set()
    answer = answered(chat, conversation)
    assert answer.content == "# Half\n\nan answer to Hello"
    assert "problem" not in answer.facts.values()
    assert [event.header.outcome for event in chat.site.events()[-2:]] == ["ok", "ok"]
    assert chat.site.engine.cancelled == []


def test_who_comes_back_sees_all_of_it_and_its_end(chat: Chat, gate: Gate) -> None:
    conversation = chat.create()
    first, seen = begin(chat, conversation)
    first.close()
    again = lines_of(follow(chat, conversation, seen[0]["turn"]))
    before = until(again, "tool_call")
    gate.go_on.set()
    after = list(again)
    assert [line["type"] for line in before][:3] == ["accepted", "started", "reasoning"]
    assert "".join(line["text"] for line in before if line["type"] == "reasoning") == "Let me see. "
    assert "<h1>Half</h1>" in shown([*before, *after])
    end = after[-1]
    assert "answer to Hello" in end["html"]
    assert (end["type"], end["complete"]) == ("end", True)
    page = chat.browser.get(f"/chat/{conversation}").text
    assert end["html"] in page
    assert 'data-turn=""' in page


def test_a_page_that_comes_back_begins_with_the_whole_answer_so_far(chat: Chat) -> None:
    conversation = chat.create()
    _, seen = begin(chat, conversation)
    lines = lines_of(follow(chat, conversation, "current", after=seen[-1]["n"]))
    accepted, answer = until(lines, "answer")
    assert accepted["turn"] == seen[0]["turn"]
    assert answer["keep"] == 0
    assert "Half" in "".join(answer["blocks"])
    assert answer["n"] >= 4


def test_a_clock_that_is_set_makes_no_turn_older(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = chat.create()
    begin(chat, conversation)
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + 600 * 10**9)
    assert 0 <= next(lines_of(follow(chat, conversation, "current")))["age_s"] < 600


def test_reasoning_is_cut_exactly_where_the_page_stopped(chat: Chat) -> None:
    conversation = chat.create()
    begin(chat, conversation)
    for after, expected in ((0, "Let me see. "), (1, "Let me see. "), (2, "see. "), (3, "")):
        lines = until(lines_of(follow(chat, conversation, "current", after)), "tool_call")
        assert "".join(line["text"] for line in lines if line["type"] == "reasoning") == expected


def test_two_readers_are_told_the_same(chat: Chat, gate: Gate) -> None:
    conversation = chat.create()
    response, seen = begin(chat, conversation)
    one, other = (lines_of(follow(chat, conversation, seen[0]["turn"])) for _ in range(2))
    begun = until(one, "tool_call"), until(other, "tool_call")
    gate.go_on.set()
    all_of_one, all_of_other = [*begun[0], *one], [*begun[1], *other]
    one_told, other_told = (
        [line for line in lines if line["type"] not in ("accepted", "answer")] for lines in (all_of_one, all_of_other)
    )
    assert one_told == other_told  # the pages may draw the text at different times
    assert all_of_one[-1] == all_of_other[-1]
    assert all_of_one[-1]["complete"] is True
    response.close()


def test_the_page_shows_the_question_and_knows_the_turn(chat: Chat) -> None:
    conversation = chat.create()
    _, seen = begin(chat, conversation)
    page = chat.browser.get(f"/chat/{conversation}").text
    assert f'data-turn="{seen[0]["turn"]}"' in page
    assert ">Hello</article>" in page
    assert "This question has no answer" not in page
    state = chat.send("GET", f"/chat/{conversation}/turns").json
    assert state == {"turn": seen[0]["turn"], "last": chat.messages(conversation)[-1].id}


def test_stop_ends_it_and_what_came_is_kept_and_recorded(chat: Chat) -> None:
    conversation = chat.create()
    response, seen = begin(chat, conversation)
    assert chat.send("DELETE", f"/chat/{conversation}/turns/{seen[0]['turn']}").status_code == 204
    answer = answered(chat, conversation)
    assert answer.content.startswith("# Half")
    assert answer.facts.values()["failure"] == "stopped"
    assert "Stopped before the end" in answer.facts.values()["problem"]
    event = chat.site.events()[-1]
    assert (event.header.action, event.header.outcome) == ("answer", "cancelled")
    assert answer.facts.values()["event"] == event.header.sequence
    response.close()


def test_stop_of_a_turn_that_is_over_or_never_was_changes_nothing(chat: Chat) -> None:
    conversation = chat.create()
    _, seen = begin(chat, conversation)
    assert chat.send("DELETE", f"/chat/{conversation}/turns/{'0' * 32}").status_code == 204
    assert chat.send("DELETE", f"/chat/{conversation}/turns/..%2f..%2fx").status_code in (204, 404)
    assert chat.send("GET", f"/chat/{conversation}/turns").json["turn"] == seen[0]["turn"]  # type: ignore[index]


def test_a_second_question_waits_for_the_first_answer(chat: Chat, gate: Gate) -> None:
    conversation = chat.create()
    begin(chat, conversation)
    for body in ({"text": "Impatient"}, {"regenerate": True}):
        response = chat.start(conversation, **body)
        assert response.status_code == 409
        assert "Reload" in response.json["error"]["message"]  # type: ignore[index]
    prompts = [event for event in chat.site.events() if event.header.action == "prompt"]
    assert len(prompts) == 1
    gate.go_on.set()
    answered(chat, conversation)
    assert [message.content for message in chat.messages(conversation)] == ["Hello", "# Half\n\nan answer to Hello"]


def test_another_branch_is_shown_only_when_no_answer_is_being_written(chat: Chat, gate: Gate) -> None:
    conversation = chat.create()
    gate.go_on.set()
    chat.ask(conversation, "Hello")
    first = chat.messages(conversation)[-1].id
    gate.go_on.clear()
    again = lines_of(chat.start(conversation, regenerate=True))
    until(again, "tool_call")
    refused = chat.send("POST", f"/chat/{conversation}/branch", {"message": first})
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "conversation_busy")  # type: ignore[index]
    gate.go_on.set()
    list(again)
    wait_for(lambda: chat.site.services.turns.find(chat.user.id, conversation) is None)
    assert chat.send("POST", f"/chat/{conversation}/branch", {"message": first}).status_code == 204
    assert chat.messages(conversation)[-1].id == first


def test_a_deleted_conversation_ends_its_turn_first(chat: Chat) -> None:
    conversation = chat.create()
    response, _ = begin(chat, conversation)
    assert chat.send("DELETE", f"/chat/{conversation}").status_code == 204
    assert_stopped_and_deleted(chat, conversation)
    response.close()


def test_a_turn_that_is_prepared_while_its_conversation_is_deleted_ends(
    chat: Chat, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = chat.create()
    gate.go_on.set()
    chat.ask(conversation, "Hello")
    gate.go_on.clear()
    messages, stop, stop_asked = Conversations.messages, RunningTurns.stop, threading.Event()
    deleted = list[TestResponse]()
    deleting = threading.Thread(target=lambda: deleted.append(chat.send("DELETE", f"/chat/{conversation}")))

    def messages_slowly(self: Conversations, user_id: str, conversation_id: str) -> list[StoredMessage]:
        found = messages(self, user_id, conversation_id)
        if not deleting.is_alive() and not deleted:
            deleting.start()
            assert stop_asked.wait(HELD_S)
        return found

    def stop_seen(self: RunningTurns, *ids: str) -> bool:
        is_stopped = stop(self, *ids)
        stop_asked.set()
        return is_stopped

    monkeypatch.setattr(Conversations, "messages", messages_slowly)
    monkeypatch.setattr(RunningTurns, "stop", stop_seen)
    response = chat.start(conversation, regenerate=True)
    deleting.join(HELD_S)
    assert [one.status_code for one in deleted] == [204]
    assert_stopped_and_deleted(chat, conversation)
    response.close()


def assert_stopped_and_deleted(chat: Chat, conversation: str) -> None:
    last = [(event.header.action, event.header.outcome) for event in chat.site.events()[-3:]]
    assert last == [("prompt", "ok"), ("answer", "cancelled"), ("conversation_deleted", "ok")]
    assert chat.site.services.turns.find(chat.user.id, conversation) is None


def test_a_conversation_whose_turn_does_not_end_is_not_deleted(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = chat.create()
    monkeypatch.setattr("appliance.turns.running._STOP_LIMIT_S", 0.0)
    with chat.site.services.turns.claim(chat.user.id, conversation):
        response = chat.send("DELETE", f"/chat/{conversation}")
    assert response.status_code == 409
    assert "Nothing was deleted" in response.json["error"]["message"]  # type: ignore[index]
    assert chat.messages(conversation) == []


def test_the_end_of_access_ends_a_turn_that_nobody_watches(chat: Chat) -> None:
    conversation = chat.create()
    response, _ = begin(chat, conversation)
    response.close()
    chat.site.services.accounts.disable(chat.user.id, by=SYSTEM)
    answer = answered(chat, conversation)
    assert answer.facts.values()["failure"] == "access_ended"


def test_a_turn_that_nobody_watches_keeps_no_session_alive(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    used = list[bool]()
    sessions = chat.site.services.sessions
    user = type(sessions).user

    def watched(self: object, token: str, *, is_used: bool = True) -> object:
        used.append(is_used)
        return user(self, token, is_used=is_used)  # type: ignore[arg-type]

    monkeypatch.setattr(type(sessions), "user", watched)
    conversation = chat.create()
    response, _ = begin(chat, conversation)
    response.close()
    used.clear()
    wait_for(lambda: len(used) > 1)
    assert not any(used)


def test_one_person_reads_along_in_so_many_places_and_no_more(chat: Chat) -> None:
    conversation = chat.create()
    first, _ = begin(chat, conversation)
    open_ones = [first]
    while (response := follow(chat, conversation, "current")).status_code == 200:
        open_ones.append(response)
        assert len(open_ones) <= MOST_WATCHED
    assert response.status_code == 429
    assert len(open_ones) == MOST_WATCHED
    open_ones.pop().close()
    assert follow(chat, conversation, "current").status_code == 200


def test_one_person_has_so_many_turns_under_way_and_no_more(make_site: MakeSite, gate: Gate) -> None:
    chat = Chat(make_site(FakeEngine(gate.script), queue_limit_per_user=2))
    for _ in range(2):
        begin(chat, chat.create())[0].close()
    third = chat.create()
    response = chat.start(third, text="One more")
    assert response.status_code == 429
    assert chat.messages(third) == []
    assert len([event for event in chat.site.events() if event.header.action == "prompt"]) == 2
    other = Chat(chat.site, "bob")
    assert begin(other, other.create())[1][-1]["type"] == "tool_call"


def test_a_question_without_an_answer_says_so_and_can_be_asked_again(chat: Chat) -> None:
    conversation = chat.create()
    chat.site.services.conversations.append(chat.user.id, conversation, NewMessage("user", "Anyone?"))
    page = chat.browser.get(f"/chat/{conversation}").text
    assert "This question has no answer" in page
    assert "data-regenerate" in page


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 400, "٣"])
def test_a_number_that_is_none_is_refused(chat: Chat, after: str) -> None:
    conversation = chat.create()
    begin(chat, conversation)
    assert chat.send("GET", f"/chat/{conversation}/turns/current?after={after}").status_code == 400


def test_a_turn_of_another_conversation_is_not_found(chat: Chat) -> None:
    conversation, other = chat.create(), chat.create()
    _, seen = begin(chat, conversation)
    assert follow(chat, other, seen[0]["turn"]).status_code == 404
    assert follow(chat, other, "current").status_code == 404
