"""Finds what may come next in an answer: what followed the last tokens where they stood together before.

Answers repeat: a file that is edited, fields that are extracted, JSON, tool calls, names. Sources: prompt lookup
decoding (A. Saxena, 2023), "Inference with Reference" (arXiv:2304.04487).
"""

from __future__ import annotations

from collections.abc import Sequence

_MATCHED = 3  # tokens that must be the same
_INDEXED_AT_ONCE = 4096  # tokens; more would delay a step by over 2 ms


class DraftLookup:
    """The tokens of one conversation, prompt and answer, and where each three of them stood last."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens = list(prompt)
        self._follows: dict[tuple[int, ...], int] = {}  # three tokens: the place behind them
        self._indexed = _MATCHED  # the first place that is not in `_follows`
        self._source: int | None = None  # the place of what may come next

    def append(self, token: int) -> bool | None:
        """The conversation goes on with ``token``. Whether that stood at the source; None if there was no source.

        Of a long prompt some 4,000 further tokens are looked at in each call.
        """
        right = None if self._source is None else self._tokens[self._source] == token
        self._tokens.append(token)
        self._index()
        if right and self._source is not None:
            self._source += 1
        else:
            self._source = self._follows.get(tuple(self._tokens[-_MATCHED:]))
        return right

    def draft(self, most: int) -> list[int]:
        """Tokens that may come next: so many if there is a source, else none."""
        if self._source is None:
            return []
        found = self._tokens[self._source : self._source + most]
        period = len(self._tokens) - self._source
        while len(found) < most:  # the source runs into its own copy: a repetition
            found.append(found[len(found) - period])
        return found

    def _index(self) -> None:
        end = min(len(self._tokens), self._indexed + _INDEXED_AT_ONCE)  # the last place has nothing behind it yet
        for place in range(self._indexed, end):
            self._follows[tuple(self._tokens[place - _MATCHED : place])] = place
        self._indexed = max(self._indexed, end)
