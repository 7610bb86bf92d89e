"""The API over the application: shapes, statuses, errors, and that nothing runs unrecorded."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from appliance.audit.event import NewEvent
from appliance.audit.log import RecordError
from appliance.people.accounts import Role
from appliance.turns.events import (
    AnswerDelta,
    Done,
    Failed,
    FailureCode,
    Likelihood,
    ReasoningDelta,
    Started,
    TokenLogprob,
    ToolCallDelta,
    TurnEvent,
)
from appliance.turns.request import TurnRequest
from tests.fakes import done
from tests.webui.asked import NOW
from tests.webui.conftest import INSTALLED_S, MODEL, MakeSite, Site

URL = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL.id, "messages": [{"role": "user", "content": "Hello"}]}


class Caller:
    """A program with a key."""

    def __init__(self, site: Site, key: str) -> None:
        self.client: FlaskClient = site.app.test_client()
        self.headers = {"Authorization": f"Bearer {key}"}

    def get(self, path: str) -> TestResponse:
        return self.client.get(path, headers=self.headers)

    def ask(self, **changes: Any) -> TestResponse:
        return self.client.post(URL, json={**BODY, **changes}, headers=self.headers)


@pytest.fixture
def caller(site: Site) -> Caller:
    return Caller(site, site.add_key(site.add_user("ada")))


def error_of(response: TestResponse) -> tuple[int, str | None, str | None]:
    """Status, code and param of an answer, which must have OpenAI's error shape."""
    assert response.json is not None, response.text
    error = response.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return response.status_code, error["code"], error["param"]


def play(site: Site, *events: TurnEvent) -> None:
    """Have the engine answer with these events."""

    def script(_request: TurnRequest) -> Iterable[TurnEvent]:
        return events

    site.engine.script = script


def chunks(response: TestResponse) -> list[dict[str, Any]]:
    """The objects of a complete stream."""
    assert response.headers["Content-Type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2] if not block.startswith(":")]


def test_lists_the_one_model(caller: Caller) -> None:
    listed = caller.get("/v1/models").json
    assert listed is not None
    assert [model["id"] for model in listed["data"]] == [MODEL.id]
    assert caller.get(f"/v1/models/{MODEL.id}").json == listed["data"][0]
    assert listed["data"][0]["object"] == "model"


def test_a_model_was_created_when_its_release_was_installed(caller: Caller) -> None:
    """Not when it is asked for: two answers would differ."""
    listed = caller.get("/v1/models").json
    assert listed is not None
    assert listed["data"][0]["created"] == INSTALLED_S


def test_an_answer_has_the_shape_of_a_chat_completion(caller: Caller) -> None:
    body = caller.ask().json
    assert body is not None
    assert (body["object"], body["model"], body["system_fingerprint"]) == ("chat.completion", MODEL.id, "0.0.1")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "You said: Hello",
                "refusal": None,
                "reasoning_content": "The user said something; I repeat it.",
                "reasoning": "The user said something; I repeat it.",
            },
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }


def test_a_stream_says_the_same_piece_by_piece(caller: Caller) -> None:
    objects = chunks(caller.ask(stream=True))
    deltas = [entry["choices"][0]["delta"] for entry in objects]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "You said: Hello"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "The user said something; I repeat it."
    assert [entry["choices"][0]["finish_reason"] for entry in objects[-2:]] == [None, "stop"]
    assert len({entry["id"] for entry in objects}) == 1
    assert not any("usage" in entry for entry in objects)


def test_a_stream_ends_with_usage_when_asked(caller: Caller) -> None:
    last = chunks(caller.ask(stream=True, stream_options={"include_usage": True}))[-1]
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 27)


LIKELY = TokenLogprob(Likelihood("Hé", (72, 195, 169), -0.25), (Likelihood("<|return|>", (), -1.5),))
CERTAIN = TokenLogprob(Likelihood("!", (33,), 0.0), ())


