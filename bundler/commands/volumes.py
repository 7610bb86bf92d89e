"""`bundler split`, and what `bundler build --volume-size` shares with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bundler.commands.options import JSON, PATH
from bundler.errors import SigningError
from bundler.sign import is_unfinished
from bundler.volumes import parse_size, split_archive
from installer.archive import ArchiveReader
from installer.commands.output import say
from installer.terminal import StageLines


class _Size(click.ParamType[int]):
    """A size such as 4G or 650M."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


SIZE = _Size()
SIZE_HELP = "Every volume is smaller than this: 4G for FAT32 and DVDs, 650M for CDs (K, M, G: powers of 1024)."


@click.command("split")
@click.argument("archive", type=PATH)
@click.option("--volume-size", "volume_bytes", required=True, type=SIZE, help=SIZE_HELP)
@click.option("--out", "directory", type=PATH, help="Directory for the volumes; default: beside the archive.")
@JSON
def split(archive: Path, volume_bytes: int, directory: Path | None, as_json: bool) -> None:
    """Cut ARCHIVE into volumes NAME.airgap.001 and so on, which `installer` reads from any number of media.

    The archive stays. Each volume says what it is, so one that is missing, damaged or foreign is named.
    """
    with archive.open("rb") as stream:
        if is_unfinished(ArchiveReader(stream).read_metadata()):
            raise SigningError(f"{archive} lacks signatures, and volumes cannot be signed: let people sign it first")
    with StageLines() as progress:
        volumes = split_archive(archive, directory or archive.parent, volume_bytes, progress)
    if as_json:
        click.echo(json.dumps({"archive": str(archive), "volumes": describe_volumes(volumes)}))
    else:
        print_volumes(volumes)


def describe_volumes(volumes: tuple[Path, ...]) -> list[dict[str, Any]]:
    return [{"file": str(path), "size_bytes": path.stat().st_size} for path in volumes]


def print_volumes(volumes: tuple[Path, ...]) -> None:
    say(f"{len(volumes)} volumes, read back after they were written:")
    for path in volumes:
        say(f"  {path.stat().st_size:>14,}  {path}")
