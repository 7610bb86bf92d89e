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
        """Add it to consecutive rows of the matrix, of which ``first_row`` (even) is the first. The sum is float32."""
        if self.half is None:
            weights += self.left[first_row : first_row + len(weights)] @ self.right
            return
        place = 0 if self.half == "gate" else 1
        rows = self.left[first_row // 2 : (first_row + len(weights)) // 2]
        weights[place::2] += rows @ self.right
