"""Biases and penalties: draws from the largest logits after the changes equal draws from all logits, changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.harmony import RETURN
from appliance.engine.logit_changes import LogitChanges
from appliance.engine.sampling import Float32Array, Float64Array, TopLogits, new_generator, sample
from appliance.engine.token_mask import ListedTokens
from appliance.turns.request import Bias, Message, TurnRequest
from tests.appliance.engine.test_sampling import never, top_of

VOCAB = 600


def asked(**changes: Any) -> TurnRequest:
    return TurnRequest("t", "u", (Message("user", "Hi"),), seed=1, **changes)


def reference(
    logits: Float32Array, added: Float64Array, permitted: list[int], temperature: float, top_k: int | None,
    top_p: float, min_p: float, draw: float,
) -> int:  # fmt: skip
    """Written from the definition, on all logits, in double precision."""
    changed = (logits.astype(np.float64) + added).astype(np.float32)
    order = np.array(sorted(permitted, key=lambda token: (-float(changed[token]), token)))
    if temperature == 0:
        return int(order[0])
    order = order[:top_k]
    p = np.exp((changed[order].astype(np.float64) - float(changed[order[0]])) / temperature)
    p /= p.sum()
    kept = len(p)
    if top_p < 1:
        kept = int(np.argmax(np.cumsum(p) >= top_p)) + 1
    kept = min(kept, int((p >= min_p * p[0]).sum()))
    sums = np.cumsum(p[:kept])
    return int(order[min(int((sums <= draw * sums[-1]).sum()), kept - 1)])


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.5, 3.0, 10.0]),
    known=st.sampled_from([4, 64, VOCAB]),
    biases=st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, -3.0, 0.5, 4.0, 100.0]), max_size=6),
    drawn=st.lists(st.integers(0, VOCAB - 1), max_size=30),
    frequency=st.sampled_from([-1.0, 0.0, 0.7, 2.0]),
    presence=st.sampled_from([-2.0, 0.0, 1.5]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.9]),
    top_k=st.sampled_from([None, 1, 3, 100, VOCAB]),
    top_p=st.sampled_from([1.0, 0.95, 0.4]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    masked=st.booleans(),
)
def test_a_draw_is_the_one_from_all_logits(
    seed: int, spread: float, known: int, biases: dict[int, float], drawn: list[int], frequency: float, presence: float,
    temperature: float, top_k: int | None, top_p: float, min_p: float, masked: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(VOCAB) * spread).astype(np.float32)
    permitted = sorted(rng.choice(VOCAB, 40, replace=False).tolist()) if masked else list(range(VOCAB))
    request = asked(
        logit_bias=tuple(Bias(token, bias) for token, bias in biases.items()),
        frequency_penalty=frequency, presence_penalty=presence,
    )  # fmt: skip
    changes = LogitChanges(request)
    added = np.zeros(VOCAB)
    for token, bias in biases.items():
        added[token] += bias
    for token in drawn:
        changes.note(token)
    for token in set(drawn):
        added[token] -= frequency * drawn.count(token) + presence
    mask = ListedTokens(np.array(permitted), excludes=False) if masked else None
    taken = sample(
        changes.apply(top_of(logits, known)), temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        rng=new_generator(seed), mask=mask,
    )  # fmt: skip
    draw = float(new_generator(seed).random())
    assert taken == reference(logits, added, permitted, temperature, top_k, top_p, min_p, draw)


def falling() -> Float32Array:
    return np.linspace(9, 0, VOCAB).astype(np.float32)


def test_nothing_is_fetched_for_penalties_of_tokens_that_stay_unlikely() -> None:
    changes = LogitChanges(asked(presence_penalty=0.5, logit_bias=(Bias(590, -100.0),)))
    for token in (3, 500, RETURN):
        changes.note(token)
    after = changes.apply(top_of(falling(), 64, never))
    assert after.ids[:4].tolist() == [0, 1, 2, 4]
    assert sample(after, temperature=0, top_p=1.0, rng=new_generator(1)) == 0


def test_without_biases_and_penalties_nothing_changes() -> None:
    top = top_of(falling(), 64, never)
    changes = LogitChanges(asked())
    changes.note(0)
    assert changes.apply(top) is top


def test_special_tokens_are_not_penalised() -> None:
    changes = LogitChanges(asked(presence_penalty=2.0, frequency_penalty=2.0))
    changes.note(RETURN)
    top = TopLogits(np.array([RETURN, 5]), np.array([2.0, 1.0], np.float32), 2.4, 201_088, never)
    assert changes.apply(top) is top


@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_a_bias_forbids_or_forces_a_token_wherever_it_stands(bias: float) -> None:
    for token in (0, 40, 599):
        top = LogitChanges(asked(logit_bias=(Bias(token, bias),))).apply(top_of(falling(), 64))
        drawn = {sample(top, temperature=1.0, top_p=1.0, rng=new_generator(seed)) for seed in range(60)}
        assert (drawn == {token}) if bias > 0 else (token not in drawn)


def test_a_dominant_token_that_is_taken_away_leaves_an_exact_distribution_of_the_others() -> None:
    """What is left is less than the error of the normaliser, so all logits decide."""
    logits = np.zeros(VOCAB, np.float32)
    logits[7] = 60.0
    top = LogitChanges(asked(logit_bias=(Bias(7, -100.0),))).apply(top_of(logits, 64))
    drawn = [sample(top, temperature=1.0, top_p=1.0, rng=new_generator(seed)) for seed in range(3000)]
    assert 7 not in drawn
    assert np.bincount(drawn, minlength=VOCAB).max() < 30
