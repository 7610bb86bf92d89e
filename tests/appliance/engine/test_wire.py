"""One side reads what the other wrote, and takes nothing else for a record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from appliance.engine.wire import MAX_LINE_BYTES, ProtocolError, Record, StatusRequest, decode, encode
from appliance.turns.engine import CountRequest, Status, TextRequest, TokenCount, Tokens, TokensRequest, TokenText
from appliance.turns.events import AnswerDelta, Done, Failed, Queued, ReasoningDelta, Started, ToolCallDelta
from appliance.turns.request import Message, Tool, ToolCall, TurnRequest
from tests.fakes import FAKE_STATUS, done

REQUEST = TurnRequest(
    id="t", user="u", seed=2**62, effort="high", temperature=0.5, top_p=1.0, max_tokens=9, stop=("a", "b\n"),
    messages=(
        Message("user", "line\nbreak \u2028 \x00 \ud800 😀"),
        Message("assistant", "", reasoning="r", tool_calls=(ToolCall("1", "f", '{"a":\n1}'),)),
        Message("tool", "42", tool_call_id="1", name="f"),
    ),
    tools=(Tool("f", "d", {"type": "object", "properties": {"a": [1, None, True, 1.5]}}), Tool("g", "")),
)  # fmt: skip

RECORDS: list[Record] = [
    REQUEST, StatusRequest(), Started(3, 0.5), ReasoningDelta("x"), AnswerDelta(""),
    ToolCallDelta(0, "c", None, "{"), done(malformed=True), Failed("overloaded", "m", 1.5), Failed("bad_request", "m"),
    FAKE_STATUS, Status("m", "r", "cpu", 1, 2, 3, 4, {"a": [1]}),
    TokensRequest(REQUEST, with_texts=True), TextRequest("u", (1, 2)), Tokens((1, 2), 512, ("a", "b")), TokenText("ab"),
    CountRequest(REQUEST), TokenCount(5, 4), Queued(2, None), Queued(0, 12.5),
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_a_record_survives_as_one_line(record: Record) -> None:
    line = encode(record)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == record


def test_whole_numbers_are_taken_where_a_float_is_declared() -> None:
    decoded = decode(b'{"type":"Started","prompt_tokens":3,"queued_s":0}\n')
    assert isinstance(decoded, Started)
    assert type(decoded.queued_s) is float


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(encode(REQUEST)), **fields}).encode() + b"\n"


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"null\n", b"[]\n", b'"x"\n', b"{}\n", b'{"type":"Exception"}\n', b'{"type":["Done"]}\n',
        b"\xff\n", b'{"type":"Done"', b"[" * 100_000, b'{"type":"Started","prompt_tokens":NaN,"queued_s":0}\n',
        changed(extra=1), changed(seed="1"), changed(seed=1.0), changed(seed=True), changed(seed=None),
        changed(temperature="hot"), changed(temperature=True), changed(effort="max"), changed(max_tokens="9"),
        changed(messages="hello"), changed(messages=[["user", "x"]]), changed(messages=[{"role": "user"}]),
        changed(messages=[{"role": "root", "content": "x"}]), changed(messages=[{"role": "user", "content": 1}]),
        changed(messages=[{"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}]),
        changed(tools=[{"name": "f", "description": "", "parameters": []}]), changed(stop="ab"), changed(stop=[1]),
        changed(id=None),
    ],
)  # fmt: skip
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line)


def test_a_missing_field_is_refused() -> None:
    for field in ("id", "user", "messages", "seed"):
        body = json.loads(encode(REQUEST))
        del body[field]
        with pytest.raises(ProtocolError):
            decode(json.dumps(body).encode())


def test_what_cannot_be_written_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(5000):
        nested = {"a": nested}
    for tool in (Tool("f", "", nested), Tool("f", "", {"a": float("nan")}), Tool("f", "", {"a": object()})):
        with pytest.raises(ProtocolError):
            encode(TurnRequest(id="t", user="u", seed=1, messages=(), tools=(tool,)))
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        encode(AnswerDelta("x" * MAX_LINE_BYTES))


def test_a_done_event_carries_every_figure() -> None:
    decoded = decode(encode(done(finish_reason="tool_calls", token_ids=(1, 2, 3))))
    assert isinstance(decoded, Done)
    assert decoded.token_ids == (1, 2, 3)
