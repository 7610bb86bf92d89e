"""Batching, admission, fairness, cancellation and limits, with a model that checks what it is given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from appliance.engine.harmony import Vocabulary
from appliance.engine.job_queue import Load
from appliance.engine.jobs import Job
from appliance.engine.pacing import LONE_STEP_S
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import STOPPED, Scheduler
from appliance.engine.snapshots import Windows
from appliance.engine.steps import Append
from appliance.turns.events import AnswerDelta, Done, EngineEvent, Failed, Queued, Started, ToolCallDelta
from appliance.turns.request import Message, Tool, TurnRequest
from tests.fakes import CHUNK_TOKENS, FakeModel

WINDOWS = Windows(16, 16 + CHUNK_TOKENS)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A scheduler, a model that knows the replies to some prompts, and what every turn was sent."""

    def __init__(
        self, vocabulary: Vocabulary, *, slots: int = 2, queue_limit: int = 100, capacity: int = 4096,
        user_limit: int | None = None, windows: Windows | None = WINDOWS, copies: bool = True, mixes: bool = True,
        drafts: bool = False, cache_tokens: int | None = None, streams: int | None = None,
    ) -> None:  # fmt: skip
        self.vocabulary = vocabulary
        self.model = FakeModel(
            {}, slots=slots, capacity=capacity, windows=windows, copies=copies, mixes=mixes, takes_drafts=drafts,
            cache_tokens=cache_tokens,
        )  # fmt: skip
        self.clock = Clock()
        self.scheduler = Scheduler(
            self.model, vocabulary, queue_limit=queue_limit, user_limit=user_limit, streams=streams, clock=self.clock
        )
        self.sent: dict[str, list[EngineEvent]] = {}
        self.queued: dict[str, list[Queued]] = {}

    def turn(
        self, turn_id: str, reply: str, *, prompt: Sequence[int] | None = None, public: int = 0, **changes: Any
    ) -> Job:
        """Submit a turn with a prompt of its own whose reply is the Harmony text ``reply``."""
        prompt = list(prompt) if prompt is not None else self.vocabulary.encode(f"prompt of {turn_id} " * 3)
        self.model.replies[tuple(prompt)] = self.vocabulary.encoding.encode(reply, allowed_special="all")
        request = TurnRequest(id=turn_id, user="ann", messages=(Message("user", "x"),), seed=1)
        events = self.sent.setdefault(turn_id, [])
        queued = self.queued.setdefault(turn_id, [])
        turn = Job(replace(request, **changes), prompt, events.append, public, queued.append)
        self.scheduler.submit(turn)
        return turn

    def run(self, limit: int = 10_000) -> None:
        for _ in range(limit):
            if not self.scheduler.step():
                return
        raise AssertionError("the scheduler does not come to rest")

    def answer(self, turn_id: str) -> str:
        return "".join(e.text for e in self.sent[turn_id] if isinstance(e, AnswerDelta))

    def done(self, turn_id: str) -> Done:
        last = self.sent[turn_id][-1]
        assert isinstance(last, Done), last
        return last


@pytest.fixture
def bench(vocabulary: Vocabulary) -> Bench:
    return Bench(vocabulary)


def final(text: str) -> str:
    return f"<|channel|>final<|message|>{text}<|return|>"


def test_conversations_decode_together_and_do_not_mix(bench: Bench) -> None:
    for name in "abcde":
        bench.turn(name, final(f"This is the answer to {name}. " * 5), user=name)
    bench.run()
    for name in "abcde":
        assert bench.answer(name) == f"This is the answer to {name}. " * 5
    assert any(step[0] == "decode" and len(step[2]) == 2 for step in bench.model.steps if isinstance(step[2], list))


def test_a_turn_joins_while_another_runs(bench: Bench) -> None:
    bench.turn("long", final("word " * 50))
    for _ in range(10):
        bench.scheduler.step()
    bench.turn("short", final("ok"))
    while not bench.sent["short"] or not isinstance(bench.sent["short"][-1], Done):
        bench.scheduler.step()
    assert not isinstance(bench.sent["long"][-1], Done)
    bench.run()
    assert bench.answer("long") == "word " * 50


