"""Draws tokens, exactly, from the largest logits and the normaliser that the graph returns.

The graph computes the 256 largest logits and logsumexp on the device, so that the logits of the whole vocabulary need
not leave it. From these two the total mass of the other tokens is known; how it is spread among them is not, but it has
bounds. If both bounds lead to the same token, the draw is exact. Otherwise the complete logits are fetched. The same
generator state gives the same token either way. A mask removes tokens from the distribution: if no permitted token is
among the largest, or the bounds do not decide, the complete logits are fetched too.

In this order: biases and penalties change logits (`appliance.engine.logit_changes`), a mask removes tokens, the
temperature scales what is left, top_k keeps the likeliest tokens, top_p the fewest of these that together have that
share of their mass, min_p those of them with at least that share of the likeliest token's mass.

Tokens are ordered by falling logit, then by the graph's own order; the draw inverts the cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.engine.token_mask import TokenMask

_LARGEST_EXPONENT = 600.0  # below the one whose exponential a float64 cannot hold
_LARGEST = 4096  # of the complete logits: about so many are sorted first
_STRIDE = 16
_SUM_ERROR = 1e-9  # relative; float64 sums of 201,088 terms stay below
LOGSUMEXP_ERROR = 1e-5  # relative error of its exponential; float32 sums of 201,088 terms stay below

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class TopLogits:
    """One position's logits, the largest first.

    ids, logits: (k,). logsumexp: over the whole vocabulary, which has ``vocab`` tokens. all_logits() fetches (vocab,).
    overcounted: how many tokens that are not among these may have less mass than the normaliser counts. error: of the
    normaliser's exponential, relative.
    """

    ids: NDArray[np.int64]
    logits: Float32Array
    logsumexp: float
    vocab: int
    all_logits: Callable[[], Float32Array]
    overcounted: int = 0
    error: float = LOGSUMEXP_ERROR


@dataclass(frozen=True)
class Cut:
    """Which of the permitted tokens may be drawn: with ``top_k`` None, ``top_p`` 1 and ``min_p`` 0, all of them."""

    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0


def row_of(logits: Any, row: int) -> Callable[[], Float32Array]:
    """A function that fetches one row (vocab,) of an OrtValue (rows, vocab), which stays on its device until then."""

    def fetch() -> Float32Array:
        one: Float32Array = logits.numpy()[row]
        return one

    return fetch


def new_generator(seed: int) -> np.random.Generator:
    """The generator of one turn; PCG64 is stable across NumPy versions."""
    return np.random.Generator(np.random.PCG64(seed))


def check_settings(*, temperature: float, top_p: float, top_k: int | None = None, min_p: float = 0.0) -> None:
    """Raises ValueError unless temperature >= 0 and finite, 0 < top_p <= 1, top_k >= 1 or None, and 0 <= min_p <= 1."""
    if not 0 <= temperature < float("inf"):
        raise ValueError("temperature must be a number from 0")
    if not 0 < top_p <= 1:
        raise ValueError("top_p must be above 0 and at most 1")
    if top_k is not None and top_k < 1:
        raise ValueError("top_k must be at least 1")
    if not 0 <= min_p <= 1:
        raise ValueError("min_p must be from 0 to 1")


def sample(
    top: TopLogits, *, temperature: float, top_p: float, rng: np.random.Generator, mask: TokenMask | None = None,
    top_k: int | None = None, min_p: float = 0.0,
) -> int:  # fmt: skip
    """Draw one token id.

    Args:
        temperature: >= 0; 0 takes the largest logit and leaves rng untouched.
        top_p: nucleus mass in (0, 1]: the fewest tokens, largest first, that together have at least this mass.
        top_k: how many tokens, largest first, may be drawn; None: all.
        min_p: the least mass of a token that may be drawn, as a share of the largest token's.
        mask: forbidden tokens have no mass. If only one token is permitted, nothing is drawn. An open mask costs
            nothing until one of the few tokens that it forbids is drawn. The draw is then repeated without them, which
            gives the same distribution (except that what top_k, top_p and min_p keep is then chosen among all tokens).
    Raises:
        ValueError: a setting is out of range.
    Source: nucleus sampling, arXiv:1904.09751; min_p, arXiv:2407.01082.
    """
    check_settings(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    cut = Cut(top_k, top_p, min_p)
    if mask is None or mask.is_open:
        token = _draw(top, None, temperature, cut, rng)
        if mask is None or mask.permits(token):
            return token
    elif mask.count(top.vocab) == 1:
        return int(mask.permitted(top.vocab)[0])
    return _draw(top, mask, temperature, cut, rng)


def _draw(top: TopLogits, mask: TokenMask | None, temperature: float, cut: Cut, rng: np.random.Generator) -> int:
    draw = float(rng.random()) if temperature else 0.0
    known = _known(top, mask)
    if len(known.ids) and not temperature:
        return int(known.ids[0])
    if len(known.ids):
        masses = _masses(known.logits, temperature)
        picks = {_pick(masses, rest, cut, draw) for rest in _bounds_of_rest(known, temperature, cut)}
        if len(picks) == 1 and (pick := picks.pop()) is not None:
            return int(known.ids[pick])
    return _draw_from_all(top.all_logits(), mask, temperature, cut, draw)


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
    ids, logits, others = top.ids, top.logits, top.vocab - len(top.ids)
    if mask is not None:
        kept = mask.keeps(top.ids)
        ids, logits = top.ids[kept], top.logits[kept]
        others = mask.count(top.vocab) - len(ids)
    if len(ids) == 0:
        return _Known(ids, logits, 0, smallest, 0.0, 0.0)
    least, most = _rest(top, float(logits[0]), others)
    return _Known(ids, logits, others, smallest, least, most)


def _rest(top: TopLogits, largest: float, others: int) -> tuple[float, float]:
    """Bounds of the sum of the masses of ``others`` tokens outside the top, in units of the mass at logit ``largest``.

    Two things bound it: none of them exceeds the smallest of the top, and together with the forbidden tokens outside
    the top they have what the normaliser leaves.
    """
    each = float(np.exp(float(top.logits[-1]) - largest))
    if top.logsumexp - largest > _LARGEST_EXPONENT:  # forbidden tokens have nearly all the mass
        return 0.0, others * each
    forbidden = top.vocab - len(top.ids) - others
    seen = float(np.exp(top.logits.astype(np.float64) - largest).sum())
    total = float(np.exp(top.logsumexp - largest))
    least = max(total * (1 - top.error) - seen - (forbidden + top.overcounted) * each, 0.0)
    most = max(total * (1 + top.error) - seen, 0.0)
    return least, most if forbidden == 0 else min(most, others * each)


def _masses(logits: Float32Array, temperature: float) -> Float64Array:
    """Masses of falling logits, unnormalised: the largest token's is 1."""
    masses: Float64Array = np.exp((logits.astype(np.float64) - float(logits[0])) / temperature)
    return masses


