"""POST /v1/messages with Anthropic's own client: what is asked, what is answered, whole and streamed, and refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
import pytest

from appliance.audit.details.turns import FinishedAnswer, PromptDetails
from appliance.people.key_rights import KeyRights, Scope
from appliance.turns.events import (
    AnswerDelta,
    Done,
    ReasoningDelta,
    Started,
    ToolCallDelta,
    TurnEvent,
    failed,
)
from appliance.turns.request import Message, TurnRequest
from tests.fakes import FakeEngine, done
from tests.webui.conftest import MakeSite, Site

MODEL = "gpt-oss-fake"
WEATHER = {
    "name": "weather", "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}  # fmt: skip
ASKED: list[Any] = [{"role": "user", "content": "Hello"}]


def said(request: TurnRequest) -> Iterable[TurnEvent]:
    yield Started(20, 0.0)
    yield ReasoningDelta("Let me ")
    yield ReasoningDelta("think.")
    yield AnswerDelta("An ")
    yield AnswerDelta("answer.")
    yield done()


def called(request: TurnRequest) -> Iterable[TurnEvent]:
    yield Started(20, 0.0)
    yield AnswerDelta("I look.")
    yield ToolCallDelta(0, "call_1", "weather", "")
    yield ToolCallDelta(0, "call_1", None, '{"city": ')
    yield ToolCallDelta(0, "call_1", None, '"Graz"}')
    yield done(finish_reason="tool_calls")


def client_of(site: Site, *, key: str | None = None, name: str = "ada", **options: Any) -> anthropic.Anthropic:
    """The official client, whose requests go to the application itself."""
    secret = key or site.add_key(site.add_user(name))
    http = httpx2.Client(transport=httpx2.WSGITransport(app=site.app), base_url="http://localhost")
    return anthropic.Anthropic(api_key=secret, base_url="http://localhost", max_retries=0, http_client=http, **options)


def ask(client: anthropic.Anthropic, **more: Any) -> anthropic.types.Message:
    answer = client.messages.create(**{"model": MODEL, "max_tokens": 100, "messages": ASKED, **more})
    assert isinstance(answer, anthropic.types.Message)
    return answer


def asked(site: Site) -> TurnRequest:
    return site.engine.requests[-1]


def test_an_answer_is_a_message_and_recorded_once(make_site: MakeSite) -> None:
    site = make_site(FakeEngine(said))
    answer = ask(client_of(site), system="Be kind.")
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": "An answer."}]
    assert (answer.role, answer.model, answer.stop_reason, answer.stop_sequence) == (
        "assistant",
        MODEL,
        "end_turn",
        None,
    )
    assert answer.id == asked(site).id
    assert answer.id.startswith("msg_")
    assert asked(site).messages == (Message("system", "Be kind."), Message("user", "Hello"))
    assert asked(site).max_tokens == 100
    prompts = [e.content for e in site.events() if e.header.action == "prompt"]
    answers = [e.content for e in site.events() if e.header.action == "answer"]
    assert len(prompts) == len(answers) == 1
    assert prompts[0] is not None
    assert isinstance(prompts[0].details, PromptDetails)
    assert prompts[0].details.request == asked(site)
    assert answers[0] is not None
    assert isinstance(answers[0].details, FinishedAnswer)
    assert answers[0].text == "An answer."


def test_usage_counts_cached_tokens_apart(make_site: MakeSite) -> None:
    def cached(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        yield AnswerDelta("x")
        yield Done("stop", 20, 7, 2, 12, 0.0, 0.1, 0.1)

    usage = ask(client_of(make_site(FakeEngine(cached)))).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (8, 12, 7)


@pytest.mark.parametrize(("thinking", "effort", "is_shown"), [
    (None, "medium", False), ({"type": "disabled"}, "low", False), ({"type": "adaptive"}, "medium", True),
    ({"type": "enabled", "budget_tokens": 1024}, "low", True),
    ({"type": "enabled", "budget_tokens": 4000}, "medium", True),
    ({"type": "enabled", "budget_tokens": 16000}, "high", True),
    ({"type": "adaptive", "display": "omitted"}, "medium", False),
])  # fmt: skip
def test_thinking_is_shown_if_asked_for_and_chooses_the_effort(
    make_site: MakeSite, thinking: Any, effort: str, *, is_shown: bool
) -> None:
    site = make_site(FakeEngine(said))
    more = {} if thinking is None else {"thinking": thinking}
    kinds = [block.type for block in ask(client_of(site), **more).content]
    assert kinds == (["thinking", "text"] if is_shown else ["text"])
    assert asked(site).effort == effort


def test_effort_goes_before_thinking_and_a_schema_holds_the_answer(site: Site) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    config = {"effort": "max", "format": {"type": "json_schema", "schema": schema}}
    ask(client_of(site), thinking={"type": "disabled"}, output_config=config)
    assert (asked(site).effort, asked(site).answer_schema) == ("high", schema)


def test_a_tool_goes_there_and_back(make_site: MakeSite) -> None:
    site = make_site(FakeEngine(called))
    client = client_of(site)
    answer = ask(client, tools=[WEATHER], tool_choice={"type": "any"})
    assert answer.stop_reason == "tool_use"
    assert [block.to_dict() for block in answer.content] == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Graz"}},
    ]
    assert asked(site).must_call == ("weather",)
    thought = {"type": "thinking", "thinking": "Graz?", "signature": "x"}
    result = {
        "type": "tool_result",
        "tool_use_id": "call_1",
        "content": [{"type": "text", "text": "none"}],
        "is_error": True,
    }
    history = [
        *ASKED, {"role": "assistant", "content": [thought, *(block.to_dict() for block in answer.content)]},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, result]},
    ]  # fmt: skip
    ask(client, messages=history, tools=[WEATHER])
    read = asked(site).messages
    assert [(one.role, one.content, one.reasoning) for one in read] == [
        ("user", "Hello", None), ("assistant", "I look.", "Graz?"), ("tool", "Error: none", None),
        ("user", "And?", None),
    ]  # fmt: skip
    assert (read[1].tool_calls[0].arguments, read[2].name) == ('{"city": "Graz"}', "weather")


def test_a_call_that_the_limit_cuts_off_is_left_out(make_site: MakeSite) -> None:
    def cut(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        yield AnswerDelta("I look.")
        yield ToolCallDelta(0, "call_1", "weather", '{"city": "Gr')
        yield done(finish_reason="length")

    answer = ask(client_of(make_site(FakeEngine(cut))), tools=[WEATHER])
    assert (answer.stop_reason, [block.type for block in answer.content]) == ("max_tokens", ["text"])


def test_a_last_assistant_message_goes_on_and_a_stop_sequence_is_named(make_site: MakeSite) -> None:
    def stopped(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        yield AnswerDelta("more")
        yield done(stop_text="END")

    site = make_site(FakeEngine(stopped))
    begun = [*ASKED, {"role": "assistant", "content": "Once"}]
    answer = ask(client_of(site), messages=begun, stop_sequences=["END", "FIN"])
    assert asked(site).continues
    assert asked(site).stop == ("END", "FIN")
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")


@pytest.mark.parametrize("shows", [True, False])
def test_a_stream_is_the_whole_answer_in_the_clients_own_events(make_site: MakeSite, *, shows: bool) -> None:
    site = make_site(FakeEngine(said))
    client = client_of(site)
    more: dict[str, Any] = {"thinking": {"type": "adaptive"}} if shows else {}
    with client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED, **more) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == (2 if shows else 1)
    whole = ask(client, **more)
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_a_streamed_call_is_put_together_by_the_client(make_site: MakeSite) -> None:
    client = client_of(make_site(FakeEngine(called)))
    with client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED, tools=[WEATHER]) as stream:  # type: ignore[list-item]
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert final.content[1].to_dict() == {
        "type": "tool_use",
        "id": "call_1",
        "name": "weather",
        "input": {"city": "Graz"},
    }


def test_what_fails_in_the_middle_of_a_stream_is_an_error_event(make_site: MakeSite) -> None:
    def fails(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        yield AnswerDelta("An ")
        yield failed("engine_stopped")

    client = client_of(make_site(FakeEngine(fails)))
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED) as stream,
    ):
        list(stream)
    assert caught.value.body["error"]["type"] in ("api_error", "overloaded_error")  # type: ignore[index]


def test_a_notice_is_said_whole_and_streamed(make_site: MakeSite) -> None:
    def nothing(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        yield ReasoningDelta("Hm.")
        yield done(notice="The model said nothing.")

    client = client_of(make_site(FakeEngine(nothing)))
    assert ask(client).content[0].to_dict() == {"type": "text", "text": "The model said nothing."}
    with client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED) as stream:
        assert stream.get_final_text() == "The model said nothing."


def test_tokens_are_counted_as_they_are_used(site: Site) -> None:
    client = client_of(site)
    counted = client.messages.count_tokens(model=MODEL, messages=ASKED, system="Be kind.")
    assert counted.input_tokens == len("HelloBe kind.")  # the fake engine counts letters
    assert site.engine.requests == []


@pytest.mark.parametrize(("more", "param"), [
    ({"max_tokens": None}, "max_tokens"), ({"messages": []}, "messages"), ({"temperature": 3}, "temperature"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [*ASKED, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]}, "messages[1]"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
    ({"tool_choice": {"type": "tool", "name": "none"}}, "tool_choice"),
    ({"thinking": {"type": "much"}}, "thinking.type"),
    ({"stop_sequences": ["x"] * 17}, "stop_sequences"), ({"system": {"a": 1}}, "system"),
])  # fmt: skip
def test_what_is_wrong_is_named_in_anthropics_form(site: Site, more: dict[str, Any], param: str) -> None:
    key = site.add_key(site.add_user("ada"))
    body = {"model": MODEL, "max_tokens": 10, "messages": ASKED, **more}
    response = site.app.test_client().post("/v1/messages", json=body, headers={"X-API-Key": key})
    assert response.status_code == 400
    told = response.get_json()
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert told["error"]["details"]["param"] == param
    assert told["error"]["message"].startswith(param.split("[")[0].split(".")[0])
    assert told["request_id"] == response.headers["X-Request-Id"] == response.headers["Request-Id"]
    assert site.engine.requests == []


def test_errors_are_the_clients_own_exceptions(site: Site) -> None:
    client = client_of(site)
    for kind, more in (
        (anthropic.NotFoundError, {"model": "gpt-4"}), (anthropic.BadRequestError, {"max_tokens": 0}),
    ):  # fmt: skip
        with pytest.raises(kind):
            ask(client, **more)
    with pytest.raises(anthropic.AuthenticationError):
        ask(client_of(site, key="gpo_wrong"))
    narrow = site.add_key(site.add_user("bob"), KeyRights(frozenset({Scope.MODELS})))
    with pytest.raises(anthropic.PermissionDeniedError):
        ask(client_of(site, key=narrow))
    assert site.denials()[-2:] == ["invalid_api_key", "insufficient_scope"]
    few = site.add_key(site.add_user("eve"), KeyRights(requests_per_minute=1))
    ask(client_of(site, key=few))
    with pytest.raises(anthropic.RateLimitError) as caught:
        ask(client_of(site, key=few))
    assert int(caught.value.response.headers["Retry-After"]) > 0


def test_both_ways_to_send_a_key_open_it_and_a_bearer_goes_first(site: Site) -> None:
    key = site.add_key(site.add_user("ada"))
    body = {"model": MODEL, "max_tokens": 10, "messages": ASKED}
    client = site.app.test_client()
    for headers, status in (
        ({"X-API-Key": key}, 200), ({"Authorization": f"Bearer {key}"}, 200),
        ({"Authorization": f"Bearer {key}", "X-API-Key": "wrong"}, 200),
        ({"Authorization": "Bearer wrong", "X-API-Key": key}, 401), ({"X-API-Key": ""}, 401), ({}, 401),
    ):  # fmt: skip
        assert client.post("/v1/messages", json=body, headers=headers).status_code == status


def test_what_is_not_known_is_named_and_refused_where_the_caller_wants_that(site: Site) -> None:
    key = site.add_key(site.add_user("ada"))
    search = {"type": "web_search_20250305", "name": "web_search"}
    body = {
        "model": MODEL, "max_tokens": 10, "messages": ASKED, "tools": [search, {**WEATHER, "type": "custom"}],
        "mcp_servers": [], "container": "x",
    }  # fmt: skip
    client = site.app.test_client()
    answer = client.post("/v1/messages", json=body, headers={"X-API-Key": key})
    assert answer.status_code == 200
    assert answer.headers["X-Ignored-Fields"] == "mcp_servers, container, tools[0]"
    assert [tool.name for tool in asked(site).tools] == ["weather"]
    strict = client.post("/v1/messages", json=body, headers={"X-API-Key": key, "Prefer": "handling=strict"})
    assert strict.status_code == 400
    assert json.loads(strict.data)["error"]["details"]["error_code"] == "unsupported_value"
