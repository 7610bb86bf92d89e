"""POST /v1/responses over the application: items in, items out, and a stream that says the same as the whole."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from werkzeug.test import TestResponse

from appliance.turns.events import (
    AnswerDelta,
    Failed,
    Likelihood,
    ReasoningDelta,
    Started,
    TokenLogprob,
    ToolCallDelta,
    TurnEvent,
)
from appliance.turns.request import Message, Role, Tool, ToolCall, TurnRequest
from tests.fakes import done
from tests.webui.conftest import MODEL, Site
from webui.api.responses.items import sealed

URL = "/v1/responses"
BODY: dict[str, Any] = {"model": MODEL.id, "input": "Hello"}
THOUGHT = "The user said something; I repeat it."
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Caller:
    """A program with a key."""

    def __init__(self, site: Site, name: str = "ada") -> None:
        self.site = site
        self.client = site.app.test_client()
        self.headers = {"Authorization": f"Bearer {site.add_key(site.add_user(name))}"}

    def ask(self, **changes: Any) -> TestResponse:
        return self.client.post(URL, json={**BODY, **changes}, headers=self.headers)

    def whole(self, **changes: Any) -> dict[str, Any]:
        response = self.ask(**changes)
        assert response.status_code == 200, response.text
        Response.model_validate(response.json, strict=True)
        assert isinstance(response.json, dict)
        return response.json

    def error(self, **changes: Any) -> tuple[int, str, str | None]:
        response = self.ask(**changes)
        assert response.json is not None
        error = response.json["error"]
        return response.status_code, error["code"], error["param"]

    def sent(self) -> TurnRequest:
        return self.site.engine.requests[-1]


@pytest.fixture
def caller(site: Site) -> Caller:
    return Caller(site)


def play(site: Site, *events: TurnEvent) -> None:
    def script(_request: TurnRequest) -> Iterable[TurnEvent]:
        return events

    site.engine.script = script


def events_of(response: TestResponse) -> list[dict[str, Any]]:
    """The events of a stream, each of a type that the official client knows, numbered without a gap."""
    assert response.headers["Content-Type"].startswith("text/event-stream")
    events = []
    for block in response.text.split("\n\n")[:-1]:
        if not block.startswith(":"):
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
            EVENT.validate_python(events[-1], strict=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def assembled(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output items that the deltas alone add up to; each piece must belong to the item that is open."""
    items: list[dict[str, Any]] = []
    is_open = False
    for event in events:
        kind = event["type"]
        if kind in ("response.created", "response.in_progress"):
            assert event["response"]["output"] == []
            continue
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            continue
        if kind == "response.output_item.added":
            assert (is_open, event["output_index"]) == (False, len(items))
            items.append(event["item"])
            is_open = True
            continue
        assert is_open
        assert event["output_index"] == len(items) - 1
        item = items[-1]
        if kind == "response.output_item.done":
            said = ("id", "type", "content", "arguments", "call_id", "name")
            assert [item.get(key) for key in said] == [event["item"].get(key) for key in said]
            items[-1] = event["item"]
            is_open = False
            continue
        assert event["item_id"] == item["id"]
        if kind == "response.content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(event["part"])
        elif kind == "response.content_part.done":
            assert item["content"][event["content_index"]] == without(event["part"], "bytes")
            item["content"][event["content_index"]] = event["part"]
        elif kind == "response.function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "response.function_call_arguments.done":
            assert item["arguments"] == event["arguments"]
        else:
            part, key = item["content"][event["content_index"]], "refusal" if "refusal" in kind else "text"
            if kind.endswith(".delta"):
                part[key] += event["delta"]
                if "logprobs" in event:
                    part["logprobs"] = part["logprobs"] + event["logprobs"]
            else:
                assert part[key] == event[key]
                assert part.get("logprobs") == event.get("logprobs")
    assert not is_open
    return items


def without(drawn: Any, *keys: str) -> Any:
    """The object without these keys, at any depth."""
    if isinstance(drawn, dict):
        return {key: without(value, *keys) for key, value in drawn.items() if key not in keys}
    return [without(entry, *keys) for entry in drawn] if isinstance(drawn, list) else drawn


