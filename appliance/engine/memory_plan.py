"""How many conversations of how many tokens fit into memory: pure arithmetic on what host.py and the release say.

The weights must stay in memory, because every decode step reads many of them, and reading them from a disk would take
seconds. They are mapped from a file, so the kernel would silently drop them in favour of the caches. The plan therefore
counts them as used, though the kernel counts their pages as free. It counts the chosen conversations in full. On a CPU
shorter ones may share that memory: caches take it as they grow and give it back (slots.py).

What the operator sets is kept; what is left open becomes the highest step of `_steps` that fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from appliance.engine.cache_memory import CacheShape
from appliance.errors import ApplianceError

LEAST_CONTEXT_TOKENS = 2048  # shorter conversations are of no use
_USUAL_CONTEXT_TOKENS = 16_384  # one conversation grows to this before a second gets a slot
_USUAL_SLOTS = 4  # there are so many conversations before all of them grow further
_MOST_SLOTS = {"cpu": 8, "cuda": 32}  # with more, the time of a decode step grows in proportion
_SHORT_TOKENS = 512  # memory is shared by no more conversations than have so many tokens each
_MOST_SHARING = 256


class MemoryPlanError(ApplianceError):
    """What is configured, or the least that can be served, does not fit into memory."""


@dataclass(frozen=True)
class Needs:
    """What a model takes, however many conversations it serves.

    Attributes:
        weights_bytes: the weights that a step may read.
        beside_bytes: the engine itself with the scratch memory of a chunk, and the appliance's other processes.
        cache: the KV cache as the accelerator keeps it.
        context_tokens: the longest conversation that the release offers.
        by_need: whether a conversation takes memory as it grows, so that shorter ones can share it.
    """

    model: str
    accelerator: str
    weights_bytes: int
    beside_bytes: int
    cache: CacheShape
    context_tokens: int
    by_need: bool

    def bytes_for(self, slots: int, context_tokens: int) -> int:
        """All memory that so many conversations of so many tokens take."""
        return self.weights_bytes + self.beside_bytes + slots * self.cache.slot_bytes(context_tokens)

    def longest_sentence(self) -> str:
        """For `appliance doctor`: what the longest conversation takes, whether or not it is served."""
        taken = _gb(self.cache.slot_bytes(self.context_tokens))
        return f"one conversation of {self.context_tokens:,} tokens, the longest that it offers, takes {taken}"


@dataclass(frozen=True)
class MemoryPlan:
    """What is served, and what more would take."""

    needs: Needs
    available_bytes: int
    slots: int
    context_tokens: int
    more: tuple[int, int] | None  # the next step: slots and tokens; None: there is none

    @property
    def needed_bytes(self) -> int:
        return self.needs.bytes_for(self.slots, self.context_tokens)

    @property
    def cache_bytes(self) -> int:
        """What all conversations together may take."""
        return self.slots * self.needs.cache.slot_bytes(self.context_tokens)

    @property
    def sharing(self) -> int:
        """How many conversations may share that memory."""
        if not self.needs.by_need:
            return self.slots
        short = self.needs.cache.slot_bytes(self.context_tokens, min(_SHORT_TOKENS, self.context_tokens))
        return max(self.slots, min(_MOST_SHARING, self.cache_bytes // short))

    def sentence(self) -> str:
        """For the log and for `appliance doctor`."""
        shorter = f" or up to {self.sharing} shorter ones" if self.sharing > self.slots else ""
        served = (
            f"{_conversations(self.slots, self.context_tokens)}{shorter}; {self.needs.model} needs "
            f"{_gb(self.needed_bytes)} for them, {_gb(self.available_bytes)} can be used"
        )
        if self.more is None:
            return served
        slots, tokens = self.more
        return f"{served}; {_gb(self.needs.bytes_for(slots, tokens))} would give {slots} of {tokens:,}"


def plan_memory(
    needs: Needs, available_bytes: int, *, slots: int | None = None, context_tokens: int | None = None
) -> MemoryPlan:
    """Choose what the operator has left open.

    Args:
        available_bytes: memory that can be taken, the pages of the weights included.
        slots, context_tokens: the settings; None: as memory allows.
    Raises:
        MemoryPlanError: it has the numbers and, if the settings do not fit, settings that would.
    """
    fitting, more = None, None
    for step in _steps(needs, slots, context_tokens):
        if needs.bytes_for(*step) > available_bytes:
            more = step
            break
        fitting = step
    if fitting is None:
        raise MemoryPlanError(_refusal(needs, available_bytes, slots, context_tokens))
    return MemoryPlan(needs, available_bytes, *fitting, more)


def _steps(needs: Needs, slots: int | None, context_tokens: int | None) -> Iterator[tuple[int, int]]:
    """Slots and tokens to choose from. Each step takes more memory than the one before."""
    longest = needs.context_tokens
    lengths = [longest] if longest <= LEAST_CONTEXT_TOKENS else _doubled(LEAST_CONTEXT_TOKENS, longest)
    most = _MOST_SLOTS[needs.accelerator]
    if slots is not None and context_tokens is not None:
        yield slots, context_tokens
    elif slots is not None:
        yield from ((slots, tokens) for tokens in lengths)
    elif context_tokens is not None:
        yield from ((count, context_tokens) for count in range(1, most + 1))
    else:
        usual = min(_USUAL_CONTEXT_TOKENS, longest)
        yield from ((1, tokens) for tokens in lengths if tokens <= usual)
        yield from ((count, usual) for count in range(2, _USUAL_SLOTS + 1))
        yield from ((_USUAL_SLOTS, tokens) for tokens in lengths if tokens > usual)
        yield from ((count, longest) for count in range(_USUAL_SLOTS + 1, most + 1))


def _doubled(first: int, last: int) -> list[int]:
    """``first``, twice that, and so on, then ``last``."""
    lengths = [first]
    while 2 * lengths[-1] < last:
        lengths.append(2 * lengths[-1])
    return [*lengths, last]


def _refusal(needs: Needs, available_bytes: int, slots: int | None, context_tokens: int | None) -> str:
    least = next(_steps(needs, slots, context_tokens))
    said = (
        f"{_conversations(*least)} do{'es' if least[0] == 1 else ''} not fit into memory: {needs.model} needs "
        f"{_gb(needs.bytes_for(*least))} for {'it' if least[0] == 1 else 'them'} ({_gb(needs.weights_bytes)} of that "
        f"for its weights), {_gb(available_bytes)} can be used"
    )
    if slots is None and context_tokens is None:
        return f"{said}; give the machine or its control group more memory, or install a smaller model"
    try:
        plan = plan_memory(needs, available_bytes)
    except MemoryPlanError as exc:
        return f"{said}; without these settings: {exc}"
    return (
        f"{said}; engine.slots = {plan.slots} with engine.context_tokens = {plan.context_tokens} would fit: what is "
        "chosen where neither is set"
    )


def _conversations(slots: int, context_tokens: int) -> str:
    return f"{slots} conversation{'s' if slots > 1 else ''} of {context_tokens:,} tokens"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
