"""POST /v1/tokenize and /v1/detokenize: what the engine is asked, what comes back, and that nothing is recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from werkzeug.test import TestResponse

from appliance.turns.engine import TextRequest, TokensRequest
from appliance.turns.events import Failed
from appliance.turns.request import Message
from tests.fakes import FAKE_STATUS
from tests.webui.conftest import MODEL, MakeSite, Site
from tests.webui.test_api import Caller, error_of
from webui.api import token_bodies
from webui.api.errors import ApiError

USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "now"}}


@pytest.fixture
def caller(site: Site) -> Caller:
    return Caller(site, site.add_key(site.add_user("ada")))


def post(caller: Caller, address: str, **body: Any) -> TestResponse:
    return caller.client.post(f"/v1/{address}", json=body, headers=caller.headers)


def asked(site: Site) -> TokensRequest:
    question = site.engine.questions[-1]
    assert isinstance(question, TokensRequest)
    return question


def test_a_bare_text_is_counted(site: Site, caller: Caller) -> None:
    assert post(caller, "tokenize", model=MODEL.id, prompt="ab", add_special_tokens=False).json == {
        "count": 2, "max_model_len": FAKE_STATUS.context_tokens, "tokens": [97, 98], "token_strs": None,
    }  # fmt: skip
    request = asked(site).request
    assert (request.form, request.messages, request.tools) == ("text", (Message("user", "ab"),), ())


def test_a_conversation_is_counted_as_chat_would_send_it(site: Site, caller: Caller) -> None:
    begun = {"role": "assistant", "content": "Good"}
    post(caller, "tokenize", messages=[USER, begun], tools=[TOOL], reasoning_effort="high")
    counted = asked(site).request
    caller.ask(messages=[USER, begun], tools=[TOOL], reasoning_effort="high")
    (sent,) = site.engine.requests
    decides = ("messages", "tools", "effort", "continues", "form", "user")
    assert [getattr(counted, name) for name in decides] == [getattr(sent, name) for name in decides]
    assert counted.continues


def test_what_each_token_spells_can_be_asked(caller: Caller) -> None:
    body = post(caller, "tokenize", prompt="ab", return_token_strs=True).json
    assert body is not None
    assert body["token_strs"] == ["a", "b"]


def test_tokens_become_text(site: Site, caller: Caller) -> None:
    assert post(caller, "detokenize", tokens=[97, 98]).json == {"prompt": "ab"}
    assert isinstance(site.engine.questions[-1], TextRequest)


def test_nothing_of_it_is_recorded(site: Site, caller: Caller) -> None:
    before = site.services.record.size()
    post(caller, "tokenize", prompt="a secret plan")
    post(caller, "detokenize", tokens=[97])
    assert site.services.record.size() == before


def test_the_limit_of_a_prompt_holds(site: Site, caller: Caller) -> None:
    huge = "x" * (MODEL.context_tokens * 16 + 1)
    assert error_of(post(caller, "tokenize", prompt=huge)) == (400, "context_length_exceeded", "prompt")
    conversation = [{"role": "user", "content": huge}]
    assert error_of(post(caller, "tokenize", messages=conversation)) == (400, "context_length_exceeded", "messages")
    assert site.engine.questions == []


@pytest.mark.parametrize(
    ("failed", "error"),
    [
        (Failed("too_many_waiting", "Wait.", 1.0), (429, "too_many_waiting", None)),
        (Failed("overloaded", "Wait.", 1.0), (429, "overloaded", None)),
        (Failed("bad_request", "No token."), (400, "invalid_value", None)),
        (Failed("context_exceeded", "Long."), (400, "context_length_exceeded", "tokens")),
    ],
)
def test_what_the_engine_refuses_is_said(
    site: Site, caller: Caller, failed: Failed, error: tuple[int, str, str | None]
) -> None:
    site.engine.answer = lambda _question: failed
    response = post(caller, "detokenize", tokens=[1])
    assert error_of(response) == error
    assert ("Retry-After" in response.headers) == (error[0] == 429)


def test_without_an_engine_it_is_unavailable(make_site: MakeSite) -> None:
    site = make_site()
    caller = Caller(site, site.add_key(site.add_user("ada")))
    site.engine.answer = lambda _question: FAKE_STATUS  # type: ignore[assignment,return-value]
    assert error_of(post(caller, "tokenize", prompt="a")) == (503, "unavailable", None)


def test_a_key_is_needed(site: Site) -> None:
    for address in ("tokenize", "detokenize"):
        response = site.app.test_client().post(f"/v1/{address}", json={"prompt": "a", "tokens": [1]})
        assert error_of(response) == (401, "invalid_api_key", None)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": 5, "prompt": "a"}, "model", "invalid_type"),
    ({}, "prompt", "invalid_value"),
    ({"prompt": "a", "messages": [USER]}, "prompt", "invalid_value"),
    ({"prompt": ["a"]}, "prompt", "invalid_type"),
    ({"prompt": "a\0"}, "prompt", "invalid_value"),
    ({"messages": [{"role": "x"}]}, "messages", "invalid_value"),
    ({"prompt": "a", "tools": [TOOL]}, "tools", "invalid_value"),
    ({"messages": [USER], "reasoning_effort": 3}, "reasoning_effort", "invalid_type"),
    ({"messages": [USER], "continue_final_message": True}, "continue_final_message", "invalid_value"),
    ({"prompt": "a", "add_generation_prompt": 1}, "add_generation_prompt", "invalid_type"),
    ({"prompt": "a", "return_token_strs": 1}, "return_token_strs", "invalid_type"),
    ({"prompt": "a", "add_special_tokens": 1}, "add_special_tokens", "invalid_type"),
]


@pytest.mark.parametrize(("body", "param", "code"), REFUSED, ids=str)
def test_a_field_at_fault_is_named(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        token_bodies.parse_tokenize_request(json.dumps(body).encode())
    assert caught.value.param is not None
    assert (caught.value.param.partition("[")[0], caught.value.code) == (param, code)


def test_every_field_has_a_refusal_in_the_table() -> None:
    assert {param for _, param, _ in REFUSED} == set(token_bodies.FIELDS)


@pytest.mark.parametrize(
    "tokens", [None, 5, ["a"], [-1], [True], [1.5], [2**31], [0] * 131_073], ids=lambda t: str(t)[:20]
)
def test_what_are_no_tokens_is_refused(caller: Caller, tokens: object) -> None:
    status, _, param = error_of(post(caller, "detokenize", tokens=tokens))
    assert (status, str(param).partition("[")[0]) == (400, "tokens")


def test_another_model_is_not_found(caller: Caller) -> None:
    for address in ("tokenize", "detokenize"):
        body = {"prompt": "a"} if address == "tokenize" else {"tokens": [1]}
        assert error_of(post(caller, address, model="other", **body)) == (404, "model_not_found", "model")
