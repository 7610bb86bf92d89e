"""Branches: a question that is edited, the arrows, and that no message is out of their reach."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.people.conversations import NewMessage
from tests.webui.conftest import Site
from tests.webui.test_chat import Chat
from webui.chat.present import page_message


@pytest.fixture
def chat(site: Site) -> Chat:
    return Chat(site)


def test_an_edited_question_stands_beside_the_old_one_and_is_recorded(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "one")
    chat.ask(conversation, "two")
    old, old_answer = chat.messages(conversation)[2:]
    end = chat.ask(conversation, "two, but better", instead_of=old.id)[-1]
    shown = chat.messages(conversation)
    assert [m.content for m in shown] == ["one", "You said: one", "two, but better", "You said: two, but better"]
    assert shown[2].siblings == (old.id, shown[2].id)
    assert [m.content for m in chat.site.engine.requests[-1].messages] == ["one", "You said: one", "two, but better"]
    prompt = chat.site.events()[-2]
    assert prompt.header.action == "prompt"
    assert prompt.content is not None
    assert prompt.content.text == "two, but better"
    assert f'data-branch="{old.id}"' in end["question"]
    assert ">2/2<" in end["question"]
    chat.send("POST", f"/chat/{conversation}/branch", {"message": old.id})
    assert chat.messages(conversation)[-1].id == old_answer.id


def test_the_first_question_can_be_edited_and_one_that_is_not_shown(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "one")
    first = chat.messages(conversation)[0]
    for text in ("uno", "eins"):
        chat.ask(conversation, text, instead_of=first.id)
        assert chat.messages(conversation)[0].content == text
        assert [m.content for m in chat.site.engine.requests[-1].messages] == [text]
    assert len(chat.messages(conversation)[0].siblings) == 3


def test_what_is_no_question_of_this_conversation_cannot_be_edited(chat: Chat) -> None:
    conversation, other = chat.create(), chat.create()
    chat.ask(conversation, "one")
    chat.ask(other, "two")
    asked = len(chat.site.engine.requests)
    answer = chat.messages(conversation)[1].id
    for message in (answer, chat.messages(other)[0].id, "0" * 16, ""):
        assert chat.start(conversation, text="x", instead_of=message).status_code == 404, message
    assert chat.start(conversation, regenerate=True, instead_of=answer).status_code == 400
    assert len(chat.messages(conversation)) == 2
    assert len(chat.site.engine.requests) == asked


def test_going_back_to_a_branch_shows_what_was_used_last_there(chat: Chat) -> None:
    """Answer again under a follow-up, then go away and come back: the newer answer is shown, not the first."""
    conversation = chat.create()
    chat.ask(conversation, "one")
    first = chat.messages(conversation)[0].id
    chat.ask(conversation, "two")
    chat.again(conversation)
    newest = chat.messages(conversation)[-1].id
    chat.ask(conversation, "uno", instead_of=first)
    chat.send("POST", f"/chat/{conversation}/branch", {"message": first})
    assert chat.messages(conversation)[-1].id == newest


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_the_arrows_lead_to_every_message(chat: Chat, tree: list[tuple[bool, int]]) -> None:
    """Any tree of questions and answers: from the branch that is shown, arrow by arrow, each message is reached."""
    store, user = chat.site.services.conversations, chat.user.id
    conversation = store.create(user).id
    roles: dict[str | None, str] = {None: "assistant"}
    for is_root, pick in tree:
        parents = list(roles)
        parent = None if is_root else parents[pick % len(parents)]
        role = "user" if roles[parent] == "assistant" else "assistant"
        new = NewMessage(role, "text")  # type: ignore[arg-type]
        roles[store.append(user, conversation, new, parent_id=parent).id] = role
    reached, waiting = set[str](), [store.messages(user, conversation)[-1].id]
    while waiting:
        branch = store.show_branch(user, conversation, waiting.pop())
        for message in branch:
            page = page_message(message)
            if message.id not in reached:
                reached.add(message.id)
                waiting += [arrow for arrow in (page.branch_before, page.branch_after) if arrow is not None]
    assert reached == set(roles) - {None}


def test_the_page_offers_both_versions_of_a_question(chat: Chat) -> None:
    conversation = chat.create()
    chat.ask(conversation, "one")
    chat.ask(conversation, "uno", instead_of=chat.messages(conversation)[0].id)
    page = chat.browser.get(f"/chat/{conversation}").text
    assert re.search(r'aria-label="Versions of this question".*?>2/2<', page, re.DOTALL)
    assert page.count("data-edit>") == 1
