"""Log probabilities of an answer's tokens: exact, of the answer alone, and their bytes join to its text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from appliance.engine.harmony import Vocabulary
from appliance.engine.logprobs import Logprobs
from appliance.turns.events import AnswerDelta, ReasoningDelta, TokenLogprob
from appliance.turns.request import Tool
from tests.appliance.engine.test_sampling import top_of
from tests.appliance.engine.test_scheduler import Bench, final


def tokens_of(bench: Bench, turn: str) -> list[TokenLogprob]:
    return [one for event in bench.sent[turn] if isinstance(event, AnswerDelta) for one in event.tokens]


def written(tokens: list[TokenLogprob]) -> bytes:
    return b"".join(bytes(one.token.bytes) for one in tokens)


def bench_of(vocabulary: Vocabulary, reply: str, **changes: Any) -> Bench:
    bench = Bench(vocabulary, slots=1)
    bench.turn("t", reply, top_logprobs=2, **changes)
    bench.run()
    return bench


@pytest.mark.parametrize("text", ["plain words", "Köln 🙂 大阪\n\nend", "a"])
def test_the_bytes_of_the_tokens_are_those_of_the_answer(vocabulary: Vocabulary, text: str) -> None:
    reply = "<|channel|>analysis<|message|>I think first.<|end|><|start|>assistant" + final(text)
    bench = bench_of(vocabulary, reply)
    assert bench.answer("t") == text
    assert written(tokens_of(bench, "t")).decode() == text
    assert [e for e in bench.sent["t"] if isinstance(e, ReasoningDelta)]


@pytest.mark.parametrize("grammar", [False, True])
def test_the_bytes_of_the_tokens_of_a_bare_text_are_those_of_the_text(vocabulary: Vocabulary, grammar: bool) -> None:
    bench = bench_of(vocabulary, "Köln 🙂 is<|endoftext|>", form="text", grammar=grammar)
    assert written(tokens_of(bench, "t")).decode() == bench.answer("t") == "Köln 🙂 is"


def test_a_preamble_that_is_held_back_comes_with_its_tokens(vocabulary: Vocabulary) -> None:
    bench = bench_of(vocabulary, "<|channel|>commentary<|message|>{not a call<|end|><|start|>assistant" + final("Yes."))
    assert bench.answer("t") == "{not a call\n\nYes."
    assert written(tokens_of(bench, "t")) in (b"{not a callYes.", b"{not a call\n\nYes.")


def test_a_stop_text_leaves_out_the_tokens_behind_it(vocabulary: Vocabulary) -> None:
    bench = bench_of(vocabulary, final("one two STOP three"), stop=("STOP",))
    assert bench.answer("t") == "one two "
    assert written(tokens_of(bench, "t")).decode().startswith("one two")
    assert b"three" not in written(tokens_of(bench, "t"))


def test_arguments_of_a_call_have_none(vocabulary: Vocabulary) -> None:
    call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    bench = bench_of(vocabulary, call, tools=(Tool("f", ""),))
    assert tokens_of(bench, "t") == []


def test_without_being_asked_no_event_has_tokens(vocabulary: Vocabulary) -> None:
    bench = Bench(vocabulary, slots=1)
    bench.turn("t", final("Yes."))
    bench.run()
    assert tokens_of(bench, "t") == []


def test_they_are_the_logarithms_of_the_softmax(vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal(5000) * 4).astype(np.float32)
    wide = logits.astype(np.float64)
    expected = wide - (np.log(np.exp(wide - wide.max()).sum()) + wide.max())
    for token in (int(np.argmax(logits)), int(np.argmin(logits)), 77):
        log = Logprobs(vocabulary, 3)
        log.note(token, top_of(logits, 64))
        text = (vocabulary.token_bytes(token) or b"").decode("utf-8", "replace")
        (delta,) = log.attach([AnswerDelta(text + " " * 8)])
        assert isinstance(delta, AnswerDelta)
        (one,) = delta.tokens
        assert one.token.logprob == pytest.approx(expected[token], abs=1e-4)
        likeliest = np.argsort(-expected)[:3]
        assert [other.logprob for other in one.top] == pytest.approx(expected[likeliest].tolist(), abs=1e-4)
        assert sum(math.exp(other.logprob) for other in one.top) <= 1 + 1e-6
