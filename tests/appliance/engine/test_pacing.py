"""Chunks grow to what fits into the longest pause and shrink when it no longer does, on a simulated machine."""

from __future__ import annotations

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


def test_where_even_one_token_takes_too_long_it_is_one() -> None:
    pacing = Pacing(0.3)
    pacing.note_chunk(1, 1, 2.0)
    assert pacing.chunk_tokens(1) == 1


def test_a_clock_that_stands_still_divides_nothing_by_zero() -> None:
    pacing = Pacing(0.3)
    pacing.note_chunk(7, 1, 0.0)
    assert pacing.chunk_tokens(1) > 7
