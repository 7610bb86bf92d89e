"""`bundler inspect`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from bundler.commands.options import JSON, PATH, opened
from bundler.commands.show import describe, print_release, print_what_is_missing
from bundler.errors import SigningError
from bundler.sign import is_complete, is_unfinished
from bundler.signing import read_unsigned
from installer.archive import ArchiveReader, root_name
from installer.commands.output import say
from installer.progress import Progress
from installer.terminal import StageLines
from installer.verify import DiscardingSink, VerifiedArchive, verify_archive


@click.command()
@click.argument("file", type=PATH)
@click.option("--root", type=PATH, help="Trusted root.json; without it, nothing proves who signed.")
@JSON
def inspect(file: Path, root: Path | None, as_json: bool) -> None:
    """Show what archive FILE contains and who signed it, after checking every byte of it.

    FILE may be one of an archive's volumes. The exit code is 1 if the archive lacks signatures.
    """
    with opened(file) as media:
        members = ArchiveReader(media.stream).read_metadata()
        root_bytes = root.read_bytes() if root else members[root_name(1)]
    with StageLines() as progress:
        verified = _verify(file, members, root_bytes, progress)
    if as_json:
        click.echo(json.dumps({"archive": str(file), "trusted": root is not None, **describe(verified)}))
    else:
        trusted = "verified against the given root" if root else "not checked against a root you trust (--root)"
        say(f"{file}: {'complete' if is_complete(members) else 'NOT complete'}, {trusted}")
        print_release(verified)
        for target in verified.metadata.targets:
            say(f"  {target.size_bytes:>14,}  {target.sha256[:16]}  {target.path}")
        print_what_is_missing(file, verified)
    if not is_complete(members):
        sys.exit(1)


def _verify(file: Path, members: dict[str, bytes], root: bytes, progress: Progress) -> VerifiedArchive:
    """Verify the archive; without its signatures if people have still to sign."""
    if is_unfinished(members):
        progress.stage("Verifying", file.stat().st_size)
        unsigned = read_unsigned(file, root, progress)
        if unsigned.verified is None:
            raise SigningError(f"{file} is the part of an archive that people sign; `bundler sign` shows what it says")
        return unsigned.verified
    with opened(file) as media:
        progress.stage("Verifying", media.size_bytes)
        return verify_archive(media.stream, root, sink=DiscardingSink(), progress=progress)
