"""Expert matrices that are not stored in MXFP4, or that an adapter changes: read, and rounded to MXFP4 here.

The scale of a block comes from its largest weight, and every weight is rounded to the nearest code
(`bundler.mxfp4.quantise`). A matrix is rounded some rows at a time, so beside the result only one expert for each
thread is in memory. What rounding cost is noted in a `RoundingLog`. Weights that MXFP4 can hold exactly (a published
checkpoint that a tool widened to 16 bits) keep their values, and their error is 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bundler.checkpoints.files import StoredTensor
from bundler.checkpoints.lowrank import LowRank
from bundler.errors import CheckpointError
from bundler.model_config import MXFP4_BLOCK
from bundler.mxfp4 import dequantise, quantise

Float32Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]
Rows = Callable[[int, int], Float32Array]  # rows from, to -> (to - from, depth), a copy
Changes = Callable[[], Callable[[int], Sequence[LowRank]]]  # reads what is added, and gives it by expert

_CHUNK_ROWS: Final = 64  # even; a chunk and what is computed from it stay in the cache
_TILE: Final = 128
_MOST_THREADS: Final = 8  # each holds one expert; NumPy computes beside Python's lock
_DIGITS: Final = 4  # of an error: the order of sums, which differs between processors, changes no more than the 6th


@dataclass(frozen=True)
class Squares:
    """Sums of squares over an expert's matrix."""

    weights: float  # with the adapter's change
    change: float  # what the adapter adds
    error: float  # what rounding adds


@dataclass
class RoundingLog:
    """What rounding and an adapter changed, by layer, projection and expert. Rounding again changes nothing."""

    squares: dict[tuple[int, str, int], Squares] = field(default_factory=dict)

    def layer_errors(self) -> dict[int, float]:
        """By layer, the root mean square of the error, relative to that of the layer's rounded weights."""
        return self._relative("error")

    def layer_changes(self) -> dict[int, float]:
        """The same of what the adapter adds."""
        return self._relative("change")

    def _relative(self, name: str) -> dict[int, float]:
        sums: dict[int, tuple[float, float]] = {}
        for (layer, _, _), found in sorted(self.squares.items()):
            part, weights = sums.get(layer, (0.0, 0.0))
            sums[layer] = (part + getattr(found, name), weights + found.weights)
        roots = {layer: (part / weights) ** 0.5 if weights else 0.0 for layer, (part, weights) in sums.items()}
        return {layer: float(f"{root:.{_DIGITS}g}") for layer, root in roots.items()}


class ExpertMatrices(Protocol):
    """The matrices of one projection of a layer, by expert."""

    def open(self, expert: int) -> Rows:
        """Read one expert's matrix."""


@dataclass(frozen=True)
class FusedMatrices:
    """One tensor [E, depth, rows]: Transformers multiplies from the left, so it holds every matrix transposed."""

    tensor: StoredTensor

    def open(self, expert: int) -> Rows:
        stored = _transposed(self.tensor.read(range(expert, expert + 1))[0])
        return lambda first, end: stored[first:end].astype(np.float32)