def test_a_long_prompt_delays_a_stream_by_one_chunk_at_most(bench: Bench) -> None:
    bench.turn("stream", final("word " * 40))
    for _ in range(5):
        bench.scheduler.step()
    bench.turn("long", final("ok"), prompt=bench.vocabulary.encode("long prompt " * 500), user="bob")
    bench.run()
    kinds = [step[0] for step in bench.model.steps]
    chunks = [step[2] for step in bench.model.steps if step[:2] == ("prefill", 1)]
    assert len(chunks) > 4
    assert all(isinstance(size, int) and size <= 128 for size in chunks)
    assert ("prefill", "prefill") not in set(pairwise(kinds))
    assert bench.answer("long") == "ok"


def test_done_reports_the_turn_in_numbers(bench: Bench) -> None:
    bench.clock.now = 200.0
    reply = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant" + final("Yes")
    turn = bench.turn("a", reply)
    bench.clock.now = 203.0
    bench.run()
    done = bench.done("a")
    tokens = bench.vocabulary.encoding.encode(reply, allowed_special="all")
    assert list(done.token_ids) == tokens
    assert (done.completion_tokens, done.prompt_tokens) == (len(tokens), len(turn.prompt))
    assert (done.finish_reason, done.reasoning_tokens, done.queued_s, done.malformed) == ("stop", 2, 3.0, False)
    assert bench.sent["a"][0] == Started(prompt_tokens=len(turn.prompt), queued_s=3.0, arithmetic="none")


def test_a_tool_call_ends_the_turn_as_one(bench: Bench) -> None:
    reply = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>'
    bench.turn("a", reply, tools=(Tool("f", ""),))
    bench.run()
    assert bench.done("a").finish_reason == "tool_calls"
    assert "".join(e.arguments for e in bench.sent["a"] if isinstance(e, ToolCallDelta)) == '{"a":1}'


def test_max_tokens_ends_a_turn_by_length_and_shows_what_was_held_back(bench: Bench) -> None:
    bench.turn("a", final("one two three four five"), max_tokens=6, stop=(" three!",))
    bench.run()
    assert bench.done("a").completion_tokens == 6
    assert bench.done("a").finish_reason == "length"
    assert bench.answer("a") == "one two three"
    assert bench.done("a").stop_text is None


def test_the_end_names_the_stop_text_that_was_written(bench: Bench) -> None:
    bench.turn("a", final("one two three four five"), stop=("four", "three"))
    bench.run()
    done = bench.done("a")
    assert (bench.answer("a"), done.finish_reason, done.stop_text) == ("one two ", "stop", "three")


def test_the_context_ends_a_turn_by_length(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, capacity=40)
    bench.turn("a", final("word " * 100), prompt=range(30))
    bench.run()
    assert bench.done("a").completion_tokens == 10
    assert bench.done("a").finish_reason == "length"


def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, capacity=40)
    bench.turn("a", final("x"), prompt=range(40))
    (only,) = bench.sent["a"]
    assert isinstance(only, Failed)
    assert only.code == "context_exceeded"
    assert only.message.count("40") == 2
    assert bench.scheduler.load() == Load(0, 0)


def test_a_full_queue_refuses_and_says_when_to_come_back(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=2, queue_limit=3)
    for name in "abcdef":
        bench.turn(name, final("x"))
    refused = [name for name in "abcdef" if bench.sent[name]]
    assert refused == ["f"]  # two for the slots, three waiting
    (only,) = bench.sent["f"]
    assert isinstance(only, Failed)
    assert only.code == "overloaded"
    assert only.retry_after_s is not None
    assert only.retry_after_s >= 1
    bench.run()
    assert [bench.answer(name) for name in "abcde"] == ["x"] * 5


def test_one_users_forty_requests_turn_nobody_else_away(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=4, queue_limit=32, user_limit=8)
    for number in range(40):
        bench.turn(f"ann{number}", final("x"), user="ann")
    for number in range(8):
        bench.turn(f"bob{number}", final("x"), user="bob")
    refused = {name: sent[0] for name, sent in bench.sent.items() if sent}
    assert sorted(refused) == sorted(f"ann{number}" for number in range(12, 40))  # four for the slots, eight waiting
    for failed in refused.values():
        assert isinstance(failed, Failed)
        assert failed.code == "too_many_waiting"
        assert failed.retry_after_s is not None
        assert failed.retry_after_s >= 1
    bench.run()
    assert all(bench.answer(f"bob{number}") == "x" for number in range(8))


