"""An answer that was cut off is continued: in its place, in the record, and from the exact text that it had."""

from __future__ import annotations

from collections.abc import Iterable
from html import unescape

import pytest

from appliance.audit.details.turns import PromptDetails
from appliance.database.transactions import DatabaseError
from appliance.people.conversations import NewMessage
from appliance.turns.answer import Facts, Part
from appliance.turns.events import AnswerDelta, Failed, ReasoningDelta, Started, ToolCallDelta, TurnEvent, failed
from appliance.turns.request import TurnRequest
from appliance.turns.unkept import NOT_KEPT
from tests.fakes import FakeEngine, done
from tests.webui.conftest import MakeSite
from tests.webui.test_chat import Chat, lines_of, shown


def in_two(request: TurnRequest) -> Iterable[TurnEvent]:
    """An answer whose first turn reaches its length, in the middle of a word."""
    yield Started(20, 0.0)
    if not request.continues:
        yield ReasoningDelta("Hm.")
        yield AnswerDelta("The **first ha")
        yield done(finish_reason="length")
        return
    yield AnswerDelta("lf** and the second.")
    yield done()


@pytest.fixture
def chat(make_site: MakeSite) -> Chat:
    return Chat(make_site(FakeEngine(in_two)))


def go_on(chat: Chat, conversation: str) -> list[dict[str, object]]:
    return list(lines_of(chat.start(conversation, go_on=True)))


def test_the_whole_answer_takes_the_place_of_the_part(chat: Chat) -> None:
    conversation = chat.create()
    end = chat.ask(conversation, "Hello")[-1]
    assert "data-go-on" in end["html"]
    first = chat.messages(conversation)[-1]
    lines = go_on(chat, conversation)
    assert "<strong>first half</strong> and the second." in shown(lines)
    question, answer = chat.messages(conversation)
    assert (answer.content, answer.reasoning) == ("The **first half** and the second.", "Hm.")
    assert (answer.siblings, answer.parent_id) == ((answer.id,), question.id)
    assert lines[-1]["complete"] is True
    assert "data-go-on" not in str(lines[-1]["html"])
    assert isinstance(answer.facts, Facts)
    assert isinstance(first.facts, Facts)
    assert answer.facts.earlier == (Part(first.facts.turn, first.facts.prompt_event, first.facts.event),)
    assert answer.facts.problem is None


def test_the_model_goes_on_in_the_same_message_and_the_record_says_so(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "Hello")
    lines = go_on(chat, conversation)
    request = chat.site.engine.requests[-1]
    assert request.continues
    assert [(m.role, m.content, m.reasoning) for m in request.messages] == [
        ("user", "Hello", None), ("assistant", "The **first ha", None),
    ]  # fmt: skip
    prompt, answer = chat.site.events()[-2:]
    assert prompt.content is not None
    assert isinstance(prompt.content.details, PromptDetails)
    assert prompt.content.details.request == request
    assert prompt.content.details.beside is not None
    assert prompt.content.details.beside.begun == len("The **first ha")
    assert answer.content is not None
    assert answer.content.text == "lf** and the second."
    numbers = [event.header.sequence for event in chat.site.events() if event.header.action in ("prompt", "answer")]
    html = str(lines[-1]["html"])
    assert f"events {numbers[0]} and {numbers[1]}" in html
    assert f"<dt>Continued</dt><dd>events {numbers[2]} and {numbers[3]}</dd>" in html


def test_an_answer_can_be_continued_again_and_again(make_site: MakeSite) -> None:
    chat = Chat(make_site(FakeEngine(lambda _: [Started(20, 0.0), AnswerDelta("x"), done(finish_reason="length")])))
    conversation = chat.create()
    chat.ask(conversation, "Hello")
    for _ in range(3):
        go_on(chat, conversation)
    answer = chat.messages(conversation)[-1]
    assert answer.content == "xxxx"
    assert isinstance(answer.facts, Facts)
    assert len(answer.facts.earlier) == 3


@pytest.mark.parametrize("end", [failed("stopped"), failed("closing"), failed("engine_stopped")])
def test_what_was_stopped_or_failed_can_be_continued(make_site: MakeSite, end: Failed) -> None:
    chat = Chat(make_site(FakeEngine(lambda _: [Started(20, 0.0), AnswerDelta("Half"), end])))
    conversation = chat.create()
    assert "data-go-on" in chat.ask(conversation)[-1]["html"]


@pytest.mark.parametrize(
    "said",
    [
        (AnswerDelta("Whole."), done()),
        (failed("engine_failed"),),
        (ReasoningDelta("Hm."), done(finish_reason="length")),
        (AnswerDelta("Half"), ToolCallDelta(0, "c1", "clock", "{"), failed("stopped")),
    ],
)
def test_what_is_whole_or_has_no_text_to_go_on_from_is_refused(
    make_site: MakeSite, said: tuple[TurnEvent, ...]
) -> None:
    chat = Chat(make_site(FakeEngine(lambda _: [Started(20, 0.0), *said])))
    conversation = chat.create()
    assert "data-go-on" not in chat.ask(conversation)[-1]["html"]
    before, asked = chat.messages(conversation), len(chat.site.engine.requests)
    response = chat.start(conversation, go_on=True)
    assert response.status_code == 400
    assert "was not cut off" in response.text
    assert (chat.messages(conversation), len(chat.site.engine.requests)) == (before, asked)


def test_nothing_can_be_continued_in_an_empty_conversation(chat: Chat) -> None:
    assert chat.start(chat.create(), go_on=True).status_code == 400


def test_a_part_that_something_follows_stays(chat: Chat) -> None:
    """Nobody can ask for that by the pages; what follows must not lose its place all the same."""
    conversation, store = chat.create(), chat.site.services.conversations
    chat.ask(conversation, "Hello")
    part = chat.messages(conversation)[-1]
    follow_up = store.append(chat.user.id, conversation, NewMessage("user", "and?"))
    whole = store.go_on(chat.user.id, conversation, part.id, NewMessage("assistant", "lf"))
    assert whole.content == "The **first half"
    assert whole.siblings == (part.id, whole.id)
    assert [m.id for m in store.show_branch(chat.user.id, conversation, part.id)][-1] == follow_up.id


def test_a_rest_that_a_busy_database_keeps_out_comes_later(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process had died between the record of the rest and the conversation."""
    conversation, turns = chat.create(), chat.site.services.turns
    chat.ask(conversation, "Hello")
    monkeypatch.setattr(turns, "_keep_limit_s", 0.0)
    with monkeypatch.context() as busy:

        def fail(*_: object) -> None:
            raise DatabaseError("busy")

        busy.setattr(chat.site.services.conversations, "go_on", fail)
        end = go_on(chat, conversation)[-1]
        assert NOT_KEPT in unescape(str(end["html"]))
        assert chat.messages(conversation)[-1].content == "The **first ha"
    turns.clear_dead()
    answer = chat.messages(conversation)[-1]
    assert answer.content == "The **first half** and the second."
    assert isinstance(answer.facts, Facts)
    assert len(answer.facts.earlier) == 1