def without_ids(drawn: Any) -> Any:
    """The object without what differs between two responses to the same request."""
    return without(drawn, "id", "created_at", "completed_at")


def said(kind: str, text: Any, **rest: Any) -> dict[str, Any]:
    return {"type": "message", "role": kind, "content": text, **rest}


def test_an_answer_is_a_reasoning_item_and_a_message(caller: Caller) -> None:
    body = caller.whole(instructions="Be brief.", metadata={"case": "7"}, temperature=0.5)
    hex_id = body["id"].removeprefix("resp_")
    assert body["output"] == [
        {
            "id": f"rs_{hex_id}_0", "type": "reasoning", "status": "completed", "summary": [],
            "content": [{"type": "reasoning_text", "text": THOUGHT}],
        },
        {
            "id": f"msg_{hex_id}_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "You said: Hello", "annotations": [], "logprobs": []}],
        },
    ]  # fmt: skip
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", MODEL.id)
    assert (body["instructions"], body["metadata"], body["temperature"]) == ("Be brief.", {"case": "7"}, 0.5)
    assert body["usage"] == {
        "input_tokens": 20, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 27,
    }  # fmt: skip


def test_the_id_is_the_turns_subject_in_the_record(site: Site, caller: Caller) -> None:
    body = caller.whole()
    assert [event.header.subject for event in site.events()[-2:]] == [body["id"], body["id"]]
    assert caller.sent().id == body["id"]


CALL = (
    Started(20, 0.0), ReasoningDelta("I need "), ReasoningDelta("the time."), AnswerDelta("I look it up."),
    ToolCallDelta(0, "call_a", "now", ""), ToolCallDelta(0, "call_a", None, '{"zone":'),
    ToolCallDelta(0, "call_a", None, '"UTC"}'), done(finish_reason="tool_calls"),
)  # fmt: skip
LOOK = TokenLogprob(Likelihood("I loök", (73, 32, 108, 111, 195, 182, 107), -0.25), ())
UP = TokenLogprob(Likelihood(" up", (32, 117, 112), 0.0), (Likelihood("<|end|>", (), -1.5),))
YES = TokenLogprob(Likelihood("Yes", (89, 101, 115), -0.5), ())
LIKELY = (
    Started(1, 0.0), AnswerDelta("I loök", (LOOK,)), AnswerDelta(" up", (UP,)), ReasoningDelta("Hm."),
    AnswerDelta("Yes", (YES,)), done(),
)  # fmt: skip
NOTICE = "The model ended its turn without an answer."
TURNS: dict[str, tuple[TurnEvent, ...]] = {
    "an answer": (Started(1, 0.0), ReasoningDelta("Hm."), AnswerDelta("So "), AnswerDelta("it is."), done()),
    "a preamble and a call": CALL,
    "two calls": (
        Started(1, 0.0), ToolCallDelta(0, "a", "now", "{}"), ToolCallDelta(1, "b", "now", ""),
        ToolCallDelta(1, "b", None, "{}"), done(finish_reason="tool_calls"),
    ),
    "reasoning between texts": (
        ReasoningDelta("One."), AnswerDelta("A"), ReasoningDelta("Two."), AnswerDelta("B"), AnswerDelta(""), done(),
    ),
    "cut in the text": (AnswerDelta("Half a sen"), done(finish_reason="length")),
    "cut in the reasoning": (ReasoningDelta("Hm, "), done(finish_reason="length")),
    "cut before all": (Started(1, 0.0), done(finish_reason="length")),
    "a notice alone": (Started(1, 0.0), done(notice=NOTICE)),
    "a notice after reasoning": (ReasoningDelta("Hm."), done(notice=NOTICE)),
    "a notice after text": (AnswerDelta("I look it up."), done(notice=NOTICE)),
    "a notice after a call": (ToolCallDelta(0, "a", "gone", "{}"), done(notice=NOTICE)),
    "log probabilities of two texts": LIKELY,
    "log probabilities and a notice": (*LIKELY[:-1], done(notice=NOTICE)),
    "halves of a sign": (AnswerDelta("half \ud83d"), AnswerDelta(" a sign"), done()),
}  # fmt: skip