def test_whoever_has_no_turn_waiting_finds_a_place_though_the_queue_is_full(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=2, queue_limit=4, user_limit=3)
    bench.turn("running0", final("x " * 9), user="eve")
    bench.turn("running1", final("x " * 9), user="eve")
    bench.scheduler.step()
    for name in ("ann", "bob", "cy", "dan", "eve", "fay"):
        bench.turn(name, final("x"), user=name)
    bench.turn("ann again", final("x"), user="ann")
    refused = bench.sent["ann again"][0]
    assert isinstance(refused, Failed)
    assert refused.code == "overloaded"
    bench.run()
    assert all(bench.answer(name) == "x" for name in ("ann", "bob", "cy", "dan", "eve", "fay"))


def test_places_come_back_as_turns_leave_the_queue(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=1, queue_limit=10, user_limit=1)
    bench.turn("running", final("x " * 9))
    bench.scheduler.step()
    waiting = bench.turn("waiting", final("x"))
    assert bench.scheduler.refusal("ann") is not None
    assert bench.scheduler.refusal("bob") is None
    bench.scheduler.cancel(waiting)
    assert bench.scheduler.refusal("ann") is None
    bench.turn("next", final("x"))
    assert bench.scheduler.refusal("ann") is not None
    bench.run()
    assert bench.scheduler.refusal("ann") is None


def test_a_queue_limit_of_zero_still_fills_the_slots(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=1, queue_limit=0)
    bench.turn("a", final("x"))
    bench.scheduler.step()
    bench.turn("b", final("x"))
    assert isinstance(bench.sent["b"][-1], Failed)
    bench.run()
    bench.turn("c", final("x"))
    bench.run()
    assert bench.answer("c") == "x"


def test_users_take_turns_however_many_each_has_waiting(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=1)
    for number in range(6):
        bench.turn(f"ann{number}", final("x"), user="ann")
    bench.turn("bob0", final("x"), user="bob")
    bench.turn("cy0", final("x"), user="cy")
    bench.turn("bob1", final("x"), user="bob")
    order: list[str] = []
    while bench.scheduler.step():
        order += [name for name, sent in bench.sent.items() if sent and name not in order]
    assert order == ["ann0", "bob0", "cy0", "ann1", "bob1", "ann2", "ann3", "ann4", "ann5"]


def test_each_waiting_turn_is_told_how_many_come_before_it(vocabulary: Vocabulary) -> None:
    """What is told beforehand is the order in which they are then taken."""
    bench = Bench(vocabulary, slots=1)
    for number, user in enumerate("aabcbcaad"):
        bench.turn(f"{user}{number}", final("x"), user=user)
    bench.scheduler.step()
    told = {name: news[-1].ahead for name, news in bench.queued.items() if news}
    assert sorted(told.values()) == list(range(8))
    order: list[str] = []
    while bench.scheduler.step():
        order += [name for name, sent in bench.sent.items() if sent and name not in order]
    assert order[1:] == sorted(told, key=lambda name: told[name])
    assert [news.ahead for news in bench.queued["d8"]] == sorted({told["d8"], *range(told["d8"])}, reverse=True)


def test_the_wait_is_told_once_a_turn_has_ended_and_a_turn_that_begins_at_once_hears_nothing(
    vocabulary: Vocabulary,
) -> None:
    bench = Bench(vocabulary, slots=1)
    for name in "abc":
        bench.turn(name, final("x"))
    bench.scheduler.step()
    assert bench.queued["a"] == []
    assert bench.queued["c"] == [Queued(1, None)]
    bench.clock.now += 30.0
    while not bench.sent["b"]:
        bench.scheduler.step()
    assert bench.queued["c"][-1].ahead == 0
    assert bench.queued["c"][-1].wait_s == 12.5  # the first guess of 10 s, an eighth of the way to 30 s
    seen = len(bench.queued["c"])
    bench.scheduler.step()
    assert len(bench.queued["c"]) == seen  # nothing has changed, so nothing is told


