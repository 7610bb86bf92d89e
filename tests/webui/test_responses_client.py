"""The official client's responses against the real application in a real gunicorn; only the engine is a fake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import openai
import pytest
from openai.types.responses import FunctionToolParam, ResponseInputParam
from pydantic import BaseModel

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
from appliance.turns.request import TurnRequest
from tests.fakes import FakeEngine, Gate, done, echo
from tests.waiting import wait_for
from tests.webui.served import gunicorn, site_with_key

MODEL = "gpt-oss-fake"
RUNNING = ("queued", "in_progress")
NOW: FunctionToolParam = {
    "type": "function", "name": "now", "description": "The time.", "strict": True,
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False, "required": []},
}  # fmt: skip


@dataclass
class Server:
    """A served site."""

    engine: FakeEngine
    client: openai.OpenAI


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("site")
    with (
        site_with_key(home, MODEL) as (_, key),
        FakeEngine() as engine,
        gunicorn(home, engine.doorbell) as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=20) as client,
    ):
        yield Server(engine, client)


@pytest.fixture(autouse=True)
def _echo_again(server: Server) -> Iterator[None]:
    yield
    server.engine.script = echo
    server.engine.requests.clear()


def play(server: Server, *events: TurnEvent) -> None:
    server.engine.script = lambda _request: events


def test_answers_as_a_whole(server: Server) -> None:
    answer = server.client.responses.create(model=MODEL, input="Hello")
    assert answer.output_text == "You said: Hello"
    assert answer.usage is not None
    assert (answer.usage.total_tokens, answer.usage.output_tokens_details.reasoning_tokens) == (27, 3)


def test_the_clients_own_accumulator_reads_the_stream(server: Server) -> None:
    with server.client.responses.stream(model=MODEL, input="Hello") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "You said: Hello"
    reasoning = final.output[0]
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert reasoning.content[0].text == "The user said something; I repeat it."


def test_log_probabilities_reach_the_client(server: Server) -> None:
    likely = TokenLogprob(Likelihood("Hi", (72, 105), -0.5), (Likelihood("Yo", (89, 111), -1.0),))
    play(server, Started(1, 0.0), AnswerDelta("Hi", (likely,)), done())
    answer = server.client.responses.create(
        model=MODEL, input="Hello", include=["message.output_text.logprobs"], top_logprobs=1
    )
    message = answer.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert [(one.token, one.bytes, one.logprob, one.top_logprobs[0].token) for one in part.logprobs] == [
        ("Hi", [72, 105], -0.5, "Yo")
    ]


def test_the_clients_own_accumulator_keeps_log_probabilities(server: Server) -> None:
    likely = TokenLogprob(Likelihood("Hi", (72, 105), -0.5), (Likelihood("Yo", (89, 111), -1.0),))
    play(server, Started(1, 0.0), AnswerDelta("Hi", (likely,)), done())
    with server.client.responses.stream(model=MODEL, input="Hello", top_logprobs=1) as stream:
        told = [event.logprobs for event in stream if event.type == "response.output_text.delta"]
        part = stream.get_final_response().output[0]
    assert [[(one.token, one.logprob) for one in piece] for piece in told] == [[("Hi", -0.5)]]
    assert part.type == "message"
    assert part.content[0].type == "output_text"
    assert [one.bytes for one in part.content[0].logprobs or ()] == [[72, 105]]


class Event(BaseModel):
    """What is asked for."""

    name: str
    day: str


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_is_parsed_into_a_type(server: Server, streamed: bool) -> None:
    play(server, Started(1, 0.0), AnswerDelta('{"name": "Fair", '), AnswerDelta('"day": "Friday"}'), done())
    if streamed:
        with server.client.responses.stream(model=MODEL, input="When?", text_format=Event) as stream:
            parsed = stream.get_final_response().output_parsed
    else:
        parsed = server.client.responses.parse(model=MODEL, input="When?", text_format=Event).output_parsed
    assert parsed == Event(name="Fair", day="Friday")
    schema = server.engine.requests[-1].answer_schema
    assert schema is not None
    assert set(schema["properties"]) == {"name", "day"}


def calling_then_answering(request: TurnRequest) -> Iterable[TurnEvent]:
    """Call the tool; once it was answered, say what it said."""
    yield Started(5, 0.0)
    if request.messages[-1].role == "tool":
        yield AnswerDelta(f"It is {request.messages[-1].content}.")
        yield done()
    else:
        yield ReasoningDelta("I need the time.")
        yield AnswerDelta("I look it up.")
        yield ToolCallDelta(0, "call_1", "now", "")
        yield ToolCallDelta(0, "call_1", None, "{}")
        yield done(finish_reason="tool_calls")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_function_goes_out_and_its_result_comes_back(server: Server, streamed: bool) -> None:
    server.engine.script = calling_then_answering
    asked: ResponseInputParam = [{"role": "user", "content": "What time is it?"}]
    if streamed:
        with server.client.responses.stream(model=MODEL, input=asked, tools=[NOW]) as stream:
            output = stream.get_final_response().output
    else:
        output = server.client.responses.parse(model=MODEL, input=asked, tools=[NOW]).output
    call = output[-1]
    assert call.type == "function_call"
    assert (call.name, call.parsed_arguments) == ("now", {})
    history = [*asked, *(item.model_dump() for item in output)]  # sent back whole, as programs do
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    answer = server.client.responses.create(model=MODEL, input=[*history, result], tools=[NOW])  # type: ignore[list-item]
    assert answer.output_text == "It is noon."
    sent = server.engine.requests[-1].messages
    assert (sent[1].content, sent[1].reasoning, sent[2].name) == ("I look it up.", "I need the time.", "now")


def test_a_stream_that_breaks_says_so_in_the_client(server: Server) -> None:
    play(server, Started(1, 0.0), AnswerDelta("so"), Failed("engine_failed", "The model failed."))
    with server.client.responses.create(model=MODEL, input="Hello", stream=True) as stream:
        last = list(stream)[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "The model failed."


def test_a_bad_field_is_a_bad_request_that_names_it(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.responses.create(model=MODEL, input="Hello", tools=[{**NOW, "name": "a b"}])
    assert (caught.value.param, caught.value.code) == ("tools[0].name", "invalid_value")
    assert "64 letters" in caught.value.message


def test_a_response_is_kept_continued_listed_and_deleted(server: Server) -> None:
    responses = server.client.responses
    first = responses.create(model=MODEL, input="One")
    assert responses.retrieve(first.id) == first
    with responses.stream(model=MODEL, input="Two", previous_response_id=first.id) as stream:
        second = stream.get_final_response()
    sent = server.engine.requests[-1].messages
    assert [message.content for message in sent] == ["One", "You said: One", "Two"]
    listed = list(responses.input_items.list(second.id, limit=1))
    assert [item.content[0].text for item in listed if item.type == "message"] == ["Two"]  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError, match="background"):
        responses.cancel(second.id)
    responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        responses.create(model=MODEL, input="Three", previous_response_id=second.id)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


def test_a_response_in_the_background_is_begun_polled_and_read(server: Server) -> None:
    responses = server.client.responses
    begun = responses.create(model=MODEL, input="Hello", background=True)
    assert (begun.status, begun.background, begun.output_text) == ("queued", True, "")
    wait_for(lambda: responses.retrieve(begun.id).status not in RUNNING)
    ended = responses.retrieve(begun.id)
    assert ended.status == "completed"
    assert ended.output_text == "You said: Hello"
    assert responses.cancel(begun.id) == ended
    again = responses.create(model=MODEL, input="Two", previous_response_id=begun.id, background=True)
    assert responses.cancel(again.id).status in ("cancelled", "completed")
    responses.delete(again.id)


def test_a_response_in_the_background_is_cancelled_twice(server: Server) -> None:
    gate = Gate()
    server.engine.script = gate.script
    responses = server.client.responses
    begun = responses.create(model=MODEL, input="Hello", background=True)
    wait_for(lambda: responses.retrieve(begun.id).status == "in_progress")
    with pytest.raises(openai.BadRequestError, match="still being written") as caught:
        responses.create(model=MODEL, input="Two", previous_response_id=begun.id)
    assert caught.value.code == "previous_response_running"
    cancelled = responses.cancel(begun.id)
    gate.go_on.set()
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "Half ")
    assert responses.cancel(begun.id) == responses.retrieve(begun.id) == cancelled


def test_the_clients_own_accumulator_takes_up_a_lost_stream(server: Server) -> None:
    gate = Gate()
    server.engine.script = gate.script
    responses = server.client.responses
    with responses.create(model=MODEL, input="Hello", background=True, stream=True) as stream:
        begun = next(stream)
        assert begun.type == "response.created"
        assert next(stream).type == "response.queued"
        seen = next(event for event in stream if event.type == "response.output_text.delta")
    gate.go_on.set()
    with responses.stream(response_id=begun.response.id, starting_after=seen.sequence_number) as rest:
        said = [event.delta for event in rest if event.type == "response.output_text.delta"]
        final = rest.get_final_response()
    assert (seen.delta, said, final.output_text) == ("Half ", ["and all of it"], "Half and all of it")
