"""How fast this machine reads memory: the best of several ways to read, so that it bounds what any program can get.

One way alone is no bound. It depends on the processor whether reads of one stream or of several, by which instructions,
keep more of them in flight; an engine that reads another way would then be faster than "memory allows". Among the ways
are those of our own kernels, without their products.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray

from appliance.engine.operators import load_operators

Memory = NDArray[np.float64]
Way = Callable[[Memory], float]  # reads all of it; the value depends on every number

_BYTES = 1 << 29  # per thread, more than any cache holds
_CALL_NUMBERS = 8192  # of one call; with more, the library starts threads of its own, which wait for each other
_ROUNDS = 3


def _products(memory: Memory) -> float:
    """One stream, multiplied and added."""
    parts = (memory[first : first + _CALL_NUMBERS] for first in range(0, len(memory), _CALL_NUMBERS))
    return sum(float(np.dot(part, part)) for part in parts)


def _largest(memory: Memory) -> float:
    """One stream, compared."""
    return float(memory.max())


def _sum(memory: Memory) -> float:
    """One stream, added."""
    return float(memory.sum())


def _halves(memory: Memory) -> float:
    """Two streams, compared by the C library; the value is that of the first place where they differ."""
    begin, half_bytes = memory.ctypes.data, memory.nbytes // 2
    compare = ctypes.CDLL(None).memcmp
    return float(compare(ctypes.c_void_p(begin), ctypes.c_void_p(begin + half_bytes), ctypes.c_size_t(half_bytes)))


def _streams(count: int, memory: Memory) -> float:
    """So many streams, each multiplied with ones."""
    rows, width = memory.reshape(count, -1), _CALL_NUMBERS // count
    ones, total = np.ones(width), np.zeros(count)
    for first in range(0, rows.shape[1], width):
        total += rows[:, first : first + width] @ ones
    return float(total.sum())


def _lines(count: int, memory: Memory) -> float:
    """So many streams, each fetched line by line some way ahead."""
    return float(load_operators().read(memory, count))


WAYS: Mapping[str, Way] = {
    "products": _products, "largest": _largest, "sum": _sum, "two halves": _halves,
    **{f"{count} streams": partial(_streams, count) for count in (2, 4, 8)},
    **{f"{count} streams of lines": partial(_lines, count) for count in (1, 2, 4)},
}  # fmt: skip


class MemoryProbe:
    """Measures how fast so many threads read, each from memory of its own."""

    def __init__(
        self, threads: int, *, ways: Mapping[str, Way] = WAYS, size_bytes: int = _BYTES,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        """``size_bytes``: of each thread's memory, a multiple of 64 KiB."""
        self._ways, self._clock = ways, clock
        self._memories = [new_memory(size_bytes) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(max_workers=threads)

    def gb_s(self) -> float:
        """GB/s in the best way, which may be another one each time: what else runs on the machine changes."""
        return max(self._gb_s(way) for _ in range(_ROUNDS) for way in self._ways.values())

    def _gb_s(self, way: Way) -> float:
        started = self._clock()
        list(self._pool.map(way, self._memories))
        return sum(memory.nbytes for memory in self._memories) / (self._clock() - started) / 1e9


def new_memory(size_bytes: int) -> Memory:
    """Ones in pages of their own, in huge ones where the kernel has them: fewer addresses to look up."""
    pages = mmap.mmap(-1, size_bytes)
    with suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(pages, np.float64)
    memory.fill(1.0)  # pages that were never written share one page of zeros
    return memory
