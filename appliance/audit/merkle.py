"""The Merkle tree of RFC 6962 (and RFC 9162), section 2.1: hashes, roots, proofs and their verification.

The module holds no tree. A caller that keeps the hash of every complete subtree (`RightEdge.append` returns them as
they arise) answers for any range of leaves: `covering` names the complete subtrees it needs, `fold` combines their
hashes. Every range this module hands out is one that the RFC's recursion visits, so its start is a multiple of the
largest power of two within it, which `covering` relies on.

    root of N leaves        fold(covering(0, N))
    inclusion of leaf i     [fold(covering(*r)) for r in inclusion_ranges(i, N)]
    M is a prefix of N      [fold(covering(*r)) for r in consistency_ranges(M, N)]
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofError(ValueError):
    """A proof does not prove what it is said to prove."""


class Range(NamedTuple):
    """The leaves start to end - 1."""

    start: int
    end: int


@dataclass(frozen=True)
class Subtree:
    """The complete subtree over the leaves index * 2**level to (index + 1) * 2**level - 1."""

    level: int
    index: int

    @property
    def end(self) -> int:
        """One past its last leaf."""
        return (self.index + 1) << self.level


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def covering(start: int, end: int) -> list[Subtree]:
    """The complete subtrees whose fold is the hash of the leaves start to end - 1, left to right."""
    subtrees = []
    while start < end:
        level = (end - start).bit_length() - 1
        subtrees.append(Subtree(level, start >> level))
        start += 1 << level
    return subtrees


def aligned(start: int, end: int) -> list[Subtree]:
    """The largest complete subtrees of any tree that lie within the leaves start to end - 1, left to right."""
    subtrees = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        subtrees.append(Subtree(level, start >> level))
        start += 1 << level
    return subtrees


class TreeStack:
    """A tree that grows to the right by whole subtrees: those of `aligned`, beginning at leaf 0."""

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, bytes]] = []  # level and hash, levels falling

    def push(self, level: int, value: bytes) -> None:
        """Add the next complete subtree."""
        while self._subtrees and self._subtrees[-1][0] == level:
            value = node_hash(self._subtrees.pop()[1], value)
            level += 1
        self._subtrees.append((level, value))

    def root(self) -> bytes:
        """The root of the tree so far."""
        return fold([value for _, value in self._subtrees])


def fold(hashes: Sequence[bytes]) -> bytes:
    """One hash out of those of `covering`."""
    if not hashes:
        return EMPTY_ROOT
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def completed_subtrees(size: int) -> int:
    """How many complete subtrees end with leaf number `size`, counted from 1: one more than its trailing zero bits."""
    return (size & -size).bit_length()


class RightEdge:
    """The complete subtrees at the right edge of a growing tree: all that appending needs."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Args: hashes: those of covering(0, size)."""
        self.size = size
        self._hashes = list(hashes)

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf by its hash; returns the hashes of the complete subtrees that end with it, the leaf's first."""
        completed = [leaf]
        size = self.size
        while size & 1:
            completed.append(node_hash(self._hashes.pop(), completed[-1]))
            size >>= 1
        self._hashes.append(completed[-1])
        self.size += 1
        return completed

    def root(self) -> bytes:
        """The root of the tree so far."""
        return fold(self._hashes)


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges whose hashes, lowest first, prove leaf `index` in the tree of `size` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    ranges, start, end = [], 0, size
    while end - start > 1:
        middle = start + _left_size(end - start)
        if index < middle:
            ranges.append(Range(middle, end))
            end = middle
        else:
            ranges.append(Range(start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """The ranges whose hashes prove that the first `old` of `new` leaves are the tree of size `old`."""
    if not 0 < old <= new:
        raise ValueError(f"a tree of {old} is not a proper prefix of one of {new}")
    ranges, start, end = [], 0, new
    while end != old:
        middle = start + _left_size(end - start)
        if old <= middle:
            ranges.append(Range(middle, end))
            end = middle
        else:
            ranges.append(Range(start, middle))
            start = middle
    if start:
        ranges.append(Range(start, end))
    return ranges[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Prove that the leaf with hash `leaf` is number `index` of the tree of `size` leaves with `root`.

    Raises:
        ProofError: it does not follow.
    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise ProofError(f"leaf {index} is not in a tree of {size}")
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofError("the inclusion proof is too short")
    if result != root:
        raise ProofError("the inclusion proof leads to another root")


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Prove that the tree of `new` leaves begins with the tree of `old` leaves.

    Raises:
        ProofError: it does not follow.
    Source: RFC 9162, section 2.1.4.2.
    """
    if not 0 < old <= new:
        raise ProofError(f"a tree of {old} is not a proper prefix of one of {new}")
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if old == new:
        path = [old_root, *proof]
    if not path:
        raise ProofError("the consistency proof is too short")
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    if last and old != new:
        raise ProofError("the consistency proof is too short")
    if first != old_root or second != new_root:
        raise ProofError("the consistency proof leads to another root")


def _left_size(size: int) -> int:
    """The largest power of two below `size` >= 2."""
    return 1 << ((size - 1).bit_length() - 1)
