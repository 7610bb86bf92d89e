"""Finds what may come next in an answer: what followed the last tokens where they stood together before.

Answers repeat: a file that is edited, fields that are extracted, JSON, tool calls, names. Sources: prompt lookup
decoding (A. Saxena, 2023), "Inference with Reference" (arXiv:2304.04487).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

_MATCHED = 3  # tokens that must be the same
_TOKEN_BITS = 18  # of an id
_TABLE_BITS = 18  # 1 MiB a conversation: four times as much for 131,072 tokens finds hardly more
_SPREAD = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio (D. Knuth, The Art of Computer Programming, 6.4)
_WORD = 2**64 - 1  # 64 bits


class DraftLookup:
    """The tokens of one conversation, prompt and answer, and where each three of them stood last.

    The table has one entry for all threes with the same hash, and the last one counts. So it never grows; a three that
    lost its entry is not found.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens = array("i", prompt)
        self._follows = np.zeros(1 << _TABLE_BITS, np.int32)  # by hash of three tokens: the place behind them
        self._source: int | None = None  # the place of what may come next
        known = np.array(self._tokens, np.uint64)
        if len(known) >= _MATCHED:
            threes = _hash(known[:-2], known[1:-1], known[2:])
            self._follows[threes] = np.arange(_MATCHED, len(known) + 1, dtype=np.int32)

    def append(self, token: int) -> bool | None:
        """The conversation goes on with ``token``. Whether that stood at the source; None if there was no source."""
        right = None if self._source is None else self._tokens[self._source] == token
        self._tokens.append(token)
        if len(self._tokens) < _MATCHED:
            return right
        last = self._tokens[-_MATCHED:]
        entry = int(_hash(*last))
        self._source = self._source + 1 if right and self._source is not None else self._found(entry, last)
        self._follows[entry] = len(self._tokens)
        return right

    def draft(self, most: int) -> list[int]:
        """Tokens that may come next: so many if there is a source, else none."""
        if self._source is None:
            return []
        found = self._tokens[self._source : self._source + most].tolist()
        period = len(self._tokens) - self._source
        while len(found) < most:  # the source runs into its own copy: a repetition
            found.append(found[len(found) - period])
        return found

    def _found(self, entry: int, last: array[int]) -> int | None:
        place = int(self._follows[entry])
        return place if self._tokens[place - _MATCHED : place] == last else None


def _hash(first: Any, second: Any, third: Any) -> Any:
    """The entries of threes of tokens: ints, or arrays of uint64."""
    packed = ((first << _TOKEN_BITS) + second << _TOKEN_BITS) + third
    return (packed * _SPREAD & _WORD) >> (64 - _TABLE_BITS)