def test_a_cancelled_turn_frees_its_slot_within_one_step(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=1)
    turn = bench.turn("a", final("word " * 100))
    for _ in range(5):
        bench.scheduler.step()
    bench.turn("b", final("next"))
    seen = len(bench.sent["a"])
    bench.scheduler.cancel(turn)
    bench.scheduler.step()
    assert isinstance(bench.sent["b"][0], Started)
    assert len(bench.sent["a"]) == seen
    bench.run()
    assert bench.answer("b") == "next"
    assert bench.scheduler.load() == Load(0, 0)


def test_a_waiting_turn_can_be_cancelled(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=1)
    bench.turn("a", final("x"))
    waiting = bench.turn("b", final("x"))
    bench.scheduler.cancel(waiting)
    bench.run()
    assert bench.sent["b"] == []
    assert bench.scheduler.load() == Load(0, 0)


def test_a_turn_cancelled_while_its_prompt_is_read_leaves_a_sound_slot(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=1)
    prompt = vocabulary.encode("long prompt " * 1000)
    turn = bench.turn("a", final("x"), prompt=prompt)
    bench.scheduler.step()
    bench.scheduler.cancel(turn)
    bench.turn("b", final("same prompt again"), prompt=prompt)
    bench.run()
    assert bench.answer("b") == "same prompt again"
    assert 0 < bench.done("b").cached_tokens < len(prompt)


def test_a_follow_up_computes_only_what_is_new(bench: Bench) -> None:
    prompt = bench.vocabulary.encode("A long beginning. " * 20)
    bench.turn("a", final("first"), prompt=prompt)
    bench.run()
    follow_up = prompt + bench.vocabulary.encode(" And then?")
    bench.turn("b", final("second"), prompt=follow_up)
    bench.run()
    assert bench.answer("b") == "second"
    assert bench.done("b").cached_tokens == len(prompt)
    assert bench.model.steps[-1][0] == "decode"
    assert [s[2] for s in bench.model.steps if s[0] == "prefill"][-1] == len(follow_up) - len(prompt)


def test_the_same_prompt_again_computes_its_last_token_only(bench: Bench) -> None:
    for name in "ab":
        bench.turn(name, final("same"), prompt=range(100, 150))
        bench.run()
    assert bench.done("b").cached_tokens == 49
    assert bench.answer("b") == "same"


def test_the_same_prompt_several_times_at_once_is_computed_once(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=4)
    prompt = range(100, 100 + 5 * CHUNK_TOKENS)
    for name in "abcd":
        bench.turn(name, final("same"), prompt=prompt)
    bench.run()
    computed = [tokens for kind, _, tokens in bench.model.steps if kind == "prefill" and isinstance(tokens, int)]
    assert sum(computed) == len(prompt) + 3  # each needs the logits of the last token
    assert [bench.answer(name) for name in "abcd"] == ["same"] * 4


def test_what_one_user_computed_is_not_used_for_another(bench: Bench) -> None:
    for user in ("ann", "bob"):
        bench.turn(user, final("same"), prompt=range(100, 150), user=user)
        bench.run()
    assert bench.done("bob").cached_tokens == 0
    assert bench.answer("bob") == "same"


def test_what_every_prompt_begins_with_is_copied_for_another_user_and_nothing_more(bench: Bench) -> None:
    for user in ("ann", "bob"):
        bench.turn(user, final("x " * 200), prompt=range(100, 400), public=60, user=user)
        bench.run()
    assert bench.done("ann").cached_tokens == 0
    assert bench.done("bob").cached_tokens == 60
    assert bench.answer("bob") == "x " * 200


def test_a_model_that_cannot_copy_shares_nothing(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, windows=None, copies=False)
    for user in ("ann", "bob"):
        bench.turn(user, final("x"), prompt=range(100, 400), public=60, user=user)
        bench.run()
    assert bench.done("bob").cached_tokens == 0


