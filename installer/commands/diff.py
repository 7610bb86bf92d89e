"""`installer diff`: what an archive would change in a site."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click

from installer.commands.options import FILES, JSON, MEDIA, PREFIX, ROOT, read_root
from installer.commands.output import say, say_json
from installer.media.comparison import compare, comparison_lines
from installer.media.contents import opened_contents
from installer.media.installed import open_installed
from installer.site import Site


@click.command("diff")
@FILES
@MEDIA
@ROOT
@PREFIX
@JSON
def diff(files: tuple[Path, ...], directories: tuple[Path, ...], root: Path, prefix: Path, as_json: bool) -> None:
    """Show what archive FILE would change: packages, model, settings, database. Writes nothing.

    The command compares signed lists and reads a few small files, so it is quick even for a large archive. It does not
    check every byte: `installer verify` does.
    """
    trusted = read_root(root)
    installed = open_installed(Site(prefix), trusted)
    with opened_contents(files, directories, trusted) as contents:
        found = compare(installed, contents)
    if as_json:
        say_json(asdict(found))
        return
    for line in comparison_lines(found, datetime.now(timezone.utc)):
        say(line)
