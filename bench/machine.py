"""What a benchmark must know of the machine: how fast it reads memory, whether it is quiet, what a program holds."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_QUIET_SHARE = 0.05  # of all cores, busy with something else
_BANDWIDTH_BYTES = 1 << 29  # a thread
_WINDOWS = 3  # in which a decode figure is measured; the best counts: neighbours on shared hardware come and go
_STEPS, _WARM_STEPS = 24, 4  # of a window


class MemoryProbe:
    """Measures what so many threads read together, each from memory of its own, many times any cache."""

    def __init__(self, threads: int) -> None:
        # A dot product of a vector with itself reads it once and keeps up with memory.
        self._arrays = [np.ones(_BANDWIDTH_BYTES // 4, np.float32) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(max_workers=threads)

    def gb_s(self) -> float:
        """Best of three: GB/s."""
        best = 0.0
        for _ in range(3):
            started = time.perf_counter()
            list(self._pool.map(_read, self._arrays))
            best = max(best, len(self._arrays) * _BANDWIDTH_BYTES / (time.perf_counter() - started) / 1e9)
        return best


def _read(array: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    for part in np.split(array, 64):  # small enough for one thread of the linear algebra library
        np.dot(part, part)


@dataclass(frozen=True)
class Decoded:
    """A decode figure, and its share of what memory allowed just before or after."""

    tok_s: float
    share: float


class MemoryBound:
    """Decode figures beside what memory allows, which ``gb_s`` measures; ``most_gb_s`` is the most it has said."""

    def __init__(self, gb_s: Callable[[], float]) -> None:
        self._gb_s = gb_s
        self.most_gb_s = 0.0

    def decoded(self, sequences: int, step_bytes: float, step_s: Callable[[int], float]) -> Decoded:
        """``step_s`` makes step 0, 1, .. of so many sequences and says what it took; each reads so many bytes."""
        best, gb_s = Decoded(0.0, 0.0), self._gb_s()
        for window in range(_WINDOWS):
            first = window * (_WARM_STEPS + _STEPS)
            times = [step_s(first + step) for step in range(_WARM_STEPS + _STEPS)]
            steps_a_second = 1 / statistics.median(times[_WARM_STEPS:])
            before, gb_s = gb_s, self._gb_s()
            self.most_gb_s = max(self.most_gb_s, before, gb_s)
            if sequences * steps_a_second > best.tok_s:
                share = steps_a_second * step_bytes / max(before, gb_s) / 1e9
                best = Decoded(sequences * steps_a_second, share)
        return best


def device_copy_gb_s() -> float:
    """GB/s of a copy within the GPU's memory, counting bytes read and bytes written. Source: CUDA driver API."""
    driver = ctypes.CDLL("libcuda.so.1")
    context, first, second = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint64()
    size = 2 << 30
    driver.cuInit(0)
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    driver.cuCtxSetCurrent(context)
    for pointer in (first, second):
        if driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)) != 0:
            raise RuntimeError("the GPU has no 4 GiB left to measure its memory with")
    best = 0.0
    for _ in range(5):
        driver.cuCtxSynchronize()
        started = time.perf_counter()
        for _ in range(10):
            driver.cuMemcpyDtoD_v2(second, first, ctypes.c_size_t(size))
        driver.cuCtxSynchronize()
        best = max(best, 10 * 2 * size / (time.perf_counter() - started) / 1e9)
    for pointer in (first, second):
        driver.cuMemFree_v2(pointer)
    return best


def wait_for_quiet(limit_s: float) -> bool:
    """Wait until nothing else keeps the machine busy; False if that did not come to pass."""
    deadline = time.monotonic() + limit_s
    while True:
        if _busy_share(1.0) < _QUIET_SHARE:
            return True
        if time.monotonic() > deadline:
            return False


def _busy_share(seconds: float) -> float:
    """Share of all cores that worked during the next seconds, in which this process sleeps."""
    before = _cpu_times()
    time.sleep(seconds)
    spent = [after - start for after, start in zip(_cpu_times(), before, strict=True)]
    idle = spent[3] + spent[4]
    return 1 - idle / max(1, sum(spent))


def _cpu_times() -> list[int]:
    """user, nice, system, idle, iowait, .. of all cores, in ticks (proc(5))."""
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[float]]:
    """The most that a process and all below it held together, in bytes: the list's one value, once the block ends.

    Pages that several share count once (Pss).
    """
    peak = [0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            peak[0] = max(peak[0], sum(_held_bytes(one) for one in [pid, *descendants(pid)]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def descendants(pid: int) -> list[int]:
    """Process ids below a process, at any depth."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found: list[int] = []
    waiting = [pid]
    while waiting:
        above = waiting.pop()
        below = [child for child, parent in parents.items() if parent == above]
        found += below
        waiting += below
    return found


def _held_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
