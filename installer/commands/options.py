"""Options and inputs that several commands of `installer` share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from installer.archive import MAX_METADATA_BYTES
from installer.commands.output import say
from installer.errors import InstallerError, LimitError
from installer.media.source import Media, open_media
from installer.media.volume import reading
from installer.terminal import StageLines


class NamedPath(click.Path):
    """A path that is not empty. An unset variable of a script would otherwise name the present directory.

    What cannot be read is refused in a sentence of our own.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; name a path", param, ctx)
        return super().convert(value, param, ctx)


ROOT_HELP = "The sender's root.json, brought by another way than the archive."
READ = NamedPath()
FILES = click.argument("files", metavar="[FILE]...", nargs=-1, type=READ)
MEDIA = click.option(
    "--media", "directories", multiple=True, metavar="DIR", type=READ,
    help="Directory of a stick or disc with volumes of the archive. May be given several times.",
)  # fmt: skip
ROOT = click.option("--root", required=True, type=READ, help=ROOT_HELP)
PREFIX = click.option(
    "--prefix", required=True, type=NamedPath(), help="Directory of the site, which holds the releases."
)
USER = click.option(
    "--user", help="Unprivileged user (name or uid) who gets state/.  [default: its present owner, else gpt-oss]"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of sentences.")


@contextmanager
def given_media(files: Sequence[Path], directories: Sequence[Path], progress: StageLines) -> Iterator[Media]:
    """The archive that FILE.. and --media name. On a terminal it asks for media that are not there."""

    def ask(sentence: str) -> None:
        with progress.paused():
            say(f"{sentence}, then press Enter.", err=True)
            if not sys.stdin.readline():
                raise click.Abort

    is_attended = sys.stdin.isatty() and sys.stderr.isatty()
    with open_media(files, directories, pipe=sys.stdin.buffer, ask=ask if is_attended else None) as media:
        yield media


def read_root(path: Path) -> bytes:
    """The bytes of the operator's root.json."""
    try:
        with reading(path) as file:
            data = file.read(MAX_METADATA_BYTES + 1)
    except OSError as exc:
        raise InstallerError(f"cannot read the root {path}: {exc.strerror}") from exc
    if len(data) > MAX_METADATA_BYTES:
        raise LimitError(f"the size of {path}", MAX_METADATA_BYTES, len(data))
    return data