def test_a_users_parallel_turns_share_their_beginning(vocabulary: Vocabulary) -> None:
    """Each takes what the others have computed of it meanwhile."""
    bench = Bench(vocabulary, slots=5)
    system = list(range(1000, 1500))
    for name in "abcde":
        bench.turn(name, final(name), prompt=[*system, *bench.vocabulary.encode(f"question {name}")])
    bench.run()
    assert [bench.answer(name) for name in "abcde"] == list("abcde")
    computed = sum(tokens for kind, _, tokens in bench.model.steps if kind == "prefill" and isinstance(tokens, int))
    assert computed == 5 * len(system) + 5 * 2 - sum(bench.done(name).cached_tokens for name in "abcde")
    assert computed < len(system) + 5 * 16  # a part of less than 16 tokens is computed rather than copied


def test_a_follow_up_without_the_reasoning_begins_at_the_end_of_its_prompt(bench: Bench) -> None:
    """The answer was longer than the ring: what the windowed layers held there comes from the snapshot."""
    prompt = bench.vocabulary.encode("A question. " * 100)
    thoughts = "<|channel|>analysis<|message|>" + "so " * 400 + "<|end|><|start|>assistant"
    bench.turn("a", thoughts + final("yes"), prompt=prompt)
    bench.run()
    follow_up = prompt + bench.vocabulary.encode(" yes. And then?")
    bench.turn("b", final("no"), prompt=follow_up)
    bench.run()
    assert bench.done("b").cached_tokens == len(prompt)
    assert bench.answer("b") == "no"


def test_an_edited_prompt_begins_at_the_snapshot_before_the_edit(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, capacity=16_384)
    prompt = list(range(3000, 6000))
    bench.turn("a", final("x"), prompt=prompt)
    bench.run()
    bench.turn("b", final("y"), prompt=[*prompt[:2700], *range(100, 150)])
    bench.run()
    assert bench.answer("b") == "y"
    assert bench.done("b").cached_tokens == 2048  # one every 1,024 tokens; chunks are of 128


def test_a_new_conversation_leaves_the_other_one_its_slot(bench: Bench) -> None:
    first = bench.vocabulary.encode("system text, then " + "a long conversation " * 20)
    bench.turn("a", final("x"), prompt=first)
    bench.run()
    bench.turn("b", final("y"), prompt=bench.vocabulary.encode("system text, then something else"))
    bench.run()
    bench.turn("c", final("z"), prompt=[*first, 11, 12])
    bench.run()
    assert bench.done("c").cached_tokens == len(first)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_a_failing_step_fails_its_turns_and_the_next_work(bench: Bench, kind: str) -> None:
    bench.model.fail_next.add(kind)
    bench.turn("a", final("x"), prompt=range(100, 150))
    bench.run()
    last = bench.sent["a"][-1]
    assert isinstance(last, Failed)
    assert last.code == "engine_failed"
    bench.turn("b", final("y"), prompt=range(100, 150))
    bench.run()
    assert bench.answer("b") == "y"
    assert bench.done("b").cached_tokens == 0  # what the failed step left is not trusted


def test_a_step_that_fails_beside_streams_fails_the_prompt_and_they_go_on(bench: Bench) -> None:
    text = "word " * 30
    bench.turn("stream", final(text))
    for _ in range(5):
        bench.scheduler.step()
    bench.model.fail_next.add("step")
    bench.turn("reads", final("x"), prompt=range(100, 150))
    sent = len(bench.sent["stream"])
    bench.scheduler.step()
    assert isinstance(bench.sent["reads"][-1], Failed)
    assert len(bench.sent["stream"]) > sent, "the stream had no token in that step"
    bench.run()
    assert bench.answer("stream") == text
    bench.turn("again", final("y"), prompt=range(100, 150))
    bench.run()
    assert bench.done("again").cached_tokens == 0


