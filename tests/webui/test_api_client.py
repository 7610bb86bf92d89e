"""The official client against the real application in a real gunicorn; only the engine is a fake."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageParam

from appliance.audit.log import AuditLog, Event
from appliance.turns.events import (
    AnswerDelta,
    Failed,
    FinishReason,
    Likelihood,
    ReasoningDelta,
    Started,
    TokenLogprob,
    ToolCallDelta,
    TurnEvent,
)
from appliance.turns.request import TurnRequest
from appliance.turns.schemas import in_order
from tests.fakes import FakeEngine, done, echo
from tests.waiting import wait_for
from tests.webui.asked import HELLO, NOW
from tests.webui.served import gunicorn, site_with_key

MODEL = "gpt-oss-fake"


@dataclass
class Server:
    """A served site."""

    engine: FakeEngine
    record: AuditLog
    port: int
    key: str

    def client(self, key: str | None = None) -> openai.OpenAI:
        base_url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=base_url, api_key=key or self.key, max_retries=0, timeout=20)

    def answer_to(self, turn: TurnRequest) -> Event:
        """The recorded answer of a turn."""

        def recorded() -> list[Event]:
            events = (self.record.get(number) for number in range(1, self.record.size() + 1))
            return [e for e in events if (e.header.action, e.header.subject) == ("answer", turn.id)]

        return wait_for(recorded)[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("site")
    with (
        site_with_key(home, MODEL) as (record, key),
        FakeEngine() as engine,
        gunicorn(home, engine.doorbell) as port,
    ):
        yield Server(engine, record, port, key)


@pytest.fixture(autouse=True)
def _echo_again(server: Server) -> Iterator[None]:
    yield
    server.engine.script = echo
    server.engine.requests.clear()


def play(server: Server, *events: TurnEvent) -> None:
    server.engine.script = lambda _request: events


def test_lists_and_gets_the_model(server: Server) -> None:
    with server.client() as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).owned_by


def test_answers_as_a_whole(server: Server) -> None:
    with server.client() as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, seed=1, max_tokens=50)
    assert answer.choices[0].message.content == "You said: Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.choices[0].message.model_extra or {})["reasoning_content"].startswith("The user said")
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3


def test_answers_as_a_stream_with_usage(server: Server) -> None:
    with (
        server.client() as client,
        client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
        ) as stream,
    ):
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: Hello"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 27


def test_the_clients_own_accumulator_reads_the_stream(server: Server) -> None:
    with server.client() as client, client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "You said: Hello"


def test_several_choices_arrive_whole_and_streamed(server: Server) -> None:
    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        yield from (Started(5, 0.0), AnswerDelta("number "), AnswerDelta(str(request.seed)), done())

    server.engine.script = script
    expected = {0: "number 5", 1: "number 6", 2: "number 7"}
    with server.client() as client:
        whole = client.chat.completions.create(model=MODEL, messages=HELLO, n=3, seed=5)
        with client.chat.completions.stream(model=MODEL, messages=HELLO, n=3, seed=5) as stream:
            final = stream.get_final_completion()
    for answer in (whole, final):
        assert {choice.index: choice.message.content for choice in answer.choices} == expected
        assert {choice.finish_reason for choice in answer.choices} == {"stop"}


def calling_then_answering(request: TurnRequest) -> Iterable[TurnEvent]:
    """Call the tool; once it was answered, say what it said."""
    yield Started(5, 0.0)
    if request.messages[-1].role == "tool":
        yield AnswerDelta(f"It is {request.messages[-1].content}.")
        yield done()
    else:
        yield ReasoningDelta("I need the time.")
        yield ToolCallDelta(0, "call_1", "now", "")
        yield ToolCallDelta(0, "call_1", None, '{"zone": "UTC"}')
        yield done(finish_reason="tool_calls")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_goes_out_and_its_result_comes_back(server: Server, streamed: bool) -> None:
    server.engine.script = calling_then_answering
    message: ChatCompletionMessage
    with server.client() as client:
        if streamed:
            with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=[NOW]) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(model=MODEL, messages=HELLO, tools=[NOW]).choices[0].message
        assert message.tool_calls is not None
        call = message.tool_calls[0]
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("now", {"zone": "UTC"})
        history: list[ChatCompletionMessageParam] = [
            *HELLO,
            message.model_dump(exclude={"parsed"}),  # type: ignore[list-item]  # sent back whole, as programs do
            {"role": "tool", "tool_call_id": call.id, "content": "noon"},
        ]
        answer = client.chat.completions.create(model=MODEL, messages=history, tools=[NOW])
    assert answer.choices[0].message.content == "It is noon."
    sent = server.engine.requests[-1]
    assert sent.messages[1].reasoning == "I need the time."
    assert (sent.messages[2].tool_call_id, sent.messages[2].name) == ("call_1", "now")


def test_a_bad_field_is_a_bad_request_that_names_it(server: Server) -> None:
    with server.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=3)
    assert (caught.value.param, caught.value.code) == ("temperature", "invalid_value")


def test_a_wrong_key_is_an_authentication_error(server: Server) -> None:
    with server.client("gpo_wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_an_unknown_model_is_a_not_found_error(server: Server) -> None:
    with server.client() as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert caught.value.code == "model_not_found"


def test_other_apis_are_a_not_found_error(server: Server) -> None:
    with server.client() as client, pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="x")


def test_a_full_queue_is_a_rate_limit_error_with_a_time_to_wait(server: Server) -> None:
    play(server, Failed("overloaded", "Too many requests wait.", retry_after_s=4.0))
    with server.client() as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.response.headers["Retry-After"] == "4"


def test_a_dead_engine_is_an_internal_server_error(server: Server) -> None:
    play(server, Failed("engine_stopped", "The model stopped."))
    with server.client() as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_stopped")


def test_a_stream_that_breaks_raises_in_the_client(server: Server) -> None:
    play(server, Started(1, 0.0), AnswerDelta("so"), Failed("engine_failed", "The model failed."))
    with (
        server.client() as client,
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream,
        pytest.raises(openai.APIError, match="The model failed"),
    ):
        list(stream)


def test_an_engine_that_dies_in_the_middle_ends_the_stream(server: Server) -> None:
    reached = threading.Event()

    def script(_request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(1, 0.0)
        yield AnswerDelta("so")
        reached.set()
        time.sleep(0.3)
        server.engine.die()
        yield AnswerDelta("never")

    server.engine.script = script
    with (
        server.client() as client,
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream,
        pytest.raises(openai.APIError),
    ):
        list(stream)
    assert reached.is_set()


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_finish_reason_arrives(server: Server, reason: FinishReason) -> None:
    play(server, Started(1, 0.0), AnswerDelta("x"), done(finish_reason=reason))
    with server.client() as client:
        assert client.chat.completions.create(model=MODEL, messages=HELLO).choices[0].finish_reason == reason


def endless(_request: TurnRequest) -> Iterable[TurnEvent]:
    """Write a word every 20 ms for 20 seconds."""
    yield Started(1, 0.0)
    for _ in range(1000):
        time.sleep(0.02)
        yield AnswerDelta("word ")
    yield done()


def test_leaving_a_stream_cancels_the_turn_and_keeps_what_came(server: Server) -> None:
    server.engine.script = endless
    with server.client() as client, client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    turn = server.engine.requests[0]
    wait_for(lambda: turn.id in server.engine.cancelled)
    answer = server.answer_to(turn)
    assert answer.header.outcome == "abandoned"
    assert answer.content is not None
    assert answer.content.text.startswith("word ")


def test_leaving_before_the_whole_answer_cancels_the_turn(server: Server) -> None:
    server.engine.script = endless
    with server.client() as client, pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(model=MODEL, messages=HELLO)
    turn = server.engine.requests[0]
    wait_for(lambda: turn.id in server.engine.cancelled)
    assert server.answer_to(turn).header.outcome == "abandoned"


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_several_choices_cancels_each_of_them(server: Server, stream: bool) -> None:
    server.engine.script = endless
    with server.client() as client, contextlib.suppress(openai.APITimeoutError):
        answer = client.with_options(timeout=2).chat.completions.create(
            model=MODEL, messages=HELLO, n=3, stream=stream, seed=1
        )
        if isinstance(answer, openai.Stream):
            next(iter(answer))
            answer.close()
    turns = server.engine.requests
    wait_for(lambda: {turn.id for turn in turns} <= set(server.engine.cancelled))
    assert len(turns) == 3
    assert [server.answer_to(turn).header.outcome for turn in turns] == ["abandoned"] * 3


@contextlib.contextmanager
def silent_engine(server: Server) -> Iterator[None]:
    """An engine that takes the turn and then says nothing, as in a long prefill."""
    released = threading.Event()

    def script(_request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(1, 0.0)
        released.wait(20)
        yield done()

    server.engine.script = script
    try:
        yield
    finally:
        released.set()


def test_a_silent_stream_is_kept_alive(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    body = json.dumps({"model": MODEL, "messages": HELLO, "stream": True})
    with silent_engine(server), contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        lines = [response.readline() for _ in range(8)]
    comments = [line for line in lines if line.startswith(b":")]
    assert len(comments) == 3  # Started, and two of the seconds after it


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_while_the_engine_is_silent_ends_the_turn(server: Server, stream: bool) -> None:
    with silent_engine(server):
        with server.client() as client, contextlib.suppress(openai.APITimeoutError):
            client.with_options(timeout=0.3).chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
        wait_for(lambda: server.engine.requests)
        assert server.answer_to(server.engine.requests[0]).header.outcome == "abandoned"


def test_a_body_over_the_limit_is_refused_by_the_real_server(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Authorization", f"Bearer {server.key}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(2**40))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_many_callers_are_answered_each_with_their_own(server: Server) -> None:
    answers: dict[int, str | None] = {}

    def ask(number: int) -> None:
        with server.client() as client:
            message: ChatCompletionMessageParam = {"role": "user", "content": f"number {number}"}
            created = client.chat.completions.create(model=MODEL, messages=[message])
            answers[number] = created.choices[0].message.content

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert answers == {number: f"You said: number {number}" for number in range(12)}


def test_log_probabilities_reach_the_client(server: Server) -> None:
    likely = TokenLogprob(Likelihood("Hi", (72, 105), -0.5), (Likelihood("Yo", (89, 111), -1.0),))
    server.engine.script = lambda _: [Started(1, 0.0), AnswerDelta("Hi", (likely,)), done()]
    answer = server.client().chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, top_logprobs=1)
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert [(one.token, one.logprob, one.top_logprobs[0].token) for one in told.content] == [("Hi", -0.5, "Yo")]


@pytest.mark.parametrize("streamed", [False, True])
def test_log_probabilities_of_a_bare_text_reach_the_client(server: Server, streamed: bool) -> None:
    likely = TokenLogprob(Likelihood("Hi", (72, 105), -0.5), (Likelihood("Yo", (89, 111), -1.0),))
    server.engine.script = lambda _: [Started(1, 0.0), AnswerDelta("Hi", (likely,)), done()]
    with server.client() as client:
        if streamed:
            with client.completions.create(model=MODEL, prompt="Hello", logprobs=1, stream=True) as stream:
                told = next(chunk.choices[0].logprobs for chunk in stream if chunk.choices[0].text)
        else:
            told = client.completions.create(model=MODEL, prompt="Hello", logprobs=1).choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.text_offset) == (["Hi"], [-0.5], [0])
    assert told.top_logprobs == [{"Yo": -1.0, "Hi": -0.5}]


class City(pydantic.BaseModel):
    """A place, in the order in which it is to be thought about."""

    why: str
    name: Literal["Oslo", "Rome"]
    districts: list[str]


def test_an_answer_is_parsed_into_the_class_that_was_asked_for(server: Server) -> None:
    play(server, Started(5, 0.0), AnswerDelta('{"why":"w","name":"Oslo","districts":[]}'), done())
    with server.client() as client:
        parsed = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=City)
    assert parsed.choices[0].message.parsed == City(why="w", name="Oslo", districts=[])
    held = server.engine.requests[-1].answer_schema
    assert held is not None
    assert held["title"] == "City"
    assert list(in_order(held)["properties"]) == ["why", "name", "districts"]
    assert held["additionalProperties"] is False


def test_a_strict_function_made_of_a_class_must_be_called(server: Server) -> None:
    play(
        server, Started(5, 0.0), ToolCallDelta(0, "c", "City", ""),
        ToolCallDelta(0, "c", None, '{"why":"w","name":"Rome","districts":["a"]}'), done(finish_reason="tool_calls"),
    )  # fmt: skip
    with server.client() as client:
        parsed = client.chat.completions.parse(
            model=MODEL, messages=HELLO, tools=[openai.pydantic_function_tool(City)], tool_choice="required"
        )
    calls = parsed.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == City(why="w", name="Rome", districts=["a"])
    sent = server.engine.requests[-1]
    assert (sent.must_call, [tool.strict for tool in sent.tools]) == (("City",), [True])


def test_a_named_function_is_the_only_one_that_may_be_called(server: Server) -> None:
    server.engine.script = calling_then_answering
    with server.client() as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, tools=[NOW, openai.pydantic_function_tool(City)],
            tool_choice={"type": "function", "function": {"name": "now"}},
        )  # fmt: skip
    assert answer.choices[0].finish_reason == "tool_calls"
    assert server.engine.requests[-1].must_call == ("now",)


def test_a_schema_that_cannot_be_held_is_refused_before_anything_is_recorded(server: Server) -> None:
    size = server.record.size()
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    with server.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=HELLO,
            response_format={"type": "json_schema", "json_schema": {"name": "set", "schema": schema}},
        )  # fmt: skip
    assert (caught.value.param, caught.value.code) == ("response_format.json_schema.schema", "unsupported_value")
    assert "uses uniqueItems, which cannot be held" in caught.value.message
    assert server.record.size() == size
    assert server.engine.requests == []