def test_log_probabilities_of_the_answer_are_told_where_they_are_asked_for(site: Site, caller: Caller) -> None:
    play(site, Started(1, 0.0), ReasoningDelta("r"), AnswerDelta("Hé", (LIKELY,)), AnswerDelta("!", (CERTAIN,)), done())
    told = [
        {"token": "Hé", "logprob": -0.25, "bytes": [72, 195, 169],
         "top_logprobs": [{"token": "<|return|>", "logprob": -1.5, "bytes": None}]},
        {"token": "!", "logprob": 0.0, "bytes": [33], "top_logprobs": []},
    ]  # fmt: skip
    whole = caller.ask(logprobs=True, top_logprobs=1).get_json()
    assert whole["choices"][0]["logprobs"] == {"content": told, "refusal": None}
    assert site.engine.requests[-1].top_logprobs == 1
    pieces = [entry["choices"][0]["logprobs"] for entry in chunks(caller.ask(stream=True, logprobs=True))]
    assert [one for piece in pieces if piece for one in piece["content"]] == told
    assert site.engine.requests[-1].top_logprobs == 0
    assert caller.ask().get_json()["choices"][0]["logprobs"] is None
    assert site.engine.requests[-1].top_logprobs is None


CALLS = (
    Started(20, 0.0),
    ToolCallDelta(0, "call_a", "now", ""),
    ToolCallDelta(0, "call_a", None, '{"zone":'),
    ToolCallDelta(0, "call_a", None, '"UTC"}'),
    ToolCallDelta(1, "call_b", "add", "{}"),
    done(finish_reason="tool_calls"),
)


def test_tool_calls_are_gathered(site: Site, caller: Caller) -> None:
    play(site, *CALLS)
    body = caller.ask().json
    assert body is not None
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert body["choices"][0]["message"]["content"] is None
    assert body["choices"][0]["message"]["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "add", "arguments": "{}"}},
    ]


def test_tool_calls_are_streamed_with_id_and_name_once(site: Site, caller: Caller) -> None:
    play(site, *CALLS)
    deltas = [entry["choices"][0]["delta"] for entry in chunks(caller.ask(stream=True))]
    pieces = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert pieces[0] == {"index": 0, "id": "call_a", "type": "function", "function": {"name": "now", "arguments": ""}}
    assert pieces[1] == {"index": 0, "function": {"arguments": '{"zone":'}}
    assert [piece["index"] for piece in pieces] == [0, 0, 0, 1]


@pytest.mark.parametrize("grammar", [True, False])
def test_the_setting_of_the_grammar_reaches_the_engine(make_site: MakeSite, grammar: bool) -> None:
    site = make_site(harmony_grammar=grammar)
    Caller(site, site.add_key(site.add_user("ada"))).ask()
    assert site.engine.requests[-1].grammar is grammar


NOTICE = "The model ended its turn without an answer."


@pytest.mark.parametrize("said", ["", "I look it up."])
def test_a_turn_without_an_answer_says_so_in_words_and_in_refusal(site: Site, caller: Caller, said: str) -> None:
    text = [AnswerDelta(said)] if said else []
    play(site, Started(1, 0.0), ReasoningDelta("Hm."), *text, done(notice=NOTICE))
    body = caller.ask().json
    assert body is not None
    message = body["choices"][0]["message"]
    expected = f"{said}\n\n{NOTICE}" if said else NOTICE
    assert (message["content"], message["refusal"], message["reasoning"]) == (expected, NOTICE, "Hm.")
    deltas = [entry["choices"][0]["delta"] for entry in chunks(caller.ask(stream=True))]
    assert "".join(delta.get("content", "") for delta in deltas) == expected
    assert [delta["refusal"] for delta in deltas if "refusal" in delta] == [NOTICE]


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_the_finish_reason_is_passed_on(site: Site, caller: Caller, reason: str) -> None:
    play(site, Started(1, 0.0), AnswerDelta("x"), done(finish_reason=reason))
    body = caller.ask().json
    assert body is not None
    assert body["choices"][0]["finish_reason"] == reason
    assert chunks(caller.ask(stream=True))[-1]["choices"][0]["finish_reason"] == reason


def test_text_that_is_not_unicode_does_not_break_the_stream(site: Site, caller: Caller) -> None:
    play(site, Started(1, 0.0), AnswerDelta("half \ud83d"), AnswerDelta("\ude00"), done())
    assert "half \ud83d" in [entry["choices"][0]["delta"].get("content") for entry in chunks(caller.ask(stream=True))]
    assert caller.ask().status_code == 200


