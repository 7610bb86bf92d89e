"""Drafted tokens change no answer, however it ends, and leave no trace in a slot."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from appliance.engine.draft_lookup import DraftLookup
from appliance.engine.harmony import ALL_TOKENS, CHANNEL, MESSAGE, START, Vocabulary
from appliance.engine.jobs import Job
from appliance.engine.operators import load_operators
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import Scheduler
from appliance.engine.snapshots import Windows
from appliance.turns.events import Done, EngineEvent, Failed
from appliance.turns.request import Message, Tool, TurnRequest
from tests.appliance.engine.test_engine_model import NewModel
from tests.appliance.engine.test_reuse import greedy
from tests.appliance.engine.test_scheduler import Bench, final
from tests.fakes import CHUNK_TOKENS, FakeModel


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
    scheduler = Scheduler(model, vocabulary, queue_limit=100, drafts=drafts, clock=lambda: 0.0)
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
    assert scheduler.generated == sum(map(len, fast.values()))
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


@pytest.mark.parametrize("path", load_operators().paths())
def test_an_answer_with_drafts_is_replayed_token_for_token(
    new_model: NewModel, vocabulary: Vocabulary, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every instruction set, a model that has seen nothing else and computes one token at a time says the same."""
    load_operators().use_path(path)
    fresh, rng = new_model(slots=1), random.Random(1)
    prompts = [[rng.randrange(1000) for _ in range(40)] for _ in range(3)]
    replayed = {tuple(prompt): greedy(fresh, prompt, 60) for prompt in prompts}

    def right_and_wrong(lookup: DraftLookup, most: int) -> list[int]:
        held = lookup._tokens.tolist()
        ahead = list(replayed[tuple(held[:40])][len(held) - 40 :][:most])
        return [(token + 1) % 1000 if rng.random() < 0.1 else token for token in ahead]

    monkeypatch.setattr(DraftLookup, "draft", right_and_wrong)
    scheduler = Scheduler(new_model(slots=2), vocabulary, queue_limit=9, clock=lambda: 0.0)
    asked: list[tuple[list[int], list[EngineEvent]]] = [(prompt, []) for prompt in (*prompts, prompts[0])]
    for prompt, events in asked:
        request = TurnRequest(
            id="a", user="ann", messages=(Message("user", "x"),), seed=1, temperature=0.0, max_tokens=60
        )
        scheduler.submit(Job(request, prompt, events.append))
    while scheduler.step():
        pass
    for prompt, events in asked:
        assert isinstance(events[-1], Done)
        assert events[-1].token_ids == replayed[tuple(prompt)]
    assert scheduler.drafting.accepted > 100
    assert scheduler.drafting.drafted - scheduler.drafting.accepted > 20


# How answers end

Play = Callable[[Bench], None]


def both(vocabulary: Vocabulary, play: Play, **settings: Any) -> Bench:
    """The same turns without drafts and with them. Every event must be the same; the value is the one with drafts."""
    plain, drafted = (Bench(vocabulary, drafts=drafts, **settings) for drafts in (False, True))
    for bench in (plain, drafted):
        play(bench)
        bench.run()
    assert drafted.sent == plain.sent
    assert [slot.tokens for slot in drafted.scheduler._slots.slots] == [s.tokens for s in plain.scheduler._slots.slots]
    assert len(drafted.model.steps) < len(plain.model.steps)
    assert plain.scheduler.drafting.drafted == 0
    return drafted


