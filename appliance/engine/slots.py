"""Which slot of the KV cache holds what: bookkeeping alone, the memory is in cache_memory.py.

A slot is one row of every layer's cache, with addresses for ``capacity`` tokens. Released slots are the prefix cache:
each keeps its contents, and when the same user's next prompt begins with them, only the rest of it is computed. Another
user never gets them, because the time to the first token would tell what somebody else has asked. Only what the
appliance itself writes at the beginning of every prompt is no secret: it may be copied from any slot.

There may be more slots than memory could fill, because a slot takes memory as its conversation grows
(docs/decisions/0020). Then a budget (cache_budget.py) decides which stream may grow now. What released slots hold gives
way to streams, the longest unused first and from its end.

A slot with windowed layers can be continued only where their rings still hold what the next token sees, or from a
snapshot (snapshots.py).

Invariant: what a slot holds is valid up to ``length`` < capacity. At ``length`` and beyond there may be garbage from a
failed step, from drafts that were wrong (drafting.py) or from CUDA's padding of decode steps (model/replay.py). In a
ring it replaces what stood a whole ring before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.engine.cache_budget import CacheBudget, Claim
from appliance.engine.snapshots import Snapshot, Windows, most_snapshots, snapshot_interval, thinned

_LEAST_COPIED_TOKENS = 16  # fewer are computed as quickly as copied
_USUAL_ANSWER_TOKENS = 1024  # an answer is expected to grow to this, if it may
_GROWTH_TOKENS = 64  # a stream takes memory for so many at once, and
_TRIM_TOKENS = 256  # released slots give it back for so many
_COMPARED_TOKENS = 256  # compared at once, which takes a tenth of the time
MOST_DRAFTS = 8  # tokens that a step may compute ahead in a slot


@dataclass
class Slot:
    """One row. ``tokens`` are those whose keys and values it holds, ``user`` is the one whom they belong to.

    ``claim`` is that of the stream that uses the slot. The stream may fill the first ``granted`` positions, and at most
    ``limit``. Of the first ``reached`` positions the slot may have taken memory.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    user: str | None = None
    prompt_tokens: int = 0  # of the prompt that filled the slot
    claim: Claim | None = None
    limit: int = 0
    granted: int = 0
    reached: int = 0
    used_at: int = 0  # when it was last released or copied from, in uses of all slots; 0: it holds nothing
    window_first: int = 0  # the first position that windowed layers hold
    snapshots: list[Snapshot] = field(default_factory=list)  # by rising end

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def in_use(self) -> bool:
        return self.claim is not None


@dataclass(frozen=True)
class Prefix:
    """The first ``length`` tokens of a slot, from which a prompt can be continued.

    ``snapshot`` has its windowed layers; None: the ring still has them.
    """

    source: Slot
    length: int
    snapshot: Snapshot | None


@dataclass(frozen=True)
class SlotMemory:
    """The memory behind the slots.

    Attributes:
        total_bytes: what all slots together may take; at least one slot in full.
        bytes_of: what a slot takes at most that holds so many tokens.
        give_back: ``give_back(slot, kept)`` frees what a slot took beyond its first ``kept`` positions.
        copies: whether the beginning of a slot can be copied to another.
    """

    total_bytes: int
    bytes_of: Callable[[int], int]
    give_back: Callable[[int, int], None]
    copies: bool


