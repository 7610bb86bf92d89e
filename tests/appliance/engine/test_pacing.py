"""Chunks grow to what fits into the longest pause and shrink when it no longer does, on a simulated machine."""

from __future__ import annotations

import random

import pytest

from appliance.engine.pacing import Pacing


def step_s(tokens: int, streams: int) -> float:
    return 0.03 + 0.02 * streams + 0.01 * tokens


def read(pacing: Pacing, streams: int, steps: int) -> list[float]:
    """The time of so many steps beside the streams."""
    taken = []
    for _ in range(steps):
        tokens = pacing.chunk_tokens(streams)
        taken.append(step_s(tokens, streams))
        pacing.note_chunk(tokens, streams, taken[-1])
    return taken


def test_the_first_chunk_is_one_token() -> None:
    assert Pacing(0.3).chunk_tokens(4) == 1


@pytest.mark.parametrize("pause_s", [0.2, 0.3, 1.0])
@pytest.mark.parametrize("streams", [1, 4])
def test_steps_grow_to_the_pause_and_not_beyond(pause_s: float, streams: int) -> None:
    taken = read(Pacing(pause_s), streams, 20)
    assert max(taken) <= 0.9 * pause_s + 0.01  # one token
    assert max(taken) > 0.9 * pause_s - 0.01


def test_more_streams_make_the_first_step_beside_them_no_longer_than_the_pause() -> None:
    pacing = Pacing(0.3)
    read(pacing, 1, 20)
    pacing.note_decode(1, step_s(0, 1))
    assert max(read(pacing, 6, 20)) <= 0.28


def test_a_machine_that_becomes_slow_is_asked_for_less_at_once() -> None:
    pacing = Pacing(0.3)
    tokens = [20]
    for _ in range(6):
        pacing.note_chunk(tokens[-1], 1, 3 * step_s(tokens[-1], 1))
        tokens.append(pacing.chunk_tokens(1))
    assert 3 * step_s(tokens[2], 1) < 0.3
    assert 3 * step_s(tokens[-1], 1) <= 0.27


@pytest.mark.parametrize(("spread", "share_over"), [(0.02, 0.0), (0.1, 0.055)])
def test_few_steps_are_too_long_on_a_machine_whose_times_vary(spread: float, share_over: float) -> None:
    """Growing at once to what the last step allows would make an eighth of the steps too long with a spread of 0.1."""
    rng, taken, tokens = random.Random(1), [], 0
    for _ in range(100):
        pacing, done = Pacing(0.3), 0
        while done < 400:
            chunk = pacing.chunk_tokens(1)
            taken.append(step_s(chunk, 1) * rng.lognormvariate(0, spread))
            pacing.note_chunk(chunk, 1, taken[-1])
            done += chunk
        tokens += done
    assert sum(took > 0.3 for took in taken) / len(taken) <= share_over
    assert tokens / len(taken) > 0.75 * (0.27 - 0.05) / 0.01  # and they still take most of what fits


def test_after_a_slow_time_chunks_grow_to_what_fits_again() -> None:
    pacing = Pacing(0.3)
    read(pacing, 1, 20)
    for _ in range(4):
        pacing.note_chunk(pacing.chunk_tokens(1), 1, 1.0)
    assert pacing.chunk_tokens(1) < 4
    assert read(pacing, 1, 60)[-1] > 0.9 * 0.3 - 0.01


def test_where_even_one_token_takes_too_long_it_is_one() -> None:
    pacing = Pacing(0.3)
    pacing.note_chunk(1, 1, 2.0)
    assert pacing.chunk_tokens(1) == 1


def test_a_clock_that_stands_still_divides_nothing_by_zero() -> None:
    pacing = Pacing(0.3)
    pacing.note_chunk(7, 1, 0.0)
    assert pacing.chunk_tokens(1) > 7
