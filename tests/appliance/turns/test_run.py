"""Nothing reaches the model unrecorded, and nothing ends unrecorded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from appliance.audit.event import Actor, Header, NewEvent
from appliance.audit.log import AuditLog, RecordError
from appliance.database.transactions import Database
from appliance.turns.engine import Answered, EngineUnavailableError, Question, Status
from appliance.turns.events import (
    AnswerDelta,
    Done,
    EngineEvent,
    Failed,
    ReasoningDelta,
    Started,
    ToolCallDelta,
    TurnEvent,
)
from appliance.turns.request import Message, Tool, TurnRequest
from appliance.turns.run import run_turn
from tests.fakes import FakeEngine, done

ADA = Actor("a1", "ada", "web", "10.0.0.1")


def request(text: str = "Hello there", **changes: object) -> TurnRequest:
    messages = (Message("system", "Be brief."), Message("user", text))
    return TurnRequest(**{"id": "turn-1", "user": "a1", "messages": messages, "seed": 5, **changes})  # type: ignore[arg-type]


class FailingLog(AuditLog):
    """A log whose appends of one action fail."""

    def __init__(self, database: Database, action: str) -> None:
        super().__init__(database)
        self._failing = action

    def append(self, event: NewEvent) -> Header:
        if event.action == self._failing:
            raise RecordError("the record could not be written")
        return super().append(event)


def content_of(log: AuditLog, number: int) -> tuple[str, dict[str, object]]:
    content = log.get(number).content
    assert content is not None
    return content.text, content.details.values()


def test_prompt_and_answer_are_recorded_with_everything_that_decided_them(log: AuditLog) -> None:
    with FakeEngine() as engine:
        tools = (Tool("clock", "the time", {"type": "object"}),)
        turn = run_turn(log, engine.client, ADA, request(tools=tools), conversation_id="c1")
        events = list(turn)
    assert isinstance(events[-1], Done)
    assert (turn.prompt_event, turn.answer_event) == (1, 2)
    prompt, answer = log.get(1).header, log.get(2).header
    assert (prompt.action, prompt.subject, prompt.actor) == ("prompt", "turn-1", ADA)
    assert (answer.action, answer.subject, answer.outcome) == ("answer", "turn-1", "ok")
    text, details = content_of(log, 1)
    assert (text, details["conversation"]) == ("Hello there", "c1")
    recorded = details["request"]
    assert isinstance(recorded, dict)
    assert (recorded["seed"], recorded["messages"][0]["content"]) == (5, "Be brief.")
    assert recorded["tools"] == [{"name": "clock", "description": "the time", "parameters": {"type": "object"}}]
    text, details = content_of(log, 2)
    assert text == "You said: Hello there"
    assert details["reasoning"] == "The user said something; I repeat it."
    assert (details["token_ids"], details["finish_reason"]) == ([35644, 200008, 976], "stop")


def test_prompt_is_durable_before_the_engine_sees_it(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    sizes: list[int] = []

    def script(_request: TurnRequest) -> Iterable[EngineEvent]:
        sizes.append(AuditLog(sqlite).size())
        yield done()

    with FakeEngine(script) as engine:
        list(run_turn(log, engine.client, ADA, request(), conversation_id=None))
    assert sizes == [1]


def test_answer_is_durable_before_done_is_handed_out(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    with FakeEngine() as engine:
        for event in run_turn(log, engine.client, ADA, request(), conversation_id=None):
            assert log.size() == (2 if isinstance(event, Done) else 1)


def test_unrecorded_prompt_never_reaches_the_engine(sqlite: Database) -> None:
    log = FailingLog(sqlite, "prompt")
    with FakeEngine() as engine:
        events = list(run_turn(log, engine.client, ADA, request(), conversation_id=None))
        assert engine.requests == []
    (event,) = events
    assert isinstance(event, Failed)
    assert event.code == "record_failed"


def test_full_disk_fails_the_turn_before_the_engine(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    sqlite.close()
    with sqlite.write() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with FakeEngine() as engine:
        events = list(run_turn(log, engine.client, ADA, request("x" * 50_000), conversation_id=None))
        assert engine.requests == []
    assert [event.code for event in events if isinstance(event, Failed)] == ["record_failed"]
    assert log.size() == 0


def test_unrecorded_answer_is_not_announced_as_done(sqlite: Database) -> None:
    log = FailingLog(sqlite, "answer")
    with FakeEngine() as engine:
        turn = run_turn(log, engine.client, ADA, request(), conversation_id=None)
        events = list(turn)
    assert not any(isinstance(event, Done) for event in events)
    assert isinstance(events[-1], Failed)
    assert (events[-1].code, turn.answer_event) == ("record_failed", None)


def test_abandoned_answer_is_recorded_as_far_as_it_came(log: AuditLog) -> None:
    go_on = threading.Event()

    def script(_request: TurnRequest) -> Iterable[EngineEvent]:
        yield Started(12, 0.0)
        yield AnswerDelta("half an ")
        go_on.wait(10)
        yield AnswerDelta("answer")

    with FakeEngine(script) as engine:
        turn = run_turn(log, engine.client, ADA, request(), conversation_id=None)
        assert isinstance(next(turn), Started)
        assert next(turn) == AnswerDelta("half an ")
        turn.close()
        go_on.set()
    assert log.get(2).header.outcome == "abandoned"
    text, details = content_of(log, 2)
    assert (text, details["prompt_tokens"]) == ("half an ", 12)
    assert turn.answer_event == 2


def test_turn_that_is_dropped_without_a_word_is_recorded(log: AuditLog) -> None:
    with FakeEngine() as engine:
        turn = run_turn(log, engine.client, ADA, request(), conversation_id=None)
        next(turn)
        del turn
    assert log.get(2).header.outcome == "abandoned"


def test_turn_that_nobody_begins_leaves_no_trace(log: AuditLog) -> None:
    with FakeEngine() as engine:
        run_turn(log, engine.client, ADA, request(), conversation_id=None).close()
        assert engine.requests == []
    assert log.size() == 0


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (done(finish_reason="length"), "ok"),
        (done(finish_reason="cancelled"), "cancelled"),
        (Failed("engine_failed", "It failed."), "failed"),
    ],
)
def test_outcome_says_how_the_turn_ended(log: AuditLog, end: Done | Failed, outcome: str) -> None:
    with FakeEngine(lambda _: [AnswerDelta("so far"), end]) as engine:
        events = list(run_turn(log, engine.client, ADA, request(), conversation_id=None))
    assert events[-1] == end
    assert log.get(2).header.outcome == outcome
    assert content_of(log, 2)[0] == "so far"


def test_engine_that_dies_leaves_a_failed_answer(log: AuditLog) -> None:
    died = threading.Event()

    def script(_request: TurnRequest) -> Iterable[EngineEvent]:
        yield AnswerDelta("so far")
        died.wait(10)

    with FakeEngine(script) as engine:
        turn = run_turn(log, engine.client, ADA, request(), conversation_id=None)
        assert next(turn) == AnswerDelta("so far")
        engine.die()
        last = list(turn)[-1]
        died.set()
    assert isinstance(last, Failed)
    assert last.code == "engine_stopped"
    assert (log.get(2).header.outcome, content_of(log, 2)[0]) == ("failed", "so far")


def test_error_in_the_engine_is_recorded_and_raised(log: AuditLog) -> None:
    class Broken:
        @contextmanager
        def turn(self, _request: TurnRequest) -> Iterator[Iterator[TurnEvent]]:
            raise RuntimeError("broken")
            yield iter(())

        def status(self, timeout_s: float = 2.0) -> Status:
            raise EngineUnavailableError("broken")

        def ask(self, question: Question, timeout_s: float = 60.0) -> Answered | Failed:
            raise EngineUnavailableError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(run_turn(log, Broken(), ADA, request(), conversation_id=None))
    assert log.get(2).header.outcome == "failed"


def test_tool_calls_are_put_together_from_their_pieces(log: AuditLog) -> None:
    pieces: list[EngineEvent] = [
        ReasoningDelta("look "), ReasoningDelta("up"),
        ToolCallDelta(0, "c0", "clock", ""), ToolCallDelta(1, "c1", "map", '{"x"'), ToolCallDelta(0, "c0", None, "{}"),
        ToolCallDelta(1, "c1", None, ":1}"), done(finish_reason="tool_calls"),
    ]  # fmt: skip
    with FakeEngine(lambda _: pieces) as engine:
        list(run_turn(log, engine.client, ADA, request(), conversation_id=None))
    _, details = content_of(log, 2)
    assert details["reasoning"] == "look up"
    assert details["tool_calls"] == [
        {"id": "c0", "name": "clock", "arguments": "{}"}, {"id": "c1", "name": "map", "arguments": '{"x":1}'},
    ]  # fmt: skip


def test_text_of_the_prompt_is_what_is_new(log: AuditLog) -> None:
    messages = (
        Message("developer", "rules"), Message("user", "first"), Message("assistant", "", tool_calls=()),
        Message("tool", "result", tool_call_id="c0"), Message("user", "and?"),
    )  # fmt: skip
    with FakeEngine() as engine:
        list(run_turn(log, engine.client, ADA, request(messages=messages), conversation_id=None))
    assert content_of(log, 1)[0] == "result\n\nand?"


@pytest.mark.parametrize("text", ["nul \0", "half \ud800"])
def test_prompt_that_cannot_be_recorded_exactly_is_refused(log: AuditLog, text: str) -> None:
    with FakeEngine() as engine:
        (event,) = run_turn(log, engine.client, ADA, request(text), conversation_id=None)
        assert engine.requests == []
    assert isinstance(event, Failed)
    assert (event.code, log.size()) == ("bad_request", 0)


def test_tool_nested_too_deep_is_refused(log: AuditLog) -> None:
    parameters: dict[str, object] = {}
    for _ in range(5000):
        parameters = {"p": parameters}
    with FakeEngine() as engine:
        (event,) = run_turn(
            log, engine.client, ADA, request(tools=(Tool("f", "", parameters),)), conversation_id=None
        )  # fmt: skip
    assert isinstance(event, Failed)
    assert event.code == "bad_request"


def test_generated_text_that_cannot_be_stored_is_recorded_all_the_same(log: AuditLog) -> None:
    with FakeEngine(lambda _: [AnswerDelta("a\0b"), done(token_ids=(1, 2))]) as engine:
        list(run_turn(log, engine.client, ADA, request(), conversation_id=None))
    text, details = content_of(log, 2)
    assert (text, details["token_ids"]) == ("a\N{REPLACEMENT CHARACTER}b", [1, 2])
