"""Draws tokens, exactly, from the largest logits and the normaliser that the graph returns.

The graph computes the 256 largest logits and logsumexp where the logits are; the whole vocabulary need not leave the
device. What is unknown about the other tokens is only how their mass is spread, and that mass has bounds. As long as
both bounds lead to the same token the draw is exact; only otherwise the complete logits are fetched. The same generator
state gives the same token either way.

Tokens are ordered by falling logit, then by the graph's own order; the draw inverts the cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOGSUMEXP_ERROR = 1e-5  # relative, of its exponential; float32 sums of 201,088 terms stay below

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class TopLogits:
    """One position's logits, the largest first.

    ids, logits: (k,). logsumexp: over the whole vocabulary of that many tokens. all_logits() fetches (vocab,).
    """

    ids: NDArray[np.int64]
    logits: Float32Array
    logsumexp: float
    vocab: int
    all_logits: Callable[[], Float32Array]


def row_of(logits: Any, row: int) -> Callable[[], Float32Array]:
    """Fetches (vocab,) of an OrtValue (rows, vocab) that stays where it was computed."""

    def fetch() -> Float32Array:
        one: Float32Array = logits.numpy()[row]
        return one

    return fetch


def new_generator(seed: int) -> np.random.Generator:
    """The generator of one turn; PCG64 is stable across NumPy versions."""
    return np.random.Generator(np.random.PCG64(seed))


def check_settings(*, temperature: float, top_p: float) -> None:
    """Raises ValueError unless temperature >= 0 and finite, and 0 < top_p <= 1."""
    if not 0 <= temperature < float("inf"):
        raise ValueError("temperature must be a number from 0")
    if not 0 < top_p <= 1:
        raise ValueError("top_p must be above 0 and at most 1")


def sample(top: TopLogits, *, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """Draw one token id.

    Args:
        temperature: >= 0; 0 takes the largest logit and leaves rng untouched.
        top_p: nucleus mass in (0, 1]: the fewest tokens, largest first, that together have at least this mass.
    Raises:
        ValueError: temperature or top_p is out of range.
    Source: nucleus sampling, arXiv:1904.09751.
    """
    check_settings(temperature=temperature, top_p=top_p)
    if temperature == 0:
        return int(top.ids[0])
    draw = float(rng.random())
    masses = _cumulative_masses(top.logits, temperature)
    picks = {_pick(masses, float(masses[-1]) + rest, top_p, draw) for rest in _bounds_of_rest(top, temperature)}
    if len(picks) == 1 and (pick := picks.pop()) is not None:
        return int(top.ids[pick])
    return _sample_all(top.all_logits(), temperature, top_p, draw)


def _cumulative_masses(logits: Float32Array, temperature: float) -> Float64Array:
    """Cumulative masses of falling logits, unnormalised: the largest token's is 1."""
    scaled = (logits.astype(np.float64) - float(logits[0])) / temperature
    masses: Float64Array = np.cumsum(np.exp(scaled))
    return masses


def _bounds_of_rest(top: TopLogits, temperature: float) -> tuple[float, float]:
    """Two masses, in units of the largest token's, between which the mass of all tokens outside ``top`` lies.

    With m their masses at temperature 1, known in sum, and p = 1 / temperature, the sum of m ** p lies between what it
    would be if all were equal (the power mean inequality) and if each were the smallest mass known, which none exceeds.
    """
    others = top.vocab - len(top.ids)
    if others == 0:
        return 0.0, 0.0
    largest = float(top.logits[0])
    known = float(_cumulative_masses(top.logits, 1.0)[-1])
    total = float(np.exp(top.logsumexp - largest))
    smallest = float(np.exp(float(top.logits[-1]) - largest))
    power = 1 / temperature
    bounds = []
    for sign in (-1, 1):
        rest = max(total * (1 + sign * _LOGSUMEXP_ERROR) - known, 0.0)
        bounds.append(others * (rest / others) ** power)
        bounds.append(rest * smallest ** (power - 1) if smallest > 0 else rest)
    return min(bounds), max(bounds)


def _pick(masses: Float64Array, total: float, top_p: float, draw: float) -> int | None:
    """Place of the drawn token; None if it, or the nucleus, reaches beyond the known masses."""
    if top_p == 1:
        target = draw * total
    else:
        nucleus = int(np.searchsorted(masses, top_p * total, side="left"))  # place of its last token
        if nucleus >= len(masses):
            return None
        target = draw * float(masses[nucleus])
    place = int(np.searchsorted(masses, target, side="right"))
    return place if place < len(masses) else None


def _sample_all(logits: Float32Array, temperature: float, top_p: float, draw: float) -> int:
    order = np.argsort(-logits, kind="stable")
    masses = _cumulative_masses(logits[order], temperature)
    pick = _pick(masses, float(masses[-1]), top_p, draw)
    return int(order[len(order) - 1 if pick is None else pick])  # None only by rounding in the last place