@dataclass(frozen=True)
class ListedMatrices:
    """One tensor [rows, depth] for each expert, or two with gate and up rows apart."""

    tensors: Mapping[int, tuple[StoredTensor, ...]]

    def open(self, expert: int) -> Rows:
        parts = [tensor.read() for tensor in self.tensors[expert]]
        step = len(parts)

        def rows(first: int, end: int) -> Float32Array:
            woven = np.empty((end - first, parts[0].shape[1]), np.float32)
            for place, part in enumerate(parts):
                woven[place::step] = part[first // step : end // step]
            return woven

        return rows


@dataclass(frozen=True)
class PackedMatrices:
    """Blocks and scales as published."""

    blocks: StoredTensor
    scales: StoredTensor

    def open(self, expert: int) -> Rows:
        one = range(expert, expert + 1)
        blocks, scales = self.blocks.read(one)[0], self.read_scales(one)[0]
        return lambda first, end: dequantise(blocks[first:end], scales[first:end])

    def read_scales(self, experts: range) -> UInt8Array:
        """The scales of these experts.

        Raises:
            CheckpointError: one of them is reserved for NaN.
        """
        scales: UInt8Array = self.scales.read(experts)
        if (scales == 255).any():
            fault = f"{self.scales.name} holds the scale 255"
            raise CheckpointError(self.scales.path, fault, "0 to 254 (E8M0 reserves 255 for NaN)")
        return scales


@dataclass
class RoundedExperts:
    """One projection of a layer in MXFP4, rounded when it is read.

    Scales come with the blocks. They are kept until they are read, in whatever pieces either is read.
    """

    origin: Path  # for messages
    layer: int
    projection: str
    rows: int
    depth: int
    matrices: ExpertMatrices
    changes: Changes
    log: RoundingLog
    _scales: dict[int, UInt8Array] = field(default_factory=dict)  # by expert

    def read_blocks(self, experts: range) -> UInt8Array:
        """Blocks (experts, rows, depth/32, 16)."""
        shape = (len(experts), self.rows, self.depth // MXFP4_BLOCK)
        blocks, scales = np.empty((*shape, MXFP4_BLOCK // 2), np.uint8), np.empty(shape, np.uint8)
        changes = self.changes()
        with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as threads:
            list(threads.map(self._round, experts, map(changes, experts), blocks, scales))
        self._scales |= zip(experts, scales, strict=True)
        return blocks

    def read_scales(self, experts: range) -> UInt8Array:
        """Scales (experts, rows, depth/32)."""
        for expert in experts:
            if expert not in self._scales:
                self.read_blocks(range(expert, expert + 1))
        return np.stack([self._scales.pop(expert) for expert in experts])

    def _round(self, expert: int, changes: Sequence[LowRank], blocks: UInt8Array, scales: UInt8Array) -> None:
        read = self.matrices.open(expert)
        squares = np.zeros(3)
        for first in range(0, self.rows, _CHUNK_ROWS):
            end = min(first + _CHUNK_ROWS, self.rows)
            stored = read(first, end)
            weights = _changed(stored, changes, first)
            if not np.isfinite(weights).all():
                fault = f"{self.projection} of layer {self.layer} becomes infinite"
                raise CheckpointError(self.origin, fault, "finite numbers after the adapter is added")
            blocks[first:end], scales[first:end] = quantise(weights)
            rounded = dequantise(blocks[first:end], scales[first:end])
            squares += [_squares(weights), _squares(weights - stored), _squares(rounded - weights)]
        self.log.squares[self.layer, self.projection, expert] = Squares(*squares.tolist())


@dataclass(frozen=True)
class StackedBiases:
    """Biases of experts that are stored one by one, as the published layout has them: [E, rows]."""

    tensors: Mapping[int, tuple[StoredTensor, ...]]

    def read(self, experts: range) -> NDArray[Any]:
        woven = [np.stack([part.read() for part in self.tensors[expert]], axis=1).ravel() for expert in experts]
        return np.stack(woven).astype(ml_dtypes.bfloat16)


def _changed(stored: Float32Array, changes: Sequence[LowRank], first_row: int) -> Float32Array:
    weights = stored.copy() if changes else stored
    for change in changes:
        change.add_to(weights, first_row)
    return weights


def _squares(values: Float32Array) -> float:
    by_row: Float32Array = np.einsum("ij,ij->i", values, values)
    return float(by_row.sum(dtype=np.float64))


def _transposed(matrix: NDArray[Any]) -> NDArray[Any]:
    """The matrix transposed, tile by tile: a fifth of the time that NumPy takes for the whole."""
    turned = np.empty(matrix.shape[::-1], matrix.dtype)
    for row in range(0, matrix.shape[0], _TILE):
        for column in range(0, matrix.shape[1], _TILE):
            turned[column : column + _TILE, row : row + _TILE] = matrix[row : row + _TILE, column : column + _TILE].T
    return turned
