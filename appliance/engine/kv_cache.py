"""Which slot of the key/value cache holds what; pure bookkeeping over rows that model.py owns.

A slot is one row of every layer's cache, room for ``capacity`` tokens. A released slot keeps its contents, and the same
user's next turn that begins with them computes only the rest. They are never given to another user: how fast an answer
starts must not tell what someone else has asked.

Invariant: what a slot holds is valid up to ``length``; garbage may stand at ``length`` and beyond. Decoding one run of
neighbouring slots writes one such garbage token into the idle ones between them, hence ``length`` < capacity always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Slot:
    """One row. ``tokens`` are those whose keys and values are computed; ``user`` is whose they are."""

    index: int
    tokens: list[int] = field(default_factory=list)
    user: str | None = None
    prompt_tokens: int = 0  # of the turn that filled the slot
    in_use: bool = False
    released_at: int = 0  # counts releases; 0: never used

    @property
    def length(self) -> int:
        return len(self.tokens)


class SlotTable:
    """The slots of one model. Not thread-safe: the scheduler's thread owns it."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.slots = [Slot(index) for index in range(slots)]
        self.capacity = capacity
        self._releases = 0

    @property
    def free(self) -> int:
        return sum(not slot.in_use for slot in self.slots)

    def acquire(self, user: str, prompt: Sequence[int]) -> Slot | None:
        """Take a free slot for a prompt; None if all are in use.

        ``slot.tokens`` is then the part of the prompt already computed, never all of it: its last token's logits are
        wanted. A slot is taken for its contents if the prompt shares at least half of the prompt that filled it (a
        follow-up shares nearly all); else the one unused for longest is, so that other conversations keep theirs.
        """
        free = [slot for slot in self.slots if not slot.in_use]
        if not free:
            return None
        common = {slot.index: _common_prefix(slot.tokens, prompt) if slot.user == user else 0 for slot in free}
        alike = [slot for slot in free if common[slot.index] and 2 * common[slot.index] >= slot.prompt_tokens]
        slot = max(alike, key=lambda s: common[s.index]) if alike else min(free, key=lambda s: s.released_at)
        del slot.tokens[min(common[slot.index], len(prompt) - 1) :]
        slot.user, slot.prompt_tokens, slot.in_use = user, len(prompt), True
        return slot

    def release(self, slot: Slot, *, keep: bool = True) -> None:
        """Give a slot back; ``keep=False`` forgets what it holds (a failed step left it unknown)."""
        self._releases += 1
        slot.in_use, slot.released_at = False, self._releases
        if not keep:
            slot.tokens.clear()
        slot.prompt_tokens = min(slot.prompt_tokens, slot.length)


@dataclass(frozen=True)
class DecodeRun:
    """One decode step over the neighbouring slots ``first`` .. ``first + len(tokens) - 1``.

    ``tokens``: the one to append to each. ``lengths``: what each holds before. ``rows``: those whose logits are wanted,
    counted from ``first``; the others are idle slots in between.
    """

    first: int
    tokens: list[int]
    lengths: list[int]
    rows: list[int]


def plan_decode(slots: Sequence[Slot], appended: dict[int, int], widths: Sequence[int] = ()) -> DecodeRun:
    """The shortest run of slots that has every slot of ``appended`` (slot index: token), in order.

    Args:
        widths: what the run's length may be, ascending, the number of slots last; none: anything.
    """
    first, span = min(appended), max(appended) - min(appended) + 1
    width = next((width for width in widths if width >= span), span)
    filler = appended[first]
    first = min(first, len(slots) - width)
    run = range(first, first + width)
    return DecodeRun(
        first=first,
        tokens=[appended.get(index, filler) for index in run],
        lengths=[slots[index].length for index in run],
        rows=[index - first for index in sorted(appended)],
    )


def _common_prefix(held: Sequence[int], prompt: Sequence[int]) -> int:
    for place, (ours, theirs) in enumerate(zip(held, prompt, strict=False)):
        if ours != theirs:
            return place
    return min(len(held), len(prompt))
