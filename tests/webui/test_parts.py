"""A long conversation is drawn in parts that join without a gap, and whole where it must be."""

from __future__ import annotations

import re

import pytest

from appliance.people.accounts import User
from appliance.people.conversations import NewMessage
from appliance.turns.answer import Facts
from tests.webui.conftest import Site
from webui.chat.parts import QUESTIONS_AT_ONCE


@pytest.fixture
def ada(site: Site) -> User:
    return site.add_user("ada")


def conversation(site: Site, user: User, turns: int) -> str:
    """A conversation whose questions and answers are numbered."""
    kept = site.services.conversations
    made = kept.create(user.id, title="Long")
    for number in range(turns):
        kept.append(user.id, made.id, NewMessage("user", f"question-{number}."))
        kept.append(user.id, made.id, NewMessage("assistant", f"answer-{number}.", facts=Facts()))
    return made.id


def numbers(html: str) -> list[int]:
    """The numbers of the answers in the HTML, in order, each once."""
    return list(dict.fromkeys(int(number) for number in re.findall(r"<p>answer-(\d+)\.</p>", html)))


@pytest.mark.parametrize("turns", [0, 1, QUESTIONS_AT_ONCE, QUESTIONS_AT_ONCE + 1, 3 * QUESTIONS_AT_ONCE - 1])
def test_the_parts_join_to_the_whole(site: Site, ada: User, turns: int) -> None:
    browser, made = site.browser(ada), conversation(site, ada, turns)
    page = browser.get(f"/chat/{made}").text
    shown = numbers(page)
    assert len(shown) == min(turns, QUESTIONS_AT_ONCE)
    found = re.search(r'data-earlier="([0-9a-f]+)"', page)
    before = found[1] if found else None
    requests = 0
    while before is not None:
        answer = browser.get(f"/chat/{made}/earlier?before={before}").json
        assert answer is not None
        shown, before = numbers(answer["html"]) + shown, answer["earlier"]
        requests += 1
    assert shown == list(range(turns))
    assert requests == max(0, -(-turns // QUESTIONS_AT_ONCE) - 1)


def test_paper_and_the_model_get_everything(site: Site, ada: User) -> None:
    made = conversation(site, ada, 25)
    assert numbers(site.browser(ada).get(f"/chat/{made}/print").text) == list(range(25))
    assert len(site.services.conversations.messages(ada.id, made)) == 50


@pytest.mark.parametrize("before", ["", "0" * 16, "../x"])
def test_before_a_message_that_is_not_shown_there_is_nothing(site: Site, ada: User, before: str) -> None:
    answer = site.browser(ada).get(f"/chat/{conversation(site, ada, 25)}/earlier?before={before}").json
    assert answer is not None
    assert (numbers(answer["html"]), answer["earlier"]) == ([], None)


def test_nobody_else_reads_the_earlier_turns(site: Site, ada: User) -> None:
    made = conversation(site, ada, 15)
    first = site.services.conversations.messages(ada.id, made)[-1].id
    eve = site.browser(site.add_user("eve"))
    assert eve.get(f"/chat/{made}/earlier?before={first}").status_code == 404
    assert eve.get(f"/chat/{made}/print").status_code == 404
