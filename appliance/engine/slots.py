"""Which slot of the key/value cache holds what; pure bookkeeping over rows that model.py owns.

A slot is one row of every layer's cache, room for ``capacity`` tokens. Released slots are the prefix cache: each keeps
its contents, and the same user's next turn that begins with them computes only the rest. They are never given to
another user: how fast an answer starts must not tell what someone else has asked. What the appliance itself writes at
the beginning of every prompt is no one's secret; any slot may lend that.

Layers with a sliding window may hold a ring of the last ``ring`` positions instead of all. A slot can then be continued
only from where the ring still has what the next token sees, or from a checkpoint: a copy of the windowed layers, set
aside at the end of each prompt and now and then in a long one.

Invariant: what a slot holds is valid up to ``length`` < capacity; garbage may stand at ``length`` and beyond: what a
failed step left, or what CUDA's runs of neighbouring slots write into idle ones (cuda.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_LENT_AT_LEAST = 16  # tokens; fewer are computed as quickly as copied
_CHECKPOINT_TOKENS = 1024  # between checkpoints of a long prompt, at least
_CHECKPOINTS_AT_MOST = 16  # of a slot, besides those at the end of its prompt and of what every prompt begins with
_CHECKPOINT_SLACK = 16  # positions besides those seen from its end: the same prompt is continued one short of it


@dataclass(frozen=True)
class Windows:
    """How windowed layers are kept: each token sees ``size`` positions, itself included; ``ring`` are held."""

    size: int
    ring: int

    def first_seen(self, length: int) -> int:
        """The first position that the next token of a slot with ``length`` tokens sees in a windowed layer."""
        return max(0, length - self.size + 1)


@dataclass(frozen=True)
class Checkpoint:
    """The windowed layers' positions ``first`` .. ``end`` - 1 of a slot; ``saved`` is the model's."""

    first: int
    end: int
    saved: object


@dataclass(frozen=True)
class Append:
    """A token to be decoded: the next of a slot that holds ``length``."""

    slot: int
    token: int
    length: int


@dataclass(frozen=True)
class Chunk:
    """A part of a prompt to be read into a slot that holds the ``past`` tokens before it.

    ``want_logits``: of its last token. ``as_decoded``: with the products of decoded tokens (OnnxModel.prefill).
    """

    slot: int
    tokens: Sequence[int]
    past: int
    want_logits: bool
    as_decoded: bool = False


@dataclass
class Slot:
    """One row. ``tokens`` are those whose keys and values are computed; ``user`` is whose they are."""

    index: int
    tokens: list[int] = field(default_factory=list)
    user: str | None = None
    prompt_tokens: int = 0  # of the turn that filled the slot
    in_use: bool = False
    released_at: int = 0  # counts releases; 0: never used
    window_first: int = 0  # the first position that windowed layers hold
    checkpoints: list[Checkpoint] = field(default_factory=list)  # by rising end

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Prefix:
    """The first ``length`` tokens of a slot, which another turn begins with, and how to get at its windowed layers."""

    source: Slot
    length: int
    checkpoint: Checkpoint | None  # None: they are still in the ring


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
        """Take a free slot for a prompt, and the part of what it holds that can be kept; None if all are in use.

        That part is never the whole prompt: its last token's logits are wanted. A slot is taken for its contents if the
        prompt shares at least half of the prompt that filled it (a follow-up shares nearly all); else the one unused
        for longest is, so that other conversations keep theirs. ``keep`` must follow.
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

    def lend(self, slot: Slot, prompt: Sequence[int], public: int) -> Prefix | None:
        """The longest beginning of the prompt that another slot holds and this one lacks, if that is worth a copy.

        Slots of the same user lend what they hold, others the first ``public`` tokens of the prompt at most.
        """
        best = Prefix(slot, slot.length, None)
        for other in self.slots:
            limit = len(prompt) - 1 if other.user == slot.user else min(public, len(prompt) - 1)
            if other is slot or min(limit, other.length) < best.length + _LENT_AT_LEAST:
                continue
            held = self._held(other, _common_prefix(other.tokens[:limit], prompt))
            if held.length >= best.length + _LENT_AT_LEAST:
                best = held
        return best if best.source is not slot else None

    def keep(self, slot: Slot, prefix: Prefix) -> None:
        """Note that the slot now holds this prefix and nothing else."""
        if prefix.checkpoint is not None:
            slot.window_first = prefix.checkpoint.first
        elif prefix.source is not slot or prefix.length == 0:
            slot.window_first = self._windows.first_seen(prefix.length)
        slot.checkpoints = [kept for kept in prefix.source.checkpoints if kept.end <= prefix.length]
        slot.tokens = prefix.source.tokens[: prefix.length]

    def append(self, slot: Slot, start: int, tokens: Sequence[int]) -> None:
        """Note that ``tokens`` were computed at the positions from ``start`` on."""
        slot.tokens[start:] = tokens
        slot.window_first = max(slot.window_first, slot.length + 1 - self._windows.ring)  # one may be garbage

    def to_set_aside(self, slot: Slot, public: int) -> list[tuple[int, int]]:
        """The positions (first, end) to make checkpoints of; to be asked after each part of a prompt."""
        if self._windows.ring >= self.capacity:
            return []  # nothing is ever overwritten
        seen = self._windows.first_seen
        ends = {public} if 0 < public <= slot.length and seen(public) >= slot.window_first else set()
        last = slot.checkpoints[-1].end if slot.checkpoints else 0
        interval = max(_CHECKPOINT_TOKENS, self.capacity // _CHECKPOINTS_AT_MOST)
        if slot.length == slot.prompt_tokens or slot.length - last >= interval:
            ends.add(slot.length)
        ends -= {kept.end for kept in slot.checkpoints}
        return [(max(slot.window_first, seen(end) - _CHECKPOINT_SLACK), end) for end in sorted(ends)]

    def note_checkpoint(self, slot: Slot, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint; beyond what is allowed for, one goes whose neighbours are nearest to each other."""
        kept = sorted([*slot.checkpoints, checkpoint], key=lambda one: one.end)
        if len(kept) > checkpoints_at_most(self.capacity):
            del kept[min(range(1, len(kept) - 1), key=lambda at: kept[at + 1].end - kept[at - 1].end)]
        slot.checkpoints = kept

    def release(self, slot: Slot, *, keep: bool = True) -> None:
        """Give a slot back; ``keep=False`` forgets what it holds (a failed step left it unknown)."""
        self._releases += 1
        slot.in_use, slot.released_at = False, self._releases
        if not keep:
            slot.tokens, slot.checkpoints, slot.window_first = [], [], 0
        slot.prompt_tokens = min(slot.prompt_tokens, slot.length)

    def _held(self, slot: Slot, length: int) -> Prefix:
        """As much of the slot's first ``length`` tokens as can be continued from."""
        if self._windows.first_seen(length) >= slot.window_first:
            return Prefix(slot, length, None)
        best = Prefix(slot, 0, None)
        for kept in slot.checkpoints:
            reached = min(length, kept.end)
            if reached > best.length and self._windows.first_seen(reached) >= kept.first:
                best = Prefix(slot, reached, kept)
        return best


def checkpoints_at_most(capacity: int) -> int:
    """How many checkpoints a slot of that capacity has."""
    return min(_CHECKPOINTS_AT_MOST, capacity // _CHECKPOINT_TOKENS) + 2


def checkpoint_positions(window: int) -> int:
    """How many positions a checkpoint holds at most."""
    return window - 1 + _CHECKPOINT_SLACK


def _common_prefix(held: Sequence[int], prompt: Sequence[int]) -> int:
    for place, (ours, theirs) in enumerate(zip(held, prompt, strict=False)):
        if ours != theirs:
            return place
    return min(len(held), len(prompt))
