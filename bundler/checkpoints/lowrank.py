"""A low-rank change of a matrix, as a LoRA adapter holds it: the product of two thin matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class LowRank:
    """What is added to a matrix [rows, depth], or to every other row of it."""

    left: Float32Array  # (rows, rank), times the adapter's scaling
    right: Float32Array  # (rank, depth)
    half: Literal["gate", "up"] | None = None  # gate: rows 0, 2, ..; up: rows 1, 3, ..

    def add_to(self, weights: Float32Array, first_row: int) -> None:
        """Add it to consecutive rows of the matrix, of which ``first_row`` (even) is the first.

        The product is float64 and is rounded once, so that every processor gives the same sums. It is einsum's, because
        the threads of a BLAS would fight with those that round experts.
        """
        every = 1 if self.half is None else 2
        rows = self.left[first_row // every : (first_row + len(weights)) // every]
        product = np.einsum("ij,jk->ik", rows.astype(np.float64), self.right.astype(np.float64))
        with np.errstate(over="ignore"):  # the caller refuses infinities
            weights[1 if self.half == "up" else 0 :: every] += product.astype(np.float32)
