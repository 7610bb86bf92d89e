"""Cuts an archive into volumes that file systems with a size limit and discs take; `installer.media` reads them.

The volumes are written beside each other with an empty header, then read back, and get headers and names only if what
was read is the archive. So a killed run leaves nothing that could be mistaken for a volume.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bundler.errors import BuildError
from bundler.sign import is_unfinished
from installer.archive import BLOCK_BYTES, CHUNK_BYTES, ArchiveReader, Sha256Hex
from installer.errors import InstallerError
from installer.media.volume import (
    HEADER_BYTES,
    MAX_VOLUMES,
    PLAIN_NAME,
    VOLUME_NAME,
    VolumeHeader,
    encode_header,
    read_volume,
    volume_name,
)
from installer.progress import SILENT, Progress
from installer.site import FULL

SMALLEST_BYTES = 4096
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes of a size such as 4G, 650M or 1000000; K, M and G are powers of 1024.

    Raises:
        ValueError: it is no such size, or too small for a volume.
    """
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text.upper())
    if found is None or (size := int(found[1]) * _UNITS[found[2]]) < SMALLEST_BYTES:
        raise ValueError(f"{text!r} is not a size of at least {SMALLEST_BYTES} bytes, such as 4G or 650M")
    return size


@dataclass(frozen=True)
class _Part:
    """A volume that is being written."""

    path: Path  # where it lies until it is complete
    offset: int
    size_bytes: int
    sha256: Sha256Hex


def split_archive(archive: Path, directory: Path, volume_bytes: int, progress: Progress = SILENT) -> tuple[Path, ...]:
    """Write the volumes of an archive into a directory. The archive stays.

    Args:
        volume_bytes: every volume is smaller than this, so that 4 GiB fits FAT32, whose limit is one byte less.
    Raises:
        BuildError: the file is no archive, the size gives too many volumes, or they cannot be written. None is left.
    """
    if not PLAIN_NAME.fullmatch(archive.name):
        raise BuildError(f"{archive.name!r} is no name for volumes: letters, digits and ._+@- only, then .airgap")
    partial = directory / f".{archive.name}.volumes"
    parts: list[_Part] = []
    try:
        with archive.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            _require_archive(file, archive)
            payload = (volume_bytes - 1 - HEADER_BYTES) // BLOCK_BYTES * BLOCK_BYTES
            if -(-total // payload) > MAX_VOLUMES:
                raise BuildError(f"{archive.name} would have more than {MAX_VOLUMES} volumes; choose a larger size")
            progress.stage("Writing volumes", 2 * total)
            directory.mkdir(parents=True, exist_ok=True)
            whole = hashlib.sha256()
            for offset in range(0, total, payload):
                path = partial.with_name(f"{partial.name}.{len(parts) + 1}")
                parts.append(_Part(path, offset, min(payload, total - offset), Sha256Hex("")))
                parts[-1] = _write_payload(file, parts[-1], whole, progress)
        digest = Sha256Hex(whole.hexdigest())
        headers = [
            VolumeHeader(digest, archive.name, number, len(parts), p.offset, p.size_bytes, total, p.sha256)
            for number, p in enumerate(parts, start=1)
        ]
        for part, header in zip(parts, headers, strict=True):
            _finish(part, header, progress)
        return _put_in_place(directory, parts, headers)
    except OSError as exc:
        why = "the disk is full" if exc.errno in FULL else exc.strerror
        raise BuildError(f"cannot write the volumes of {archive.name} to {directory}: {why}; none was left") from exc
    finally:
        for part in parts:
            part.path.unlink(missing_ok=True)


def _require_archive(file: BinaryIO, archive: Path) -> None:
    try:
        members = ArchiveReader(file).read_metadata()
    except InstallerError as exc:
        raise BuildError(f"{archive} is not a whole archive: {exc}") from exc
    if is_unfinished(members):
        raise BuildError(f"{archive} lacks signatures, which could not be added to volumes; see `bundler sign`")
    file.seek(0)


def _write_payload(file: BinaryIO, part: _Part, whole: hashlib._Hash, progress: Progress) -> _Part:
    """Copy one volume's bytes behind an empty header."""
    running = hashlib.sha256()
    with part.path.open("wb") as out:
        out.write(bytes(HEADER_BYTES))
        for chunk in _chunks(file, part.size_bytes):
            running.update(chunk)
            whole.update(chunk)
            out.write(chunk)
            progress.bytes_done(len(chunk))
        out.flush()
        os.fsync(out.fileno())
    return _Part(part.path, part.offset, part.size_bytes, Sha256Hex(running.hexdigest()))


def _finish(part: _Part, header: VolumeHeader, progress: Progress) -> None:
    """Read the payload back, then write the header.

    Raises:
        BuildError: the disk gives other bytes than were written.
    """
    running = hashlib.sha256()
    with part.path.open("r+b") as file:
        file.seek(HEADER_BYTES)
        for chunk in _chunks(file, part.size_bytes):
            running.update(chunk)
            progress.bytes_done(len(chunk))
        if running.hexdigest() != part.sha256:
            raise BuildError(f"volume {header.number} does not hold what was written to it; try another disk")
        file.seek(0)
        file.write(encode_header(header))
        file.flush()
        os.fsync(file.fileno())


def _chunks(file: BinaryIO, count: int) -> Iterator[bytes]:
    """The next bytes of a file.

    Raises:
        BuildError: it ends before.
    """
    while count:
        chunk = file.read(min(count, CHUNK_BYTES))
        if not chunk:
            raise BuildError(f"{file.name} became shorter while it was read")
        count -= len(chunk)
        yield chunk


def _put_in_place(directory: Path, parts: list[_Part], headers: list[VolumeHeader]) -> tuple[Path, ...]:
    """Give the volumes their names, and remove those of an earlier archive of this name."""
    name = headers[0].name
    placed = []
    for part, header in zip(parts, headers, strict=True):
        placed.append(part.path.replace(directory / volume_name(name, header.number)))
    for path in sorted(directory.glob(f"{name}.*")):
        if path not in placed and VOLUME_NAME.fullmatch(path.name) and _is_volume_of(path, name):
            path.unlink()
    return tuple(placed)


def _is_volume_of(path: Path, name: str) -> bool:
    try:
        return read_volume(path).header.name == name
    except InstallerError:
        return False
