"""The commands that make what a build takes: `bundler lock` and `bundler demo-checkpoint`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import click

from bundler.commands.options import PATH, PYTHONS, target_options
from bundler.lock import KIT_LOCK, LOCKS, Runtime, WheelTarget, load_lock, resolve_kit_lock, resolve_lock
from bundler.own_wheel import project_requirements
from installer.commands.output import say
from installer.terminal import StageLines


@click.command()
@click.option("--python", default=PYTHONS[0], show_default=True,
              help="Python version of the hosts. The command must be run by the same version.")  # fmt: skip
@target_options
@click.option("--kit", is_flag=True, help="Lock the packages of installer.pyz instead; the target does not count.")
@click.option("--out", type=PATH, help="Default: the project's own lock for this target.")
def lock(python: str, platform: str, accelerator: str, kit: bool, out: Path | None) -> None:
    """Resolve the project's dependencies for a target and write a lock with hashes. Review its diff before a build.

    The locks of later Pythons take the versions of the first one, so make that one first.
    """
    if kit:
        path, text = out or LOCKS / KIT_LOCK, resolve_kit_lock()
    else:
        target = WheelTarget(python, platform, cast(Runtime, accelerator))
        like = () if python == PYTHONS[0] else load_lock(replace(target, python=PYTHONS[0]))
        path, text = out or target.lock_path, resolve_lock(target, project_requirements(target), like=like)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    say(f"{path} written: {text.count('==')} wheels.")


@click.command("demo-checkpoint")
@click.option("--out", required=True, type=PATH, help="A new directory for the checkpoint.")
def demo_checkpoint(out: Path) -> None:
    """Write the embedded demo model as a checkpoint in the official layout."""
    from bundler.demo_model.expand import expand_demo_checkpoint  # only this command needs the demo model's weights

    with StageLines() as progress:
        expand_demo_checkpoint(out, progress)
    say(f"{out} written: the demo model as a checkpoint.")
