"""Which slot of the KV cache holds what: bookkeeping alone, the memory is in cache_memory.py.

A slot is one row of every layer's cache, with room for ``capacity`` tokens. Released slots are the prefix cache: each
keeps its contents, and when the same user's next prompt begins with them, only the rest of it is computed. Another user
never gets them, because the time to the first token would tell what somebody else has asked. Only what the appliance
itself writes at the beginning of every prompt is no secret: it may be copied from any slot.

A layer with a sliding window may hold a ring of its last ``ring`` positions instead of all. Such a slot can be
continued only where the ring still holds what the next token sees, or from a snapshot: a copy of the windowed layers,
taken at the end of each prompt and at intervals in a long one.

Invariant: what a slot holds is valid up to ``length`` < capacity. At ``length`` and beyond there may be garbage from a
failed step, from drafts that were wrong (drafting.py) or from CUDA's padding of decode steps (model/replay.py). In a
ring it replaces what stood a whole ring before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_LEAST_COPIED_TOKENS = 16  # fewer are computed as quickly as copied
_SNAPSHOT_INTERVAL_TOKENS = 1024  # at least, between the snapshots of a long prompt
_MOST_SNAPSHOTS = 16  # of a slot, besides those at the end of its prompt and of the beginning that all prompts share
_SNAPSHOT_SLACK = 16  # positions before those seen from its end: the same prompt is continued one token before its end
MOST_DRAFTS = 8  # tokens that a step may compute ahead in a slot


@dataclass(frozen=True)
class Windows:
    """The windowed layers: each token sees ``size`` positions, itself included, and the cache holds ``ring``."""

    size: int
    ring: int

    def first_seen(self, length: int) -> int:
        """The first position that the next token of a slot with ``length`` tokens sees in a windowed layer."""
        return max(0, length - self.size + 1)


@dataclass(frozen=True)
class Snapshot:
    """The positions ``first`` .. ``end`` - 1 of a slot's windowed layers; only the model understands ``saved``."""

    first: int
    end: int
    saved: object


@dataclass
class Slot:
    """One row. ``tokens`` are those whose keys and values it holds, ``user`` is the one whom they belong to."""

    index: int
    tokens: list[int] = field(default_factory=list)
    user: str | None = None
    prompt_tokens: int = 0  # of the prompt that filled the slot
    in_use: bool = False
    released_at: int = 0  # counts releases; 0: never used
    window_first: int = 0  # the first position that windowed layers hold
    snapshots: list[Snapshot] = field(default_factory=list)  # by rising end

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Prefix:
    """The first ``length`` tokens of a slot, from which a prompt can be continued.

    ``snapshot`` has its windowed layers; None: the ring still has them.
    """

    source: Slot
    length: int
    snapshot: Snapshot | None


