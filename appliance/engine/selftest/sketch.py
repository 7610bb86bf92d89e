"""Numbers made from a seed, and the sketch of an output: a few sums that stand for thousands of numbers.

The columns of a row are dealt to ``BUCKETS`` sums in turn, each with a sign made from a seed (a count sketch,
doi:10.1016/S0304-3975(03)00400-6). Rounding errors add up like noise, so a sum of n columns has sqrt(n) times the error
of one. A wrong column changes its sum by its whole error, and an error that spreads over all columns changes all sums.

Only the raw bits of PCG64 are used, which NumPy keeps the same in all its versions (NEP 19).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS = 64
BLOCK = 32  # activations that share a scale (kernels/paths.h)
STEPS = 127  # the largest whole number of 8 bits
UNIT_STEPS = 73.0  # the standard deviation of whole numbers between -127 and 127

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


def raw_bits(seed: str, count: int) -> NDArray[np.uint64]:
    """So many numbers of 64 bits; the same seed gives the same numbers on every machine."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little")
    return np.random.PCG64(number).random_raw(count)


def activations(seed: str, rows: int, columns: int) -> Float32Array:
    """Numbers of about unit variance that activations of 8 bits hold exactly: multiples of 1/73 up to 127/73.

    The first number of each 32 is the largest, so that a form of 8 bits with a scale for each 32 rounds none of them.
    """
    bits = raw_bits(seed, rows * columns).reshape(rows, columns)
    steps = (bits >> np.uint64(40)).astype(np.int64) % (2 * STEPS + 1) - STEPS
    steps[:, ::BLOCK] = np.where(steps[:, ::BLOCK] < 0, -STEPS, STEPS)
    return (steps / UNIT_STEPS).astype(np.float32)


def signs(seed: str, count: int) -> Float32Array:
    """So many numbers that are 1 or -1."""
    bits = np.unpackbits(raw_bits(seed, -(-count // 64)).astype("<u8").view(np.uint8))[:count]
    return bits.astype(np.float32) * np.float32(2) - np.float32(1)


def sketch(rows: NDArray[Any]) -> Float64Array:
    """The sketches of rows: (rows, columns) becomes (rows, at most BUCKETS)."""
    count, columns = rows.shape
    buckets = min(BUCKETS, columns)
    signed = rows.astype(np.float64) * signs("columns", columns)
    padded = np.pad(signed, ((0, 0), (0, -columns % buckets)))
    sums: Float64Array = padded.reshape(count, -1, buckets).sum(axis=1)
    return sums


def folded(rows: Float32Array) -> Float32Array:
    """All rows added to one, each with a sign of its own."""
    sums: Float32Array = (signs("rows", len(rows)) @ rows)[np.newaxis]
    return sums


def distance(found: Float64Array, expected: Float64Array) -> float:
    """The largest difference of two sketches, in units of the expected one's root mean square."""
    worst = float(np.max(np.abs(found - expected)))
    if worst == 0:
        return 0.0
    size = float(np.sqrt(np.mean(expected**2)))
    return worst / size if size > 0 and np.isfinite(worst) else np.inf
