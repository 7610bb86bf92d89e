"""A last assistant message is gone on from; what clients send to say so, or not; and how a reviewer sees it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from appliance.audit.details.turns import PromptDetails
from appliance.people.accounts import Role
from appliance.turns.request import Message, TurnRequest
from tests.webui.conftest import Site
from tests.webui.test_api import Caller
from webui.api.errors import ApiError
from webui.api.validation import ChatRequest, parse_chat_request
from webui.review.present.asked import asked_request

USER = {"role": "user", "content": "Hello"}
BEGUN = {"role": "assistant", "content": "Good mor"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def parse(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return parse_chat_request(json.dumps({"model": "m", "messages": messages, **fields}).encode())


@pytest.mark.parametrize(
    "fields", [{}, {"continue_final_message": True}, {"add_generation_prompt": False},
               {"continue_final_message": True, "add_generation_prompt": False}, {"continue_final_message": None}],
)  # fmt: skip
@pytest.mark.parametrize("mark", [{}, {"prefix": True}, {"prefix": False}], ids=str)
def test_a_last_assistant_message_is_gone_on_from(fields: dict[str, Any], mark: dict[str, Any]) -> None:
    taken = parse(USER, {**BEGUN, **mark}, **fields)
    assert (taken.continues, taken.messages[-1]) == (True, Message("assistant", "Good mor"))


@pytest.mark.parametrize(
    "fields", [{"continue_final_message": False}, {"add_generation_prompt": True},
               {"continue_final_message": False, "add_generation_prompt": True}],
)  # fmt: skip
def test_a_client_can_have_another_message_begin(fields: dict[str, Any]) -> None:
    assert not parse(USER, BEGUN, **fields).continues


@pytest.mark.parametrize(
    "messages",
    [(USER,), (USER, BEGUN, USER), (USER, {**BEGUN, "content": ""})],
    ids=["a question", "a question after an answer", "an empty message"],
)
def test_what_says_nothing_is_not_gone_on_from(messages: tuple[dict[str, Any], ...]) -> None:
    assert not parse(*messages).continues
    for field, value in (("continue_final_message", True), ("add_generation_prompt", False)):
        with pytest.raises(ApiError, match="the last message is no assistant's text") as caught:
            parse(*messages, **{field: value})
        assert (caught.value.status, caught.value.param) == (400, field)


def test_a_last_message_of_reasoning_alone_is_gone_on_from() -> None:
    assert parse(USER, {**BEGUN, "content": "", "reasoning": "A greeting."}).continues


@pytest.mark.parametrize("both", [True, False])
def test_contraries_are_refused(*, both: bool) -> None:
    with pytest.raises(ApiError, match="contraries") as caught:
        parse(USER, BEGUN, continue_final_message=both, add_generation_prompt=both)
    assert caught.value.param == "continue_final_message"


def test_the_record_says_that_an_answer_was_begun_and_finds_its_words(site: Site) -> None:
    caller = Caller(site, site.add_key(site.add_user("ada")))
    caller.ask(messages=[USER, {"role": "assistant", "content": "A forged confession"}])
    prompt = next(event for event in site.events() if event.header.action == "prompt")
    assert prompt.content is not None
    assert prompt.content.text == "Hello"
    details = prompt.content.details
    assert isinstance(details, PromptDetails)
    assert details.beside is not None
    assert (details.beside.begun, details.request.continues) == (len("A forged confession"), True)
    reviewer = site.browser(site.add_user("rita", Role.REVIEWER))
    assert f"/review/{prompt.header.sequence}" in reviewer.get("/review?text=forged").text
    assert "which the answer goes on from" in reviewer.get(f"/review/{prompt.header.sequence}").text


REQUEST = TurnRequest(id="t", user="u", messages=(Message("user", "Hello"), Message("assistant", "Good mor")), seed=1)
WHEN = datetime(2026, 11, 23, tzinfo=UTC)


def test_a_reviewer_sees_which_message_was_gone_on_from() -> None:
    shown = asked_request(replace(REQUEST, continues=True), WHEN)
    assert [part.title for part in shown.parts] == ["user", "assistant, channel final, which the answer goes on from"]
    assert [part.title for part in asked_request(REQUEST, WHEN).parts] == ["user", "assistant, channel final"]


def test_a_reviewer_sees_a_bare_text_as_one() -> None:
    bare = replace(REQUEST, messages=(Message("user", "<|start|>system"),), form="text")
    shown = asked_request(bare, WHEN)
    assert [(part.title, str(part.text)) for part in shown.parts] == [
        ("Bare text, which the answer goes on from", "&lt;|start|&gt;system")
    ]
