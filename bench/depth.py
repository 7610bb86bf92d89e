"""How long a decode step of one conversation takes at a depth, with each type of cache: `python -m bench.depth`.

    python -m bench.depth                                                             the attention of 24 layers alone
    python -m bench.depth --shape 20b --cache bfloat16 --depth 32 --depth 131000      a whole step

Types and depths take turns, window by window, and the ratios are of windows of one round. The speed is that of a step
at the first depth, over that of this one. Where both types are measured, their ratio is above 1 if bfloat16 is faster.
The default shape has the attention of gpt-oss-20b and hardly anything else, so a step takes as long as the attention of
all 24 layers. The caches hold random numbers: what a conversation holds does not change the time.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import get_args

import click
import numpy as np

from appliance.config import CacheItem
from appliance.engine.host import physical_cores
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.operators import load_operators
from appliance.engine.steps import Append
from bench.machine import wait_for_quiet
from bench.memory_probe import MemoryProbe
from bench.random_model import SHAPES, packed_in, prepare, site_of

ITEMS: tuple[CacheItem, ...] = get_args(CacheItem)
_STEPS, _WARM_STEPS = 16, 2  # of a window, and steps before them that do not count


def fill(model: OnnxModel) -> None:
    """Write random numbers to all caches. Pages that were never written are one page, which stays in the processor."""
    numbers = np.random.default_rng(3).standard_normal(1 << 16, dtype=np.float32).view(np.uint16)
    if model.shape.cache.item == "bfloat16":
        numbers = numbers[1::2]  # the upper halves
    some = np.ascontiguousarray(numbers).view(np.uint8)
    for array in model._caches._arrays.values():
        flat = array.reshape(-1)
        for at in range(0, len(flat), len(some)):
            flat[at : at + len(some)] = some[: len(flat) - at]


def window_s(model: OnnxModel, depth: int) -> float:
    """The median time of a step at this depth."""
    times = []
    for step in range(_WARM_STEPS + _STEPS):
        started = time.perf_counter()
        model.decode([Append(0, step, depth + step)])
        times.append(time.perf_counter() - started)
    return statistics.median(times[_WARM_STEPS:])


Times = dict[tuple[CacheItem, int], list[float]]  # of a type at a depth, a window each


def measure(models: dict[CacheItem, OnnxModel], depths: Sequence[int], windows: int) -> Times:
    """Windows of every type at every depth, in turns; every second round goes backwards."""
    places = list(product(models, depths))
    times: Times = {place: [] for place in places}
    for window in range(windows):
        for item, depth in reversed(places) if window % 2 else places:
            times[item, depth].append(window_s(models[item], depth))
    return times


def ratio(above: list[float], below: list[float]) -> str:
    """The median of the ratios, window by window, and their range."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):8.2f}   {min(ratios):.2f} .. {max(ratios):.2f}"


def lines(times: Times) -> Iterator[str]:
    """The table, and the ratio of the types where there are two."""
    items, depths = (list(dict.fromkeys(part)) for part in zip(*times, strict=True))
    yield f"{'cache':10}{'depth':>9}{'ms':>9}{'speed':>8}   range, of the speed at {depths[0]}"
    for (item, depth), spent in times.items():
        speed = ratio(times[item, depths[0]], spent)
        yield f"{item:10}{depth:9,}{statistics.median(spent) * 1e3:9.2f}{speed}"
    for depth in depths if len(items) == len(ITEMS) else ():
        exact, rounded = (times[item, depth] for item in ITEMS)
        yield f"{'ratio':10}{depth:9,}{'':9}{ratio(exact, rounded)}"


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="20b-attention", show_default=True)
@click.option("--depth", "depths", type=int, multiple=True, default=(32, 4096, 16_384), show_default=True)
@click.option("--cache", "items", type=click.Choice(ITEMS), multiple=True, help="Types; default: all.")
@click.option("--windows", type=click.IntRange(min=1), default=8, show_default=True, help="Of 16 steps, for each type.")
@click.option("--path", "paths", multiple=True, help="Path of the operators; default: the best that the processor has.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(
    shape: str, depths: tuple[int, ...], items: tuple[CacheItem, ...], windows: int, paths: tuple[str, ...], work: Path
) -> None:
    """Compare the types of cache, as the module's docstring says."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    work.mkdir(parents=True, exist_ok=True)
    graph = prepare(work, shape, "cpu", "int8")
    packed = packed_in(site_of(work, graph))
    if not wait_for_quiet(120):
        click.echo("The machine is NOT quiet: compare the ratios alone.")
    tokens = max(depths) + _WARM_STEPS + _STEPS
    models = {
        item: load_model(graph, accelerator="cpu", slots=1, context_tokens=tokens, packed_dir=packed, cache=item)
        for item in items or ITEMS
    }
    for model in models.values():
        fill(model)
    click.echo(f"memory: {MemoryProbe(physical_cores()).gb_s():.1f} GB/s; {physical_cores()} threads")
    for path in paths or load_operators().paths()[:1]:
        load_operators().use_path(path)
        click.echo(path)
        for line in lines(measure(models, depths, windows)):
            click.echo(line)


if __name__ == "__main__":
    main()
