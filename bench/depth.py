"""How long a decode step of one conversation takes at a depth, with each type of cache: `python -m bench.depth`.

The models take turns (float32, bfloat16, bfloat16, float32, ..), and every pair of windows has a ratio; printed are the
medians, and the median and range of the ratios. Above 1, bfloat16 is faster. The default shape has the attention of
gpt-oss-20b and hardly anything else, so a step takes as long as the attention of all 24 layers. The caches hold random
numbers: what a conversation holds does not change the time.
"""

from __future__ import annotations

import os
import statistics
import time
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
from bench.random_model import SHAPES, VERSION, prepare

_ITEMS: tuple[CacheItem, ...] = get_args(CacheItem)
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


def compare(models: dict[CacheItem, OnnxModel], depth: int, windows: int) -> str:
    """A line of the table: one depth, in turns."""
    times: dict[CacheItem, list[float]] = {item: [] for item in models}
    for window in range(windows):
        for item in reversed(models) if window % 2 else models:
            times[item].append(window_s(models[item], depth))
    exact, rounded = (times[item] for item in _ITEMS)
    ratios = [one / other for one, other in zip(exact, rounded, strict=True)]
    return (
        f"{depth:10,}{statistics.median(exact) * 1e3:12.2f}{statistics.median(rounded) * 1e3:12.2f}"
        f"{statistics.median(ratios):8.2f}   {min(ratios):.2f} .. {max(ratios):.2f}"
    )


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="20b-attention", show_default=True)
@click.option("--depth", "depths", type=int, multiple=True, default=(32, 4096, 16_384), show_default=True)
@click.option("--windows", type=click.IntRange(min=1), default=8, show_default=True, help="Of 16 steps, for each type.")
@click.option("--path", "paths", multiple=True, help="Path of the operators; default: the best that the processor has.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(shape: str, depths: tuple[int, ...], windows: int, paths: tuple[str, ...], work: Path) -> None:
    """Compare the types of cache, as the module's docstring says."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    work.mkdir(parents=True, exist_ok=True)
    graph = prepare(work, shape, "cpu", "int8")
    packed = work / f"{graph.parent.name}-site" / "state" / "packed" / VERSION
    if not wait_for_quiet(120):
        click.echo("The machine is NOT quiet: compare the ratios alone.")
    tokens = max(depths) + _WARM_STEPS + _STEPS
    models = {
        item: load_model(graph, accelerator="cpu", slots=1, context_tokens=tokens, packed_dir=packed, cache=item)
        for item in _ITEMS
    }
    for model in models.values():
        fill(model)
    click.echo(f"memory: {MemoryProbe(physical_cores()).gb_s():.1f} GB/s; {physical_cores()} threads")
    for path in paths or load_operators().paths()[:1]:
        load_operators().use_path(path)
        click.echo(f"{path}, ms\n{'depth':>10}{'float32':>12}{'bfloat16':>12}{'ratio':>8}   range")
        for depth in depths:
            click.echo(compare(models, depth, windows))


if __name__ == "__main__":
    main()
