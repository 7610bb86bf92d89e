"""Which streams may take more of the memory for caches: pure arithmetic on bytes.

Streams share memory that could not hold all of them at their longest. Each has a claim: the most that it may ever take.
A stream gets memory only if, beside it, every older stream could still grow to its claim while the younger ones keep
what they hold. So the oldest never waits, and when it ends, the next is the oldest. Every stream therefore comes to its
end, and none is ever ended for want of memory. A younger stream may have to wait.

A new stream begins only if all are expected to fit, so that it rarely waits later.
Source: the banker's algorithm (Dijkstra, EWD 108), with the order of arrival as its safe order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Claim:
    """What a stream holds, what it is expected to hold before it ends, and what it may hold at most; in bytes."""

    held: int
    expected: int
    most: int


class CacheBudget:
    """The claims of the streams at work, oldest first. What they hold together never exceeds ``total_bytes``."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._claims: list[Claim] = []

    def admits(self, claim: Claim) -> bool:
        """Whether a stream may begin now."""
        expected = max(claim.held, claim.expected)
        return claim.most <= self.total_bytes and expected <= self._left(len(self._claims), _expected)

    def begin(self, claim: Claim) -> None:
        """Add the claim of a stream that was admitted."""
        self._claims.append(claim)

    def grow(self, claim: Claim, held: int) -> bool:
        """Let a stream hold so much in all; False: older streams need it."""
        if held > claim.most:
            raise RuntimeError(f"internal error: a stream asks for {held} bytes and claimed {claim.most}")
        if held - claim.held > self._left(self._claims.index(claim), _held):
            return False
        claim.held = max(held, claim.held)
        return True

    def end(self, claim: Claim) -> None:
        """Remove the claim of a stream that has ended."""
        self._claims.remove(claim)

    def _left(self, older: int, of: Callable[[Claim], int]) -> int:
        """How much more a stream may take that is younger than ``older`` others: the least that one of them leaves.

        ``of`` says how much of a claim counts while an older one is met in full.
        """
        left, younger = self.total_bytes, 0
        for place in reversed(range(len(self._claims))):
            if place < older:
                left = min(left, self.total_bytes - self._claims[place].most - younger)
            younger += of(self._claims[place])
        return left


def _held(claim: Claim) -> int:
    return claim.held


def _expected(claim: Claim) -> int:
    return max(claim.held, claim.expected)
