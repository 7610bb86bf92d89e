"""Draws from the top logits equal draws from all of them, and follow the distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.engine import sampling
from appliance.engine.sampling import TopLogits, new_generator, sample
from appliance.engine.token_mask import ListedTokens, TokenBits

VOCAB = 5000


def top_of(logits: NDArray[np.float32], k: int, fetch: Callable[[], NDArray[np.float32]] | None = None) -> TopLogits:
    order = np.argsort(-logits, kind="stable")[:k]
    wide = logits.astype(np.float64)
    logsumexp = np.float32(np.log(np.sum(np.exp(wide - wide.max()))) + wide.max())
    return TopLogits(order, logits[order], float(logsumexp), len(logits), fetch or (lambda: logits))


def reference(logits: NDArray[np.float32], temperature: float, top_p: float, draw: float) -> int:
    """Written from the definition: sort, normalise, cut the nucleus, renormalise, invert."""
    order = np.argsort(-logits, kind="stable")
    p = np.exp(logits[order].astype(np.float64) / temperature - logits.max() / temperature)
    p /= p.sum()
    if top_p < 1:
        size = int(np.argmax(np.cumsum(p) >= top_p)) + 1
        p, order = p[:size] / p[:size].sum(), order[:size]
    return int(order[min(int(np.sum(np.cumsum(p) <= draw)), len(p) - 1)])


@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
@pytest.mark.parametrize("temperature", [0.2, 0.9, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 1.0])
def test_draws_equal_those_from_the_whole_distribution(spread: float, temperature: float, top_p: float) -> None:
    rng = np.random.default_rng(7)
    for seed in range(20):
        logits = (rng.standard_normal(VOCAB) * spread).astype(np.float32)
        expected = reference(logits, temperature, top_p, float(new_generator(seed).random()))
        assert sample(top_of(logits, 64), temperature=temperature, top_p=top_p, rng=new_generator(seed)) == expected


def test_all_logits_are_left_alone_when_the_top_decides() -> None:
    def never() -> NDArray[np.float32]:
        raise AssertionError("fetched all logits")

    logits = np.full(VOCAB, -20, np.float32)
    logits[[3, 4000, 17]] = [5, 4, 3]
    seen = {
        sample(top_of(logits, 8, never), temperature=t, top_p=p, rng=new_generator(seed))
        for seed in range(50)
        for t in (0.5, 1.0)
        for p in (0.95, 1.0)
    }
    assert seen == {3, 4000, 17}


def test_frequencies_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    rng = new_generator(11)
    drawn = [sample(top_of(logits, 4), temperature=1.0, top_p=1.0, rng=rng) for _ in range(4000)]
    assert np.bincount(drawn, minlength=4) / 4000 == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_temperature_zero_takes_the_largest_and_leaves_the_generator_alone() -> None:
    rng = new_generator(1)
    logits = np.array([0, 9, 1], np.float32)
    assert sample(top_of(logits, 3), temperature=0, top_p=0.5, rng=rng) == 1
    assert rng.random() == new_generator(1).random()


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = np.random.default_rng(1).standard_normal(VOCAB).astype(np.float32)
    first, second = (
        [sample(top_of(logits, 32), temperature=1.0, top_p=1.0, rng=rng) for _ in range(30)]
        for rng in (new_generator(5), new_generator(5))
    )
    assert first == second
    assert len(set(first)) > 5


def never() -> NDArray[np.float32]:
    raise AssertionError("fetched all logits")


def only(*ids: int) -> ListedTokens:
    return ListedTokens(np.array(sorted(ids), np.int64), excludes=False)


def bits_of(*ids: int) -> TokenBits:
    allowed = np.zeros(-(-VOCAB // 32) * 32, np.uint8)
    allowed[list(ids)] = 1
    return TokenBits(np.packbits(allowed, bitorder="little").view(np.int32))


def all_but(*ids: int) -> ListedTokens:
    return ListedTokens(np.array(sorted(ids), np.int64), excludes=True)


@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
@pytest.mark.parametrize("temperature", [0, 0.2, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 1.0])
def test_draws_from_a_few_permitted_tokens_equal_those_from_the_whole_distribution_of_these(
    spread: float, temperature: float, top_p: float
) -> None:
    rng = np.random.default_rng(8)
    for seed in range(30):
        logits = (rng.standard_normal(VOCAB) * spread).astype(np.float32)
        permitted = sorted(rng.choice(VOCAB, (3, 400, VOCAB - 5)[seed % 3], replace=False).tolist())
        masked = np.full(VOCAB, -np.inf, np.float32)
        masked[permitted] = logits[permitted]
        draw = float(new_generator(seed).random())
        expected = reference(masked, temperature, top_p, draw) if temperature else int(np.argmax(masked))
        for mask in (only(*permitted), bits_of(*permitted)):
            top, drawn = top_of(logits, 64), new_generator(seed)
            assert sample(top, temperature=temperature, top_p=top_p, rng=drawn, mask=mask) == expected


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
@pytest.mark.parametrize(("temperature", "top_p"), [(0, 1.0), (0.3, 1.0), (1.0, 1.0), (1.0, 0.7), (2.0, 0.999)])
@pytest.mark.parametrize(("top_k", "min_p"), [(None, 0.0), (5, 0.0), (3000, 0.0), (None, 0.2), (900, 0.01)])
def test_a_draw_from_the_complete_logits_is_the_same_whether_or_not_all_are_sorted(
    spread: float, temperature: float, top_p: float, top_k: int | None, min_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are rounded, so that many are equal."""
    rng, drawn = np.random.default_rng(3), []
    rows = [np.round(rng.standard_normal(VOCAB) * spread, 1).astype(np.float32) for _ in range(8)]
    monkeypatch.setattr(sampling, "_LARGEST", 700)
    for is_sorted in (False, True):
        if is_sorted:
            monkeypatch.setattr(sampling, "_draw_from_largest", lambda *_: None)
        drawn.append(
            [
                sample(
                    top_of(row, 2),
                    temperature=temperature,
                    top_p=top_p,
                    top_k=top_k,
                    min_p=min_p,
                    rng=new_generator(seed),
                    mask=mask,
                )
                for row in rows
                for seed in range(4)
                for mask in (None, bits_of(*range(40, VOCAB)))
            ]
        )
    assert drawn[0] == drawn[1]


