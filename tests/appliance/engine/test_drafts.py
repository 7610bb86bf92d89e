"""Drafted tokens change no answer, leave no trace in a slot, and never cost a stream more than its credit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from appliance.engine.draft_lookup import DraftLookup
from appliance.engine.drafting import Drafting, DraftStream
from appliance.engine.harmony import Vocabulary
from appliance.engine.jobs import Job
from appliance.engine.scheduler import Scheduler
from appliance.engine.slots import Windows
from appliance.turns.events import Done, EngineEvent
from appliance.turns.request import Message, TurnRequest
from tests.appliance.engine.test_engine_model import NewModel
from tests.fakes import CHUNK_TOKENS, FakeModel

# What is found


def drafted(tokens: Sequence[int], most: int = 8) -> list[int]:
    lookup = DraftLookup(tokens[:-1])
    lookup.append(tokens[-1])
    return lookup.draft(most)


def test_what_followed_the_last_three_tokens_is_drafted() -> None:
    assert drafted([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 4) == [4, 5, 6, 7]
    assert drafted([1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3], 1) == [5]  # the last time counts


@pytest.mark.parametrize("tokens", [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 2, 3], [5, 2, 3, 4, 6, 2, 3]])
def test_nothing_is_drafted_where_three_tokens_never_stood_together(tokens: list[int]) -> None:
    assert drafted(tokens) == []


def test_a_repetition_is_drafted_beyond_its_own_end() -> None:
    assert drafted([7, 7, 7, 7], 5) == [7] * 5
    assert drafted([1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]


def test_a_source_is_followed_although_its_tokens_stand_elsewhere_too() -> None:
    lookup = DraftLookup([1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 9, 1, 2])
    lookup.append(3)
    for token in (4, 5):
        assert lookup.append(token) is True
    assert lookup.draft(3) == [6, 7, 8]  # 3 4 5 stood before 9 the last time


def test_a_token_that_differs_from_the_source_is_told() -> None:
    lookup = DraftLookup([1, 2, 3, 4, 5, 1, 2])
    assert [lookup.append(token) for token in (3, 9, 9)] == [None, False, None]
    assert lookup.draft(3) == []


def test_a_long_prompt_is_looked_at_in_parts() -> None:
    prompt = [int(token) for token in np.random.default_rng(1).integers(0, 200_000, 100_000)]
    lookup = DraftLookup([*prompt, *prompt[-13:-10]])
    found = 0
    while not lookup.draft(1):
        lookup.append(prompt[-10 + found])
        found += 1
        assert found < 40
    assert lookup.draft(2) == prompt[-10 + found :][:2] or found > 8


# How many are worth it


@dataclass
class Stepper:
    """Streams whose steps take a made-up time: one unit, and ``cost`` for each draft. It knows what is drawn."""

    drawn: list[list[int]]  # by stream: prompt and answer
    prompts: list[int]  # by stream: how long its prompt is
    cost: Callable[[int], float]  # of a draft, by the step's number
    spent: float = 0.0
    steps: int = 0
    most: int = 0
    streams: list[DraftStream] = field(default_factory=list)

    def run(self) -> list[int]:
        """Decode until one answer is complete; how many tokens each has."""
        self.streams = [DraftStream(own[:held]) for own, held in zip(self.drawn, self.prompts, strict=True)]
        drafting, done = Drafting(longest_s=1e9), [0 for _ in self.drawn]
        for stream, own, held in zip(self.streams, self.drawn, self.prompts, strict=True):
            stream.append(own[held])
        done = [1 for _ in self.drawn]
        while all(held + have < len(own) for own, held, have in zip(self.drawn, self.prompts, done, strict=True)):
            rooms = [len(own) - held - have - 1 for own, held, have in zip(self.drawn, self.prompts, done, strict=True)]
            drafts = drafting.plan(self.streams, rooms)
            accepted = []
            for at, (stream, ahead) in enumerate(zip(self.streams, drafts, strict=True)):
                follows = self.drawn[at][self.prompts[at] + done[at] :]
                right = next((n for n, token in enumerate(ahead) if token != follows[n]), len(ahead))
                for token in follows[: right + 1]:
                    stream.append(token)
                done[at] += right + 1
                accepted.append(right)
            count = sum(map(len, drafts))
            took = 1 + self.cost(self.steps) * count
            drafting.note(self.streams, drafts, accepted, took)
            self.spent, self.steps, self.most = self.spent + took, self.steps + 1, max(self.most, count)
        return done


def noise(count: int, seed: int, alphabet: int = 200_000) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, alphabet, count)]


@pytest.mark.parametrize("cost", [0.1, 0.3])
def test_a_copy_is_answered_in_far_fewer_steps(cost: float) -> None:
    text = noise(400, 1)
    stepper = Stepper([[*text, 5, 6, *text[:300]]], [402], lambda _: cost)
    (tokens,) = stepper.run()
    assert tokens / stepper.spent > 1.8
    assert stepper.most <= 8


@pytest.mark.parametrize("alphabet", [3, 5, 8, 12, 30, 200_000])
@pytest.mark.parametrize("cost", [0.05, 0.35, 1.0])
@pytest.mark.parametrize("answer", [120, 1000])
def test_noise_that_only_seems_to_repeat_costs_two_hundredths_at_most(alphabet: int, cost: float, answer: int) -> None:
    """With few different tokens three of them have always stood together before, and say nothing."""
    stepper = Stepper([noise(100 + answer, seed=alphabet, alphabet=alphabet)], [100], lambda _: cost)
    (tokens,) = stepper.run()
    assert stepper.spent <= 1.02 * tokens + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_whoever_alternates_between_copying_and_noise_to_waste_time_gains_or_loses_little(seed: int) -> None:
    rng, text, own = random.Random(seed), noise(500, seed), list[int]()
    while len(own) < 1500:
        start, length = rng.randrange(450), rng.choice([4, 5, 6, 12, 40])
        own += text[start : start + length]
        own += noise(rng.choice([1, 2, 20]), rng.randrange(10**9))
    stepper = Stepper([text + own], [len(text)], lambda _: 0.5)
    (tokens,) = stepper.run()
    assert stepper.spent <= 1.02 * tokens


def test_a_stream_that_repeats_nothing_does_not_wait_for_the_drafts_of_another() -> None:
    text = noise(400, 1)
    stepper = Stepper([text + text[:300], noise(700, 2)], [400, 400], lambda _: 0.3)
    stepper.run()
    assert stepper.spent <= 1.02 * stepper.steps


def test_streams_that_all_copy_are_all_answered_sooner() -> None:
    texts = [noise(400, seed) for seed in range(4)]
    stepper = Stepper([text + text[:300] for text in texts], [400] * 4, lambda _: 0.05)
    assert min(stepper.run()) / stepper.spent > 1.4


def test_a_cost_that_rises_is_noticed() -> None:
    text = noise(4000, 1)
    stepper = Stepper([text + text[:3000]], [4000], lambda step: 0.1 if step < 100 else 1.5)
    stepper.run()
    before, tokens = 100 * 1.8, 3000
    assert stepper.spent <= before + 1.05 * tokens


def test_one_slow_step_does_not_end_drafts_for_ever() -> None:
    text = noise(4000, 1)
    stepper = Stepper([text + text[:3000]], [4000], lambda step: 40.0 if step == 5 else 0.1)
    (tokens,) = stepper.run()
    assert tokens / stepper.spent > 1.5


def test_a_step_takes_no_longer_than_the_longest_pause() -> None:
    text = noise(400, 1)
    stream, drafting = DraftStream([*text, *text[:3]]), Drafting(longest_s=0.3)
    for token in text[3:100]:
        stream.append(token)
        stream.credit = 8.0
        drafts = drafting.plan([stream], [1000])
        drafting.note([stream], drafts, [len(drafts[0])], 0.1 * (1 + 0.5 * len(drafts[0])))
    assert drafting.drafted > 0
    assert len(drafting.plan([stream], [1000])[0]) <= 4  # 0.1 (1 + 4 * 0.5) = 0.3


@pytest.mark.parametrize("room", [0, 1, 3])
def test_no_more_is_drafted_than_an_answer_may_still_have(room: int) -> None:
    stream, drafting = DraftStream([1, 2, 3] * 30), Drafting(longest_s=1e9)
    stream.append(1)
    drafting.note([stream], [[]], [0], 1.0)
    stream.credit = 8.0
    assert len(drafting.plan([stream], [room])[0]) <= room


# What comes out


def replies(vocabulary: Vocabulary, count: int) -> dict[tuple[int, ...], list[int]]:
    """Prompts of lines, and answers that repeat some of them."""
    rng, made = random.Random(3), {}
    for number in range(count):
        lines = [f"line {number} {rng.randrange(999)} is {rng.choice('abcdef')};\n" for _ in range(20)]
        kept = "".join(rng.choices(lines, k=15))
        prompt = vocabulary.encode("".join(lines))
        text = f"<|channel|>final<|message|>{kept}<|return|>"
        made[tuple(prompt)] = vocabulary.encoding.encode(text, allowed_special="all")
    return made


def answers(
    vocabulary: Vocabulary, known: dict[tuple[int, ...], list[int]], *, drafts: bool, slots: int
) -> tuple[dict[str, tuple[int, ...]], FakeModel, Scheduler]:
    windows = Windows(16, 16 + CHUNK_TOKENS)
    model = FakeModel(known, slots=slots, windows=windows, takes_drafts=True)
    scheduler = Scheduler(model, vocabulary, queue_limit=100, drafts=drafts, longest_pause_s=1e9)
    sent: dict[str, list[EngineEvent]] = {}
    for number, prompt in enumerate(known):
        request = TurnRequest(
            id=f"{number}", user="ann", messages=(Message("user", "x"),), seed=number, max_tokens=60 + number
        )
        sent[request.id] = []
        scheduler.submit(Job(request, list(prompt), sent[request.id].append))
    while scheduler.step():
        pass
    ends = {name: events[-1].token_ids for name, events in sent.items() if events and isinstance(events[-1], Done)}
    return ends, model, scheduler


@pytest.mark.parametrize("slots", [1, 3])
def test_every_answer_is_the_same_with_and_without_drafts(vocabulary: Vocabulary, slots: int) -> None:
    known = replies(vocabulary, 12)
    plain, slow, _ = answers(vocabulary, known, drafts=False, slots=slots)
    fast, model, scheduler = answers(vocabulary, known, drafts=True, slots=slots)
    assert fast == plain
    assert len(fast) == 12
    assert scheduler.drafting.accepted > 100
    assert len(model.steps) < len(slow.steps)


def test_a_model_that_takes_no_drafts_gets_none(vocabulary: Vocabulary) -> None:
    model = FakeModel(replies(vocabulary, 2), slots=1, takes_drafts=False)
    scheduler = Scheduler(model, vocabulary, queue_limit=9)
    for prompt in model.replies:
        request = TurnRequest(id="a", user="ann", messages=(Message("user", "x"),), seed=1)
        scheduler.submit(Job(request, list(prompt), lambda _: None))
    while scheduler.step():
        pass
    assert all(step[1] == 1 for step in model.steps if step[0] == "decode")
    assert scheduler.drafting.drafted == 0


@pytest.mark.parametrize("temperature", [0.0, 0.02])
def test_a_real_model_answers_the_same_with_and_without_drafts(
    new_model: NewModel, vocabulary: Vocabulary, temperature: float
) -> None:
    """Its windowed layers are rings, its slots are continued by other prompts, and its logits decide every token."""
    ends: list[dict[str, tuple[int, ...]]] = []
    accepted = []
    for drafts in (False, True):
        model = new_model(slots=2, context_tokens=900)
        scheduler = Scheduler(model, vocabulary, queue_limit=99, drafts=drafts, clock=lambda: 0.0)
        sent: dict[str, list[EngineEvent]] = {}
        for number in range(8):
            rng = random.Random(number % 5)
            lines = [[rng.randrange(1000) for _ in range(12)] for _ in range(5)]
            prompt = [token for _ in range(6) for token in rng.choice(lines)]
            request = TurnRequest(
                id=f"{number}", user=f"{number % 2}", messages=(Message("user", "x"),), seed=number, max_tokens=200,
                temperature=temperature, top_p=0.1 if temperature else 1.0,
            )  # fmt: skip
            sent[request.id] = []
            scheduler.submit(Job(request, prompt, sent[request.id].append))
        while scheduler.step():
            pass
        ends.append({name: events[-1].token_ids for name, events in sent.items() if isinstance(events[-1], Done)})
        accepted.append(scheduler.drafting.accepted)
    assert ends[0] == ends[1]
    assert len(ends[0]) == 8
    assert accepted[0] == 0
    assert accepted[1] > 50
