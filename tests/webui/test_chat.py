"""The chat's requests: what is streamed, kept and refused. tests/browser drives the pages in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug.test import TestResponse

from appliance.audit.log import RecordError
from appliance.people.accounts import Role
from appliance.people.conversation_list import Listed
from appliance.people.conversations import Conversation, StoredMessage
from appliance.turns.events import (
    AnswerDelta,
    Failed,
    FailureCode,
    Queued,
    ReasoningDelta,
    Started,
    ToolCallDelta,
    TurnEvent,
    Waiting,
)
from appliance.turns.request import TurnRequest
from tests.fakes import FakeEngine, Script, done
from tests.webui.conftest import MakeSite, Site
from webui.chat.present import grouped, title_of
from webui.chat.stream import Drawing


class Chat:
    """One person's browser. It makes requests as our own modules make them."""

    def __init__(self, site: Site, name: str = "ada") -> None:
        self.site = site
        self.user = site.add_user(name)
        self.browser = site.browser(self.user)
        token = self.browser.token()
        self._headers = {"X-CSRF-Token": token, "Accept": "application/json", "Origin": "http://localhost"}

    def send(self, method: str, path: str, body: object = None) -> TestResponse:
        return self.browser.client.open(path, method=method, json=body, headers=self._headers)

    def create(self, text: str = "Hello there") -> str:
        response = self.send("POST", "/chat", {"text": text})
        assert response.status_code == 201, response.text
        return str(response.json["id"])  # type: ignore[index]

    def start(self, conversation: str, **body: object) -> TestResponse:
        """Begin a turn. The test reads its stream."""
        return self.send("POST", f"/chat/{conversation}/turns", {"effort": "medium", **body})

    def ask(self, conversation: str, text: str = "Hello there", **body: object) -> list[dict[str, Any]]:
        return list(lines_of(self.start(conversation, text=text, **body)))

    def again(self, conversation: str) -> list[dict[str, Any]]:
        return list(lines_of(self.start(conversation, regenerate=True)))

    def messages(self, conversation: str) -> list[StoredMessage]:
        return self.site.services.conversations.messages(self.user.id, conversation)


