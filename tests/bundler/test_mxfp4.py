"""MXFP4: exact in both directions, and permuted without changing a nibble."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from bundler.mxfp4 import E2M1, dequantise, pair_along_rows, quantise
from tests.reference.gpt_oss import decode_mxfp4


def _random_blocks(shape: tuple[int, ...], seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (*shape, 16), dtype=np.uint8)
    return blocks, rng.integers(0, 255, shape, dtype=np.uint8)


def test_dequantises_every_code_under_every_scale_exactly() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    blocks = np.broadcast_to(codes, (255, 16, 16))
    scales = np.broadcast_to(np.arange(255, dtype=np.uint8)[:, None], (255, 16))
    with np.errstate(over="ignore"):  # 6 * 2**127 is no float32
        expected = decode_mxfp4(blocks, scales).astype(np.float32)
    np.testing.assert_array_equal(dequantise(blocks, scales), expected)


def test_scale_255_is_not_a_number() -> None:
    assert np.isnan(dequantise(np.zeros((1, 16), np.uint8), np.array([255], np.uint8))).all()


@given(arrays(np.uint8, (3, 16)), st.integers(1, 252))
def test_quantising_what_was_dequantised_changes_no_number(blocks: NDArray[np.uint8], scale: int) -> None:
    weights = dequantise(blocks, np.full(3, scale, np.uint8))
    np.testing.assert_array_equal(dequantise(*quantise(weights)), weights)


@given(arrays(np.float32, (2, 32), elements=st.floats(-6, 6, width=32)))
def test_rounds_to_the_nearest_number_of_the_format(weights: NDArray[np.float32]) -> None:
    weights[:, 0] = 6.0  # fixes the scale at one
    rounded = dequantise(*quantise(weights))
    nearest = np.abs(weights[..., None] - E2M1).min(axis=-1)
    np.testing.assert_array_equal(np.abs(weights - rounded), nearest)


@pytest.mark.parametrize(
    ("halfway", "even"), [(0.25, 0), (0.75, 1), (1.25, 1), (1.75, 2), (2.5, 2), (3.5, 4), (5, 4), (-2.5, -2), (-5, -4)]
)
def test_halfway_goes_to_the_even_code(halfway: float, even: float) -> None:
    weights = np.zeros((1, 32), np.float32)
    weights[0, :2] = 6.0, halfway
    assert dequantise(*quantise(weights))[0, 1] == even


def test_zeros_get_the_scale_one() -> None:
    blocks, scales = quantise(np.zeros((1, 32), np.float32))
    assert scales.tolist() == [[127]]
    assert not blocks.any()


@pytest.mark.parametrize("weights", [np.zeros((1, 33)), np.full((1, 32), np.inf), np.full((1, 32), np.nan)])
def test_refuses_what_the_format_cannot_hold(weights: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="MXFP4 needs finite weights"):
        quantise(weights.astype(np.float32))


def test_even_weights_are_in_the_low_nibble() -> None:
    weights = np.tile(np.array([1.0, 6.0], np.float32), 16)[None]
    assert set(quantise(weights)[0].ravel().tolist()) == {0x72}


def test_pairing_along_rows_moves_every_nibble_and_changes_none() -> None:
    experts, rows, depth = 3, 10, 64
    blocks, _ = _random_blocks((experts, rows, depth // 32))
    paired = pair_along_rows(blocks)
    assert paired.shape == (experts, depth, rows // 2)
    flat = blocks.reshape(experts, rows, depth // 2)
    for expert in range(experts):
        for row in range(rows):
            for column in range(depth):
                published = int(flat[expert, row, column // 2]) >> (4 * (column % 2)) & 15
                moved = int(paired[expert, column, row // 2]) >> (4 * (row % 2)) & 15
                assert moved == published, (expert, row, column)
