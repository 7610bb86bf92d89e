"""One fold of a turn's events, and stored forms that every later release reads."""

from __future__ import annotations

import pytest

from appliance.audit.details.codec import UnreadableDetails
from appliance.audit.details.kinds import details_of
from appliance.audit.details.turns import FinishedAnswer
from appliance.audit.event import Content
from appliance.turns.answer import About, Answer, Facts, Stretch, Words, facts_of, words_of
from appliance.turns.events import (
    ENDINGS,
    FAILURES,
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
    Waiting,
)
from appliance.turns.request import ToolCall
from tests.fakes import done

ABOUT = About("gpt-oss-fake", "0.0.1", "high")
# What release 0.1 stored with answers of conversations, and in the record.
STORED = {
    "model": "gpt-oss-20b", "release": "0.1.0", "effort": "medium", "prompt_event": 7, "event": 8, "thought_s": 1.2,
    "finish_reason": "length", "prompt_tokens": 20, "completion_tokens": 7, "reasoning_tokens": 3, "cached_tokens": 0,
    "queued_s": 0.0, "prefill_s": 0.5, "decode_s": 2, "malformed": False, "problem": "cut off",
}  # fmt: skip
STORED_FAILURE = {
    "model": "m", "release": "r", "effort": "low", "prompt_event": 7, "event": None, "failure": "engine_stopped",
    "problem": "It stopped.",
}  # fmt: skip
STORED_INTERRUPTION = {"problem": "Interrupted", "prompt_event": 7, "event": 8}


def answer_of(*events: TurnEvent, times: tuple[float, ...] = ()) -> Answer:
    answer = Answer()
    for number, event in enumerate(events):
        answer.add(event, times[number] if times else 0.0)
    return answer


def test_pieces_become_words_in_their_order() -> None:
    answer = answer_of(
        Started(20, 0.5), ReasoningDelta("look "), Waiting(), ReasoningDelta("up"), AnswerDelta("It "),
        ToolCallDelta(1, "b", "map", '{"x"'), ToolCallDelta(0, "a", "clock", ""), ToolCallDelta(1, "b", None, ":1}"),
        AnswerDelta("is."), done(finish_reason="tool_calls"),
    )  # fmt: skip
    calls = (ToolCall("a", "clock", ""), ToolCall("b", "map", '{"x":1}'))
    assert answer.words == Words("It is.", "look up", calls)
    assert answer.is_complete
    assert answer.problem is None


def test_parts_stand_in_the_order_in_which_they_began() -> None:
    answer = answer_of(
        ReasoningDelta("a"), ReasoningDelta("b"), AnswerDelta(""), AnswerDelta("c"), ReasoningDelta("d"),
        ToolCallDelta(0, "x", "clock", "{"), ToolCallDelta(0, "x", None, "}"),
    )  # fmt: skip
    parts = (
        Stretch("reasoning", "ab"), Stretch("text", "c"), Stretch("reasoning", "d"), ToolCall("x", "clock", "{}"),
    )  # fmt: skip
    assert answer.parts == parts
    assert [answer.part(place) for place in range(answer.part_count)] == list(parts)
    assert answer.words == Words("c", "abd", (ToolCall("x", "clock", "{}"),))


def test_a_token_belongs_to_the_part_whose_text_it_ends_in() -> None:
    one, two, three = (TokenLogprob(Likelihood(letter, (ord(letter),), -1.0), ()) for letter in "abc")
    answer = answer_of(
        AnswerDelta("a", (one,)), AnswerDelta("b", (two,)), ReasoningDelta("r"), AnswerDelta("c", (three,)), done()
    )
    assert answer.parts == (
        Stretch("text", "ab", (one, two)), Stretch("reasoning", "r"), Stretch("text", "c", (three,)),
    )  # fmt: skip
    assert answer.tokens == (one, two, three)


def test_thinking_is_timed_from_its_first_word_to_the_first_after_it() -> None:
    events = (ReasoningDelta("a"), ReasoningDelta("b"), AnswerDelta("c"), done())
    assert answer_of(*events, times=(100.0, 105.0, 112.0, 115.0)).thought_s == 12.0
    assert answer_of(ReasoningDelta("a"), done(), times=(0.0, 3.0)).thought_s == 3.0
    assert answer_of(AnswerDelta("a"), done()).thought_s is None