@pytest.mark.parametrize("events", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("include", [[], ["reasoning.encrypted_content"]])
def test_a_stream_adds_up_to_the_whole_response(
    site: Site, caller: Caller, events: tuple[TurnEvent, ...], include: list[str]
) -> None:
    play(site, *events)
    body = caller.whole(include=include)
    streamed = events_of(caller.ask(stream=True, include=include))
    assert streamed[-1]["type"] == f"response.{body['status']}"
    last = streamed[-1]["response"]
    assert without_ids(last) == without_ids(body)
    assert assembled(streamed) == last["output"]
    assert len({event["response"]["id"] for event in streamed if "response" in event}) == 1


def test_a_stream_has_the_events_of_the_reference_in_their_order(site: Site, caller: Caller) -> None:
    play(site, *CALL)
    assert [event["type"].removeprefix("response.") for event in events_of(caller.ask(stream=True))] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip


def test_a_preamble_is_a_message_before_the_call(site: Site, caller: Caller) -> None:
    play(site, *CALL)
    output = caller.whole()["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    call = output[2]
    assert (call["call_id"], call["name"], call["arguments"]) == ("call_a", "now", '{"zone":"UTC"}')


def test_log_probabilities_stand_in_the_text_that_they_belong_to(site: Site, caller: Caller) -> None:
    play(site, *LIKELY)
    output = caller.whole(include=["message.output_text.logprobs"], top_logprobs=1)["output"]
    assert [item["content"][0].get("logprobs") for item in output] == [
        [
            {"token": "I loök", "bytes": [73, 32, 108, 111, 195, 182, 107], "logprob": -0.25, "top_logprobs": []},
            {
                "token": " up", "bytes": [32, 117, 112], "logprob": 0.0,
                "top_logprobs": [{"token": "<|end|>", "bytes": [], "logprob": -1.5}],
            },
        ],
        None,
        [{"token": "Yes", "bytes": [89, 101, 115], "logprob": -0.5, "top_logprobs": []}],
    ]  # fmt: skip


def test_log_probabilities_come_with_the_pieces_of_a_stream(site: Site, caller: Caller) -> None:
    play(site, *LIKELY)
    streamed = [event for event in events_of(caller.ask(stream=True, top_logprobs=1)) if "logprobs" in event]
    look = {"token": "I loök", "logprob": -0.25, "top_logprobs": []}
    up = {"token": " up", "logprob": 0.0, "top_logprobs": [{"token": "<|end|>", "logprob": -1.5}]}
    yes = {"token": "Yes", "logprob": -0.5, "top_logprobs": []}
    assert [(event["type"].rpartition(".")[2], event["logprobs"]) for event in streamed] == [
        ("delta", [look]), ("delta", [up]), ("done", [look, up]), ("delta", [yes]), ("done", [yes]),
    ]  # fmt: skip


ASKED_LOGPROBS: list[tuple[dict[str, Any], int | None]] = [
    ({}, None),
    ({"top_logprobs": 0}, None),
    ({"include": ["message.output_text.logprobs"]}, 0),
    ({"include": ["message.output_text.logprobs"], "top_logprobs": 20}, 20),
    ({"top_logprobs": 3}, 3),
]


@pytest.mark.parametrize(("fields", "asked"), ASKED_LOGPROBS)
def test_the_engine_is_asked_for_log_probabilities(caller: Caller, fields: dict[str, Any], asked: int | None) -> None:
    assert caller.whole(**fields)["top_logprobs"] == fields.get("top_logprobs", 0)
    assert caller.sent().top_logprobs == asked


@pytest.mark.parametrize("case", ["cut in the text", "cut in the reasoning", "cut before all"])
def test_an_answer_that_reaches_its_limit_is_incomplete(site: Site, caller: Caller, case: str) -> None:
    play(site, *TURNS[case])
    body = caller.whole(max_output_tokens=5)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in body["output"]] in ([], ["incomplete"])
    assert caller.sent().max_tokens == 5


@pytest.mark.parametrize("text", ["", "I look it up."])
def test_a_turn_without_an_answer_says_so_in_words_and_in_a_refusal(site: Site, caller: Caller, text: str) -> None:
    play(site, Started(1, 0.0), AnswerDelta(text), done(notice=NOTICE))
    content = caller.whole()["output"][-1]["content"]
    assert [part["type"] for part in content] == ["output_text", "refusal"]
    assert content[0]["text"] == (f"{text}\n\n{NOTICE}" if text else NOTICE)
    assert content[1]["refusal"] == NOTICE


@pytest.mark.parametrize(("code", "error"), [("engine_failed", "server_error"), ("overloaded", "rate_limit_exceeded")])
def test_a_stream_that_fails_later_ends_as_failed_with_what_was_said(
    site: Site, caller: Caller, code: Any, error: str
) -> None:
    play(site, Started(1, 0.0), ReasoningDelta("Hm."), AnswerDelta("so far"), Failed(code, "One plain sentence."))
    last = events_of(caller.ask(stream=True))[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": error, "message": "One plain sentence."}
    assert [item["status"] for item in last["response"]["output"]] == ["completed", "incomplete"]
    assert last["response"]["usage"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_fails_at_once_is_an_http_error(site: Site, caller: Caller, stream: bool) -> None:
    play(site, Failed("context_exceeded", "Too long."))
    assert caller.error(stream=stream) == (400, "context_length_exceeded", "input")


def test_a_prompt_that_cannot_fit_names_the_field_of_this_api(caller: Caller) -> None:
    assert caller.error(input="x" * 100_000) == (400, "context_length_exceeded", "input")
    assert caller.site.engine.requests == []


ASKED = said("user", "What time is it?")
LOOKED_UP: list[dict[str, Any]] = [
    ASKED,
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "The clock."}]},
    said("assistant", [{"type": "output_text", "text": "I look.", "annotations": []}], id="m", status="completed"),
    {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "now", "arguments": "{}", "status": "completed"},
    {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "noon"}]},
]
LOOKED_UP_MESSAGES = (
    Message("user", "What time is it?"),
    Message("assistant", "I look.", "The clock.", (ToolCall("a", "now", "{}"),)),
    Message("tool", "noon", tool_call_id="a", name="now"),
)
ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "user")
INPUTS: dict[str, tuple[Any, tuple[Message, ...]]] = {
    "a string": ("Hi", (Message("user", "Hi"),)),
    "an easy message": ([{"role": "user", "content": "Hi"}], (Message("user", "Hi"),)),
    "parts": (
        [said("user", [{"type": "input_text", "text": "H"}, {"type": "input_text", "text": "i"}])],
        (Message("user", "Hi"),),
    ),
    "each role": (
        [said(role, role) for role in ROLES],
        tuple(Message(role, role) for role in ROLES),
    ),
    "a call and its output": (LOOKED_UP, LOOKED_UP_MESSAGES),
    "two calls": (
        [
            ASKED, *({"type": "function_call", "call_id": c, "name": "now", "arguments": "{}"} for c in "ab"),
            *({"type": "function_call_output", "call_id": c, "output": c} for c in "ba"),
        ],
        (
            Message("user", "What time is it?"),
            Message("assistant", "", None, (ToolCall("a", "now", "{}"), ToolCall("b", "now", "{}"))),
            Message("tool", "b", tool_call_id="b", name="now"), Message("tool", "a", tool_call_id="a", name="now"),
        ),
    ),
    "a summary alone": (
        [ASKED, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}, said("assistant", "Yes.")],
        (Message("user", "What time is it?"), Message("assistant", "Yes.", "Hm.")),
    ),
    "reasoning alone": (
        [ASKED, {"type": "reasoning", "summary": [], "content": None, "encrypted_content": sealed("Hm.")}],
        (Message("user", "What time is it?"), Message("assistant", "", "Hm.")),
    ),
    "another server's sealed reasoning": (
        [{"type": "reasoning", "summary": [], "encrypted_content": "gAAAAB"}, ASKED],
        (Message("user", "What time is it?"),),
    ),
    "two answers in a row": (
        [ASKED, said("assistant", "One."), said("assistant", "Two.")],
        (Message("user", "What time is it?"), Message("assistant", "One."), Message("assistant", "Two.")),
    ),
    "a refusal": (
        [said("assistant", [{"type": "refusal", "refusal": "No."}]), ASKED],
        (Message("assistant", "No."), Message("user", "What time is it?")),
    ),
    "text and the refusal that repeats it": (
        [said("assistant", [{"type": "output_text", "text": "No."}, {"type": "refusal", "refusal": "No."}])],
        (Message("assistant", "No."),),
    ),
    "text and a refusal of its own": (
        [said("assistant", [{"type": "output_text", "text": "No."}, {"type": "refusal", "refusal": " Ask another."}])],
        (Message("assistant", "No. Ask another."),),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "messages"), INPUTS.values(), ids=INPUTS)
