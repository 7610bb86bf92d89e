"""Opens what a command was given: one archive, `-` for a pipe, the volumes of one archive, or directories of media."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from installer.archive import SUFFIX, ByteStream
from installer.errors import AmbiguousMediaError, InstallerError
from installer.media.shelf import Shelf
from installer.media.stream import Ask, VolumeStream
from installer.media.volume import HEADER_BYTES, is_volume, open_file

PIPE = Path("-")


@dataclass(frozen=True)
class Media:
    """An archive that can be read from its first byte."""

    stream: ByteStream
    name: str  # for sentences
    size_bytes: int | None  # None: a pipe does not say


@contextmanager
def open_media(
    files: Sequence[Path], directories: Sequence[Path], *, pipe: BinaryIO, ask: Ask | None
) -> Iterator[Media]:
    """Open the archive that these files and directories hold.

    Args:
        files: one archive, `-`, or volumes of one archive in any order.
        directories: where volumes lie, or one archive if there are no files.
        pipe: what `-` reads.
        ask: asks a person for a medium, and returns when it is there; None where nobody can be asked.
    Raises:
        InstallerError: there is no archive, or more than one.
    """
    if PIPE in files:
        if len(files) > 1 or directories:
            raise AmbiguousMediaError("- reads one whole archive from a pipe; give no other file and no --media")
        if pipe.isatty():
            raise InstallerError("nothing is piped in: `cat FILE | installer install - ..` pipes an archive")
        yield Media(pipe, "the pipe", None)
        return
    volumes = [path for path in files if is_volume(path, _start(path))]
    whole = [path for path in files if path not in volumes] if files else _archives_in(directories)
    if len(whole) > 1 or (whole and (volumes or (files and directories))):
        named = ", ".join(map(str, (*whole, *volumes)))
        raise AmbiguousMediaError(f"{named}: give one whole archive alone, or the volumes of one")
    if whole:
        with _opened(whole[0]) as file:
            yield Media(file, whole[0].name, os.fstat(file.fileno()).st_size)
        return
    stream = VolumeStream(shelf := Shelf(volumes, directories), ask)
    try:
        yield Media(stream, shelf.archive.name, stream.size_bytes)
    finally:
        stream.close()


def _archives_in(directories: Sequence[Path]) -> list[Path]:
    """Whole archives on the media; none if volumes lie there, too, and no archive does.

    Raises:
        AmbiguousMediaError: a whole archive lies beside volumes.
    """
    if not directories:
        raise AmbiguousMediaError("no archive was given; name a file or a directory with --media")
    paths = [path for directory in directories for path in sorted(directory.glob(f"*{SUFFIX}*"))]
    whole = [path for path in paths if path.name.endswith(SUFFIX) and path.name.isprintable()]
    if whole and any(is_volume(path, b"") for path in paths):
        raise AmbiguousMediaError(f"{whole[0]} lies beside volumes; name the files that you mean")
    return whole


def _opened(path: Path) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as exc:
        raise InstallerError(f"cannot read {path}: {exc.strerror}") from exc


def _start(path: Path) -> bytes:
    with _opened(path) as file:
        try:
            return file.read(HEADER_BYTES)
        except OSError as exc:
            raise InstallerError(f"cannot read {path}: {exc.strerror}") from exc
