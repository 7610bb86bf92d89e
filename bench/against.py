"""Compares this checkout with another: decode, prefill and first byte of both, measured in turns, and their ratios.

    python -m bench.against OTHER_CHECKOUT --shape 20b-4

Each checkout runs its own `bench.engine --json` with the interpreter of its own `.venv`, so that the two need not have
one function in common. They take turns (this, other, other, this, ..), because what a machine gives changes within
minutes; the ratio of a figure is the median over the rounds. Ratios above 1 mean that this checkout is faster. Each
keeps its model in a directory of its own: of the 20b shape that is some 25 GB twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from bench.random_model import SHAPES

_HERE = Path(__file__).resolve().parents[1]
Figures = dict[str, float]


@dataclass(frozen=True)
class Ratio:
    """A figure of both checkouts, as medians, and how much better this one is: the median, least and most of rounds."""

    name: str
    this: float
    other: float
    ratios: tuple[float, ...]

    def line(self) -> str:
        least, most = min(self.ratios), max(self.ratios)
        return f"{self.name:22}{self.this:12.3f}{self.other:12.3f}{median(self.ratios):8.2f}  {least:.2f} .. {most:.2f}"


def measure(checkout: Path, arguments: Sequence[str]) -> dict[str, object]:
    """Run a checkout's bench.engine; the value is the object that it prints last.

    Raises:
        click.ClickException: it failed; the message has the end of its output.
    """
    command = [str(checkout / ".venv" / "bin" / "python"), "-m", "bench.engine", "--json", *arguments]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise click.ClickException(f"{command[0]}: cannot be run: {exc.strerror}; run `make check` there once") from exc
    if done.returncode != 0:
        raise click.ClickException(f"{checkout}: bench.engine failed:\n{(done.stdout + done.stderr)[-2000:]}")
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(this: Sequence[Figures], other: Sequence[Figures]) -> list[Ratio]:
    """Every speed and time that both have. The speed of memory is the machine's, so it is left out."""
    speeds = [name for name in this[0] if name.endswith(("_s", "_share")) and not name.endswith("_gb_s")]
    names = [name for name in speeds if name in other[0]]
    compared = []
    for name in names:
        ours, theirs = [one[name] for one in this], [one[name] for one in other]
        is_rate = name.endswith(("_tok_s", "_share"))
        ratios = tuple(a / b if is_rate else b / a for a, b in zip(ours, theirs, strict=True))
        compared.append(Ratio(name, median(ours), median(theirs), ratios))
    return compared


@click.command()
@click.argument("other", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.option("--shape", type=click.Choice(list(SHAPES)), default="20b-4", show_default=True)
@click.option("--accelerator", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--dense", type=click.Choice(["int8", "bf16"]), default="int8", show_default=True, help="On a CPU only.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="More rounds vary less.")
@click.option(
    "--work", type=click.Path(path_type=Path), default=_HERE / ".bench" / "against", show_default=".bench/against"
)
@click.option("--http/--no-http", default=True, help="Also compare the first byte, through the API.")
def main(
    other: Path, shape: str, accelerator: str, dense: str, rounds: int, work: Path, http: bool
) -> None:  # fmt: skip
    """Compare this checkout with the one in the directory OTHER."""
    options = ["--shape", shape, "--accelerator", accelerator, "--dense", dense, "--http" if http else "--no-http"]
    figures: dict[str, list[Figures]] = {"this": [], "other": []}
    disturbed = 0
    for number in range(rounds):
        for name in ("this", "other") if number % 2 == 0 else ("other", "this"):
            directory = work.resolve() / name
            directory.mkdir(parents=True, exist_ok=True)
            said = measure(_HERE if name == "this" else other, [*options, "--work", str(directory)])
            disturbed += not said["quiet"]
            figures[name].append({key: value for key, value in said.items() if isinstance(value, float)})
            click.echo(f"round {number + 1} of {rounds}: {name} is measured", err=True)
    if disturbed:
        click.echo(f"The machine was NOT quiet at the start of {disturbed} of {2 * rounds} measurements.")
    click.echo(f"{'':22}{'this':>12}{'other':>12}{'ratio':>8}  of {rounds} rounds")
    for ratio in compare(figures["this"], figures["other"]):
        click.echo(ratio.line())


if __name__ == "__main__":
    sys.exit(main())
