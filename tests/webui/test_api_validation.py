"""The body of a chat request: each bad field is refused by name, each good one arrives as it was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.wire import decode, encode
from appliance.turns.request import Bias, Message, Tool, ToolCall, TurnRequest
from webui.api.body import ELSEWHERE, FIELDS
from webui.api.errors import ApiError
from webui.api.validation import ChatRequest, parse_chat_request

USER = {"role": "user", "content": "Hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER = {"role": "tool", "tool_call_id": "call_1", "content": "noon"}
OTHER = {"type": "web_search", "external_web_access": False}
FUNCTION = {"type": "function", "function": {"name": "now"}}
MINIMAL: dict[str, Any] = {"model": "m", "messages": [USER]}


def parse(**changes: Any) -> ChatRequest:
    return parse_chat_request(json.dumps({**MINIMAL, **changes}).encode())


def refusal(raw: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_chat_request(raw)
    return caught.value


def without(body: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != key}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


def schema_format(schema: Any, **fields: Any) -> dict[str, Any]:
    given = {} if schema is None else {"schema": schema}
    return {"type": "json_schema", "json_schema": {**given, **fields}}


def in_function(**changes: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "now", **changes}}]


def deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"a": schema}
    return schema


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    # changes, param, code
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 7}, "model", "invalid_type"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": {}}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [USER] * 4097}, "messages", "invalid_value"),
    ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [USER, {"role": "function", "content": "x"}]}, "messages[1].role", "invalid_value"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type", "missing_required_parameter"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        "messages[0].content[0].type",
        "unsupported_value",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
        "messages[0].content[0].text",
        "invalid_type",
    ),
    ({"messages": [{"role": "user", "content": "a\ud800b"}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{**USER, "name": 5}]}, "messages[0].name", "invalid_type"),
    ({"messages": [{**USER, "\ud800": 5}]}, "messages[0]", "invalid_value"),
    ({"continue_final_message": "yes"}, "continue_final_message", "invalid_type"),
    ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
    ({"add_generation_prompt": 0}, "add_generation_prompt", "invalid_type"),
    ({"add_generation_prompt": False}, "add_generation_prompt", "invalid_value"),
    (
        {"messages": [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]},
        "messages[0].function_call",
        "unsupported_value",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "audio": {"id": "a"}}]},
        "messages[0].audio",
        "unsupported_value",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "reasoning_content": 1}]},
        "messages[0].reasoning_content",
        "invalid_type",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "reasoning": 1}]},
        "messages[0].reasoning",
        "invalid_type",
    ),
    ({"messages": [{**CALLING, "tool_calls": {}}, ANSWER]}, "messages[0].tool_calls", "invalid_type"),
    ({"messages": [{**CALLING, "tool_calls": [1]}, ANSWER]}, "messages[0].tool_calls[0]", "invalid_type"),
    (
        {"messages": [{**CALLING, "tool_calls": [{**CALL, "type": "custom"}]}, ANSWER]},
        "messages[0].tool_calls[0].type",
        "unsupported_value",
    ),
    (
        {"messages": [{**CALLING, "tool_calls": [without(CALL, "function")]}, ANSWER]},
        "messages[0].tool_calls[0].function",
        "missing_required_parameter",
    ),
    (
        {"messages": [{**CALLING, "tool_calls": [{**CALL, "function": {"arguments": "{}"}}]}, ANSWER]},
        "messages[0].tool_calls[0].function.name",
        "missing_required_parameter",
    ),
    (
        {"messages": [{**CALLING, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": 5}}]}, ANSWER]},
        "messages[0].tool_calls[0].function.arguments",
        "invalid_type",
    ),
    ({"messages": [{**CALLING, "tool_calls": [CALL, CALL]}]}, "messages[0].tool_calls[1].id", "invalid_value"),
    ({"messages": [CALLING]}, "messages", "invalid_value"),
    ({"messages": [CALLING, USER]}, "messages[1]", "invalid_value"),
    ({"messages": [USER, ANSWER]}, "messages[1].tool_call_id", "invalid_value"),
    ({"messages": [CALLING, ANSWER, ANSWER]}, "messages[2].tool_call_id", "invalid_value"),
    ({"tools": {}}, "tools", "invalid_type"),
    ({"tools": [FUNCTION] * 129}, "tools", "invalid_value"),
    ({"tools": [3]}, "tools[0]", "invalid_type"),
    ({"tools": [{"function": {"name": "now"}}]}, "tools[0].type", "missing_required_parameter"),
    ({"tools": [{"type": 3}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"type": "\ud800"}]}, "tools[0].type", "invalid_value"),
    ({"tools": [OTHER, FUNCTION, OTHER, FUNCTION]}, "tools[3].function.name", "invalid_value"),
    ({"tools": [OTHER], "tool_choice": "required"}, "tool_choice", "invalid_value"),
    (
        {"tools": [OTHER, *in_function(strict=True, parameters={"not": {}})]},
        "tools[1].function.parameters",
        "unsupported_value",
    ),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing_required_parameter"),
    ({"tools": in_function(name="a b")}, "tools[0].function.name", "invalid_value"),
    ({"tools": in_function(name="x" * 65)}, "tools[0].function.name", "invalid_value"),
    ({"tools": [FUNCTION, FUNCTION]}, "tools[1].function.name", "invalid_value"),
    ({"tools": in_function(description=1)}, "tools[0].function.description", "invalid_type"),
    ({"tools": in_function(parameters=[])}, "tools[0].function.parameters", "invalid_type"),
    ({"tools": in_function(parameters={"a": "\ud800"})}, "tools[0].function.parameters", "invalid_value"),
    ({"tools": in_function(parameters={"\0": 1})}, "tools[0].function.parameters", "invalid_value"),
    ({"tools": in_function(parameters={"a": [2**63]})}, "tools[0].function.parameters", "invalid_value"),
    ({"tools": in_function(parameters=deep(65))}, "tools[0].function.parameters", "invalid_value"),
    ({"tools": in_function(strict="no")}, "tools[0].function.strict", "invalid_type"),
    (
        {"tools": in_function(strict=True, parameters={"properties": {"a": {"uniqueItems": True}}})},
        "tools[0].function.parameters",
        "unsupported_value",
    ),
    ({"tools": [FUNCTION], "tool_choice": "any"}, "tool_choice", "unsupported_value"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "custom"}}, "tool_choice", "unsupported_value"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "function"}}, "tool_choice", "invalid_value"),
    ({"tools": [FUNCTION], "tool_choice": named("then")}, "tool_choice", "invalid_value"),
    ({"tools": [FUNCTION], "tool_choice": named("a b")}, "tool_choice", "invalid_value"),
    ({"tools": [FUNCTION], "tool_choice": allowed("auto")}, "tool_choice", "invalid_value"),
    ({"tools": [FUNCTION], "tool_choice": allowed("never", "now")}, "tool_choice", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": [], "tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": [FUNCTION], "tool_choice": True}, "tool_choice", "invalid_type"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type"),
    ({"reasoning_effort": "most"}, "reasoning_effort", "invalid_value"),
    ({"reasoning_effort": 2}, "reasoning_effort", "invalid_type"),
    ({"temperature": "1"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": -0.1}, "temperature", "invalid_value"),
    ({"temperature": 2.01}, "temperature", "invalid_value"),
    ({"temperature": 10**400}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"top_p": 1.5}, "top_p", "invalid_value"),
    ({"top_p": False}, "top_p", "invalid_type"),
    ({"seed": 1.0}, "seed", "invalid_type"),
    ({"seed": True}, "seed", "invalid_type"),
    ({"seed": 2**63}, "seed", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
    ({"max_tokens": True}, "max_tokens", "invalid_type"),
    ({"max_completion_tokens": -2}, "max_completion_tokens", "invalid_value"),
    ({"max_completion_tokens": 2**31}, "max_completion_tokens", "invalid_value"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"stop": ["a", 1]}, "stop", "invalid_type"),
    ({"stop": "x" * 257}, "stop", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"stream": 1}, "stream", "invalid_type"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
    ({"n": 9}, "n", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": True}, "n", "invalid_type"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": ["text"]}}, "response_format.type", "invalid_type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    ({"response_format": schema_format(None)}, "response_format.json_schema.schema", "missing_required_parameter"),
    ({"response_format": schema_format([])}, "response_format.json_schema.schema", "invalid_type"),
    ({"response_format": schema_format(deep(65))}, "response_format.json_schema.schema", "invalid_value"),
    ({"response_format": schema_format({}, name="a b")}, "response_format.json_schema.name", "invalid_value"),
    ({"response_format": schema_format({}, strict=1)}, "response_format.json_schema.strict", "invalid_type"),
    (
        {"response_format": schema_format({"not": {"type": "null"}})},
        "response_format.json_schema.schema",
        "unsupported_value",
    ),
    ({"response_format": "text"}, "response_format", "invalid_type"),
    ({"logprobs": 0}, "logprobs", "invalid_type"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"frequency_penalty": 3}, "frequency_penalty", "invalid_value"),
    ({"presence_penalty": -2.1}, "presence_penalty", "invalid_value"),
    ({"repetition_penalty": 1.1}, "repetition_penalty", "unsupported_value"),
    ({"top_k": 2.5}, "top_k", "invalid_type"),
    ({"top_k": -2}, "top_k", "invalid_value"),
    ({"min_p": 1.5}, "min_p", "invalid_value"),
    ({"logit_bias": []}, "logit_bias", "invalid_type"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": "1"}}, "logit_bias", "invalid_type"),
    ({"logit_bias": {"5": True}}, "logit_bias", "invalid_type"),
    ({"logit_bias": {"word": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"٣": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"200002": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "invalid_value"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
    ({"modalities": "text"}, "modalities", "invalid_type"),
    ({"verbosity": "high"}, "verbosity", "unsupported_value"),
    ({"service_tier": "priority"}, "service_tier", "unsupported_value"),
    ({"store": "true"}, "store", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "invalid_value"),
    ({"metadata": "x"}, "metadata", "invalid_type"),
    ({"user": 5}, "user", "invalid_type"),
    ({"user": "x" * 513}, "user", "invalid_value"),
    ({"safety_identifier": {}}, "safety_identifier", "invalid_type"),
    ({"prompt_cache_key": 1}, "prompt_cache_key", "invalid_type"),
    ({"prompt_cache_retention": 1}, "prompt_cache_retention", "invalid_type"),
    ({"functions": []}, "functions", "unsupported_parameter"),
    ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
    ({"audio": {}}, "audio", "unsupported_parameter"),
    ({"prediction": {}}, "prediction", "unsupported_parameter"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
]


@pytest.mark.parametrize(("changes", "param", "code"), BAD_FIELDS, ids=map(str, range(len(BAD_FIELDS))))
def test_names_the_field_at_fault(changes: dict[str, Any], param: str, code: str) -> None:
    error = refusal(json.dumps({**MINIMAL, **changes}).encode())
    assert (error.status, error.param, error.code) == (400, param, code)


def test_every_field_has_a_refusal_in_the_table() -> None:
    assert {param.partition(".")[0].partition("[")[0] for _, param, _ in BAD_FIELDS} == set(FIELDS)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"nonsense", b'{"model": "m"', b"\xff\xfe{}", '{"model": "m"}'.encode("utf-16"), b"[" * 100_000,
        b'{"model": "m", "messages": [], "temperature": NaN}', b'{"temperature": Infinity}',
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_refuses_what_is_not_json(raw: bytes) -> None:
    error = refusal(raw)
    assert (error.status, error.code, error.param) == (400, "invalid_json", None)


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"text"', b"5"])
def test_refuses_json_that_is_not_an_object(raw: bytes) -> None:
    assert refusal(raw).code == "invalid_type"


def test_an_infinite_number_written_as_an_exponent_is_refused() -> None:
    assert refusal(b'{"model": "m", "messages": [], "temperature": 1e999}').param in ("temperature", "messages")
    tools = b'[{"type": "function", "function": {"name": "f", "parameters": {"maximum": 1e999}}}]'
    assert refusal(b'{"model": "m", "tools": ' + tools + b"}").param == "tools[0].function.parameters"


def test_fields_that_are_not_known_are_ignored_and_told() -> None:
    assert parse(think=False, **{"my secret prompt": 1}).ignored == ("think", "my secret prompt")
    assert parse().ignored == ()


def test_fields_that_are_not_known_are_refused_where_that_is_wanted() -> None:
    raw = json.dumps({**MINIMAL, "temprature": 1}).encode()
    with pytest.raises(ApiError, match="temprature: this field is not known") as caught:
        parse_chat_request(raw, strict=True)
    assert (caught.value.param, caught.value.code) == ("temprature", "unknown_parameter")


def test_does_not_repeat_an_unknown_field_that_is_not_a_name() -> None:
    with pytest.raises(ApiError) as caught:
        parse_chat_request(json.dumps({**MINIMAL, "my secret prompt": 1}).encode(), strict=True)
    assert caught.value.param is None
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_fields_of_other_servers_that_would_change_the_answer_are_refused_by_name(name: str) -> None:
    error = refusal(json.dumps({**MINIMAL, name: ["x"]}).encode())
    assert (error.status, error.param, error.code) == (400, name, "unsupported_parameter")
    assert error.message.startswith(f"{name}: ")
    assert parse(**{name: None}).ignored == (name,)
    assert name not in FIELDS


def test_an_answer_without_text_is_taken_as_programs_send_it() -> None:
    answers: list[dict[str, Any]] = [{}, {"content": None}, {"content": ""}, {"content": []}, {"tool_calls": []}]
    for answer in answers:
        messages = parse(messages=[USER, {"role": "assistant", **answer}, USER]).messages
        assert messages[1] == Message("assistant", "")
    thought = {"role": "assistant", "content": None, "reasoning_content": "I think."}
    assert parse(messages=[USER, thought, USER]).messages[1] == Message("assistant", "", "I think.")


def test_parts_of_the_other_api_and_refusals_are_text() -> None:
    parts = [
        {"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b", "annotations": []},
        {"type": "refusal", "refusal": "c"},
    ]  # fmt: skip
    assert parse(messages=[{"role": "assistant", "content": parts}, USER]).messages[0].content == "abc"


def test_calls_and_results_without_ids_belong_together_in_their_order() -> None:
    calls = [{"function": {"name": name, "arguments": {"city": "Köln"}}} for name in ("first", "second")]
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2", "tool_call_id": "unknown"}]
    asked, one, two = parse(messages=[{"role": "assistant", "tool_calls": calls}, *results]).messages
    assert [call.arguments for call in asked.tool_calls] == ['{"city": "Köln"}'] * 2
    assert [one.tool_call_id, two.tool_call_id] == [call.id for call in asked.tool_calls]
    assert (one.name, two.name) == ("first", "second")


@pytest.mark.parametrize("function", [{"name": "now"}, {"name": "now", "arguments": None}])
@pytest.mark.parametrize("result", [{}, {"content": None}, {"content": []}, {"content": ""}])
def test_a_call_without_arguments_and_a_result_without_text_are_taken(
    function: dict[str, Any], result: dict[str, Any]
) -> None:
    call = {**CALL, "index": 0, "function": function}
    answer = {"role": "tool", "tool_call_id": "call_1", "name": "now", **result}
    asked, answered = parse(messages=[{"role": "assistant", "tool_calls": [call]}, answer]).messages
    assert asked.tool_calls == (ToolCall("call_1", "now", "{}"),)
    assert answered == Message("tool", "", tool_call_id="call_1", name="now")


@pytest.mark.parametrize(
    "arguments",
    ["", "{", '{"city":"Rome"}]', '{"city": "Ro', "null", "[1]", "Rome", "\u200b", '{"a": NaN}', "{} {}", "'"],
)
def test_arguments_that_are_no_json_poison_no_conversation(arguments: str) -> None:
    """The case history-bad-arguments: what the model once wrote goes back to it as it was."""
    call = {**CALL, "function": {"name": "now", "arguments": arguments}}
    asked = parse(messages=[USER, {**CALLING, "tool_calls": [call]}, ANSWER, USER]).messages[1]
    assert asked.tool_calls == (ToolCall("call_1", "now", arguments),)


def test_an_id_may_come_again_in_a_later_turn() -> None:
    messages = [USER, CALLING, ANSWER, {"role": "assistant", "content": "It is noon."}, USER, CALLING, ANSWER]
    assert [message.name for message in parse(messages=messages).messages if message.role == "tool"] == ["now", "now"]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([USER, {"role": "function", "name": "now", "content": "noon"}], "messages[1].role is of the old form; send"),
        ([{"role": "bot", "content": "x"}], "messages[0].role must be one of system, developer, user, assistant,"),
        ([USER, CALLING, USER], "messages[2] comes before every tool call has been answered; send a tool message for"),
        ([USER, CALLING], "messages ends before every tool call has been answered; send a tool message for each, or"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
         "messages[0].content[0].type: this model takes text only; leave this part out, or"),
    ],
)  # fmt: skip
def test_a_refused_message_says_what_to_do(messages: list[dict[str, Any]], said: str) -> None:
    assert refusal(json.dumps({**MINIMAL, "messages": messages}).encode()).message.startswith(said)


@pytest.mark.parametrize(("name", "effort"), [("none", "low"), ("minimal", "low"), ("xhigh", "high")])
def test_other_names_of_efforts_stand_for_the_nearest(name: str, effort: str) -> None:
    assert parse(reasoning_effort=name).effort == effort


def test_all_tokens_may_be_drawn_where_a_program_says_so_in_its_way() -> None:
    assert parse(top_k=0).top_k is parse(top_k=-1).top_k is None
    assert parse(logprobs=True).top_logprobs == 0
    assert parse(top_logprobs=0).top_logprobs is None


def test_stops_without_text_are_none() -> None:
    assert parse(stop="").stop == parse(stop=[]).stop == parse(stop=["", ""]).stop == ()
    assert parse(stop=["", "x"]).stop == ("x",)


def test_a_limit_of_minus_one_is_none() -> None:
    assert parse(max_tokens=-1).max_tokens is None
    assert parse(max_tokens=-1, max_completion_tokens=5).max_tokens == 5


def test_null_is_the_same_as_absent() -> None:
    assert parse(**{name: None for name in FIELDS if name not in MINIMAL}) == parse()


def test_defaults_are_the_published_ones() -> None:
    assert parse() == ChatRequest(model="m", messages=(Message(role="user", content="Hello"),))
    request = parse()
    assert (request.temperature, request.top_p, request.effort, request.seed) == (1.0, 1.0, "medium", None)


def test_every_field_that_decides_the_answer_arrives() -> None:
    request = parse(
        temperature=0, top_p=0.5, seed=-1, max_completion_tokens=9, stop=["a", "b"], reasoning_effort="high",
        stream=True, stream_options={"include_usage": True}, top_k=40, min_p=0.1, frequency_penalty=0.5,
        presence_penalty=-1, logit_bias={"5": -100, "199997": 0.5}, logprobs=True, top_logprobs=4,
        tools=in_function(description="the time", parameters={"type": "object"}),
    )  # fmt: skip
    assert (request.temperature, request.top_p, request.seed) == (0.0, 0.5, -1)
    assert (request.max_tokens, request.stop, request.effort) == (9, ("a", "b"), "high")
    assert (request.stream, request.include_usage) == (True, True)
    assert (request.top_k, request.min_p, request.frequency_penalty, request.presence_penalty) == (40, 0.1, 0.5, -1)
    assert (request.logit_bias, request.top_logprobs) == ((Bias(5, -100.0), Bias(199997, 0.5)), 4)
    assert request.tools == (Tool(name="now", description="the time", parameters={"type": "object"}),)


def test_ignored_fields_change_nothing() -> None:
    assert parse() == parse(
        user="u", store=True, metadata={"a": "b"}, n=1, logprobs=False, frequency_penalty=0, presence_penalty=0.0,
        logit_bias={}, modalities=["text"], service_tier="auto", verbosity="medium", response_format={"type": "text"},
        parallel_tool_calls=False, top_logprobs=0, safety_identifier="s", prompt_cache_key="k",
        prompt_cache_retention="24h",
    )  # fmt: skip


def test_text_parts_are_joined_as_they_stand() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert parse(messages=[{"role": "user", "content": parts}]).messages[0].content == "one two"


def test_a_tool_round_trip_keeps_reasoning_and_names_the_function() -> None:
    messages = parse(messages=[USER, {**CALLING, "reasoning_content": "I look."}, ANSWER]).messages
    calls = (ToolCall(id="call_1", name="now", arguments="{}"),)
    assert messages[1] == Message(role="assistant", content="", reasoning="I look.", tool_calls=calls)
    assert messages[2] == Message(role="tool", content="noon", tool_call_id="call_1", name="now")


def test_a_message_as_the_official_client_dumps_it_is_taken() -> None:
    dumped: dict[str, Any] = {
        "role": "assistant", "content": "Hi", "refusal": None, "annotations": [], "audio": None, "function_call": None,
        "tool_calls": None, "reasoning_content": None, "reasoning": "short",
    }  # fmt: skip
    expected = Message(role="assistant", content="Hi", reasoning="short")
    assert parse(messages=[USER, dumped, USER]).messages[1] == expected


TWO = [*in_function(name="now"), *in_function(name="then")]


@pytest.mark.parametrize(
    ("choice", "tools", "must_call"),
    [
        ("none", [], ()),
        ("auto", ["now", "then"], ()),
        ("required", ["now", "then"], ("now", "then")),
        (named("then"), ["now", "then"], ("then",)),
        ({"type": "function", "name": "then"}, ["now", "then"], ("then",)),
        (allowed("auto", "now"), ["now"], ()),
        (allowed("required", "then"), ["now", "then"], ("then",)),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]}, ["now"], ()),
    ],
)
def test_a_tool_choice_says_what_may_and_what_must_be_called(
    choice: Any, tools: list[str], must_call: tuple[str, ...]
) -> None:
    request = parse(tools=TWO, tool_choice=choice)
    assert ([tool.name for tool in request.tools], request.must_call) == (tools, must_call)


def test_only_a_strict_function_needs_a_schema_that_can_be_held_whole() -> None:
    loose = in_function(parameters={"type": "object", "not": {"required": ["a"]}})
    assert parse(tools=loose, tool_choice="required").must_call == ("now",)
    assert parse(tools=[{**loose[0], "function": {**loose[0]["function"], "strict": True}}], tool_choice="none")
    remote = in_function(parameters={"$ref": "https://example.com/schema"})
    assert parse(tools=remote).tools[0].parameters == {"$ref": "https://example.com/schema"}
    with pytest.raises(ApiError, match=r"uses a \$ref that leads out of the schema"):
        parse(tools=remote, tool_choice="required")


def test_a_response_format_becomes_the_schema_of_the_answer() -> None:
    assert parse(response_format={"type": "text"}).answer_schema is None
    assert parse(response_format={"type": "json_object"}).answer_schema == {"type": "object"}
    given = {"type": "json_object", "schema": {"enum": [1]}}
    assert parse(response_format=given).answer_schema == {"enum": [1]}
    number = {"type": "integer"}
    named = schema_format(number, name="age", strict=False, description="in years")
    assert parse(response_format=named).answer_schema == {"title": "age", "description": "in years", **number}
    own = {"title": "Age", "description": "how old", **number}
    assert parse(response_format={**named, "json_schema": {**named["json_schema"], "schema": own}}).answer_schema == own


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NESTED = JSON | st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system", "developer", "x"])},
                          optional={"content": JSON, "tool_calls": st.just([CALL]) | JSON, "tool_call_id": JSON})
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=8), JSON, max_size=6), NESTED)
def test_what_is_taken_can_be_sent_to_the_engine(extra: dict[str, Any], messages: Any) -> None:
    try:
        taken = parse_chat_request(json.dumps({"model": "m", "messages": messages, **extra}).encode())
    except ApiError:
        return
    turn = TurnRequest(id="t", user="u", messages=taken.messages, seed=0, tools=taken.tools, stop=taken.stop)
    assert decode(encode(turn)) == turn


def test_an_answer_that_is_held_begins_anew_after_an_assistants_message() -> None:
    begun = [USER, {"role": "assistant", "content": "So"}]
    form = {"type": "json_object"}
    assert parse(messages=begun).continues
    assert not parse(messages=begun, response_format=form).continues
    assert not parse(messages=begun, tools=[FUNCTION], tool_choice="required").continues
    with pytest.raises(ApiError) as refused:
        parse(messages=begun, response_format=form, continue_final_message=True)
    assert refused.value.param == "continue_final_message"