@pytest.mark.parametrize("mixes", [True, False])
def test_a_prompt_and_the_streams_share_a_step_where_the_model_can(vocabulary: Vocabulary, mixes: bool) -> None:
    bench = Bench(vocabulary, slots=3, mixes=mixes)
    for name in "ab":
        bench.turn(name, final("word " * 100))
    for _ in range(5):
        bench.scheduler.step()
    bench.model.steps.clear()
    bench.turn("c", final("z"), prompt=range(100, 400))
    for _ in range(3):
        bench.scheduler.step()
    kinds = [step[0] for step in bench.model.steps]
    assert kinds == (["decode", "prefill"] if mixes else ["prefill", "decode"]) * 3
    bench.run()
    assert bench.answer("c") == "z"


def test_stop_ends_running_and_waiting_turns_and_refuses_new_ones(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=1)
    bench.turn("running", final("word " * 20))
    bench.turn("waiting", final("x"))
    for _ in range(4):
        bench.scheduler.step()
    bench.scheduler.stop(STOPPED)
    bench.turn("late", final("x"))
    assert [bench.sent[name][-1] for name in ("running", "waiting", "late")] == [STOPPED] * 3
    assert bench.scheduler.step() is False


def test_load_counts_running_and_waiting(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=2)
    for name in "abcde":
        bench.turn(name, final("x" * 50))
    assert bench.scheduler.load() == Load(0, 5)
    bench.scheduler.step()
    assert bench.scheduler.load() == Load(2, 3)
    bench.run()
    assert bench.scheduler.load() == Load(0, 0)


def test_salvaged_harmony_is_reported(bench: Bench) -> None:
    bench.turn("a", "Hello, I forgot the header.<|return|>")
    bench.run()
    assert bench.answer("a") == "Hello, I forgot the header."
    assert bench.done("a").malformed


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_joining_leaving_and_following_up_keeps_conversations_apart(
    vocabulary: Vocabulary, seed: int
) -> None:
    rng = random.Random(seed)
    windows = rng.choice([None, WINDOWS, Windows(40, 40 + CHUNK_TOKENS)])
    bench = Bench(vocabulary, slots=rng.randint(1, 5), windows=windows, mixes=rng.random() < 0.7)
    system = vocabulary.encode("What every prompt begins with, whoever asks. " * 4)
    histories = {user: system + vocabulary.encode(f"{user} begins. ") for user in "abc"}
    expected: dict[str, str] = {}
    cancelled: set[str] = set()
    for number in range(25):
        user = rng.choice("abc")
        name, text = f"{user}{number}", f"{user} {number} " * rng.randint(1, 20)
        if rng.random() < 0.6:
            histories[user] = histories[user] + vocabulary.encode(f" turn {number} " * rng.randint(1, 60))
        if rng.random() < 0.2:  # an edit
            histories[user] = histories[user][: rng.randint(len(system), len(histories[user]))]
        turn = bench.turn(name, final(text), prompt=[*histories[user], number], user=user, public=len(system))
        expected[name] = text
        for _ in range(rng.randint(0, 25)):
            bench.scheduler.step()
        if rng.random() < 0.3:
            bench.scheduler.cancel(turn)
            cancelled.add(name)
    bench.run()
    for name, text in expected.items():
        if name not in cancelled:
            assert bench.answer(name) == text
    assert bench.scheduler.load() == Load(0, 0)


