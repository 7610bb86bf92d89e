"""Options that several commands of `bundler` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")
PATH = click.Path(path_type=Path)
_TARGET_OPTIONS = (
    click.option("--python", default="3.11", show_default=True, help="Python version of the hosts."),
    click.option("--platform", default="manylinux_2_28_x86_64", show_default=True, help="Platform tag of the hosts."),
    click.option(
        "--accelerator", type=click.Choice(["cpu", "cuda", "both"]), default="cpu", show_default=True,
        help="Graphs and runtime of the release; `both` has the CUDA runtime, which also runs on CPUs.",
    ),
)  # fmt: skip


def target_options(command: Any) -> Any:
    for option in reversed(_TARGET_OPTIONS):
        command = option(command)
    return command
