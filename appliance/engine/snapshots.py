"""Snapshots of windowed layers: how many a slot keeps, and of what.

A layer with a sliding window may hold a ring of its last ``ring`` positions instead of all. What a slot held earlier
can then be continued only from a snapshot: a copy of the windowed layers, taken at the end of each prompt and at
intervals in a long one.
"""

from __future__ import annotations

from dataclasses import dataclass

_INTERVAL_TOKENS = 1024  # at least, between the snapshots of a long prompt
_AT_INTERVALS, _MOST = 16, 18  # of a slot
_FIRST = 3  # of any slot: at the ends of its last two prompts and of the beginning that all prompts share
_SLACK = 16  # positions before those seen from its end: the same prompt is continued one token before its end


@dataclass(frozen=True)
class Windows:
    """The windowed layers: each token sees ``size`` positions, itself included, and the cache holds ``ring``."""

    size: int
    ring: int

    def first_seen(self, length: int) -> int:
        """The first position that the next token of a slot with ``length`` tokens sees in a windowed layer."""
        return max(0, length - self.size + 1)

    def first_kept(self, end: int) -> int:
        """The first position that a snapshot of ``end`` tokens holds."""
        return self.first_seen(end) - _SLACK


@dataclass(frozen=True)
class Snapshot:
    """The positions ``first`` .. ``end`` - 1 of a slot's windowed layers; only the model understands ``saved``."""

    first: int
    end: int
    saved: object


def most_snapshots(length: int) -> int:
    """How many snapshots a slot that holds so many tokens has at most."""
    return min(_MOST, length // _INTERVAL_TOKENS + _FIRST) if length else 0


def snapshot_interval(capacity: int) -> int:
    """How many tokens of a prompt are between two snapshots of a slot with that capacity, at least."""
    return max(_INTERVAL_TOKENS, capacity // _AT_INTERVALS)


def snapshot_positions(window: int) -> int:
    """How many positions a snapshot holds at most."""
    return window - 1 + _SLACK


def thinned(snapshots: list[Snapshot], most: int) -> list[Snapshot]:
    """Without the snapshots whose neighbours are nearest to each other, so that ``most`` are left."""
    kept = list(snapshots)
    while len(kept) > most:
        del kept[min(range(1, len(kept) - 1), key=lambda at: kept[at + 1].end - kept[at - 1].end)]
    return kept