class SlotTable:
    """The slots of one model. Not thread-safe: the scheduler's thread owns it."""

    def __init__(self, slots: int, capacity: int, memory: SlotMemory, windows: Windows | None = None) -> None:
        """``windows``: None where every layer holds every position."""
        if memory.total_bytes < memory.bytes_of(capacity):
            raise RuntimeError("internal error: there is less memory than one full slot takes")
        self.slots = [Slot(index) for index in range(slots)]
        self.capacity = capacity
        self._memory = memory
        self._budget = CacheBudget(memory.total_bytes)
        self._windows = windows or Windows(capacity, capacity)
        self._uses = 0

    def admits(self, prompt: Sequence[int], limit: int) -> bool:
        """Whether a prompt may begin whose conversation has ``limit`` tokens at most."""
        return not all(slot.in_use for slot in self.slots) and self._budget.admits(self._new_claim(prompt, limit))

    def acquire(self, user: str, prompt: Sequence[int], limit: int) -> tuple[Slot, Prefix]:
        """Take a free slot for a prompt that ``admits`` lets begin. The caller must call ``keep`` with the prefix.

        The prefix is the part of the slot's contents that the prompt begins with. It is never the whole prompt, because
        the logits of the last token are wanted. A slot is chosen for its contents if the prompt goes on with the prompt
        that filled it (a follow-up does). If that is not so, an empty slot is chosen, which can then copy the part that
        is shared, so that the other conversation keeps its own. Without one, half of the prompt must be shared, or the
        slot that was unused for longest is chosen.
        """
        free = [slot for slot in self.slots if not slot.in_use]
        common = {slot.index: _common_prefix(slot.tokens, prompt) if slot.user == user else 0 for slot in free}
        spares_others = self._memory.copies and any(not slot.reached for slot in free)

        def is_alike(slot: Slot) -> bool:
            shared = common[slot.index]
            lost = slot.prompt_tokens - shared
            return 0 < shared >= lost and (lost <= _LEAST_COPIED_TOKENS or not spares_others)

        alike = [slot for slot in free if is_alike(slot)]
        slot = max(alike, key=lambda s: common[s.index]) if alike else min(free, key=lambda s: s.used_at)
        prefix = self._held(slot, min(common[slot.index], len(prompt) - 1))
        slot.user, slot.prompt_tokens, slot.limit, slot.granted = user, len(prompt), limit, prefix.length
        slot.claim = self._new_claim(prompt, limit, prefix.length)
        self._budget.begin(slot.claim)
        return slot, prefix

    def grow(self, slot: Slot, length: int, source: Slot | None = None) -> bool:
        """Let the stream in a slot fill its first ``length`` positions; False: it must wait for older streams.

        Other slots may lose what they hold for it, ``source`` last.
        """
        if length <= slot.granted:
            return True
        if slot.claim is None:
            raise RuntimeError("internal error: a slot without a stream cannot grow")
        if not self._budget.grow(slot.claim, self._memory.bytes_of(length)):
            return False
        slot.granted = length
        slot.reached = max(slot.reached, length)
        self._make_room(source)
        return True

    def grow_to_decode(self, slot: Slot) -> bool:
        """Let a stream fill its next position, and those of drafts behind it; False: it must wait."""
        if min(slot.length + 1 + MOST_DRAFTS, slot.limit) <= slot.granted:
            return True
        return self.grow(slot, min(slot.length + _GROWTH_TOKENS, slot.limit)) or slot.length < slot.granted

    def find_prefix(self, slot: Slot, prompt: Sequence[int], public: int) -> Prefix | None:
        """The longest beginning of the prompt that another slot holds; None if this slot gains too little by a copy.

        From slots of the same user the whole prompt may be copied, from others its first ``public`` tokens at most.
        """
        best = Prefix(slot, slot.length, None)
        for other in self.slots:
            limit = len(prompt) - 1 if other.user == slot.user else min(public, len(prompt) - 1)
            least = best.length + _LEAST_COPIED_TOKENS
            if other is slot or min(limit, other.length) < least or other.tokens[least - 1] != prompt[least - 1]:
                continue
            held = self._held(other, _common_prefix(other.tokens[:limit], prompt))
            if held.length >= least:
                best = held
        return best if best.source is not slot else None

    def keep(self, slot: Slot, prefix: Prefix) -> None:
        """Note that the slot now holds this prefix and nothing else."""
        if prefix.snapshot is not None:
            slot.window_first = prefix.snapshot.first
        elif prefix.source is not slot or prefix.length == 0:
            slot.window_first = self._windows.first_seen(prefix.length)
        kept = [one for one in prefix.source.snapshots if one.end <= prefix.length]
        slot.snapshots = thinned(kept, most_snapshots(prefix.length))
        slot.tokens = prefix.source.tokens[: prefix.length]
        if prefix.source is not slot and prefix.source.user == slot.user:
            self._note_use(prefix.source)

    def append(self, slot: Slot, start: int, tokens: Sequence[int]) -> None:
        """Note that ``tokens`` were computed at the positions from ``start`` on."""
        slot.tokens[start:] = tokens
        # Also without drafts, so that these change nothing: not even how much of the next prompt is found here.
        slot.window_first = max(slot.window_first, slot.length + MOST_DRAFTS - self._windows.ring)

    def snapshots_due(self, slot: Slot, public: int) -> list[tuple[int, int]]:
        """The positions (first, end) to take snapshots of now; to be asked after each chunk of a prompt."""
        if self._windows.ring >= self.capacity:
            return []  # nothing is ever overwritten
        seen, kept = self._windows.first_seen, slot.snapshots
        ends = {public} if 0 < public <= slot.length and seen(public) >= slot.window_first else set()
        interval = snapshot_interval(self.capacity)
        if slot.length == slot.prompt_tokens or slot.length - (kept[-1].end if kept else 0) >= interval:
            ends.add(slot.length)
        ends -= {one.end for one in kept}
        return [(max(slot.window_first, self._windows.first_kept(end)), end) for end in sorted(ends)]

    def add_snapshot(self, slot: Slot, snapshot: Snapshot) -> None:
        """Keep a snapshot, and drop one if there are too many."""
        kept = sorted([*slot.snapshots, snapshot], key=lambda one: one.end)
        slot.snapshots = thinned(kept, most_snapshots(slot.length))

    def release(self, slot: Slot, *, keep: bool = True) -> None:
        """Give a slot back. ``keep=False`` forgets its contents, because a failed step left them unknown."""
        if slot.claim is None:
            raise RuntimeError("internal error: a slot without a stream was released")
        self._budget.end(slot.claim)
        slot.claim = None
        self._note_use(slot)
        if not keep:
            self._trim(slot, 0)
        slot.prompt_tokens = min(slot.prompt_tokens, slot.length)

    def _note_use(self, slot: Slot) -> None:
        self._uses += 1
        slot.used_at = self._uses

    def _new_claim(self, prompt: Sequence[int], limit: int, held: int = 0) -> Claim:
        bytes_of = self._memory.bytes_of
        expected = min(limit, len(prompt) + _USUAL_ANSWER_TOKENS)
        return Claim(held=bytes_of(held), expected=bytes_of(expected), most=bytes_of(limit))

    def _make_room(self, source: Slot | None) -> None:
        """Take memory back until the slots hold no more than they may.

        First comes memory behind what slots hold, which earlier conversations took, then what released slots hold.
        """
        bytes_of = self._memory.bytes_of
        excess = sum(bytes_of(slot.reached) for slot in self.slots) - self._memory.total_bytes
        if excess <= 0:
            return
        released = [slot for slot in self.slots if not slot.in_use]
        released.sort(key=lambda slot: (slot is source, slot.used_at))
        behind = [(slot, slot.granted) for slot in self.slots if slot.in_use]
        behind += [(slot, slot.length) for slot in released if slot.reached - slot.length >= _TRIM_TOKENS]
        for slot, least in [*behind, *((slot, 0) for slot in released)]:
            before, kept = bytes_of(slot.reached), slot.reached
            while kept > least and before - bytes_of(kept) < excess:
                kept = max(least, (kept - 1) // _TRIM_TOKENS * _TRIM_TOKENS)
            self._trim(slot, kept)
            excess -= before - bytes_of(slot.reached)
            if excess <= 0:
                return
        raise RuntimeError(f"internal error: streams hold {excess} bytes more than they may")

    def _trim(self, slot: Slot, kept: int) -> None:
        """Forget what a slot holds beyond its first ``kept`` positions, and give back its memory."""
        if self._memory.bytes_of(kept) < self._memory.bytes_of(slot.reached):
            self._memory.give_back(slot.index, kept)
            slot.reached = kept
        if slot.in_use:
            return  # it holds less than it was granted
        if slot.length > kept:
            del slot.tokens[kept:]
            slot.snapshots = thinned([one for one in slot.snapshots if one.end <= kept], most_snapshots(kept))
        slot.prompt_tokens = min(slot.prompt_tokens, slot.length)
        if not slot.tokens:
            slot.window_first = slot.used_at = 0

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


def _common_prefix(held: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens are the same from the first on."""
    most, place = min(len(held), len(prompt)), 0
    while place < most and held[place : (end := min(place + _COMPARED_TOKENS, most))] == prompt[place:end]:
        place = end
    while place < most and held[place] == prompt[place]:
        place += 1
    return place