def test_the_request_reaches_the_engine_as_it_was_meant(site: Site, caller: Caller) -> None:
    caller.ask(temperature=0.5, top_p=0.9, seed=7, max_tokens=3, stop="END", reasoning_effort="low")
    sent = site.engine.requests[-1]
    assert (sent.temperature, sent.top_p, sent.seed, sent.max_tokens, sent.stop) == (0.5, 0.9, 7, 3, ("END",))
    assert (sent.effort, sent.user) == ("low", site.services.accounts.find("ada").id)


def test_a_seed_is_drawn_for_each_turn_that_names_none(site: Site, caller: Caller) -> None:
    caller.ask()
    caller.ask()
    first, second = (request.seed for request in site.engine.requests)
    assert first != second


def test_prompt_and_answer_are_in_the_record_under_the_key_owners_name(site: Site, caller: Caller) -> None:
    body = caller.ask().json
    assert body is not None
    prompt, answer = site.events()[-2:]
    assert [(e.header.action, e.header.outcome, e.header.subject) for e in (prompt, answer)] == [
        ("prompt", "ok", body["id"]),
        ("answer", "ok", body["id"]),
    ]
    assert (prompt.header.actor.name, prompt.header.actor.via) == ("ada", "api")
    assert prompt.content is not None
    assert answer.content is not None
    assert (prompt.content.text, answer.content.text) == ("Hello", "You said: Hello")