def lines_of(response: TestResponse) -> Iterator[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.mimetype == "application/x-ndjson"
    rest = b""
    for piece in response.iter_encoded():
        *whole, rest = (rest + piece).split(b"\n")
        yield from (json.loads(line) for line in whole if line)
    assert rest == b""


def shown(lines: list[dict[str, Any]]) -> str:
    """The answer's HTML as the page shows it before the end."""
    blocks: list[str] = []
    for line in lines:
        if line["type"] == "answer":
            blocks[line["keep"] :] = line["blocks"]
    return "".join(blocks)


@pytest.fixture
def chat(site: Site) -> Chat:
    return Chat(site)


def chat_with(make_site: MakeSite, script: Script) -> Chat:
    return Chat(make_site(FakeEngine(script)))


def test_a_turn_streams_reasoning_then_safe_html_then_its_end(chat: Chat) -> None:
    lines = chat.ask(chat.create(), "**Hello** <b>you</b>")
    kinds = [line["type"] for line in lines]
    assert kinds[:3] == ["accepted", "started", "reasoning"]
    assert kinds[-1] == "end"
    assert "answer" in kinds
    assert lines[2]["text"] == "The user said something; I repeat it."
    end = lines[-1]
    assert end["complete"] is True
    assert "<strong>Hello</strong> &lt;b&gt;you&lt;/b&gt;" in end["html"]


def test_question_and_answer_are_kept_with_what_was_measured(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "Hello there", effort="high")
    question, answer = chat.messages(conversation)
    assert (question.role, question.content) == ("user", "Hello there")
    assert (answer.role, answer.content) == ("assistant", "You said: Hello there")
    assert answer.reasoning == "The user said something; I repeat it."
    prompt_event, answer_event = chat.site.events()[-2:]
    assert answer.facts.values()["prompt_event"] == prompt_event.header.sequence
    assert answer.facts.values()["event"] == answer_event.header.sequence
    assert answer.facts.values()["effort"] == "high"
    assert answer.facts.values()["completion_tokens"] == 7
    assert chat.site.engine.requests[-1].effort == "high"


@pytest.mark.parametrize("grammar", [True, False])
def test_the_record_says_whether_the_turn_was_held_to_the_grammar(make_site: MakeSite, grammar: bool) -> None:
    chat = Chat(make_site(harmony_grammar=grammar))
    chat.ask(chat.create())
    (prompt,) = [event for event in chat.site.events() if event.header.action == "prompt"]
    assert prompt.content is not None
    assert prompt.content.details.values()["request"]["grammar"] is grammar
    assert chat.site.engine.requests[-1].grammar is grammar


def test_the_page_shows_afterwards_what_the_stream_ended_with(chat: Chat) -> None:
    conversation = chat.create()
    end = chat.ask(conversation, "Hello *there*")[-1]["html"]
    page = chat.browser.get(f"/chat/{conversation}").text
    assert end in page
    assert "Hello *there*</article>" in page  # the question as it was written


def test_the_next_turn_carries_the_conversation_without_old_reasoning(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "one")
    chat.ask(conversation, "two")
    sent = [(m.role, m.content, m.reasoning) for m in chat.site.engine.requests[-1].messages]
    assert sent == [("user", "one", None), ("assistant", "You said: one", None), ("user", "two", None)]


def test_each_turn_has_a_seed_and_an_id_of_its_own(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "one")
    chat.ask(conversation, "two")
    first, second = chat.site.engine.requests
    assert first.seed != second.seed
    assert first.id != second.id


def test_answering_again_adds_a_branch_and_keeps_the_first(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "one")
    first = chat.messages(conversation)[-1]
    end = chat.again(conversation)[-1]
    second = chat.messages(conversation)[-1]
    assert second.siblings == (first.id, second.id)
    assert ">2/2<" in end["html"]
    assert f'data-branch="{first.id}"' in end["html"]
    chat.send("POST", f"/chat/{conversation}/branch", {"message": first.id})
    assert chat.messages(conversation)[-1].id == first.id


def test_answering_again_needs_a_question(chat: Chat) -> None:
    response = chat.start(chat.create(), regenerate=True)
    assert response.status_code == 400


@pytest.mark.parametrize(
    "code",
    [
        "bad_request",
        "context_exceeded",
        "overloaded",
        "too_many_waiting",
        "engine_failed",
        "engine_stopped",
        "record_failed",
    ],
)
def test_a_failed_turn_says_what_was_kept_and_what_to_do(make_site: MakeSite, code: FailureCode) -> None:
    chat = chat_with(make_site, lambda request: [Started(20, 0.0), AnswerDelta("Half"), Failed(code, "internal words")])
    conversation = chat.create()
    end = chat.ask(conversation)[-1]
    assert end["complete"] is False
    answer = chat.messages(conversation)[-1]
    assert answer.content == "Half"
    assert answer.facts.values()["failure"] == code
    assert answer.facts.values()["problem"] in end["html"]
    assert "internal words" not in end["html"]


def test_an_answer_cut_off_by_its_length_says_so(make_site: MakeSite) -> None:
    chat = chat_with(make_site, lambda request: [Started(20, 0.0), AnswerDelta("Half"), done(finish_reason="length")])
    end = chat.ask(chat.create())[-1]
    assert end["complete"] is False
    assert "cut off" in end["html"]


def test_a_turn_without_an_answer_says_so_and_the_record_keeps_the_models_words_alone(make_site: MakeSite) -> None:
    notice = "The model ended its turn without an answer; it only wrote down its reasoning."
    chat = chat_with(make_site, lambda request: [Started(20, 0.0), ReasoningDelta("Hm."), done(notice=notice)])
    conversation = chat.create()
    end = chat.ask(conversation)[-1]
    assert end["complete"] is False
    assert end["html"].count(notice) == 1
    assert "Hm." in end["html"]
    kept = chat.messages(conversation)[-1]
    assert kept.content == ""
    event = chat.site.services.record.get(kept.facts.values()["event"])
    assert event.content is not None
    assert (event.content.text, event.content.details.values()["notice"]) == ("", notice)
    chat.ask(conversation, "two")
    assert notice not in str(chat.site.engine.requests[-1].messages)


def test_a_failed_answer_without_words_is_not_sent_with_the_next_question(make_site: MakeSite) -> None:
    chat = chat_with(make_site, lambda request: [Failed("engine_failed", "no")])
    conversation = chat.create()
    chat.ask(conversation, "one")
    chat.ask(conversation, "two")
    assert [m.content for m in chat.site.engine.requests[-1].messages] == ["one", "two"]


def test_no_question_reaches_the_engine_that_is_not_recorded(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = chat.create()

    def refuse(_: object) -> None:
        raise RecordError("the disk is full")

    monkeypatch.setattr(chat.site.services.record, "append", refuse)
    response = chat.start(conversation, text="Hello there")
    assert response.status_code == 503
    assert "record could not be written" in response.json["error"]["message"]  # type: ignore[index]
    assert chat.site.engine.requests == []
    assert chat.messages(conversation) == []  # a kept question would look as if it had been asked
    monkeypatch.undo()
    assert chat.ask(conversation)[-1]["complete"] is True  # nothing is left running


def test_a_tool_call_is_shown_and_kept(make_site: MakeSite) -> None:
    chat = chat_with(
        make_site,
        lambda request: [
            Started(20, 0.0),
            ToolCallDelta(0, "c1", "find_<b>", '{"q": '),
            ToolCallDelta(0, "c1", None, '"x"}'),
            done(finish_reason="tool_calls"),
        ],
    )
    conversation = chat.create()
    lines = chat.ask(conversation)
    assert [line["arguments"] for line in lines if line["type"] == "tool_call"] == ['{"q": ', '"x"}']
    assert "find_&lt;b&gt;" in lines[-1]["html"]
    assert chat.messages(conversation)[-1].tool_calls[0].arguments == '{"q": "x"}'


def test_rendering_again_and_again_stays_at_ten_times_a_second() -> None:
    now = [0.0]
    drawing = Drawing(lambda: now[0])
    sent = []
    for _ in range(1000):  # a thousand pieces in one second
        sent += list(drawing.lines(AnswerDelta("word ")))
        now[0] += 0.001
    assert 9 <= len(sent) <= 11


def test_words_held_back_are_sent_when_the_model_pauses() -> None:
    drawing = Drawing(lambda: 0.0)
    list(drawing.lines(AnswerDelta("one ")))
    assert list(drawing.lines(AnswerDelta("two"))) == []
    assert list(drawing.lines(Waiting())) == [{"type": "answer", "keep": 0, "blocks": ["<p>one two</p>\n"]}]
    assert list(drawing.lines(Waiting())) == []


_EMPTY, _EFFORT = "There is nothing to send: the text is empty.", "The effort must be low, medium or high."
_CORRECT = "Go back, correct it and send it again."
_UNKEPT, _UNREAD = "The text contains characters that cannot be kept.", "The server did not understand what was sent."


@pytest.mark.parametrize(
    ("body", "said"),
    [({}, _EFFORT), ({"effort": "medium"}, _EMPTY), ({"text": "x", "effort": "enormous"}, _EFFORT),
     ({"text": "", "effort": "low"}, _EMPTY), ({"text": 7, "effort": "low"}, _EMPTY),
     ({"text": " \n", "effort": "low"}, _EMPTY), ({"text": "a\0b", "effort": "low"}, _UNKEPT),
     ({"text": "\ud800", "effort": "low"}, _UNKEPT),
     ({"text": "x" * 400_001, "effort": "low"}, "The text is longer than 400,000 characters."),
     ({"text": "x", "effort": ["low"]}, _EFFORT),
     ({"regenerate": "yes", "effort": "low"}, "Whether to ask again must be true or false."),
     (["text"], _UNREAD), ("text", _UNREAD), (3, _UNREAD)],
)  # fmt: skip
def test_a_turn_that_is_not_one_is_refused_with_a_plain_sentence(chat: Chat, body: object, said: str) -> None:
    conversation = chat.create()
    response = chat.send("POST", f"/chat/{conversation}/turns", body)
    assert response.status_code == 400
    assert response.json["error"]["message"] == f"{said} {_CORRECT}"  # type: ignore[index]
    assert chat.messages(conversation) == []
    assert chat.site.engine.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/turns"), ("POST", "/branch"), ("GET", "/turns"),
     ("GET", "/turns/current"), ("DELETE", "/turns/current")],
)  # fmt: skip
def test_nobody_reaches_another_persons_conversation(site: Site, method: str, path: str) -> None:
    ada, eve = Chat(site), Chat(site, "eve")
    conversation = ada.create()
    ada.ask(conversation)
    body = {"text": "x", "effort": "low", "title": "x", "pinned": True, "message": ada.messages(conversation)[0].id}
    response = eve.send(method, f"/chat/{conversation}{path}", None if method == "GET" else body)
    assert response.status_code == 404
    assert len(ada.messages(conversation)) == 2
    assert site.services.conversations.get(ada.user.id, conversation).title == "Hello there"