def test_a_mask_of_bits_says_the_same_as_a_list() -> None:
    rng = np.random.default_rng(4)
    for count in (1, 2, 31, 400, VOCAB):
        ids = np.sort(rng.choice(VOCAB, count, replace=False))
        listed, bits = only(*ids.tolist()), bits_of(*ids.tolist())
        asked = rng.integers(0, VOCAB, 256)
        assert (listed.keeps(asked) == bits.keeps(asked)).all()
        assert (listed.permitted(VOCAB) == bits.permitted(VOCAB)).all()
        assert listed.count(VOCAB) == bits.count(VOCAB) == count
        assert all(listed.permits(token) == bits.permits(token) for token in (0, 31, 32, VOCAB - 1, *ids[:9].tolist()))
    assert not bits.permits(-1)
    assert not bits.permits(10**9)


def test_permitted_tokens_far_below_the_forbidden_ones_are_drawn_exactly() -> None:
    """Seen from them, the mass of the others is too large for a float."""
    logits = np.full(VOCAB, -2000, np.float32)
    logits[5], logits[10:14] = 3000, [1, 2, 3, 4]
    drawn = {sample(top_of(logits, 64), temperature=1.0, top_p=1.0, rng=new_generator(n), mask=bits_of(*range(9, 14)))
             for n in range(200)}  # fmt: skip
    assert drawn == {11, 12, 13} | drawn & {10}


def test_permitted_tokens_outside_the_top_are_fetched_and_never_left_out() -> None:
    logits = np.linspace(9, 0, VOCAB).astype(np.float32)
    fetched = []

    def fetch() -> NDArray[np.float32]:
        fetched.append(True)
        return logits

    top = top_of(logits, 64, fetch)
    rng = new_generator(3)
    drawn = {sample(top, temperature=1.0, top_p=1.0, rng=rng, mask=only(4000, 4001)) for _ in range(60)}
    assert drawn == {4000, 4001}
    assert len(fetched) == 60
    assert sample(top, temperature=0, top_p=1.0, rng=rng, mask=only(4001, 4000)) == 4000


def test_all_logits_are_left_alone_when_the_permitted_ones_in_the_top_decide() -> None:
    logits = np.full(VOCAB, -20, np.float32)
    logits[[3, 4000, 17]] = [5, 4, 3]
    mask = only(17, 99, 4000)  # 99 lies outside the top, and its mass is too small to matter
    top = top_of(logits, 8, never)
    drawn = {sample(top, temperature=1.0, top_p=1.0, rng=new_generator(seed), mask=mask) for seed in range(50)}
    assert drawn == {4000, 17}


def test_the_only_permitted_token_is_taken_without_a_draw() -> None:
    rng = new_generator(1)
    top = top_of(np.zeros(VOCAB, np.float32), 4, never)
    assert sample(top, temperature=1.0, top_p=0.5, rng=rng, mask=only(4321)) == 4321
    assert rng.random() == new_generator(1).random()


def test_a_few_forbidden_tokens_leave_the_other_draws_as_they_were() -> None:
    logits = (np.random.default_rng(2).standard_normal(VOCAB) * 4).astype(np.float32)
    top, forbidden = top_of(logits, 64), [int(token) for token in np.argsort(-logits)[:2]]
    changed = 0
    for seed in range(200):
        free = sample(top, temperature=1.0, top_p=1.0, rng=new_generator(seed))
        masked = sample(top, temperature=1.0, top_p=1.0, rng=new_generator(seed), mask=all_but(*forbidden))
        assert masked not in forbidden
        assert (masked == free) == (free not in forbidden)
        changed += masked != free
    assert changed > 20
    assert sample(top, temperature=0, top_p=1.0, rng=new_generator(0), mask=all_but(*forbidden)) == top.ids[2]


def test_frequencies_without_the_forbidden_tokens_follow_the_distribution_of_the_others() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    rng = new_generator(12)
    drawn = [sample(top_of(logits, 2), temperature=1.0, top_p=1.0, rng=rng, mask=all_but(0)) for _ in range(4000)]
    assert np.bincount(drawn, minlength=4) / 4000 == pytest.approx([0, 0.6, 0.3, 0.1], abs=0.03)


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(-0.1, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (1.0, 0.0), (1.0, 1.1)]
)
def test_rejects_settings_out_of_range(temperature: float, top_p: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        sample(top_of(np.zeros(4, np.float32), 4), temperature=temperature, top_p=top_p, rng=new_generator(0))
