"""Opens what a command was given: one archive, `-` for a pipe, the volumes of one archive, or directories of media."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from installer.archive import SUFFIX, ByteStream
from installer.errors import AmbiguousMediaError, InstallerError
from installer.media.shelf import Shelf, names_in
from installer.media.stream import Ask, VolumeStream
from installer.media.volume import HEADER_BYTES, close_file, is_volume, open_file, reading

PIPE = Path("-")
# FAT may change the case of a name, and discs may shorten it to 8 and 3 characters.
_ARCHIVE_NAME = re.compile(rf".*{re.escape(SUFFIX)}|[A-Z0-9_~-]{{1,8}}\.AIR", re.IGNORECASE | re.ASCII)


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
        file = _opened(whole[0])
        try:
            yield Media(file, whole[0].name, os.fstat(file.fileno()).st_size)
        finally:
            close_file(file)
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
    paths = [directory / name for directory in directories for name in names_in(directory)]
    whole = [path for path in paths if _ARCHIVE_NAME.fullmatch(path.name) and path.name.isprintable()]
    if whole and any(is_volume(path, b"") for path in paths):
        raise AmbiguousMediaError(f"{whole[0]} lies beside volumes; name the files that you mean")
    return whole


def _opened(path: Path) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as exc:
        raise InstallerError(f"cannot read {path}: {exc.strerror}") from exc


def _start(path: Path) -> bytes:
    try:
        with reading(path) as file:
            return file.read(HEADER_BYTES)
    except OSError as exc:
        raise InstallerError(f"cannot read {path}: {exc.strerror}") from exc