def test_items_become_the_messages_that_the_model_reads(
    caller: Caller, given: Any, messages: tuple[Message, ...]
) -> None:
    caller.whole(input=given)
    assert caller.sent().messages == messages


def test_instructions_stand_before_everything(caller: Caller) -> None:
    caller.whole(instructions="Be brief.", input=[said("system", "Be kind."), said("user", "Hi")])
    assert [(m.role, m.content) for m in caller.sent().messages] == [
        ("developer", "Be brief."), ("system", "Be kind."), ("user", "Hi"),
    ]  # fmt: skip


def test_the_output_goes_back_as_it_came(site: Site, caller: Caller) -> None:
    play(site, *CALL)
    output = caller.whole()["output"]
    result = {"type": "function_call_output", "call_id": "call_a", "output": "noon"}
    caller.whole(input=[said("user", "Hello"), *output, result])
    assert caller.sent().messages[1:] == (
        Message("assistant", "I look it up.", "I need the time.", (ToolCall("call_a", "now", '{"zone":"UTC"}'),)),
        Message("tool", "noon", tool_call_id="call_a", name="now"),
    )


def test_sealed_reasoning_comes_back_although_the_client_dropped_the_content(site: Site, caller: Caller) -> None:
    play(site, *CALL)
    output = caller.whole(include=["reasoning.encrypted_content"])["output"]
    del output[0]["content"]
    result = {"type": "function_call_output", "call_id": "call_a", "output": "noon"}
    caller.whole(input=[said("user", "Hello"), *output, result])
    assert caller.sent().messages[1].reasoning == "I need the time."


