"""What a request adds to logits before anything is drawn: its biases, and penalties of what the turn has written.

    changed logit = logit + bias - frequency_penalty * count - presence_penalty * (count > 0)

``count`` is how often the turn has drawn the token, in its reasoning and its answer. Special tokens are never changed:
without them the turn could not end.

Source: OpenAI API reference, "Frequency and presence penalties" and ``logit_bias``.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from appliance.engine.harmony import ORDINARY_TOKENS
from appliance.engine.sampling import Float32Array, TopLogits
from appliance.turns.request import TurnRequest

_MOST_ERROR = 0.01


class LogitChanges:
    """The changes of one turn; ``note`` each token that it draws."""

    def __init__(self, request: TurnRequest) -> None:
        self._biases = {one.token: one.bias for one in request.logit_bias}
        self._frequency, self._presence = request.frequency_penalty, request.presence_penalty
        self._counts: Counter[int] = Counter()

    def note(self, token: int) -> None:
        """The turn has drawn a token."""
        if token < ORDINARY_TOKENS and (self._frequency or self._presence):
            self._counts[token] += 1

    def apply(self, top: TopLogits) -> TopLogits:
        """The largest logits after the changes. All logits are fetched only where a token may have become one of them.

        A token that a change leaves below the smallest of them is no longer among them: unknown ones may be larger.
        """
        changes = {token: change for token in {*self._biases, *self._counts} if (change := self._change(token))}
        if not changes:
            return top
        tokens = np.array(sorted(changes), np.int64)
        added = np.array([changes[token] for token in tokens.tolist()])
        inside = np.isin(tokens, top.ids)
        known = len(top.ids) == top.vocab or not (added[~inside] > 0).any()
        after = _among_known(top, tokens, added, inside) if known else None
        if after is None or not len(after.ids):
            after = _of_all(_changed(top.all_logits(), tokens, added), len(top.ids))
        return replace(after, all_logits=lambda: _changed(top.all_logits(), tokens, added))

    def _change(self, token: int) -> float:
        count = self._counts[token]
        penalty = self._frequency * count + self._presence * (count > 0)
        return self._biases.get(token, 0.0) - penalty


def _changed(logits: Float32Array, tokens: NDArray[np.int64], added: NDArray[np.float64]) -> Float32Array:
    after = logits.copy()
    after[tokens] = after[tokens].astype(np.float64) + added
    return after


def _of_all(logits: Float32Array, count: int) -> TopLogits:
    """The largest of all logits; of equal ones those with the smallest ids, as the graph has them."""
    least = np.partition(logits, -count)[-count]
    ids = np.flatnonzero(logits > least)
    ids = np.concatenate([ids, np.flatnonzero(logits == least)[: count - len(ids)]])
    ids = ids[np.lexsort((ids, -logits[ids]))]
    peak = float(logits[ids[0]])
    normaliser = peak + math.log(float(np.exp(logits.astype(np.float64) - peak).sum()))
    return TopLogits(ids, logits[ids], normaliser, len(logits), lambda: logits)


def _among_known(
    top: TopLogits, tokens: NDArray[np.int64], added: NDArray[np.float64], inside: NDArray[np.bool_]
) -> TopLogits | None:
    """The largest logits, if no other token has become larger; None where the normaliser would be too uncertain."""
    order = np.argsort(top.ids)
    places = order[np.searchsorted(top.ids, tokens[inside], sorter=order)]
    logits = _changed(top.logits, places, added[inside])
    peak = max(float(logits.max()), float(top.logits[0]))
    before, after = (np.exp(part.astype(np.float64) - peak).sum() for part in (top.logits, logits))
    total_before = math.exp(top.logsumexp - peak)
    total = total_before - float(before) + float(after)
    error = top.error * total_before / total if total > 0 else 1.0  # what is left may be less than the error of the sum
    if error > _MOST_ERROR:
        return None
    smallest = top.logits[-1]
    is_sure = logits >= smallest
    is_sure[places] = logits[places] > smallest
    if len(top.ids) == top.vocab:
        is_sure[:] = True
    ids, kept = top.ids[is_sure], logits[is_sure]
    falling = np.lexsort((ids, -kept))
    return replace(
        top, ids=ids[falling], logits=kept[falling], logsumexp=peak + math.log(total),
        overcounted=int((~inside).sum()), error=max(error, top.error),
    )  # fmt: skip
