"""Which tokens may be drawn next: as a list of ids, or as one bit for each token of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_BITS = 32  # of a word


class TokenMask(Protocol):
    """Which tokens may be drawn. ``vocab`` is the number of all tokens."""

    @property
    def is_open(self) -> bool:
        """Whether so few tokens are forbidden that a draw seldom meets one."""

    def permits(self, token: int) -> bool: ...

    def keeps(self, ids: Ids) -> NDArray[np.bool_]:
        """For each of these tokens, whether it may be drawn."""

    def count(self, vocab: int) -> int:
        """How many tokens may be drawn."""

    def permitted(self, vocab: int) -> Ids:
        """The tokens that may be drawn, ascending."""


class State(Protocol):
    """Where a turn stands: which tokens may come next, and where each leads."""

    @property
    def mask(self) -> TokenMask:
        """Raises ConstraintError if this cannot be told (`appliance.engine.json_text`)."""

    def after(self, token: int) -> State:
        """Raises RuntimeError for a token that the mask forbids."""


@dataclass(frozen=True, eq=False)
class ListedTokens:
    """Only ``ids`` may be drawn, or with ``excludes`` all except ``ids``. ids: ascending."""

    ids: Ids
    excludes: bool

    @property
    def is_open(self) -> bool:
        return self.excludes

    def permits(self, token: int) -> bool:
        place = int(np.searchsorted(self.ids, token))
        return (place < len(self.ids) and int(self.ids[place]) == token) != self.excludes

    def keeps(self, ids: Ids) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = np.isin(ids, self.ids) != self.excludes
        return kept

    def count(self, vocab: int) -> int:
        return vocab - len(self.ids) if self.excludes else len(self.ids)

    def permitted(self, vocab: int) -> Ids:
        return np.delete(np.arange(vocab), self.ids) if self.excludes else self.ids


@dataclass(frozen=True, eq=False)
class TokenBits:
    """Tokens whose bit is set may be drawn. words: (at least vocab / 32,) int32, the least significant bit first."""

    words: NDArray[np.int32]

    @property
    def is_open(self) -> bool:
        return False

    @cached_property
    def _count(self) -> int:
        return int(np.bitwise_count(self.words.view(np.uint32)).sum())

    def permits(self, token: int) -> bool:
        return 0 <= token < _BITS * len(self.words) and bool(self.words[token // _BITS] >> (token % _BITS) & 1)

    def keeps(self, ids: Ids) -> NDArray[np.bool_]:
        bits: NDArray[np.int32] = self.words[ids // _BITS] >> (ids % _BITS).astype(np.int32) & 1
        kept: NDArray[np.bool_] = bits != 0
        return kept

    def count(self, vocab: int) -> int:
        return self._count

    def permitted(self, vocab: int) -> Ids:
        return np.flatnonzero(np.unpackbits(self.words.view(np.uint8), bitorder="little"))
