"""Draws tokens, exactly, from the largest logits and the normaliser that the graph returns.

The graph computes the 256 largest logits and logsumexp on the device, so that the logits of the whole vocabulary need
not leave it. From these two the total mass of the other tokens is known; how it is spread among them is not, but it has
bounds. If both bounds lead to the same token, the draw is exact. Otherwise the complete logits are fetched. The same
generator state gives the same token either way. A mask removes tokens from the distribution: if no permitted token is
among the largest, or the bounds do not decide, the complete logits are fetched too.

Tokens are ordered by falling logit, then by the graph's own order; the draw inverts the cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOGSUMEXP_ERROR = 1e-5  # relative error of its exponential; float32 sums of 201,088 terms stay below

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class TopLogits:
    """One position's logits, the largest first.

    ids, logits: (k,). logsumexp: over the whole vocabulary, which has ``vocab`` tokens. all_logits() fetches (vocab,).
    """

    ids: NDArray[np.int64]
    logits: Float32Array
    logsumexp: float
    vocab: int
    all_logits: Callable[[], Float32Array]


@dataclass(frozen=True, eq=False)
class TokenMask:
    """Which tokens may be drawn: only ``ids``, or with ``excludes`` all except ``ids``. ids: ascending."""

    ids: NDArray[np.int64]
    excludes: bool

    def permits(self, token: int) -> bool:
        place = int(np.searchsorted(self.ids, token))
        return (place < len(self.ids) and int(self.ids[place]) == token) != self.excludes


def row_of(logits: Any, row: int) -> Callable[[], Float32Array]:
    """A function that fetches one row (vocab,) of an OrtValue (rows, vocab), which stays on its device until then."""

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


def sample(
    top: TopLogits, *, temperature: float, top_p: float, rng: np.random.Generator, mask: TokenMask | None = None
) -> int:
    """Draw one token id.

    Args:
        temperature: >= 0; 0 takes the largest logit and leaves rng untouched.
        top_p: nucleus mass in (0, 1]: the fewest tokens, largest first, that together have at least this mass.
        mask: forbidden tokens have no mass. If only one token is permitted, nothing is drawn. A mask that excludes a
            few tokens costs nothing until one of them is drawn. The draw is then repeated without them, which gives the
            same distribution (except that with top_p below 1 the nucleus is that of all tokens).
    Raises:
        ValueError: temperature or top_p is out of range.
    Source: nucleus sampling, arXiv:1904.09751.
    """
    check_settings(temperature=temperature, top_p=top_p)
    if mask is None or mask.excludes:
        token = _draw(top, None, temperature, top_p, rng)
        if mask is None or mask.permits(token):
            return token
    elif len(mask.ids) == 1:
        return int(mask.ids[0])
    return _draw(top, mask, temperature, top_p, rng)


def _draw(top: TopLogits, mask: TokenMask | None, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    draw = float(rng.random()) if temperature else 0.0
    known = _known(top, mask)
    if len(known.ids) and not temperature:
        return int(known.ids[0])
    if len(known.ids):
        masses = _cumulative_masses(known.logits, temperature)
        picks = {_pick(masses, float(masses[-1]) + rest, top_p, draw) for rest in _bounds_of_rest(known, temperature)}
        if len(picks) == 1 and (pick := picks.pop()) is not None:
            return int(known.ids[pick])
    return _draw_from_all(top.all_logits(), mask, temperature, top_p, draw)


@dataclass(frozen=True)
class _Known:
    """The permitted tokens among the largest, by falling logit, and what is known of the other permitted tokens.

    others: how many other permitted tokens there are. smallest: an upper bound of their logits. least, most: bounds of
    the sum of their masses at temperature 1, in units of the mass of the largest known token.
    """

    ids: NDArray[np.int64]
    logits: Float32Array
    others: int
    smallest: float
    least: float
    most: float


def _known(top: TopLogits, mask: TokenMask | None) -> _Known:
    smallest = float(top.logits[-1])
    ids, logits, hidden = top.ids, top.logits, 0
    if mask is not None:
        listed = np.isin(top.ids, mask.ids)
        ids, logits = (kept[listed != mask.excludes] for kept in (top.ids, top.logits))
        hidden = len(mask.ids) - int(listed.sum())  # how many tokens of the mask are outside the top
    if len(ids) == 0:
        return _Known(ids, logits, 0, smallest, 0.0, 0.0)
    each = float(np.exp(smallest - float(logits[0])))
    if mask is not None and not mask.excludes:
        return _Known(ids, logits, hidden, smallest, 0.0, hidden * each)
    largest = float(logits[0])
    seen = float(np.exp(top.logits.astype(np.float64) - largest).sum())
    total = float(np.exp(top.logsumexp - largest))
    least = max(total * (1 - _LOGSUMEXP_ERROR) - seen - hidden * each, 0.0)
    most = max(total * (1 + _LOGSUMEXP_ERROR) - seen, 0.0)
    return _Known(ids, logits, top.vocab - len(top.ids) - hidden, smallest, least, most)


def _cumulative_masses(logits: Float32Array, temperature: float) -> Float64Array:
    """Cumulative masses of falling logits, unnormalised: the largest token's is 1."""
    scaled = (logits.astype(np.float64) - float(logits[0])) / temperature
    masses: Float64Array = np.cumsum(np.exp(scaled))
    return masses


def _bounds_of_rest(known: _Known, temperature: float) -> tuple[float, float]:
    """Bounds of the mass of all other permitted tokens, in units of the mass of the largest known token.

    Let m be their masses at temperature 1, whose sum is known, and p = 1 / temperature. The sum of m ** p is between
    what it would be if all m were equal (the power mean inequality) and what it would be if each m were the smallest
    known mass, which none of them exceeds.
    """
    if known.others == 0:
        return 0.0, 0.0
    smallest = float(np.exp(known.smallest - float(known.logits[0])))
    power = 1 / temperature
    bounds = []
    for rest in (known.least, known.most):
        bounds.append(known.others * (rest / known.others) ** power)
        bounds.append(rest * smallest ** (power - 1) if smallest > 0 else rest)
    return min(bounds), max(bounds)


def _pick(masses: Float64Array, total: float, top_p: float, draw: float) -> int | None:
    """Place of the drawn token; None if the token or the end of the nucleus is beyond the known masses."""
    if top_p == 1:
        target = draw * total
    else:
        nucleus = int(np.searchsorted(masses, top_p * total, side="left"))  # place of its last token
        if nucleus >= len(masses):
            return None
        target = draw * float(masses[nucleus])
    place = int(np.searchsorted(masses, target, side="right"))
    return place if place < len(masses) else None


def _draw_from_all(logits: Float32Array, mask: TokenMask | None, temperature: float, top_p: float, draw: float) -> int:
    """The draw from the complete row of logits."""
    ids = np.arange(len(logits))
    if mask is not None:
        ids = np.delete(ids, mask.ids) if mask.excludes else mask.ids
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    if not temperature:
        return int(ids[0])
    masses = _cumulative_masses(logits[ids], temperature)
    pick = _pick(masses, float(masses[-1]), top_p, draw)
    return int(ids[len(ids) - 1 if pick is None else pick])  # None only if the last mass is rounded