@pytest.mark.parametrize("code", FAILURES)
def test_every_failure_has_words_for_the_person(code: FailureCode) -> None:
    answer = answer_of(AnswerDelta("Half"), Failed(code, "internal words"))
    assert not answer.is_complete
    assert answer.problem == f"{FAILURES[code].sentence} {FAILURES[code].what_to_do}"
    assert answer.facts(ABOUT, turn="t", prompt_event=1, event=2).failure == code


def test_an_answer_without_an_end_was_stopped() -> None:
    answer = answer_of(AnswerDelta("Half"))
    assert not answer.is_complete
    assert answer.problem == ENDINGS["cancelled"]


@pytest.mark.parametrize(
    "end",
    [
        done(),
        done(stop_text="END"),
        done(finish_reason="length", malformed=True),
        Failed("overloaded", "m", 2.0),
        None,
    ],
)
def test_what_is_stored_with_a_message_is_read_again(end: Done | Failed | None) -> None:
    events = (ReasoningDelta("r"), AnswerDelta("a"), *([end] if end else []))
    answer = answer_of(*events, times=(1.0, 3.26, 4.0))
    facts = answer.facts(ABOUT, turn="t", prompt_event=3, event=None)
    assert facts_of(facts.values()) == facts
    assert facts.thought_s == 2.3
    assert "token_ids" not in facts.values()


def test_the_record_names_a_stop_text_where_there_is_one() -> None:
    assert answer_of(done(stop_text="END")).content(None).details.values()["stop_text"] == "END"
    assert "stop_text" not in answer_of(done()).content(None).details.values()


def test_what_is_recorded_is_read_again() -> None:
    answer = answer_of(
        ReasoningDelta("r"), AnswerDelta("a\0"), ToolCallDelta(0, "c", "f", '{"\ud800"}'), done(token_ids=(1, 2))
    )
    content = answer.content("conversation")
    call = ToolCall("c", "f", '{"\N{REPLACEMENT CHARACTER}"}')
    assert words_of(content) == Words("a\N{REPLACEMENT CHARACTER}", "r", (call,))
    assert isinstance(content.details, FinishedAnswer)
    assert (content.details.done.token_ids, content.details.conversation) == ((1, 2), "conversation")


@pytest.mark.parametrize("end", [done(), Failed("overloaded", "m"), None])
def test_what_decides_the_last_bits_is_recorded(end: Done | Failed | None) -> None:
    """A reviewer who repeats the turn needs the same."""
    started = Started(prompt_tokens=3, queued_s=0.0, arithmetic="cpu, avx2, cache of bfloat16")
    details = answer_of(started, AnswerDelta("a"), *([end] if end else [])).content(None).details
    assert details.values()["arithmetic"] == "cpu, avx2, cache of bfloat16"
    assert "arithmetic" not in answer_of(AnswerDelta("a")).content(None).details.values()


def test_what_earlier_releases_stored_is_read() -> None:
    facts = facts_of(STORED)
    assert isinstance(facts, Facts)
    assert facts.about == About("gpt-oss-20b", "0.1.0", "medium")
    assert facts.done is not None
    assert (facts.done.finish_reason, facts.done.decode_s, facts.problem) == ("length", 2.0, "cut off")
    assert facts_of(STORED_FAILURE) == Facts(
        about=About("m", "r", "low"), prompt_event=7, failure="engine_stopped", problem="It stopped."
    )
    assert facts_of(STORED_INTERRUPTION) == Facts(prompt_event=7, event=8, problem="Interrupted")
    calls = [{"id": "c0", "name": "clock", "arguments": "{}"}]
    recorded = {"conversation": None, "prompt_tokens": 1, "reasoning": "r", "tool_calls": calls}
    assert words_of(Content("text", details_of("answer", recorded))) == Words(
        "text", "r", (ToolCall("c0", "clock", "{}"),)
    )


@pytest.mark.parametrize(
    "changes",
    [{"thought_s": "long"}, {"event": "8"}, {"model": 7}, {"completion_tokens": None}, {"failure": "no such code"},
     {"finish_reason": "unknown"}, {"problem": ["x"]}, {"effort": "enormous"}, {"event": True}],
)  # fmt: skip
def test_facts_that_nobody_here_has_written_are_refused(changes: dict[str, object]) -> None:
    assert isinstance(facts_of({**STORED, **changes}), UnreadableDetails)
    lacking = {name: value for name, value in STORED.items() if name != "release"}
    assert isinstance(facts_of(lacking), UnreadableDetails)
