"""`bundler inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bundler.commands.options import JSON, PATH
from bundler.commands.show import describe, print_release
from installer.archive import ArchiveReader, root_name
from installer.terminal import StageLines
from installer.verify import DiscardingSink, verify_archive


@click.command()
@click.argument("file", type=PATH)
@click.option("--root", type=PATH, help="Trusted root.json; without it, nothing proves who signed.")
@JSON
def inspect(file: Path, root: Path | None, as_json: bool) -> None:
    """Show what archive FILE contains, after checking every byte of it."""
    with file.open("rb") as stream:
        root_bytes = root.read_bytes() if root else ArchiveReader(stream).read_metadata()[root_name(1)]
    with file.open("rb") as stream, StageLines() as progress:
        progress.stage("Verifying", file.stat().st_size)
        verified = verify_archive(stream, root_bytes, sink=DiscardingSink(), progress=progress)
    if as_json:
        click.echo(json.dumps({"archive": str(file), "trusted": root is not None, **describe(verified)}))
        return
    trusted = "verified against the given root" if root else "complete, not checked against a root you trust (--root)"
    click.echo(f"{file}: {trusted}")
    print_release(verified)
    for target in verified.metadata.targets:
        click.echo(f"  {target.size_bytes:>14,}  {target.sha256[:16]}  {target.path}")