@pytest.mark.parametrize("path", ["/chat", "/chat/list", "/chat/0123456789abcdef"])
def test_only_people_with_the_role_chat(site: Site, path: str) -> None:
    admin = site.browser(site.add_user("root", Role.ADMIN))
    assert admin.get(path).status_code == 403
    assert site.browser().get(path).status_code == 302


@pytest.mark.parametrize(("role", "place"), [(Role.USER, "/chat"), (Role.REVIEWER, "/review"), (Role.ADMIN, "/admin")])
def test_the_first_page_leads_each_role_to_its_place(site: Site, role: Role, place: str) -> None:
    response = site.browser(site.add_user("ada", role)).get("/")
    assert (response.status_code, response.headers["Location"]) == (302, place)


def test_a_request_without_the_form_token_is_refused(chat: Chat) -> None:
    response = chat.browser.client.post("/chat", json={"text": "x"}, headers={"Origin": "http://localhost"})
    assert response.status_code == 403


def test_conversations_are_renamed_pinned_searched_and_deleted(chat: Chat) -> None:
    first, second = chat.create("About archives"), chat.create("About records")
    chat.send("PATCH", f"/chat/{first}", {"title": "Old <things>"})
    chat.send("PATCH", f"/chat/{first}", {"pinned": True})
    html = chat.send("GET", f"/chat/list?q=&current={second}").json["html"]  # type: ignore[index]
    assert html.index("Pinned") < html.index("Old &lt;things&gt;") < html.index("Today") < html.index("About records")
    assert html.count('aria-current="page"') == 1
    found = chat.send("GET", "/chat/list?q=records").json["html"]  # type: ignore[index]
    assert "About records" in found
    assert "Old" not in found
    assert chat.send("DELETE", f"/chat/{second}").status_code == 204
    assert "About records" not in chat.browser.get("/chat").text
    assert chat.site.events()[-1].header.action == "conversation_deleted"