FAILURES: list[tuple[FailureCode, int, str, str | None]] = [
    ("bad_request", 400, "invalid_value", None),
    ("context_exceeded", 400, "context_length_exceeded", "messages"),
    ("overloaded", 429, "overloaded", None),
    ("too_many_waiting", 429, "too_many_waiting", None),
    ("engine_failed", 500, "engine_failed", None),
    ("engine_stopped", 503, "engine_stopped", None),
    ("record_failed", 503, "record_failed", None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("failure", "status", "code", "param"), FAILURES)
def test_each_failure_has_its_status(
    site: Site, caller: Caller, failure: FailureCode, status: int, code: str, param: str | None, stream: bool
) -> None:
    play(site, Failed(failure, "One plain sentence.", retry_after_s=2.2))
    response = caller.ask(stream=stream)
    assert error_of(response) == (status, code, param)
    assert response.json is not None
    assert response.json["error"]["message"] == "One plain sentence."
    assert response.headers["Retry-After"] == "3"


def test_a_stream_that_fails_later_ends_with_an_error_object(site: Site, caller: Caller) -> None:
    play(site, Started(1, 0.0), AnswerDelta("so far"), Failed("engine_failed", "The model failed."))
    blocks = caller.ask(stream=True).text.split("\n\n")
    assert json.loads(blocks[-2].removeprefix("data: ")) == {
        "error": {"message": "The model failed.", "type": "server_error", "param": None, "code": "engine_failed"}
    }
    assert "data: [DONE]" not in blocks


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_cancelled_by_the_engine_is_no_answer(site: Site, caller: Caller, stream: bool) -> None:
    play(site, Started(1, 0.0), AnswerDelta("so far"), done(finish_reason="cancelled"))
    response = caller.ask(stream=stream)
    assert response.status_code == (200 if stream else 503)
    assert '"cancelled"' in response.text
    assert "[DONE]" not in response.text


BAD_HEADERS = [None, "Bearer wrong", "Bearer ", "Basic {key}", "{key}", "Bearer {key}x", "bearer\t"]


@pytest.mark.parametrize("header", BAD_HEADERS)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/unknown"])
def test_without_a_valid_key_nothing_is_said(site: Site, header: str | None, path: str) -> None:
    key = site.add_key(site.add_user("ada"))
    headers = {} if header is None else {"Authorization": header.format(key=key)}
    response = site.app.test_client().get(path, headers=headers)
    assert error_of(response) == (401, "invalid_api_key", None)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert site.denials() == ["invalid_api_key"]
    assert key not in repr(site.events())


def test_the_key_of_a_disabled_account_is_refused(site: Site, caller: Caller) -> None:
    ada, root = site.services.accounts.find("ada"), site.add_user("root", Role.ADMIN)
    site.services.accounts.disable(ada.id, by=root.actor("web"))
    assert error_of(caller.ask()) == (401, "invalid_api_key", None)
    assert site.engine.requests == []


def test_a_key_stops_to_chat_when_its_owner_may_not_any_more(site: Site, caller: Caller) -> None:
    ada, root = site.services.accounts.find("ada"), site.add_user("root", Role.ADMIN)
    site.services.accounts.set_roles(ada.id, [Role.REVIEWER], by=root.actor("web"), end_keys=False)
    assert error_of(caller.ask()) == (403, "missing_role", None)
    assert site.denials() == ["missing_role"]


def test_an_unknown_model_is_not_found(caller: Caller) -> None:
    assert error_of(caller.ask(model="gpt-4o")) == (404, "model_not_found", "model")
    assert error_of(caller.get("/v1/models/openai/gpt-oss-20b")) == (404, "model_not_found", "model")


@pytest.mark.parametrize("path", ["embeddings", "files", "a/b/c", "", "chat"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_other_apis_are_not_found_in_the_same_shape(caller: Caller, path: str, method: str) -> None:
    response = caller.client.open(f"/v1/{path}", method=method, headers=caller.headers)
    assert error_of(response) == (404, "unknown_url", None)


def test_a_wrong_method_is_refused_in_the_same_shape(caller: Caller) -> None:
    response = caller.get(URL)
    assert error_of(response) == (405, "method_not_allowed", None)
    assert response.headers["Allow"] == "OPTIONS, POST"
    assert response.get_json()["error"]["message"].endswith("it takes OPTIONS, POST.")
    response = caller.client.post("/v1/models", headers=caller.headers)
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, OPTIONS")


@pytest.mark.parametrize("path", ["/v1/v1/chat/completions", "/v1/openai/chat/completions", "/v1/x/models"])
def test_an_unknown_address_is_answered_with_the_right_one(caller: Caller, path: str) -> None:
    message = caller.client.post(path, headers=caller.headers).get_json()["error"]["message"]
    assert f"The right address is /v1/{path.split('/', 3)[3]}." in message


def test_an_unknown_address_is_answered_with_those_that_there_are(caller: Caller) -> None:
    message = caller.get("/v1/engines").get_json()["error"]["message"]
    assert "/v1/chat/completions" in message
    assert "/v1/models" in message


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", ""])
def test_a_body_that_is_json_is_taken_whatever_it_is_declared_to_be(caller: Caller, kind: str) -> None:
    response = caller.client.post(URL, data=json.dumps(BODY), content_type=kind, headers=caller.headers)
    assert response.status_code == 200


@pytest.mark.parametrize("headers", [{"Content-Type": "multipart/form-data; boundary=b"}, {"Content-Encoding": "gzip"}])
def test_a_form_and_a_compressed_body_are_refused(caller: Caller, headers: dict[str, str]) -> None:
    response = caller.client.post(URL, data=json.dumps(BODY), headers={**caller.headers, **headers})
    assert error_of(response) == (415, "unsupported_media_type", None)


def test_a_body_may_begin_with_a_byte_order_mark(caller: Caller) -> None:
    body = codecs.BOM_UTF8 + json.dumps(BODY).encode()
    assert caller.client.post(URL, data=body, headers=caller.headers).status_code == 200


def test_fields_that_are_not_known_are_ignored_and_named(caller: Caller) -> None:
    response = caller.ask(think=False, keep_alive="5m", **{"a\r\nX-Evil: 1": 1})
    assert response.status_code == 200
    assert response.headers["X-Ignored-Fields"] == "think, keep_alive, and 1 others"
    assert "X-Ignored-Fields" not in caller.ask().headers
    assert "x0, x1" in (many := caller.ask(**{f"x{n}": 1 for n in range(1000)}).headers["X-Ignored-Fields"])
    assert many.endswith("and 968 others")
    assert caller.ask(stream=True, think=False).headers["X-Ignored-Fields"] == "think"


def test_tools_that_are_no_functions_are_left_out_and_named(site: Site, caller: Caller) -> None:
    tools = [{"type": "web_search"}, NOW, {"type": "custom", "custom": {"name": "patch"}}]
    response = caller.ask(tools=tools, think=False)
    assert response.headers["X-Ignored-Fields"] == "think, tools[0], tools[2]"
    assert [tool.name for tool in site.engine.requests[-1].tools] == ["now"]
    caller.headers["Prefer"] = "handling=strict"
    assert error_of(caller.ask(tools=tools)) == (400, "unsupported_value", "tools[0].type")


@pytest.mark.parametrize("preference", ["handling=strict", "respond-async, Handling=Strict; wait=10"])
def test_fields_that_are_not_known_are_refused_where_the_caller_prefers_it(caller: Caller, preference: str) -> None:
    caller.headers["Prefer"] = preference
    assert error_of(caller.ask(think=False)) == (400, "unknown_parameter", "think")
    assert caller.ask().status_code == 200
    caller.headers["Prefer"] = "handling=lenient"
    assert caller.ask(think=False).status_code == 200


def test_json_with_a_charset_parameter_is_taken(caller: Caller) -> None:
    kind = "application/json; charset=utf-8"
    assert caller.client.post(URL, data=json.dumps(BODY), content_type=kind, headers=caller.headers).status_code == 200


def test_a_body_over_the_limit_is_refused(site: Site, caller: Caller) -> None:
    site.app.config["MAX_CONTENT_LENGTH"] = 1000
    long = [{"role": "user", "content": "x" * 2000}]
    assert error_of(caller.ask(messages=long)) == (413, "request_too_large", None)
    assert site.engine.requests == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_cannot_be_recorded_never_reaches_the_engine(
    site: Site, caller: Caller, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def fail(_event: NewEvent) -> None:
        raise RecordError("the record could not be written")

    monkeypatch.setattr(site.services.record, "append", fail)
    assert error_of(caller.ask(stream=stream)) == (503, "record_failed", None)
    assert site.engine.requests == []


def test_an_answer_that_cannot_be_recorded_is_not_completed(
    site: Site, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = site.services.record.append

    def fail_answers(event: NewEvent) -> object:
        if event.action == "answer":
            raise RecordError("the record could not be written")
        return append(event)

    monkeypatch.setattr(site.services.record, "append", fail_answers)
    assert error_of(caller.ask()) == (503, "record_failed", None)
    assert "[DONE]" not in caller.ask(stream=True).text


def test_an_unexpected_error_keeps_the_shape_and_shows_nothing(
    site: Site, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("internal error: /secret/path")

    monkeypatch.setitem(site.app.view_functions, "api.list_models", fail)
    response = caller.get("/v1/models")
    assert error_of(response) == (500, "internal_error", None)
    assert "secret" not in response.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
SOME_FIELDS = ["messages", "temperature", "tools", "stop", "stream", "n", "user", "seed"]
FIELD_NAMES = st.sampled_from(SOME_FIELDS) | st.text(max_size=6)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.dictionaries(FIELD_NAMES, JSON, max_size=4) | JSON, raw=st.none() | st.binary(max_size=60))
def test_no_body_whatever_gives_a_server_error(caller: Caller, body: Any, raw: bytes | None) -> None:
    merged = {**BODY, **body} if isinstance(body, dict) else body
    data = json.dumps(merged).encode() if raw is None else raw
    response = caller.client.post(URL, data=data, content_type="application/json", headers=caller.headers)
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        error_of(response)
    response.close()


def test_events_that_say_nothing_keep_the_line_alive(site: Site, caller: Caller) -> None:
    play(site, Started(1, 0.0), ReasoningDelta("r"), AnswerDelta("a"), done())
    blocks = caller.ask(stream=True).text.split("\n\n")
    assert blocks[1].startswith(": ")


def test_done_figures_reach_usage(site: Site, caller: Caller) -> None:
    end = done(prompt_tokens=11, completion_tokens=5, reasoning_tokens=2, cached_tokens=8)
    assert isinstance(end, Done)
    play(site, Started(11, 0.0), AnswerDelta("a"), end)
    body = caller.ask().json
    assert body is not None
    assert body["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
