"""What memory allows is the best of several ways to read, and each of them reads everything."""

from __future__ import annotations

import threading

import pytest

from appliance.engine.operators import load_operators
from bench.memory_probe import WAYS, Memory, MemoryProbe, new_memory

_SIZE = 1 << 18


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("fastest", [0, 1, 2])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_best_way_counts(fastest: int, threads: int) -> None:
    clock, read, lock = Clock(), list[str](), threading.Lock()

    def way(name: str, seconds: float) -> float:
        with lock:
            clock.now += seconds / threads
            read.append(name)
        return 0.0

    times = [0.5 if at == fastest else 2.0 + at for at in range(3)]
    ways = {f"{at}": lambda _, at=at: way(f"{at}", times[at]) for at in range(3)}
    probe = MemoryProbe(threads, ways=ways, size_bytes=_SIZE, clock=clock)
    assert probe.gb_s() == pytest.approx(threads * _SIZE / 0.5 / 1e9)
    assert sorted(read) == sorted([*"012"] * 3 * threads)


def test_the_best_of_several_rounds_counts() -> None:
    clock, times = Clock(), [3.0, 1.0, 2.0]

    def way(_: Memory) -> float:
        clock.now += times.pop(0)
        return 0.0

    assert MemoryProbe(1, ways={"one": way}, size_bytes=_SIZE, clock=clock).gb_s() == pytest.approx(_SIZE / 1e9)


@pytest.mark.parametrize("name", WAYS)
def test_each_way_reads_every_part(name: str) -> None:
    """A way that read less would print more than memory can give."""
    memory, way = new_memory(_SIZE), WAYS[name]
    nothing_changed = way(memory)
    for place in (*range(0, len(memory), 509), len(memory) - 1):
        memory[place] = 3.0
        assert way(memory) != nothing_changed, place
        memory[place] = 1.0
    assert way(memory) == nothing_changed


def test_memory_that_is_no_whole_number_of_lines_in_each_stream_is_refused() -> None:
    memory = new_memory(_SIZE)
    with pytest.raises(ValueError, match="262080 bytes cannot be read as 4 streams of whole lines"):
        load_operators().read(memory[: -64 // 8], 4)
    with pytest.raises(ValueError, match="cannot be read"):
        load_operators().read(memory[::2], 4)


def test_a_real_measurement_is_a_speed() -> None:
    assert MemoryProbe(2, size_bytes=_SIZE).gb_s() > 0