NOW = {"type": "function", "name": "now", "description": "The time.", "parameters": {"type": "object"}, "strict": True}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}
NOW_TOOL = Tool("now", "The time.", {"type": "object"}, strict=True)
ADD_TOOL = Tool("add", "", {"type": "object"})
ALLOWED = {"type": "allowed_tools", "tools": [{"type": "function", "name": "add"}]}
CHOICES: list[tuple[Any, tuple[Tool, ...], tuple[str, ...]]] = [
    ("auto", (NOW_TOOL, ADD_TOOL), ()),
    ("none", (), ()),
    ("required", (NOW_TOOL, ADD_TOOL), ("now", "add")),
    ({"type": "function", "name": "add"}, (NOW_TOOL, ADD_TOOL), ("add",)),
    ({**ALLOWED, "mode": "auto"}, (ADD_TOOL,), ()),
    ({**ALLOWED, "mode": "required"}, (NOW_TOOL, ADD_TOOL), ("add",)),
]


@pytest.mark.parametrize(("choice", "tools", "must_call"), CHOICES)
def test_tools_and_choices_reach_the_engine(
    caller: Caller, choice: Any, tools: tuple[Tool, ...], must_call: tuple[str, ...]
) -> None:
    body = caller.whole(tools=[NOW, {"type": "web_search"}, ADD], tool_choice=choice)
    assert (caller.sent().tools, caller.sent().must_call) == (tools, must_call)
    assert [tool["name"] for tool in body["tools"]] == ["now", "add"]
    if must_call == ("add",):
        choice = {"type": "function", "name": "add"}
    assert body["tool_choice"] == choice


SCHEMA = {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]}
FORMATS: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, {"type": "object"}),
    ({"type": "json_schema", "name": "Event", "schema": SCHEMA, "strict": True}, {"title": "Event", **SCHEMA}),
]


@pytest.mark.parametrize(("form", "schema"), FORMATS)
def test_the_format_of_the_text_reaches_the_engine(
    caller: Caller, form: dict[str, Any], schema: dict[str, Any] | None
) -> None:
    body = caller.whole(text={"format": form, "verbosity": None})
    assert caller.sent().answer_schema == schema
    assert body["text"] == {"format": form, "verbosity": "medium"}


