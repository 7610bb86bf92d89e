"""The list of conversations over HTTP: pages, views, filing, and the hits of a search."""

from __future__ import annotations

import re

import pytest

from tests.webui.conftest import Site
from tests.webui.test_chat import Chat


@pytest.fixture
def chat(site: Site) -> Chat:
    return Chat(site)


def listed(chat: Chat, query: str = "") -> dict[str, str]:
    response = chat.send("GET", f"/chat/list?{query}")
    assert response.status_code == 200
    return response.json  # type: ignore[return-value]


def titles(html: str) -> list[str]:
    return re.findall(r'data-title="([^"]*)"', html)


def older(html: str) -> str:
    found = re.search(r'data-older="([^"]+)"', html)
    return found[1] if found else ""


def test_every_conversation_can_be_reached_by_the_pages(chat: Chat) -> None:
    """269 conversations showed 200."""
    store = chat.site.services.conversations
    made = {store.create(chat.user.id, title=f"talk {number}").title for number in range(269)}
    html = chat.browser.get("/chat").text
    seen = titles(html)
    assert len(seen) == 50
    while older(html):
        html = listed(chat, f"after={older(html)}")["html"]
        seen += titles(html)
    assert set(seen) == made
    assert len(seen) == 269
    assert len(titles(listed(chat, "count=130")["html"])) == 130
    assert len(titles(listed(chat, "count=99999999999999999999")["html"])) == 50


def test_filing_changes_the_views_and_what_they_show(chat: Chat) -> None:
    one, two = chat.create("one"), chat.create("two")
    filed = {"folder": 'A & "B"', "tags": ["x<y", "tax"]}
    assert chat.send("PATCH", f"/chat/{one}", filed).status_code == 204
    assert chat.send("PATCH", f"/chat/{two}", {"archived": True}).status_code == 204
    whole = listed(chat)
    assert titles(whole["html"]) == ["one"]
    assert 'value="folder:A &amp; &#34;B&#34;"' in whole["views"]
    assert 'value="tag:x&lt;y"' in whole["views"]
    assert 'value="archived"' in whole["views"]
    assert titles(listed(chat, "view=archived")["html"]) == ["two"]
    assert titles(listed(chat, "view=folder:A+%26+%22B%22")["html"]) == ["one"]
    assert titles(listed(chat, "view=tag:x%3Cy")["html"]) == ["one"]
    assert titles(listed(chat, "view=tag:other")["html"]) == []
    assert "Archived" in listed(chat, "q=two")["html"]
    chat.ask(two, "and on")
    assert set(titles(listed(chat)["html"])) == {"one", "two"}


@pytest.mark.parametrize(
    "body",
    [{"archived": "yes"}, {"folder": 7}, {"folder": "\ud800"}, {"folder": "a\0"}, {"tags": "x"}, {"tags": [7]},
     {"tags": ["a\0"]}, {"tags": {"a": 1}}],
)  # fmt: skip
def test_filing_that_is_none_is_refused(chat: Chat, body: object) -> None:
    made = chat.create("one")
    assert chat.send("PATCH", f"/chat/{made}", body).status_code == 400
    assert "folder:" not in listed(chat)["views"]


@pytest.mark.parametrize("body", [{"archived": True}, {"folder": "mine"}, {"tags": ["mine"]}])
def test_what_is_another_persons_cannot_be_filed(chat: Chat, body: object) -> None:
    made, eve = chat.create("one"), Chat(chat.site, "eve")
    assert eve.send("PATCH", f"/chat/{made}", body).status_code == 404
    assert titles(listed(chat)["html"]) == ["one"]
    assert "mine" not in listed(chat)["views"] + listed(eve)["views"]


def test_a_hit_is_shown_marked_and_names_its_message(chat: Chat) -> None:
    made = chat.create("Kitchen")
    chat.ask(made, "Which <soup> is there?")
    question, answer = chat.messages(made)
    html = listed(chat, "q=soup")["html"]
    assert f'href="/chat/{made}#message-{answer.id}" data-hit="{answer.id}"' in html
    assert "Which &lt;<mark>soup</mark>&gt; is there?" in html
    assert f'data-hit="{question.id}"' in html
    assert "data-hit" not in listed(chat, "q=kitchen")["html"]
    eve = Chat(chat.site, "eve")
    assert "soup" not in listed(eve, "q=soup")["html"]
    assert eve.send("POST", f"/chat/{made}/branch", {"message": answer.id}).status_code == 404
