"""`installer repair`."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click

from installer.commands.continuing import INTERPRETER, fitting_python
from installer.commands.options import FILES, JSON, MEDIA, PREFIX, ROOT, given_media, read_root
from installer.commands.output import counted_bytes, say, say_json
from installer.media.source import PIPE
from installer.repair import repair
from installer.terminal import StageLines


@click.command("repair")
@FILES
@MEDIA
@ROOT
@PREFIX
@INTERPRETER
@JSON
def repair_command(
    files: tuple[Path, ...],
    directories: tuple[Path, ...],
    root: Path,
    prefix: Path,
    interpreter: Path | None,
    as_json: bool,
) -> None:
    """Put back what differs in an installed release from its archive FILE, and remove what is one too many.

    The command reads the whole archive, but copies only damaged weights. It changes neither `current` nor `state/`. It
    also takes an archive that has expired since, or that is older than what the site has accepted, if it is the very
    release that lies here.
    """
    if os.geteuid() == 0:
        os.umask(0o022)  # the release is for another user to read
    with (
        fitting_python(interpreter, may_begin_again=PIPE not in files),
        StageLines() as progress,
        given_media(files, directories, progress) as media,
    ):
        done = repair(
            media.stream, read_root(root), prefix, now=datetime.now(timezone.utc), environ=os.environ, progress=progress
        )
    receipt = done.receipt
    if as_json:
        say_json(
            {
                "version": receipt.version,
                "repaired": [asdict(difference) for difference in done.differences],
                "copied_bytes": done.copied_bytes,
                "other_releases": list(done.others),
            }
        )
        return
    for difference in done.differences:
        verb = "removed " if difference.fault == "is not part of the release" else "put back"
        say(f"{verb}  {difference.path} ({difference.fault})")
    for path in done.others:
        say(f"put back  {path}, which shared a damaged file")
    if not done.differences:
        say(f"Release {receipt.version} is as it was signed; nothing was changed.")
        return
    say(
        f"Release {receipt.version} is as it was signed again; {counted_bytes(done.copied_bytes)} were copied. "
        "Restart the appliance if it serves this release."
    )