@pytest.mark.parametrize(("asked", "run"), [("none", "low"), ("minimal", "low"), ("xhigh", "high"), (None, "medium")])
def test_an_effort_that_the_model_has_not_is_the_nearest(caller: Caller, asked: str | None, run: str) -> None:
    body = caller.whole(reasoning={"effort": asked})
    assert caller.sent().effort == body["reasoning"]["effort"] == run


def test_settings_reach_the_engine(caller: Caller) -> None:
    caller.whole(temperature=0.5, top_p=0.9, max_output_tokens=3, reasoning={"effort": "low", "summary": "auto"})
    sent = caller.sent()
    assert (sent.temperature, sent.top_p, sent.max_tokens, sent.effort) == (0.5, 0.9, 3, "low")


CALLED = {"type": "function_call", "call_id": "a", "name": "now", "arguments": "{}"}
ANSWERED = {"type": "function_call_output", "call_id": "a", "output": "noon"}
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "missing_required_parameter", "input"),
    ({"input": []}, "invalid_value", "input"),
    ({"input": 7}, "invalid_type", "input"),
    ({"input": ["x"]}, "invalid_type", "input[0]"),
    ({"input": [{}]}, "missing_required_parameter", "input[0].type"),
    ({"input": [{"type": "web_search_call"}]}, "unsupported_value", "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "unsupported_value", "input[0].role"),
    (
        {"input": [said("user", [{"type": "input_image", "image_url": "x"}])]},
        "unsupported_value",
        "input[0].content[0].type",
    ),
    (
        {"input": [{"type": "reasoning", "encrypted_content": "plain:???"}]},
        "invalid_value",
        "input[0].encrypted_content",
    ),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "invalid_value", "input[0].id"),
    ({"input": [ASKED, CALLED]}, "invalid_value", "input"),
    ({"input": [ANSWERED]}, "invalid_value", "input[0].call_id"),
    ({"input": [CALLED, CALLED, ANSWERED]}, "invalid_value", "input[1].call_id"),
    ({"input": [CALLED, ANSWERED, ANSWERED]}, "invalid_value", "input[2].call_id"),
    ({"input": [CALLED, ASKED, ANSWERED]}, "invalid_value", "input[1]"),
    ({"tools": [{"name": "now"}]}, "missing_required_parameter", "tools[0].type"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"tools": [NOW, NOW]}, "invalid_value", "tools[1].name"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"tools": [NOW], "tool_choice": {"type": "function", "name": "gone"}}, "invalid_value", "tool_choice"),
    ({"tools": [NOW], "tool_choice": {"type": "web_search"}}, "unsupported_value", "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "missing_required_parameter", "text.format.schema"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {"type": "null"}}}}},
        "unsupported_value",
        "text.format.schema",
    ),
    (
        {"tools": [{**NOW, "strict": True, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}]},
        "unsupported_value",
        "tools[0].parameters",
    ),
    ({"text": {"format": {"type": "grammar"}}}, "invalid_value", "text.format.type"),
    ({"reasoning": {"effort": "utmost"}}, "invalid_value", "reasoning.effort"),
    ({"background": True, "store": False}, "invalid_value", "background"),
    ({"background": "yes"}, "invalid_type", "background"),
    ({"include": ["everything"]}, "invalid_value", "include[0]"),
    ({"top_logprobs": 21}, "invalid_value", "top_logprobs"),
    ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
    ({"truncation": "some"}, "invalid_value", "truncation"),
    ({"metadata": {"a": 1}}, "invalid_type", "metadata"),
]


@pytest.mark.parametrize(("changes", "code", "param"), FAULTS)
def test_what_cannot_be_taken_is_refused_by_name(
    caller: Caller, changes: dict[str, Any], code: str, param: str
) -> None:
    assert caller.error(**changes) == (400, code, param)
    assert caller.site.engine.requests == []


def test_an_unknown_model_is_not_found(caller: Caller) -> None:
    assert caller.error(model="gpt-5") == (404, "model_not_found", "model")


def test_an_unknown_field_is_ignored_and_named(caller: Caller) -> None:
    assert caller.ask(moderation=None, client_says="x").headers["X-Ignored-Fields"] == "moderation, client_says"
