"""Cuts an archive into volumes that file systems with a size limit and discs take; `installer.media` reads them.

`bundler build --volume-size` writes volumes in place of the archive, and `bundler split` cuts one that is there. Both
read back what they wrote before it gets its place.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bundler.errors import BuildError, why_unwritten
from bundler.sign import is_unfinished
from bundler.working import working_directory
from installer.archive import BLOCK_BYTES, CHUNK_BYTES, ArchiveReader, Sha256Hex
from installer.durable import sync_directory
from installer.errors import InstallerError
from installer.media.shelf import Shelf
from installer.media.stream import VolumeStream
from installer.media.volume import (
    HEADER_BYTES,
    MAX_VOLUMES,
    PLAIN_NAME,
    VolumeHeader,
    encode_header,
    read_volume,
    volume_name,
)
from installer.progress import SILENT, Progress

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


def payload_bytes(volume_bytes: int) -> int:
    """Payload of a volume that is smaller than this: 4 GiB fits FAT32, whose limit is one byte less."""
    return (volume_bytes - 1 - HEADER_BYTES) // BLOCK_BYTES * BLOCK_BYTES


class VolumeWriter:
    """Takes the bytes of an archive, and writes them as volumes into a directory.

    The headers are empty until `finish`, because they name the digest of the whole archive. So what a killed run leaves
    cannot be mistaken for volumes.
    """

    def __init__(self, directory: Path, name: str, volume_bytes: int) -> None:
        self._directory, self._name = directory, name
        self._payload_bytes = payload_bytes(volume_bytes)
        self._file: BinaryIO | None = None
        self._whole, self._running = hashlib.sha256(), hashlib.sha256()  # of the archive, of the volume being written
        self._digests: list[Sha256Hex] = []  # of the volumes that are full, or the last
        self._total = 0

    def write(self, data: bytes) -> int:
        """Take the next bytes of the archive.

        Raises:
            BuildError: there would be too many volumes.
        """
        rest = memoryview(data)
        while rest:
            room = self._payload_bytes - self._total % self._payload_bytes
            part, rest = rest[:room], rest[room:]
            self._opened().write(part)
            self._whole.update(part)
            self._running.update(part)
            self._total += len(part)
            if len(part) == room:
                self._close()
        return len(data)

    def finish(self) -> VolumeStream:
        """Write the headers; return the archive, to be read back from the volumes."""
        if self._file is not None:
            self._close()
        archive, count = Sha256Hex(self._whole.hexdigest()), len(self._digests)
        for number, digest in enumerate(self._digests, start=1):
            offset = (number - 1) * self._payload_bytes
            size = min(self._payload_bytes, self._total - offset)
            header = VolumeHeader(archive, self._name, number, count, offset, size, self._total, digest)
            with self._path(number).open("r+b") as file:
                file.write(encode_header(header))
                file.flush()
                os.fsync(file.fileno())
        return VolumeStream(Shelf([self._path(1)], []))

    def put_in_place(self, directory: Path) -> tuple[Path, ...]:
        """Move the volumes to where they belong, and remove there those of an earlier archive of this name."""
        numbers = range(1, len(self._digests) + 1)
        placed = [self._path(number).replace(directory / volume_name(self._name, number)) for number in numbers]
        for path in volumes_of(directory / self._name):
            if path not in placed:
                path.unlink()
        sync_directory(directory)
        return tuple(placed)

    def close(self) -> None:
        """Close what is open. On a full disk its last bytes cannot be written, and are not wanted any more."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            if len(self._digests) == MAX_VOLUMES:
                raise _too_many(self._name)
            self._file = self._path(len(self._digests) + 1).open("wb")
            self._file.write(bytes(HEADER_BYTES))
            self._running = hashlib.sha256()
        return self._file

    def _close(self) -> None:
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._file = None
        self._digests.append(Sha256Hex(self._running.hexdigest()))

    def _path(self, number: int) -> Path:
        return self._directory / volume_name(self._name, number)


@contextmanager
def writing_volumes(archive: Path, volume_bytes: int) -> Iterator[VolumeWriter]:
    """A writer of the volumes of `archive`. They appear beside it when the block ends well; otherwise none is left.

    Args:
        volume_bytes: every volume is smaller than this.
    Raises:
        BuildError: the archive's name does not fit volumes, or another command writes them.
        OSError: they cannot be written.
    """
    if not PLAIN_NAME.fullmatch(archive.name):
        raise BuildError(f"{archive.name!r} is no name for volumes: letters, digits and ._+@- only, then .airgap")
    with working_directory(scratch_of(archive)):
        writer = VolumeWriter(scratch_of(archive), archive.name, volume_bytes)
        try:
            yield writer
            writer.put_in_place(archive.parent)
        finally:
            writer.close()


def scratch_of(archive: Path) -> Path:
    """Where the volumes of an archive are written; a killed run may leave it."""
    return archive.with_name(f".{archive.name}.volumes")


def split_archive(archive: Path, directory: Path, volume_bytes: int, progress: Progress = SILENT) -> tuple[Path, ...]:
    """Write the volumes of an archive into a directory. The archive stays.

    Args:
        volume_bytes: see `writing_volumes`.
    Raises:
        BuildError: the file is no archive, the size gives too many volumes, or they cannot be written. None is left.
    """
    try:
        with archive.open("rb") as file:
            _require_archive(file, archive)
            total = os.fstat(file.fileno()).st_size
            if total > MAX_VOLUMES * payload_bytes(volume_bytes):
                raise _too_many(archive.name)
            progress.stage("Writing volumes", 2 * total)
            with writing_volumes(directory / archive.name, volume_bytes) as writer:
                while chunk := file.read(CHUNK_BYTES):
                    writer.write(chunk)
                    progress.bytes_done(len(chunk))
                with closing(writer.finish()) as stream:
                    _read_back(stream, progress)
    except OSError as exc:
        where = f"the volumes of {archive.name} to {directory}"
        raise BuildError(f"cannot write {where}: {why_unwritten(exc)}; none was left") from exc
    return volumes_of(directory / archive.name)


def volumes_of(archive: Path) -> tuple[Path, ...]:
    """The volumes of an archive of this name that lie where it belongs, in order."""
    paths = (archive.with_name(volume_name(archive.name, number)) for number in range(1, MAX_VOLUMES + 1))
    return tuple(path for path in paths if path.is_file() and _is_volume_of(path, archive.name))


def _too_many(name: str) -> BuildError:
    return BuildError(f"{name} would have more than {MAX_VOLUMES} volumes; choose a larger size")


def _require_archive(file: BinaryIO, archive: Path) -> None:
    try:
        members = ArchiveReader(file).read_metadata()
    except InstallerError as exc:
        raise BuildError(f"{archive} is not a whole archive: {exc}") from exc
    if is_unfinished(members):
        raise BuildError(f"{archive} lacks signatures, which could not be added to volumes; see `bundler sign`")
    file.seek(0)


def _read_back(stream: VolumeStream, progress: Progress) -> None:
    """Read everything that was written; each volume is compared with its header on the way.

    Raises:
        BuildError: the disk gives other bytes than were written.
    """
    try:
        while chunk := stream.read(CHUNK_BYTES):
            progress.bytes_done(len(chunk))
    except InstallerError as exc:
        raise BuildError(f"the volumes just written do not hold what was written to them: {exc}") from exc


def _is_volume_of(path: Path, name: str) -> bool:
    try:
        return read_volume(path).header.name == name
    except InstallerError:
        return False
