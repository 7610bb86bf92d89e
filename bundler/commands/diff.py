"""`bundler diff`: what changes from one archive to another."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from bundler.commands.options import JSON, PATH
from installer.commands.output import say
from installer.media.comparison import compare, comparison_lines
from installer.media.contents import opened_contents


@click.command("diff")
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option("--root", type=PATH, help="Trusted root.json; without it, nothing proves who signed.")
@JSON
def diff(old: Path, new: Path, root: Path | None, as_json: bool) -> None:
    """Show what changes from archive OLD to archive NEW: packages, model, settings, database.

    Each may be one of an archive's volumes. What a delta leaves out is read from OLD.
    """
    trusted = None if root is None else root.read_bytes()
    with opened_contents([old], [], trusted) as before, opened_contents([new], [], trusted) as after:
        found = compare(before, after)
    if as_json:
        click.echo(json.dumps({"trusted": root is not None, **asdict(found)}))
        return
    if root is None:
        say("not checked against a root that you trust (--root)")
    for line in comparison_lines(found, datetime.now(UTC)):
        say(line)
