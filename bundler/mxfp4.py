"""MXFP4 as gpt-oss stores it: 32 consecutive weights of a row share one power-of-two scale.

Layout, for weights [.., rows, K]:

    blocks  uint8 [.., rows, K/32, 16]    byte j of a block: weight 2j in the low nibble, 2j + 1 in the high one
    scales  uint8 [.., rows, K/32]        E8M0: the block's weights are multiplied by 2 ** (scale - 127); 255 is NaN

A nibble is E2M1: bits 0..2 index 0, 0.5, 1, 1.5, 2, 3, 4, 6 and bit 3 is the sign.
Source: OCP Microscaling Formats (MX) Specification v1.0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bundler.model_config import MXFP4_BLOCK

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)  # by nibble
SCALE_BIAS = 127
_LARGEST_EXPONENT = 2  # of 6, the largest E2M1 number: 6 = 1.5 * 2**2

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]


def quantise(weights: Float32Array) -> tuple[UInt8Array, UInt8Array]:
    """Round to MXFP4: the scale is 2 ** (floor(log2 of the block's largest) - 2), codes are nearest, ties to even.

    Args:
        weights: (.., K), K a multiple of 32, finite.
    Returns:
        blocks (.., K/32, 16) and scales (.., K/32). A block of zeros gets the scale 127 (one).
    Raises:
        ValueError: K is no multiple of 32, or a weight is not finite.
    """
    if weights.shape[-1] % MXFP4_BLOCK or not np.isfinite(weights).all():
        raise ValueError(f"MXFP4 needs finite weights in rows of a multiple of {MXFP4_BLOCK}, got {weights.shape}")
    grouped = weights.astype(np.float32, copy=False).reshape(*weights.shape[:-1], -1, MXFP4_BLOCK)
    largest = np.abs(grouped).max(axis=-1)
    exponents = np.frexp(largest)[1] - 1 - _LARGEST_EXPONENT
    exponents = np.where(largest > 0, np.clip(exponents, -SCALE_BIAS, SCALE_BIAS), 0)
    factors = np.ldexp(np.float32(1), -exponents)[..., None]
    codes = _nearest_codes(np.abs(grouped) * factors)
    codes |= np.signbit(grouped).astype(np.uint8) << 3
    blocks: UInt8Array = codes[..., 0::2] | np.left_shift(codes[..., 1::2], 4, dtype=np.uint8)
    return blocks, (exponents + SCALE_BIAS).astype(np.uint8)


def _nearest_codes(magnitudes: Float32Array) -> UInt8Array:
    """Codes 0..7 of magnitudes from 0 on; halfway goes to the even code, and what is larger than 6 to 6.

    The code is the number of halfway points below. Seven comparisons take a tenth of the time of a binary search.
    """
    codes = np.zeros(magnitudes.shape, np.uint8)
    for code, halfway in enumerate((E2M1[:7] + E2M1[1:8]) / 2):
        codes += magnitudes >= halfway if code % 2 else magnitudes > halfway
    return codes


def dequantise(blocks: UInt8Array, scales: UInt8Array) -> Float32Array:
    """The exact numbers that the blocks stand for; numbers beyond float32 (scales over 252) become infinite.

    Args:
        blocks: (.., K/32, 16).
        scales: (.., K/32).
    Returns:
        (.., K).
    """
    nibbles = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], MXFP4_BLOCK)
    with np.errstate(over="ignore"):
        factors = np.ldexp(np.float32(1), scales.astype(np.int32) - SCALE_BIAS)
        factors[scales == 255] = np.nan
        weights: Float32Array = E2M1[nibbles] * factors[..., None]
    return weights.reshape(*scales.shape[:-1], -1)


def pair_along_rows(blocks: UInt8Array) -> UInt8Array:
    """The same nibbles in the order of CUDA's QMoE: column-major, with two consecutive rows in one byte.

    Args:
        blocks: (E, rows, K/32, 16), rows even.
    Returns:
        (E, K, rows/2): the low nibble of [e, k, n] is weight (2n, k) of expert e, the high one (2n + 1, k).
    """
    experts, rows = blocks.shape[:2]
    depth = blocks[0, 0].size * 2
    paired = np.empty((experts, depth, rows // 2), np.uint8)
    for expert in range(experts):  # one at a time, because unpacked nibbles take twice the memory
        packed = blocks[expert].reshape(rows, depth // 2)
        nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, depth).T
        paired[expert] = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
    return paired
