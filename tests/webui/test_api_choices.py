"""Several answers to one request: each is a turn of its own, and all of them end together if one cannot be had."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

import pytest
from werkzeug.test import TestResponse

from appliance.audit.event import Outcome
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
from appliance.turns.request import TurnRequest, alternatives, new_request
from tests.fakes import FakeEngine, done
from tests.waiting import HELD_S
from tests.webui.conftest import MakeSite, Site
from tests.webui.test_api import Caller, caller, chunks, error_of

__all__ = ["caller"]  # a fixture
SEED = 40
NOTICE = "There is no answer."


def by_seed(request: TurnRequest) -> Iterable[TurnEvent]:
    """Say which choice of a request with `SEED` this is."""
    index = request.seed - SEED
    yield Started(prompt_tokens=20, queued_s=0.0)
    yield ReasoningDelta(f"thought {index}")
    yield AnswerDelta(f"choice {index}, ")
    yield AnswerDelta("in two pieces")
    yield done(completion_tokens=10 + index, reasoning_tokens=index, cached_tokens=16)


def as_calls(request: TurnRequest) -> Iterable[TurnEvent]:
    yield Started(prompt_tokens=20, queued_s=0.0)
    if request.seed == SEED:
        yield AnswerDelta("Half")
        yield done(notice=NOTICE)
    else:
        yield ToolCallDelta(0, "call_0", "now", "{}")
        yield done(finish_reason="tool_calls")


def ends(site: Site) -> list[tuple[str, Outcome]]:
    """Subject and outcome of each answer in the record."""
    headers = [event.header for event in site.events()]
    return sorted((one.subject, one.outcome) for one in headers if one.action == "answer")


def test_alternatives_differ_in_id_and_seed_alone() -> None:
    first = new_request("ada", (), id_prefix="x-", seed=2**63 - 2, top_k=3)
    copies = alternatives(first, 3)
    assert copies[0] == first
    assert [one.id for one in copies] == [first.id, f"{first.id}-1", f"{first.id}-2"]
    assert [one.seed for one in copies] == [2**63 - 2, 2**63 - 1, 0]
    assert {(one.user, one.top_k, one.messages) for one in copies} == {("ada", 3, ())}


def test_a_whole_answer_has_all_choices_in_order(site: Site, caller: Caller) -> None:
    site.engine.script = by_seed
    body = caller.ask(n=3, seed=SEED).json
    assert body is not None
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    said = [choice["message"]["content"] for choice in body["choices"]]
    assert said == [f"choice {index}, in two pieces" for index in range(3)]
    assert [choice["message"]["reasoning"] for choice in body["choices"]] == ["thought 0", "thought 1", "thought 2"]
    assert {choice["finish_reason"] for choice in body["choices"]} == {"stop"}


def test_usage_counts_the_prompt_once_and_every_answer(site: Site, caller: Caller) -> None:
    site.engine.script = by_seed
    expected = {  # of the 20 tokens of the prompt each choice has computed 4
        "prompt_tokens": 20, "completion_tokens": 33, "total_tokens": 53,
        "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip
    whole = caller.ask(n=3, seed=SEED).json
    assert whole is not None
    assert whole["usage"] == expected
    streamed = chunks(caller.ask(n=3, seed=SEED, stream=True, stream_options={"include_usage": True}))
    assert [one["usage"] for one in streamed if "usage" in one] == [expected]
    assert (streamed[-1]["usage"], streamed[-1]["choices"]) == (expected, [])


def test_what_choices_copy_from_each_other_was_not_cached_before(site: Site, caller: Caller) -> None:
    cached = {SEED: 0, SEED + 1: 19}

    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        yield done(cached_tokens=cached[request.seed])

    site.engine.script = script
    body = caller.ask(n=2, seed=SEED).json
    assert body is not None
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_each_choice_is_recorded_as_a_turn_of_its_own(site: Site, caller: Caller) -> None:
    site.engine.script = by_seed
    body = caller.ask(n=3, seed=SEED).json
    assert body is not None
    subjects = [body["id"], f"{body['id']}-1", f"{body['id']}-2"]
    assert ends(site) == [(subject, "ok") for subject in sorted(subjects)]
    texts = {e.header.subject: e.content.text for e in site.events() if e.content and e.header.action == "answer"}
    assert [texts[subject] for subject in subjects] == [f"choice {index}, in two pieces" for index in range(3)]
    assert Counter(event.header.action for event in site.events())["prompt"] == 3


def test_a_choice_can_be_asked_for_alone(site: Site, caller: Caller) -> None:
    site.engine.script = by_seed
    body = caller.ask(n=1, seed=SEED + 2).json
    assert body is not None
    assert body["choices"][0]["message"]["content"] == "choice 2, in two pieces"


def test_one_drawn_seed_gives_the_seeds_of_all(site: Site, caller: Caller) -> None:
    caller.ask(n=4)
    seeds = sorted(request.seed for request in site.engine.requests)
    assert seeds == list(range(seeds[0], seeds[0] + 4))


def test_a_stream_says_the_same_choice_by_choice(site: Site, caller: Caller) -> None:
    site.engine.script = by_seed
    streamed = chunks(caller.ask(n=3, seed=SEED, stream=True))
    assert len({one["id"] for one in streamed}) == 1
    for index in range(3):
        own = [c for one in streamed for c in one["choices"] if c["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in own) == f"choice {index}, in two pieces"
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == ["stop"]
        assert own[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_choices_may_end_in_different_ways(site: Site, caller: Caller, stream: bool) -> None:
    site.engine.script = as_calls
    response = caller.ask(n=2, seed=SEED, stream=stream, tools=[{"type": "function", "function": {"name": "now"}}])
    if not stream:
        assert response.json is not None
        answered, called = (choice["message"] for choice in response.json["choices"])
        assert (answered["content"], answered["refusal"]) == (f"Half\n\n{NOTICE}", NOTICE)
        assert called["tool_calls"][0]["function"]["name"] == "now"
        return
    found = [choice for one in chunks(response) for choice in one["choices"]]
    assert "".join(c["delta"].get("content", "") for c in found if c["index"] == 0) == f"Half\n\n{NOTICE}"
    assert [c["index"] for c in found if "tool_calls" in c["delta"]] == [1]
    assert {(c["index"], c["finish_reason"]) for c in found if c["finish_reason"]} == {(0, "stop"), (1, "tool_calls")}


def test_each_choice_has_the_log_probabilities_of_its_own_tokens(site: Site, caller: Caller) -> None:
    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        text = f"c{request.seed - SEED}"
        yield AnswerDelta(text, tokens=(TokenLogprob(Likelihood(text, tuple(text.encode()), -0.5), ()),))
        yield done()

    site.engine.script = script
    whole = caller.ask(n=2, seed=SEED, logprobs=True).json
    assert whole is not None
    stream = chunks(caller.ask(n=2, seed=SEED, logprobs=True, stream=True))
    streamed = [choice for one in stream for choice in one["choices"]]
    for choices in (whole["choices"], [choice for choice in streamed if choice["logprobs"]]):
        told = {choice["index"]: [one["token"] for one in choice["logprobs"]["content"]] for choice in choices}
        assert told == {0: ["c0"], 1: ["c1"]}


def test_choices_run_side_by_side(site: Site, caller: Caller) -> None:
    together = threading.Barrier(4)

    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(prompt_tokens=20, queued_s=0.0)
        together.wait(HELD_S)  # raises unless all four are in the engine
        yield from by_seed(request)

    site.engine.script = script
    assert caller.ask(n=4, seed=SEED).status_code == 200


class OneFails:
    """An engine's script: the second choice ends with ``end`` once the others have written something.

    Args: later: the second choice ends no sooner than this is set.
    """

    def __init__(self, end: TurnEvent, *, at_once: bool = False, later: threading.Event | None = None) -> None:
        self._end, self._at_once, self._later = end, at_once, later
        self._written = threading.Barrier(3)
        self._go_on = threading.Event()  # is never set: the turns are cancelled before

    def script(self, request: TurnRequest) -> Iterable[TurnEvent]:
        if request.seed == SEED + 1:
            if not self._at_once:
                yield Started(prompt_tokens=20, queued_s=0.0)
                self._written.wait(HELD_S)
            if self._later is not None:
                self._later.wait(HELD_S)
            yield self._end
            return
        yield Started(prompt_tokens=20, queued_s=0.0)
        yield AnswerDelta("Half")
        if not self._at_once:
            self._written.wait(HELD_S)
        self._go_on.wait(HELD_S)
        yield done()


BUSY = Failed("too_many_waiting", "You have 8 requests waiting.", retry_after_s=3.0)
CANCELLED = done(finish_reason="cancelled")


def check_that_all_ended(site: Site, outcome: Outcome) -> None:
    """The second choice has ``outcome``, and the others were cancelled with what they had written."""
    (_, first), (_, second), (_, third) = ends(site)
    assert (first, second, third) == ("abandoned", outcome, "abandoned")


@pytest.mark.parametrize("stream", [False, True])
def test_a_choice_that_is_refused_refuses_the_request(site: Site, caller: Caller, stream: bool) -> None:
    site.engine.script = OneFails(BUSY, at_once=True).script
    response = caller.ask(n=3, seed=SEED, stream=stream)
    assert error_of(response) == (429, "too_many_waiting", None)
    assert response.headers["Retry-After"] == "3"
    check_that_all_ended(site, "failed")


@pytest.mark.parametrize(
    ("end", "status", "code", "outcome"),
    [(Failed("engine_failed", "No."), 500, "engine_failed", "failed"), (CANCELLED, 503, "cancelled", "cancelled")],
)
def test_a_choice_that_fails_ends_the_others(
    site: Site, caller: Caller, end: TurnEvent, status: int, code: str, outcome: Outcome
) -> None:
    site.engine.script = OneFails(end).script
    assert error_of(caller.ask(n=3, seed=SEED)) == (status, code, None)
    check_that_all_ended(site, outcome)


@pytest.mark.parametrize(("end", "code"), [(Failed("engine_failed", "No."), "engine_failed"), (CANCELLED, "cancelled")])
def test_a_stream_with_a_choice_that_fails_later_ends_with_an_error_object(
    site: Site, caller: Caller, end: TurnEvent, code: str
) -> None:
    begun = threading.Event()
    site.engine.script = OneFails(end, later=begun).script
    response = caller.ask(n=3, seed=SEED, stream=True)
    begun.set()  # every choice has reached the server, so the failure is no answer of its own any more
    text = read(response)
    assert f'"code":"{code}"' in text.split("\n\n")[-2]
    assert "[DONE]" not in text
    check_that_all_ended(site, "failed" if code == "engine_failed" else "cancelled")


def read(response: TestResponse) -> str:
    """The whole stream; its end is recorded when this returns."""
    assert response.status_code == 200
    text = response.text
    response.close()
    return text


def test_a_fault_inside_a_turn_is_a_server_error_and_ends_the_others(
    site: Site, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.app.config["PROPAGATE_EXCEPTIONS"] = False
    append = site.services.record.append

    def broken(event: object) -> object:
        if getattr(event, "subject", "").endswith("-1"):
            raise KeyError("a fault")
        return append(event)  # type: ignore[arg-type]

    monkeypatch.setattr(site.services.record, "append", broken)
    assert error_of(caller.ask(n=3, seed=SEED)) == (500, "internal_error", None)
    assert len(ends(site)) == 2


def test_more_choices_than_the_queue_takes_are_refused_before_anything_is_recorded(make_site: MakeSite) -> None:
    site = make_site(FakeEngine(), queue_limit_per_user=2)
    caller = Caller(site, site.add_key(site.add_user("ada")))
    before = len(site.events())
    assert error_of(caller.ask(n=4)) == (400, "invalid_value", "n")
    assert len(site.events()) == before
    assert not site.engine.requests
    assert caller.ask(n=3).status_code == 200


def test_a_day_that_is_spent_refuses_all_choices(make_site: MakeSite) -> None:
    site = make_site(FakeEngine(), daily_mib_per_user=1)
    caller = Caller(site, site.add_key(site.add_user("ada")))
    long = {"role": "user", "content": "x" * 60_000}
    statuses = [caller.ask(n=8, messages=[long]).status_code for _ in range(4)]
    assert statuses[-1] == 429
    assert statuses[0] == 200
    prompts = Counter(event.header.action for event in site.events())["prompt"]
    assert prompts == 8 * statuses.count(200)