class SlotTable:
    """The slots of one model. Not thread-safe: the scheduler's thread owns it."""

    def __init__(self, slots: int, capacity: int, windows: Windows | None = None) -> None:
        """``windows``: None where every layer holds every position."""
        self.slots = [Slot(index) for index in range(slots)]
        self.capacity = capacity
        self._windows = windows or Windows(capacity, capacity)
        self._releases = 0

    @property
    def free(self) -> int:
        return sum(not slot.in_use for slot in self.slots)

    def acquire(self, user: str, prompt: Sequence[int]) -> tuple[Slot, Prefix] | None:
        """Take a free slot for a prompt; None if all are in use. The caller must then call ``keep`` with the prefix.

        The prefix is the part of the slot's contents that the prompt begins with. It is never the whole prompt, because
        the logits of the last token are wanted. A slot is chosen for its contents if the prompt shares at least half of
        the prompt that filled it (a follow-up shares nearly all). Otherwise the slot that was unused for longest is
        chosen, so that other conversations keep theirs.
        """
        free = [slot for slot in self.slots if not slot.in_use]
        if not free:
            return None
        common = {slot.index: _common_prefix(slot.tokens, prompt) if slot.user == user else 0 for slot in free}
        alike = [slot for slot in free if common[slot.index] and 2 * common[slot.index] >= slot.prompt_tokens]
        slot = max(alike, key=lambda s: common[s.index]) if alike else min(free, key=lambda s: s.released_at)
        prefix = self._held(slot, min(common[slot.index], len(prompt) - 1))
        slot.user, slot.prompt_tokens, slot.in_use = user, len(prompt), True
        return slot, prefix

    def find_prefix(self, slot: Slot, prompt: Sequence[int], public: int) -> Prefix | None:
        """The longest beginning of the prompt that another slot holds; None if this slot gains too little by a copy.

        From slots of the same user the whole prompt may be copied, from others its first ``public`` tokens at most.
        """
        best = Prefix(slot, slot.length, None)
        for other in self.slots:
            limit = len(prompt) - 1 if other.user == slot.user else min(public, len(prompt) - 1)
            if other is slot or min(limit, other.length) < best.length + _LEAST_COPIED_TOKENS:
                continue
            held = self._held(other, _common_prefix(other.tokens[:limit], prompt))
            if held.length >= best.length + _LEAST_COPIED_TOKENS:
                best = held
        return best if best.source is not slot else None

    def keep(self, slot: Slot, prefix: Prefix) -> None:
        """Note that the slot now holds this prefix and nothing else."""
        if prefix.snapshot is not None:
            slot.window_first = prefix.snapshot.first
        elif prefix.source is not slot or prefix.length == 0:
            slot.window_first = self._windows.first_seen(prefix.length)
        slot.snapshots = [kept for kept in prefix.source.snapshots if kept.end <= prefix.length]
        slot.tokens = prefix.source.tokens[: prefix.length]

    def append(self, slot: Slot, start: int, tokens: Sequence[int]) -> None:
        """Note that ``tokens`` were computed at the positions from ``start`` on."""
        slot.tokens[start:] = tokens
        # Also without drafts, so that these change nothing: not even how much of the next prompt is found here.
        slot.window_first = max(slot.window_first, slot.length + MOST_DRAFTS - self._windows.ring)

    def snapshots_due(self, slot: Slot, public: int) -> list[tuple[int, int]]:
        """The positions (first, end) to take snapshots of now; to be asked after each chunk of a prompt."""
        if self._windows.ring >= self.capacity:
            return []  # nothing is ever overwritten
        seen = self._windows.first_seen
        ends = {public} if 0 < public <= slot.length and seen(public) >= slot.window_first else set()
        last = slot.snapshots[-1].end if slot.snapshots else 0
        interval = max(_SNAPSHOT_INTERVAL_TOKENS, self.capacity // _MOST_SNAPSHOTS)
        if slot.length == slot.prompt_tokens or slot.length - last >= interval:
            ends.add(slot.length)
        ends -= {kept.end for kept in slot.snapshots}
        return [(max(slot.window_first, seen(end) - _SNAPSHOT_SLACK), end) for end in sorted(ends)]

    def add_snapshot(self, slot: Slot, snapshot: Snapshot) -> None:
        """Keep a snapshot. If there are too many, the one whose neighbours are nearest to each other is dropped."""
        kept = sorted([*slot.snapshots, snapshot], key=lambda one: one.end)
        if len(kept) > most_snapshots(self.capacity):
            del kept[min(range(1, len(kept) - 1), key=lambda at: kept[at + 1].end - kept[at - 1].end)]
        slot.snapshots = kept

    def release(self, slot: Slot, *, keep: bool = True) -> None:
        """Give a slot back. ``keep=False`` forgets its contents, because a failed step left them unknown."""
        self._releases += 1
        slot.in_use, slot.released_at = False, self._releases
        if not keep:
            slot.tokens, slot.snapshots, slot.window_first = [], [], 0
        slot.prompt_tokens = min(slot.prompt_tokens, slot.length)

    def _held(self, slot: Slot, length: int) -> Prefix:
        """As much of the slot's first ``length`` tokens as a prompt can be continued from."""
        if self._windows.first_seen(length) >= slot.window_first:
            return Prefix(slot, length, None)
        best = Prefix(slot, 0, None)
        for kept in slot.snapshots:
            reached = min(length, kept.end)
            if reached > best.length and self._windows.first_seen(reached) >= kept.first:
                best = Prefix(slot, reached, kept)
        return best


def most_snapshots(capacity: int) -> int:
    """How many snapshots a slot of that capacity has at most."""
    return min(_MOST_SNAPSHOTS, capacity // _SNAPSHOT_INTERVAL_TOKENS) + 2


def snapshot_positions(window: int) -> int:
    """How many positions a snapshot holds at most."""
    return window - 1 + _SNAPSHOT_SLACK


def _common_prefix(held: Sequence[int], prompt: Sequence[int]) -> int:
    for place, (ours, theirs) in enumerate(zip(held, prompt, strict=False)):
        if ours != theirs:
            return place
    return min(len(held), len(prompt))