@pytest.mark.parametrize("body", [{"title": ""}, {"title": 5}, {"title": "\ud800"}, {"pinned": "yes"}, {"pinned": 1}])
def test_a_change_that_is_none_is_refused(chat: Chat, body: object) -> None:
    assert chat.send("PATCH", f"/chat/{chat.create()}", body).status_code == 400
    assert "Pinned" not in chat.send("GET", "/chat/list?q=").json["html"]  # type: ignore[index]


@pytest.mark.parametrize("body", [{}, {"message": None}, {"message": 7}])
def test_a_branch_needs_the_message_to_show(chat: Chat, body: object) -> None:
    response = chat.send("POST", f"/chat/{chat.create()}/branch", body)
    assert response.status_code == 400
    assert response.json["error"]["message"] == f"Which answer to show is missing. {_CORRECT}"  # type: ignore[index]


def test_a_conversation_begins_with_a_text(chat: Chat) -> None:
    response = chat.send("POST", "/chat", {})
    assert response.status_code == 400
    assert response.json["error"]["message"] == f"{_EMPTY} {_CORRECT}"  # type: ignore[index]


def test_the_empty_page_names_the_model_as_what_it_is_and_says_that_all_is_recorded(chat: Chat) -> None:
    page = chat.browser.get("/chat").text
    assert "Fake model" in page
    assert "Repeats what you say." in page
    assert page.count("data-example=") == 4
    assert "recorded and can be read by reviewers" in page
    assert "data-unavailable" not in page


def test_the_empty_page_says_when_the_model_is_still_loading(make_site: MakeSite) -> None:
    page = Chat(make_site(FakeEngine(status=None))).browser.get("/chat").text
    assert "The model is still loading" in page


@pytest.mark.parametrize(
    ("text", "title"),
    [("Hello", "Hello"), ("  two\n lines ", "two lines"), ("word " * 30, ("word " * 11).rstrip() + "…"),
     ("x" * 200, "x" * 59 + "…")],
)  # fmt: skip
def test_a_title_is_the_first_words(text: str, title: str) -> None:
    assert title_of(text) == title


def test_conversations_stand_under_today_this_week_and_older() -> None:
    now = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)

    def conversation(name: str, age: timedelta, *, pinned: bool = False) -> Listed:
        return Listed(Conversation(name, "u", name, pinned, now - age, now - age))

    groups = grouped(
        [
            conversation("pinned", timedelta(days=90), pinned=True),
            conversation("now", timedelta()),
            conversation("midnight", timedelta(hours=15)),
            conversation("yesterday", timedelta(hours=15, seconds=1)),
            conversation("six days", timedelta(days=6, hours=15)),
            conversation("a week", timedelta(days=6, hours=15, seconds=1)),
        ],
        now,
    )
    assert [(group.title, [item.conversation.id for item in group.items]) for group in groups] == [
        ("Pinned", ["pinned"]), ("Today", ["now", "midnight"]), ("This week", ["yesterday", "six days"]),
        ("Older", ["a week"]),
    ]  # fmt: skip


def test_the_page_says_what_cannot_be_done_without_scripts(chat: Chat) -> None:
    page = chat.browser.get("/chat").text
    (said,) = re.findall("<noscript>.*</noscript>", page)
    assert "This page needs JavaScript to send a question." in said


def test_a_page_is_told_its_place_in_the_queue_and_neither_record_nor_answer_has_it(make_site: MakeSite) -> None:
    def script(_: TurnRequest) -> Iterator[TurnEvent]:
        yield Waiting(Queued(2, None))
        yield Waiting(Queued(0, 12.5))
        yield Started(20, 30.0)
        yield AnswerDelta("Hello")
        yield done()

    chat = chat_with(make_site, script)
    lines = chat.ask(chat.create())
    assert [(line["ahead"], line["wait_s"], line["n"]) for line in lines if line["type"] == "queued"] == [
        (2, None, 1), (0, 12.5, 2),
    ]  # fmt: skip
    assert lines[-1]["complete"] is True
    assert "ahead" not in repr(chat.site.events()[-1])
