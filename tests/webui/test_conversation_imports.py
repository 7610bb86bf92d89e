"""Conversations from files: three formats, what is marked and recorded, and files that somebody made to do harm."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from appliance.audit.details.exchange import ConversationImported
from appliance.people.conversation_list import View
from appliance.people.conversations import StoredMessage
from appliance.people.imported import ImportedTree
from appliance.turns.answer import Facts
from tests.webui.conftest import MakeSite, Site
from tests.webui.test_chat import Chat
from webui.chat.exports import FORMAT
from webui.chat.imports import MAX_CONVERSATIONS, parse_file
from webui.chat.imports.nodes import MAX_MESSAGES, UnusableConversation, UnusableError

SAMPLES = Path(__file__).parent / "conversations_of_others"
CHATGPT, OPEN_WEBUI = ((SAMPLES / f"{name}.json").read_bytes() for name in ("chatgpt", "open_webui"))


@pytest.fixture
def chat(site: Site) -> Chat:
    return Chat(site)


def send(chat: Chat, data: bytes) -> TestResponse:
    headers = {**chat._headers, "Content-Type": "application/json"}
    return chat.browser.client.post("/chat/import", data=data, headers=headers)


def imported(chat: Chat, data: bytes) -> tuple[str, list[StoredMessage]]:
    response = send(chat, data)
    assert response.status_code == 201, response.text
    (made,) = response.json["imported"]  # type: ignore[index]
    return made["id"], chat.messages(made["id"])


def ours(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"format": FORMAT, "version": 1, "conversation": {"title": "T"}, "messages": list(messages), **more}


def message(key: str, parent: str | None = None, role: str = "user", content: Any = "text") -> dict[str, Any]:
    return {"id": key, "parent": parent, "role": role, "content": content}


def test_chatgpts_branches_come_without_what_its_tools_said(chat: Chat) -> None:
    conversation, shown = imported(chat, CHATGPT)
    question, answer = shown
    assert question.content.endswith("\n\nWhich soup is this?")
    assert "no text and was not imported" in question.content
    assert answer.content == "It is **borscht**."  # the branch that was shown there
    assert len(answer.siblings) == 2
    assert chat.site.services.conversations.get(chat.user.id, conversation).title == "Soup ☕ recipes"
    assert answer.created_at.year == 2024


def test_open_webuis_reasoning_becomes_reasoning(chat: Chat) -> None:
    _, (question, answer) = imported(chat, OPEN_WEBUI)
    assert question.content == "Is 100% right?"
    assert (answer.content, answer.reasoning) == ("No, it is **too much**.", "It depends.\nOr not.")


@pytest.mark.parametrize(("data", "source"), [(CHATGPT, "ChatGPT"), (OPEN_WEBUI, "Open WebUI")])
def test_every_imported_answer_says_so_on_the_page_and_in_exports(chat: Chat, data: bytes, source: str) -> None:
    said = f"Imported from {source}. This appliance did not write this answer."
    conversation, shown = imported(chat, data)
    assert isinstance(shown[-1].facts, Facts)
    assert shown[-1].facts.imported == source
    assert said in chat.browser.get(f"/chat/{conversation}").text
    for form in ("markdown", "html"):
        assert said in chat.browser.get(f"/chat/{conversation}/export/{form}").text
    exported = chat.browser.get(f"/chat/{conversation}/export/json").data
    assert f'"imported_from": "{source}"' in exported.decode()
    again, _ = imported(chat, exported)  # nor did it after a journey
    assert said in chat.browser.get(f"/chat/{again}").text


def test_what_this_appliance_exported_is_marked_when_it_comes_back(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "one")
    data = chat.browser.get(f"/chat/{conversation}/export/json").data
    _, shown = imported(chat, data)
    assert [m.content for m in shown] == ["one", "You said: one"]
    assert isinstance(shown[1].facts, Facts)
    assert shown[1].facts.imported == "a gpt-oss appliance"
    assert shown[1].facts.about is None


def test_an_import_is_recorded_whole_with_the_digest_and_goes_on_as_a_conversation(chat: Chat) -> None:
    conversation, _ = imported(chat, CHATGPT)
    event = chat.site.events()[-1]
    assert (event.header.action, event.header.subject) == ("conversation_imported", conversation)
    assert event.content is not None
    assert event.content.details == ConversationImported(
        source="ChatGPT", messages=3, left_out=3, sha256=hashlib.sha256(CHATGPT).hexdigest()
    )
    for text in ("Which soup is this?", "It is **borscht**.", "It is *solyanka*."):
        assert text in event.content.text
    chat.ask(conversation, "and now?")
    assert [m.content for m in chat.site.engine.requests[-1].messages][1:] == ["It is **borscht**.", "and now?"]
    assert not chat.messages(conversation)[1].can_go_on


def test_imported_text_counts_for_the_day(make_site: MakeSite) -> None:
    chat = Chat(make_site(daily_mib_per_user=1))
    conversation = chat.create()
    big = json.dumps([ours(message(str(n), content="x" * 300_000)) for n in range(6)]).encode()
    response = send(chat, big)
    assert response.status_code == 201
    taken, refused = response.json["imported"], response.json["refused"]  # type: ignore[index]
    assert (len(taken), len(refused)) == (4, 2)
    assert "1 MiB were recorded" in refused[0]["reason"]
    assert send(chat, CHATGPT).status_code == 429
    assert chat.start(conversation, text="x").status_code == 429


def test_nobody_else_sees_what_was_imported(chat: Chat) -> None:
    conversation, _ = imported(chat, CHATGPT)
    eve = Chat(chat.site, "eve")
    assert eve.browser.get(f"/chat/{conversation}").status_code == 404
    assert "Soup" not in eve.browser.get("/chat").text


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"null", b"7", b'"x"', b"[]", b"{}", b'[{"title": "x"}]', b"[" * 200_000,
     b'{"a":' * 100_000, b"1" * 10_000, b'{"mapping": 7}', b'{"chat": {"history": {"messages": []}}}',
     b'{"format": "other"}', json.dumps([{}] * (MAX_CONVERSATIONS + 1)).encode()],
    ids=range(16),
)  # fmt: skip
def test_a_file_that_is_none_is_refused_in_a_sentence(chat: Chat, data: bytes) -> None:
    response = send(chat, data)
    assert response.status_code == 400
    assert "Nothing was imported." in response.json["error"]["message"]  # type: ignore[index]
    assert chat.site.services.conversations.lists.page(chat.user.id, View()).items == ()


def test_a_file_that_is_too_large_is_refused_unread(chat: Chat) -> None:
    assert send(chat, b" " * (8 * 1024 * 1024 + 1)).status_code == 413


def circle(*keys: str) -> list[dict[str, Any]]:
    return [message(key, keys[(at + 1) % len(keys)]) for at, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (ours(*circle("a")), "circle"),
        (ours(message("r"), *circle("a", "b", "c")), "circle"),
        (ours(message("a"), message("a")), "same id"),
        (ours(), "no question and no answer"),
        (ours(message("a", content=" \n")), "no question and no answer"),
        (ours(message("a", role="system")), "no question and no answer"),
        (ours(message("a", content={"x": 1})), "no question and no answer"),
        (ours(message("a", content="x" * 400_001)), "longer than 400,000"),
        (ours(*(message(str(n)) for n in range(MAX_MESSAGES + 1))), "more than 5,000"),
        (ours(messages="x"), "no question and no answer"),
        ({"mapping": {"a": 7, "b": None, "c": {"message": [], "parent": {}}}}, "no question and no answer"),
        ({"chat": {"history": {"messages": {"a": [], "b": {"content": [7, {"text": 8}]}}}}}, "no question"),
        (7, "no conversation that can be imported"),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_conversation_that_cannot_be_used_says_why_and_stops_no_other(given: Any, reason: str) -> None:
    refused, taken = parse_file(json.dumps([given, ours(message("q"))]).encode())
    assert isinstance(refused, UnusableConversation)
    assert reason in refused.reason
    assert isinstance(taken, ImportedTree)


def test_what_was_left_out_does_not_break_the_branch(chat: Chat) -> None:
    given = ours(
        message("c", "b", "assistant", "answer"), message("b", "a", "tool", "noon"), message("a", "gone", "user", "q"),
        message("d", "c", "developer"), message("e", "d", "user", "more"), message("f", "c", "wizard"), shown="f",
    )  # fmt: skip
    _, shown = imported(chat, json.dumps(given).encode())
    assert [(m.role, m.content) for m in shown] == [("user", "q"), ("assistant", "answer"), ("user", "more")]


def test_signs_that_no_database_holds_are_replaced_everywhere(chat: Chat) -> None:
    given = ours(message("a", content="a\0b"), message("b", "a", "assistant", "\ud800"))
    given["conversation"]["title"] = "T\0\udfff"
    given["messages"][1]["reasoning"] = "\0"
    given["messages"][1]["imported_from"] = "X\0"
    conversation, shown = imported(chat, json.dumps(given).encode())
    assert [m.content for m in shown] == ["a\ufffdb", "\ufffd"]
    assert chat.site.services.conversations.get(chat.user.id, conversation).title == "T\ufffd\ufffd"


def test_a_long_chain_and_times_that_are_none_do_no_harm(chat: Chat) -> None:
    chain = [message(str(n), str(n - 1) if n else None, ("user", "assistant")[n % 2]) for n in range(3_000)]
    for at, time in enumerate(("9999-01-01T00:00:00+00:00", "-1", 7, None, "x", "0001-01-01T00:00:00+00:00")):
        chain[at]["created_at"] = time
    _, shown = imported(chat, json.dumps(ours(*chain[::-1])).encode())
    assert len(shown) == 3_000
    now = chat.site.services.clock()
    assert all(m.created_at <= now for m in shown)
    for seconds in (float("nan"), float("inf"), -1, 1e300, True, "x"):
        (tree,) = parse_file(json.dumps({"mapping": {}, "create_time": seconds, "title": "x"}).encode())
        assert isinstance(tree, UnusableConversation)


def test_markup_in_an_import_is_text(chat: Chat) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    given = ours(message("a", content=hostile), message("b", "a", "assistant", hostile))
    given["conversation"]["title"] = hostile
    given["messages"][1]["imported_from"] = hostile
    conversation, _ = imported(chat, json.dumps(given).encode())
    for path in ("", "/export/html"):
        page = chat.browser.get(f"/chat/{conversation}{path}").text
        assert "<script>alert" not in page
        assert "<img" not in page


def test_the_whole_file_is_refused_where_no_conversation_is_known() -> None:
    with pytest.raises(UnusableError, match=r"conversations\.json of ChatGPT"):
        parse_file(b'[{"title": "x"}, 7]')
