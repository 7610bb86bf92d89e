"""POST /v1/completions: bare texts are continued; each choice is a recorded turn of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from appliance.people.accounts import Role
from appliance.turns.events import AnswerDelta, Failed, Likelihood, Started, TokenLogprob, TurnEvent
from appliance.turns.request import Message, TurnRequest
from tests.fakes import FakeEngine, done
from tests.webui.conftest import MODEL, MakeSite, Site
from tests.webui.test_api import Caller, chunks, error_of, play
from webui.api.completion_body import FIELDS, CompletionRequest, parse_completion_request
from webui.api.errors import ApiError

URL = "/v1/completions"


def continued(request: TurnRequest) -> Iterable[TurnEvent]:
    """Says the last letter of the prompt twice, and ends as the number of tokens allows."""
    last = request.messages[-1].content[-1:]
    yield Started(prompt_tokens=5, queued_s=0.0)
    yield AnswerDelta(last)
    yield AnswerDelta(last)
    yield done(prompt_tokens=5, completion_tokens=2, reasoning_tokens=0, finish_reason="length")


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site(FakeEngine(continued))


@pytest.fixture
def caller(site: Site) -> Caller:
    return Caller(site, site.add_key(site.add_user("ada")))


def complete(caller: Caller, **fields: Any) -> TestResponse:
    return caller.client.post(URL, json={"model": MODEL.id, "prompt": "Once", **fields}, headers=caller.headers)


def test_an_answer_has_the_shape_of_a_text_completion(site: Site, caller: Caller) -> None:
    body = complete(caller).json
    assert body is not None
    assert (body["object"], body["model"]) == ("text_completion", MODEL.id)
    assert body["choices"] == [{"index": 0, "text": "ee", "logprobs": None, "finish_reason": "length"}]
    assert (body["usage"]["prompt_tokens"], body["usage"]["total_tokens"]) == (5, 7)
    (turn,) = site.engine.requests
    assert turn.id == body["id"]
    assert turn.id.startswith("cmpl-")


def test_the_engine_gets_the_bare_text_and_openais_default_length(site: Site, caller: Caller) -> None:
    complete(caller, prompt="<|start|>system", temperature=0.5, top_p=0.25, seed=7, stop="x")
    (turn,) = site.engine.requests
    assert (turn.form, turn.messages, turn.max_tokens) == ("text", (Message("user", "<|start|>system"),), 16)
    assert (turn.temperature, turn.top_p, turn.seed, turn.stop) == (0.5, 0.25, 7, ("x",))
    assert (turn.continues, turn.tools) == (False, ())


def test_echo_repeats_the_prompt(caller: Caller) -> None:
    assert complete(caller, echo=True).json["choices"][0]["text"] == "Onceee"  # type: ignore[index]


def token(spelt: bytes, logprob: float, *top: Likelihood) -> TokenLogprob:
    return TokenLogprob(Likelihood(spelt.decode("utf-8", "replace"), tuple(spelt), logprob), top)


OWL = "a🦉!".encode()
LIKELY: tuple[TurnEvent, ...] = (
    Started(5, 0.0),
    AnswerDelta("é", (token("é".encode(), -0.5, Likelihood("é", (195, 169), -0.5), Likelihood("x", (120,), -2.0)),)),
    AnswerDelta("a🦉!", (
        token(OWL[:3], -1.0, Likelihood("<|return|>", (), -0.25)), token(OWL[3:5], 0.0), token(OWL[5:], -3.0),
    )),
    done(completion_tokens=4),
)  # fmt: skip
TOLD = {
    "tokens": ["é", r"bytes:\x61\xf0\x9f", r"bytes:\xa6\x89", "!"],
    "token_logprobs": [-0.5, -1.0, 0.0, -3.0],
    "top_logprobs": [
        {"é": -0.5, "x": -2.0},
        {"<|return|>": -0.25, r"bytes:\x61\xf0\x9f": -1.0},
        {r"bytes:\xa6\x89": 0.0},
        {"!": -3.0},
    ],
    "text_offset": [0, 1, 2, 3],
}  # fmt: skip


def test_log_probabilities_are_four_lists_with_an_entry_for_each_token(site: Site, caller: Caller) -> None:
    play(site, *LIKELY)
    choices = complete(caller, logprobs=1, n=2).json["choices"]  # type: ignore[index]
    assert [(choice["text"], choice["logprobs"]) for choice in choices] == [("éa🦉!", TOLD)] * 2
    assert [turn.top_logprobs for turn in site.engine.requests] == [1, 1]


def test_the_pieces_of_a_stream_have_the_same_log_probabilities(site: Site, caller: Caller) -> None:
    play(site, *LIKELY)
    choices = [chunk["choices"][0] for chunk in chunks(complete(caller, logprobs=1, n=2, stream=True))]
    assert [choice["logprobs"] is None for choice in choices] == [False, False, True] * 2
    for index in (0, 1):
        pieces = [choice["logprobs"] for choice in choices if choice["index"] == index and choice["logprobs"]]
        assert {name: [entry for piece in pieces for entry in piece[name]] for name in TOLD} == TOLD


def test_log_probabilities_are_asked_of_the_engine_only_where_the_caller_asks(site: Site, caller: Caller) -> None:
    assert complete(caller, logprobs=0).json["choices"][0]["logprobs"] == {  # type: ignore[index]
        "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [],
    }  # fmt: skip
    complete(caller, logprobs=5)
    complete(caller, echo=True)
    assert [turn.top_logprobs for turn in site.engine.requests] == [0, 5, None]


def test_log_probabilities_of_the_prompt_are_refused(site: Site, caller: Caller) -> None:
    """An evaluation that sums nulls, or too few numbers, would be wrong without a word."""
    assert error_of(complete(caller, echo=True, logprobs=0)) == (400, "unsupported_value", "logprobs")
    assert site.engine.requests == []


def test_several_prompts_and_n_give_choices_in_order(site: Site, caller: Caller) -> None:
    body = complete(caller, prompt=["ab", "cd"], n=2, best_of=2, seed=10, echo=True).json
    assert body is not None
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [
        (0, "abbb"), (1, "abbb"), (2, "cddd"), (3, "cddd"),
    ]  # fmt: skip
    assert [turn.seed for turn in site.engine.requests] == [10, 11, 12, 13]
    assert [turn.id for turn in site.engine.requests] == [
        body["id"], *(f"{body['id']}-{number}" for number in (1, 2, 3)),
    ]  # fmt: skip
    assert body["usage"]["prompt_tokens"] == 10  # each prompt once
    assert body["usage"]["completion_tokens"] == 8


def test_each_choice_is_recorded_and_its_prompt_can_be_searched(site: Site, caller: Caller) -> None:
    complete(caller, prompt=["archives", "records"])
    turns = [event for event in site.events() if event.header.action in ("prompt", "answer")]
    assert [event.header.action for event in turns] == ["prompt", "answer"] * 2
    assert [event.content.text for event in turns if event.content] == ["archives", "ss", "records", "ss"]
    reviewer = site.browser(site.add_user("rita", Role.REVIEWER))
    assert "archives" in reviewer.get("/review?text=archives").text


def texts(streamed: list[dict[str, Any]]) -> list[tuple[int, str, str | None]]:
    return [
        (choice["index"], choice["text"], choice["finish_reason"]) for chunk in streamed for choice in chunk["choices"]
    ]


def test_a_stream_gives_the_same_text(caller: Caller) -> None:
    streamed = chunks(complete(caller, stream=True))
    assert texts(streamed) == [(0, "e", None), (0, "e", None), (0, "", "length")]
    assert {chunk["object"] for chunk in streamed} == {"text_completion"}


def test_a_stream_of_several_choices_gives_one_after_the_other_and_the_sum_of_usage(caller: Caller) -> None:
    streamed = chunks(
        complete(caller, prompt=["a", "b"], stream=True, echo=True, stream_options={"include_usage": True})
    )
    assert texts(streamed) == [
        (0, "a", None), (0, "a", None), (0, "a", None), (0, "", "length"),
        (1, "b", None), (1, "b", None), (1, "b", None), (1, "", "length"),
    ]  # fmt: skip
    assert streamed[-1]["choices"] == []
    assert streamed[-1]["usage"]["total_tokens"] == 14


def failing_at(number: int, site: Site) -> None:
    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        if len(site.engine.requests) > number:
            return [Started(5, 0.0), Failed("engine_failed", "It broke.")]
        return continued(request)

    site.engine.script = script


def test_a_choice_that_fails_fails_the_whole_and_the_rest_is_not_run(site: Site, caller: Caller) -> None:
    failing_at(1, site)
    assert error_of(complete(caller, prompt=["a", "b", "c"])) == (500, "engine_failed", None)
    assert len(site.engine.requests) == 2
    assert [event.header.action for event in site.events()].count("prompt") == 2


def test_a_choice_that_fails_ends_the_stream_with_an_error(site: Site, caller: Caller) -> None:
    failing_at(1, site)
    blocks = complete(caller, prompt=["a", "b", "c"], stream=True).text.split("\n\n")
    assert json.loads(blocks[-2].removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert "[DONE]" not in "".join(blocks)
    assert len(site.engine.requests) == 2


def test_an_end_without_text_is_an_empty_text(site: Site, caller: Caller) -> None:
    play(site, Started(5, 0.0), done(completion_tokens=1))
    assert complete(caller).json["choices"][0] == {  # type: ignore[index]
        "index": 0, "text": "", "logprobs": None, "finish_reason": "stop",
    }  # fmt: skip


def test_what_does_not_fit_names_the_prompt(site: Site, caller: Caller) -> None:
    play(site, Failed("context_exceeded", "Too long."))
    assert error_of(complete(caller)) == (400, "context_length_exceeded", "prompt")
    huge = "x" * (MODEL.context_tokens * 16 + 1)
    before = len(site.engine.requests)
    assert error_of(complete(caller, prompt=["a", huge])) == (400, "context_length_exceeded", "prompt")
    assert len(site.engine.requests) == before  # the first was not run either


def test_another_model_is_not_found(caller: Caller) -> None:
    assert error_of(complete(caller, model="davinci")) == (404, "model_not_found", "model")


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": 1}, "model", "invalid_type"),
    ({"prompt": None}, "prompt", "missing_required_parameter"),
    ({"prompt": 5}, "prompt", "invalid_type"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": ["a"] * 17}, "prompt", "invalid_value"),
    ({"prompt": [1, 2]}, "prompt", "unsupported_value"),
    ({"prompt": [[1, 2]]}, "prompt", "unsupported_value"),
    ({"prompt": ["a", None]}, "prompt", "invalid_type"),
    ({"prompt": "a\0"}, "prompt", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"n": 17}, "n", "invalid_value"),
    ({"n": 9, "prompt": ["a", "b"]}, "n", "invalid_value"),
    ({"best_of": 2}, "best_of", "unsupported_value"),
    ({"echo": "yes"}, "echo", "invalid_type"),
    ({"suffix": "end"}, "suffix", "unsupported_parameter"),
    ({"logprobs": 6}, "logprobs", "invalid_value"),
    ({"logprobs": True}, "logprobs", "invalid_type"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"seed": "x"}, "seed", "invalid_type"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stream": 1}, "stream", "invalid_type"),
    ({"stream_options": {}}, "stream_options", "invalid_value"),
    ({"top_k": "x"}, "top_k", "invalid_type"),
    ({"min_p": 2}, "min_p", "invalid_value"),
    ({"repetition_penalty": 2}, "repetition_penalty", "unsupported_value"),
    ({"frequency_penalty": "x"}, "frequency_penalty", "invalid_type"),
    ({"presence_penalty": "x"}, "presence_penalty", "invalid_type"),
    ({"logit_bias": []}, "logit_bias", "invalid_type"),
    ({"user": 1}, "user", "invalid_type"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED, ids=str)
def test_a_field_at_fault_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    body = {"model": "m", "prompt": "Once", **fields}
    with pytest.raises(ApiError) as caught:
        parse_completion_request(json.dumps(body).encode())
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_every_field_has_a_refusal_in_the_table() -> None:
    assert {param for _, param, _ in REFUSED} == set(FIELDS)


@pytest.mark.parametrize("field", ["messages", "tools", "response_format", "reasoning_effort", "max_completion_tokens"])
def test_fields_of_chat_that_would_change_the_answer_are_refused(field: str) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(**{field: "x"})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)


def test_other_fields_are_ignored_and_named(caller: Caller) -> None:
    response = complete(caller, parallel_tool_calls=True, cache=1)
    assert response.headers["X-Ignored-Fields"] == "parallel_tool_calls, cache"
    with pytest.raises(ApiError) as caught:
        parse_completion_request(b'{"model": "m", "prompt": "a", "cache": 1}', strict=True)
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "cache")


def parsed(**fields: Any) -> CompletionRequest:
    return parse_completion_request(json.dumps({"model": "m", "prompt": "Once", **fields}).encode())


def test_null_is_the_same_as_absent() -> None:
    assert parsed(max_tokens=None, suffix=None, logprobs=None, best_of=None, n=None) == parsed()
    assert parsed().chat.max_tokens == 16


def test_an_empty_prompt_is_one() -> None:
    assert parsed(prompt="").prompts == ("",)
