"""What a benchmark must know of the machine: what its memory allows, whether it is quiet, what a program holds."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_QUIET_SHARE = 0.05  # a quiet machine has at most this share of its cores busy
_WINDOWS = 3  # a decode figure is measured so often, and the best counts: neighbours on shared hardware come and go
_STEPS, _WARM_STEPS = 24, 4  # steps in a window, and steps before them that do not count


@dataclass(frozen=True)
class Decoded:
    """A decode figure, and its share of what memory allowed just before or after it."""

    tok_s: float
    share: float


class MemoryBound:
    """Decode figures beside what memory allows. ``gb_s`` measures that; ``most_gb_s`` is its highest result."""

    def __init__(self, gb_s: Callable[[], float]) -> None:
        self._gb_s = gb_s
        self.most_gb_s = 0.0

    def decoded(self, sequences: int, step_bytes: float, step_s: Callable[[int], float]) -> Decoded:
        """``step_s`` runs step 0, 1, .. of so many sequences and returns its seconds; each reads ``step_bytes``."""
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
    """GB/s of a copy within the GPU's memory; bytes read and bytes written both count. Source: CUDA driver API."""
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
    """Wait until nothing else keeps the machine busy; False if that did not happen in time."""
    deadline = time.monotonic() + limit_s
    while True:
        if _busy_share(1.0) < _QUIET_SHARE:
            return True
        if time.monotonic() > deadline:
            return False


def _busy_share(seconds: float) -> float:
    """The share of all cores that is busy in the next seconds, during which this process sleeps."""
    before = _cpu_times()
    time.sleep(seconds)
    spent = [after - start for after, start in zip(_cpu_times(), before, strict=True)]
    idle = spent[3] + spent[4]
    return 1 - idle / max(1, sum(spent))


def _cpu_times() -> list[int]:
    """The times user, nice, system, idle, iowait, .. of all cores, in ticks (proc(5))."""
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[float]]:
    """The peak memory of a process and all its descendants together, in bytes: the list's one value after the block.

    Shared pages count once (Pss).
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
    """The process ids of all descendants of a process."""
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
