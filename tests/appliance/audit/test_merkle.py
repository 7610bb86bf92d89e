"""The tree against RFC 6962: published vectors, and the RFC's recursive definitions for every small size."""

from __future__ import annotations

import hashlib

import pytest

from appliance.audit import merkle
from appliance.audit.merkle import ProofError, RightEdge, leaf_hash, verify_consistency, verify_inclusion

MAX_SIZE = 70
LEAVES = [hashlib.sha512(bytes([n])).digest()[: n % 40] for n in range(MAX_SIZE)]

# Inputs and roots of the Certificate Transparency project's own test of the tree.
CT_LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
CT_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def mth(leaves: list[bytes]) -> bytes:
    """MTH as section 2.1 of RFC 6962 defines it."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH as section 2.1.1 defines it."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF as section 2.1.2 defines it."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


class StoredTree:
    """Keeps what `RightEdge.append` returns, as the database does."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.edge = RightEdge()
        self.completed = [self.edge.append(leaf_hash(leaf)) for leaf in leaves]

    def range_hash(self, part: merkle.Range) -> bytes:
        return merkle.fold([self.completed[s.end - 1][s.level] for s in merkle.covering(*part)])


TREE = StoredTree(LEAVES)


def test_roots_are_those_of_certificate_transparency() -> None:
    edge = RightEdge()
    for leaf, root in zip(CT_LEAVES, CT_ROOTS, strict=True):
        edge.append(leaf_hash(bytes.fromhex(leaf)))
        assert edge.root().hex() == root


@pytest.mark.parametrize("size", range(MAX_SIZE + 1))
def test_root_of_every_small_tree_is_the_definitions(size: int) -> None:
    assert TREE.range_hash(merkle.Range(0, size)) == mth(LEAVES[:size])
    assert StoredTree(LEAVES[:size]).edge.root() == mth(LEAVES[:size])


@pytest.mark.parametrize("size", range(1, MAX_SIZE + 1))
def test_edge_resumed_from_stored_hashes_grows_the_same_tree(size: int) -> None:
    stored = [TREE.completed[s.end - 1][s.level] for s in merkle.covering(0, size - 1)]
    edge = RightEdge(size - 1, stored)
    assert edge.append(leaf_hash(LEAVES[size - 1])) == TREE.completed[size - 1]
    assert edge.root() == mth(LEAVES[:size])


@pytest.mark.parametrize("size", range(1, MAX_SIZE + 1))
def test_inclusion_proofs_are_the_definitions_and_verify(size: int) -> None:
    leaves = LEAVES[:size]
    root = mth(leaves)
    for index in range(size):
        proof = [TREE.range_hash(part) for part in merkle.inclusion_ranges(index, size)]
        assert proof == path(index, leaves)
        verify_inclusion(leaf_hash(leaves[index]), index, size, proof, root)


@pytest.mark.parametrize("size", range(1, MAX_SIZE + 1))
def test_consistency_proofs_are_the_definitions_and_verify(size: int) -> None:
    root = mth(LEAVES[:size])
    for old in range(1, size + 1):
        proof = [TREE.range_hash(part) for part in merkle.consistency_ranges(old, size)]
        assert proof == subproof(old, LEAVES[:size], True)
        verify_consistency(old, size, proof, mth(LEAVES[:old]), root)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 11, 13])
def test_rejects_every_altered_inclusion_proof(size: int) -> None:
    leaves = LEAVES[:size]
    root = mth(leaves)
    for index in range(size):
        leaf, proof = leaf_hash(leaves[index]), path(index, leaves)
        wrong = [(leaf, other, size, proof, root) for other in range(-1, size + 1) if other != index]
        wrong += [(leaf_hash(b"other"), index, size, proof, root), (leaf, index, size, [*proof, root], root)]
        wrong += [(leaf, index, size, proof, mth([]))]
        wrong += [(leaf, index, size, _flipped(proof, at), root) for at in range(len(proof))]
        wrong += [(leaf, index, size, proof[:at] + proof[at + 1 :], root) for at in range(len(proof))]
        for case in wrong:
            with pytest.raises(ProofError):
                verify_inclusion(*case)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 11, 13])
def test_rejects_every_altered_consistency_proof(size: int) -> None:
    root = mth(LEAVES[:size])
    for old in range(1, size + 1):
        old_root, proof = mth(LEAVES[:old]), subproof(old, LEAVES[:size], True)
        wrong = [(old, size, [*proof, root], old_root, root), (old, size, proof, mth([b"other"]), root)]
        wrong += [(old, size, proof, old_root, mth([])), (0, size, proof, old_root, root)]
        wrong += [(size + 1, size, proof, old_root, root)]
        wrong += [(old, size, _flipped(proof, at), old_root, root) for at in range(len(proof))]
        wrong += [(old, size, proof[:at] + proof[at + 1 :], old_root, root) for at in range(len(proof))]
        for case in wrong:
            with pytest.raises(ProofError):
                verify_consistency(*case)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_inclusion_proof_for_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="not in a tree"):
        merkle.inclusion_ranges(index, size)


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3)])
def test_no_consistency_proof_from_an_empty_or_larger_tree(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="not a proper prefix"):
        merkle.consistency_ranges(old, new)


def _flipped(proof: list[bytes], at: int) -> list[bytes]:
    changed = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    return [*proof[:at], changed, *proof[at + 1 :]]
