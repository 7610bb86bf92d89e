"""How much memory and time an export takes, on a random checkpoint with layers of the 120b shape.

    python -m bench.export [--layers 1]

The exporter works tensor by tensor, so its peak depends on the largest tensor and not on the number of layers:
what one layer takes, 36 take. Prints one line for each accelerator, and what the complete model amounts to.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path

import click

from bench.random_model import SHAPES
from bundler.checkpoint import open_checkpoint
from bundler.export import export_graph
from bundler.graph.plan import Accelerator
from bundler.layout import expected_tensors
from bundler.model_config import parse_model_config
from bundler.random_checkpoint import random_config, write_random_checkpoint

_LAYERS_120B = 36
_ACCELERATORS: tuple[Accelerator, ...] = ("cpu", "cuda")


def _export(checkpoint: Path, out: Path, accelerator: Accelerator) -> tuple[float, float, int]:
    """Export; the seconds, the peak resident GB of this program, and the bytes written."""
    started = time.perf_counter()
    graph = export_graph(open_checkpoint(checkpoint), out, accelerator=accelerator)
    return time.perf_counter() - started, _peak_gb(), sum(file.size_bytes for file in graph.files)


def _peak_gb() -> float:
    """What this program had in memory at most. getrusage would count what its parent had when it was started, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e9


@click.command()
@click.option("--layers", default=1, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Where to write; default: a temporary directory.")
def main(layers: int, work: Path | None) -> None:
    """Measure; each export runs in a process of its own."""
    config = random_config(**(SHAPES["120b-1"] | {"layers": layers}))
    with tempfile.TemporaryDirectory(dir=work) as name:
        directory = Path(name)
        write_random_checkpoint(directory / "checkpoint", config, seed=1)
        for accelerator in _ACCELERATORS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                out = directory / accelerator
                seconds, peak_gb, size = pool.apply(_export, (directory / "checkpoint", out, accelerator))
            click.echo(
                f"{accelerator}: {layers} layer(s), {size / 1e9:.2f} GB written in {seconds:.1f} s, "
                f"peak memory {peak_gb:.2f} GB"
            )
            shutil.rmtree(out)
    whole = expected_tensors(parse_model_config(random_config(**(SHAPES["120b-1"] | {"layers": _LAYERS_120B}))))
    largest = max(whole, key=lambda tensor: whole[tensor].size_bytes)
    click.echo(
        f"120b: {len(whole)} tensors, {sum(spec.size_bytes for spec in whole.values()) / 1e9:.1f} GB; the largest, "
        f"{largest}, has {whole[largest].size_bytes / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