A_CALL = ' to=functions.f<|channel|>commentary<|message|>{"a": "TEXT"}<|call|>'
ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "return": (final("TEXT"), {}),
    "call": (A_CALL, {"tools": (Tool("f", ""),)}),
    "stop text": (final("TEXT"), {"stop": ("number 31", "number 40")}),
    "stop text held back": (final("TEXT"), {"stop": ("number 31\nnumber 32 of",)}),
    "limit": (final("TEXT"), {"max_tokens": 60}),
    "grammar": (final("TEXT"), {"grammar": True}),
    "grammar, call": (A_CALL, {"grammar": True, "tools": (Tool("f", ""),)}),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_answer_that_ends_among_right_drafts_ends_there(vocabulary: Vocabulary, end: str) -> None:
    """The prompt has the answer and goes on, so what is drafted at the end is right and too much."""
    form, changes = ENDS[end]

    def play(bench: Bench) -> None:
        for words in range(12):  # another place among the drafts each time
            text = "x " * words + "".join(f"number {n} of many\n" for n in range(30, 30 + 4 + words))
            text = json.dumps(text)[1:-1] if form == A_CALL else text
            reply = form.replace("TEXT", text)
            known = bench.vocabulary.encoding.encode(reply + text * 2, allowed_special="all")
            bench.turn(f"{words}", reply, prompt=[words, *known], **changes)
            bench.run()
            written = bench.done(f"{words}").token_ids
            follow_up = [words, *known, *written, *bench.vocabulary.encode(f"and {words}?")]
            bench.turn(f"{words}, then", final("ok"), prompt=follow_up)
            bench.run()

    drafting = both(vocabulary, play).scheduler.drafting
    assert drafting.drafted > drafting.accepted > 100


@pytest.mark.parametrize("left", range(1, 14))
def test_a_prompt_that_leaves_few_tokens_of_the_context_gets_exactly_these(vocabulary: Vocabulary, left: int) -> None:
    """The model refuses a draft behind the end of a slot."""
    capacity = 220

    def play(bench: Bench) -> None:
        bench.turn("warm", final("word " * 60))  # so that drafts are worth it
        bench.run()
        prompt = bench.vocabulary.encoding.encode(final("word " * 300), allowed_special="all")[: capacity - left]
        bench.turn("full", final("word " * 40), prompt=prompt)
        bench.run()
        assert bench.done("full").completion_tokens == left
        assert bench.done("full").finish_reason == "length"

    both(vocabulary, play, capacity=capacity, windows=None)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_what_the_grammar_forbids_is_neither_accepted_nor_changes_the_draws_behind_it(
    vocabulary: Vocabulary, temperature: float
) -> None:
    """A forbidden token takes a random number of its own, so each draw must take as many as it would alone."""
    ends, accepted = [], []
    for drafts in (False, True):
        scheduler = Scheduler(Wilful(vocabulary), vocabulary, queue_limit=99, drafts=drafts, clock=lambda: 0.0)
        sent: list[EngineEvent] = []
        for seed in range(12):
            request = TurnRequest(
                id=f"t{seed}", user="ann", messages=(Message("user", "x"),), seed=seed, max_tokens=150,
                tools=(Tool("get", ""),), temperature=temperature, grammar=True,
            )  # fmt: skip
            scheduler.submit(Job(request, vocabulary.encode(f"a b c d a b c {seed}"), sent.append))
        while scheduler.step():
            pass
        ends.append(sorted(done.token_ids for done in sent if isinstance(done, Done)))
        accepted.append(scheduler.drafting.accepted)
    assert ends[0] == ends[1]
    assert len(ends[0]) == 12
    assert accepted[1] > 20