class SlowModel(FakeModel):
    """Each prefill step takes a fixed time and some for each token, and each decode step some for each row, on the
    bench's clock."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        super().__init__({}, **options)
        self.clock = clock

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None:
        self.clock.now += 0.02 + 0.01 * len(tokens)
        return super().prefill(slot, tokens, past, want_logits=want_logits)

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        self.clock.now += 0.03 + 0.02 * len(appends)
        return super().decode(appends)


LONG = "<|channel|>final<|message|>" + "word " * 400 + "<|return|>"


def waits_while_a_prompt_is_prefilled(bench: Bench, streams: int) -> tuple[list[float], list[int]]:
    """How long each step took while a prompt of 800 tokens was prefilled beside the streams, and its chunks."""
    bench.model.steps.clear()
    for stream in range(streams):
        bench.turn(f"stream {stream} of {streams}", LONG)
    while len([step for step in bench.model.steps if step[0] == "prefill"]) < streams:
        bench.scheduler.step()
    bench.model.steps.clear()
    bench.turn(f"prefill {streams}", LONG, prompt=list(range(1000 * streams, 1000 * streams + 800)))
    waits: list[float] = []
    while sum(chunks_of(bench)) < 800:
        before = bench.clock.now
        bench.scheduler.step()
        waits.append(bench.clock.now - before)
    chunks = chunks_of(bench)
    bench.run()
    return waits, chunks


def chunks_of(bench: Bench) -> list[int]:
    return [tokens for kind, _, tokens in bench.model.steps if kind == "prefill" and isinstance(tokens, int)]


@pytest.mark.parametrize("pause_s", [0.3, 1.0])
def test_chunks_are_what_fits_into_the_pause_a_stream_may_make(vocabulary: Vocabulary, pause_s: float) -> None:
    bench = Bench(vocabulary)
    bench.model = SlowModel(bench.clock, slots=6)
    bench.scheduler = Scheduler(bench.model, vocabulary, queue_limit=10, longest_pause_s=pause_s, clock=bench.clock)
    waits, chunks = waits_while_a_prompt_is_prefilled(bench, 1)
    assert max(waits) < pause_s
    fits = (0.9 * pause_s - 0.07) / 0.01  # 0.02 for any chunk, 0.05 for the stream
    assert chunks[0] == 1
    assert 0.7 * fits <= max(chunks) <= fits
    waits, chunks = waits_while_a_prompt_is_prefilled(bench, 4)  # 0.11 for the streams; what was learnt is kept
    assert max(waits) < pause_s
    assert max(chunks) > 0.5 * (0.9 * pause_s - 0.13) / 0.01


def test_a_prompt_that_nobody_waits_beside_is_read_in_whole_chunks(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary)
    bench.model = SlowModel(bench.clock, slots=2)
    bench.scheduler = Scheduler(bench.model, vocabulary, queue_limit=10, clock=bench.clock)
    bench.turn("alone", LONG, prompt=list(range(300)))
    bench.run()
    assert [tokens for kind, _, tokens in bench.model.steps if kind == "prefill"] == [CHUNK_TOKENS, CHUNK_TOKENS, 44]


class DeepModel(SlowModel):
    """A token of a prompt takes the longer the more tokens are before it."""

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None:
        self.clock.now += 1e-5 * past * len(tokens)
        return super().prefill(slot, tokens, past, want_logits=want_logits)


def test_a_step_deep_in_a_long_prompt_ends_within_seconds_although_nobody_streams(vocabulary: Vocabulary) -> None:
    """A request that comes meanwhile waits for it. A whole chunk would take 24 s at the end of this prompt."""
    bench = Bench(vocabulary)
    bench.model = DeepModel(bench.clock, slots=2, capacity=32_768)
    bench.scheduler = Scheduler(bench.model, vocabulary, queue_limit=10, clock=bench.clock)
    bench.turn("long", "<|channel|>final<|message|>Yes<|return|>", prompt=list(range(18_000)))
    took, before = [], bench.clock.now
    while bench.scheduler.step():
        took.append(bench.clock.now - before)
        before = bench.clock.now
    assert max(took) < 1.1 * LONE_STEP_S  # one step learns from the one before it, which was less deep
    assert chunks_of(bench)[:10] == [CHUNK_TOKENS] * 10
    assert 10 < min(chunks_of(bench)[:-1]) < 30


def test_streams_wait_no_longer_beside_a_prompt_that_is_deep(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, capacity=32_768)
    bench.model = DeepModel(bench.clock, slots=2, capacity=32_768)
    bench.scheduler = Scheduler(bench.model, vocabulary, queue_limit=10, longest_pause_s=1.5, clock=bench.clock)
    bench.turn("stream", "<|channel|>final<|message|>" + "word " * 3000 + "<|return|>")
    bench.scheduler.step()
    bench.turn("long", "<|channel|>final<|message|>Yes<|return|>", prompt=list(range(12_000)))
    waits: list[float] = []
    while not bench.sent["long"] or not isinstance(bench.sent["long"][-1], Done):
        before = bench.clock.now
        bench.scheduler.step()
        waits.append(bench.clock.now - before)
    assert max(waits) < 1.5
    assert isinstance(bench.sent["stream"][-1], AnswerDelta)  # it streamed to the end of the prompt
