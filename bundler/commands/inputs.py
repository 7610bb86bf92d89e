"""The commands that make what a build takes: `bundler lock` and `bundler demo-checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from bundler.commands.options import PATH, target_options
from bundler.lock import Runtime, WheelTarget, resolve_lock
from bundler.own_wheel import project_requirements
from installer.terminal import StageLines


@click.command()
@target_options
@click.option("--out", type=PATH, help="Default: the project's own lock for this target.")
def lock(python: str, platform: str, accelerator: str, out: Path | None) -> None:
    """Resolve the project's dependencies for a target and write a lock with hashes. Review its diff before a build."""
    target = WheelTarget(python, platform, cast(Runtime, accelerator))
    text = resolve_lock(target, project_requirements(target))
    path = out or target.lock_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    click.echo(f"{path} written: {text.count('==')} wheels.")


@click.command("demo-checkpoint")
@click.option("--out", required=True, type=PATH, help="A new directory for the checkpoint.")
def demo_checkpoint(out: Path) -> None:
    """Write the embedded demo model as a checkpoint in the official layout."""
    from bundler.demo_model.expand import expand_demo_checkpoint  # only this command needs the demo model's weights

    with StageLines() as progress:
        expand_demo_checkpoint(out, progress)
    click.echo(f"{out} written: the demo model as a checkpoint.")