def _bounds_of_rest(known: _Known, temperature: float, cut: Cut) -> tuple[float, float]:
    """Bounds of the mass of all other tokens that top_k leaves, in units of the mass of the largest known token.

    Let m be their masses at temperature 1, whose sum is known, and p = 1 / temperature. The sum of m ** p is between
    what it would be if all m were equal (the power mean inequality) and what it would be if each m were the smallest
    known mass, which none of them exceeds.
    """
    left = known.others if cut.top_k is None else min(known.others, cut.top_k - len(known.ids))
    if left <= 0:
        return 0.0, 0.0
    smallest = float(np.exp(known.smallest - float(known.logits[0])))
    power = 1 / temperature
    bounds = []
    for rest in (known.least, known.most):
        bounds.append(known.others * (rest / known.others) ** power)
        bounds.append(rest * smallest ** (power - 1) if smallest > 0 else rest)
    return (min(bounds) if left == known.others else 0.0), max(bounds)


def _pick(masses: Float64Array, rest: float, cut: Cut, draw: float) -> int | None:
    """Place of the drawn token; None if that, or the end of what is kept, is beyond the known masses.

    Args:
        masses: of known tokens, falling.
        rest: the mass of all others that top_k leaves.
    """
    sums = np.cumsum(masses[: cut.top_k])
    total, sizes = float(sums[-1]) + rest, []  # of what is kept: at most so many
    if cut.top_p < 1:
        sizes.append(int(np.searchsorted(sums, cut.top_p * total, side="left")) + 1)
    if cut.min_p > 0:
        above = int(np.searchsorted(-masses[: len(sums)], -cut.min_p, side="right"))
        sizes.append(above if above < len(sums) or rest == 0 else len(sums) + 1)
    size = min(sizes, default=len(sums) if rest == 0 else None)
    if size is not None and size > len(sums):
        return None
    place = int(np.searchsorted(sums, draw * (total if size is None else float(sums[size - 1])), side="right"))
    if size is not None:
        return min(place, size - 1)  # the last sum may be rounded
    return place if place < len(sums) else None


def _draw_from_all(logits: Float32Array, mask: TokenMask | None, temperature: float, cut: Cut, draw: float) -> int:
    """The draw from the complete row of logits."""
    ids = np.arange(len(logits)) if mask is None else mask.permitted(len(logits))
    if not temperature:
        return int(ids[np.argmax(logits[ids])])
    token = _draw_from_largest(ids, logits[ids], temperature, cut, draw)
    if token is not None:
        return token
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    pick = _pick(_masses(logits[ids], temperature), 0.0, cut, draw)
    if pick is None:
        raise RuntimeError("internal error: all logits do not decide a draw")
    return int(ids[pick])


def _draw_from_largest(
    ids: NDArray[np.int64], logits: Float32Array, temperature: float, cut: Cut, draw: float
) -> int | None:
    """The same draw where the largest logits decide it: sorting all takes several times as long. None: they do not.

    The total is added up in another order than in the draw from all, so it must not decide by its rounding.
    """
    looked_at = np.sort(logits[::_STRIDE])  # enough to know about where the largest begin
    border = looked_at[-min(_LARGEST // _STRIDE, len(looked_at))]
    head = np.flatnonzero(logits > border)  # without the border itself, where equal logits are cut apart
    if len(head) < (cut.top_k or 1):
        return None
    head = head[np.argsort(-logits[head], kind="stable")]
    masses = _masses(logits[head], temperature)
    rests = [0.0]  # of what top_k leaves
    if cut.top_k is None:
        total = float(np.exp((logits.astype(np.float64) - float(logits[head[0]])) / temperature).sum())
        rests = [max(total * (1 + error) - float(masses.sum()), 0.0) for error in (-_SUM_ERROR, _SUM_ERROR)]
    picks = {_pick(masses, rest, cut, draw) for rest in rests}
    pick = picks.pop() if len(picks) == 1 else None
    return None if pick is None else int(ids[head[pick]])
