"""Streams that share memory: who may take more of it, and that every one of them comes to its end."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from appliance.engine.cache_budget import CacheBudget, Claim


def begun(budget: CacheBudget, *, most: int, expected: int = 0, held: int = 0) -> Claim:
    claim = Claim(held=held, expected=expected, most=most)
    assert budget.admits(claim)
    budget.begin(claim)
    return claim


def test_many_short_streams_begin_where_four_long_ones_fit() -> None:
    """Each may grow to a quarter of the memory and is expected to need a twentieth."""
    budget = CacheBudget(400)
    for _ in range(16):
        begun(budget, most=100, expected=20)
    assert not budget.admits(Claim(held=0, expected=20, most=100))


def test_what_streams_already_hold_counts_when_it_is_more_than_was_expected() -> None:
    budget = CacheBudget(100)
    begun(budget, most=40)
    younger = begun(budget, most=60, expected=10)
    assert budget.grow(younger, 50)
    assert budget.admits(Claim(held=0, expected=10, most=50))
    assert not budget.admits(Claim(held=0, expected=11, most=50))


def test_a_stream_that_could_never_fit_does_not_begin() -> None:
    assert not CacheBudget(100).admits(Claim(held=0, expected=10, most=101))


def test_the_oldest_never_waits_and_a_younger_one_waits_for_it() -> None:
    budget = CacheBudget(100)
    oldest, younger = begun(budget, most=80), begun(budget, most=80)
    assert budget.grow(younger, 20)
    assert not budget.grow(younger, 21)  # the oldest may still need 80
    assert budget.grow(oldest, 80)
    budget.end(oldest)
    assert budget.grow(younger, 80)


def test_a_younger_stream_waits_for_every_older_one() -> None:
    """The first leaves 60 to the others; the second leaves 30."""
    budget = CacheBudget(100)
    begun(budget, most=40)
    begun(budget, most=70)
    youngest = begun(budget, most=60)
    assert budget.grow(youngest, 30)
    assert not budget.grow(youngest, 31)


def test_a_stream_that_waits_keeps_what_it_holds() -> None:
    budget = CacheBudget(100)
    begun(budget, most=80)
    younger = begun(budget, most=80, held=10)
    assert not budget.grow(younger, 30)
    assert younger.held == 10


def test_nobody_grows_beyond_the_claim() -> None:
    budget = CacheBudget(100)
    claim = begun(budget, most=30)
    with pytest.raises(RuntimeError, match="claimed 30"):
        budget.grow(claim, 31)


@dataclass
class Stream:
    claim: Claim
    needs: int  # at its end


@pytest.mark.parametrize("seed", range(30))
def test_whatever_arrives_every_stream_ends_and_memory_suffices(seed: int) -> None:
    """Streams may need all that they claimed. In each round each tries to grow, in any order, or ends."""
    rng = random.Random(seed)
    total = rng.randint(50, 400)
    budget = CacheBudget(total)
    arriving = [(rng.randint(1, total), rng.random()) for _ in range(40)]
    active: list[Stream] = []
    while arriving or active:
        while arriving:
            most, share = arriving[0]
            claim = Claim(held=0, expected=max(1, int(most * share / 2)), most=most)
            if not budget.admits(claim):
                break
            budget.begin(claim)
            active.append(Stream(claim, needs=max(1, int(most * rng.random())) if rng.random() < 0.7 else most))
            del arriving[0]
        grown = 0
        for stream in rng.sample(active, len(active)):
            more = budget.grow(stream.claim, min(stream.needs, stream.claim.held + rng.randint(1, 20)))
            assert more or stream is not active[0], "the oldest waits"
            grown += more
            assert sum(one.claim.held for one in active) <= total
            if stream.claim.held == stream.needs:
                budget.end(stream.claim)
                active.remove(stream)
        assert grown, "nobody gets anywhere"