class Wilful(FakeModel):
    """Writes a few words again and again, and would rather write a special token. The last two tokens decide."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__({}, slots=2, capacity=512, takes_drafts=True)
        self._words = [vocabulary.encode(word)[0] for word in (" a", " b", " c", " d")]
        self._known: dict[tuple[int, ...], TopLogits] = {}

    def _next(self, slot: int, *, is_draft: bool = False) -> TopLogits:
        last = tuple(self.held[slot][-2:])
        if last not in self._known:
            self._known[last] = self._behind(last)
        return self._known[last]

    def _behind(self, last: tuple[int, ...]) -> TopLogits:
        rng = random.Random(repr(last))
        ids = [rng.choice([START, CHANNEL, MESSAGE]), *rng.sample(self._words, 2)]
        row = np.full(ALL_TOKENS, -40, np.float32)
        row[ids] = [1.0 if rng.random() < 0.5 else -9.0, 0.5, -2.5]
        order = sorted(ids, key=lambda token: -row[token])
        logsumexp = float(np.log(np.exp(row.astype(np.float64)).sum()))
        return TopLogits(np.array(order), row[order], logsumexp, ALL_TOKENS, lambda: row)


# Slots afterwards


def test_a_cancelled_stream_leaves_a_sound_slot_and_the_other_stream_its_answer(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=2, drafts=True)
    for number in range(9):
        text = "".join(f"{n} of {number}\n" for n in range(40))
        prompt = [number, *vocabulary.encode(text * 2)]
        going = bench.turn(f"going {number}", final(text), prompt=prompt)
        bench.turn(f"stays {number}", final(text), prompt=[*prompt, 77], user="bob")
        while bench.answer(f"going {number}").count("\n") < 20:
            bench.scheduler.step()
        bench.scheduler.cancel(going)
        bench.run()
        assert bench.answer(f"stays {number}") == text
        assert not isinstance(bench.sent[f"going {number}"][-1], Done)
        begun = vocabulary.encoding.encode(final(text), allowed_special="all")[: 30 + number]
        bench.turn(f"again {number}", final(text), prompt=[*prompt, *begun, 5, 6])
        bench.run()
        assert bench.answer(f"again {number}") == text
        assert bench.done(f"again {number}").cached_tokens >= len(prompt)
    assert bench.scheduler.drafting.accepted > 100


@pytest.mark.parametrize("kind", ["decode", "decoded", "step"])
def test_a_step_with_drafts_that_fails_leaves_nothing_that_is_used(vocabulary: Vocabulary, kind: str) -> None:
    """Decoded: the model has written every draft when it fails."""
    bench = Bench(vocabulary, slots=3, drafts=True)
    text = "".join(f"line {n} of all\n" for n in range(60))
    prompts = {name: [ord(name), *vocabulary.encode(text * 2)] for name in "ab"}
    for name, prompt in prompts.items():
        bench.turn(name, final(text), prompt=prompt, user=name)
    while bench.model.steps[-1:] == [] or not has_drafts(bench, 2):
        assert bench.scheduler.step()
    bench.model.fail_next.add(kind)
    if kind == "step":
        bench.turn("new", final("x"), prompt=range(900, 950))
    drafted = bench.scheduler.drafting.drafted
    bench.run()
    if kind == "step":
        assert isinstance(bench.sent["new"][-1], Failed)
        assert [bench.answer(name) for name in prompts] == [text] * 2
        assert bench.scheduler.drafting.drafted > drafted
        return
    assert all(isinstance(bench.sent[name][-1], Failed) for name in prompts)
    assert [slot.tokens for slot in bench.scheduler._slots.slots] == [[]] * 3
    for name, prompt in prompts.items():
        bench.turn(f"{name} again", final(text), prompt=prompt, user=name)
        bench.run()
        assert bench.answer(f"{name} again") == text
        assert bench.done(f"{name} again").cached_tokens == 0


def has_drafts(bench: Bench, streams: int) -> bool:
    """Whether the last step decoded more tokens than it had streams."""
    kind, tokens, _ = bench.model.steps[-1]
    return kind == "decode" and tokens > streams


@pytest.mark.parametrize("seed", range(3))
def test_drafts_do_not_even_change_how_much_of_the_next_prompt_is_found(vocabulary: Vocabulary, seed: int) -> None:
    """What is found is not computed again, and a prompt is rounded otherwise than an answer: it may change a token."""

    def play(bench: Bench) -> None:
        rng = random.Random(seed)
        past = [rng.randrange(1000) for _ in range(60)]
        for number in range(12):
            lines = [f"{rng.randrange(99)} is {rng.choice('abc')};" for _ in range(30)]
            past += bench.vocabulary.encode("".join(lines))
            del past[3000:]
            reply = final("".join(rng.choice(lines) for _ in range(50)))
            bench.turn(f"{number}", reply, prompt=past)
            bench.run()
            past += bench.done(f"{number}").token_ids
            if number % 4:  # an edit, near the end of what the ring holds
                del past[-rng.randint(115, 135) :]

    drafting = both(vocabulary, play).scheduler.drafting
    assert drafting.drafted - drafting.accepted > 50
    assert drafting.accepted > 100
