"""A volume: one part of an archive, as a file that says of itself what it is.

    1024 bytes      the header: one JSON object, then blanks, then a line feed
    the rest        the payload: so many bytes of the archive, from `offset` on

The header says which archive it belongs to (SHA-256 of the whole archive, and its name), which of how many volumes it
is, where its payload begins, how large payload and archive are, the payload's SHA-256, and the header's own (with an
empty text in its place). There is one spelling only.
The header is not signed: it tells where bytes belong and which copy is damaged. What the archive holds is proven by
its own metadata, after the volumes were put together. `head -c 1024 FILE` shows a header.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from installer.archive import Sha256Hex
from installer.errors import DamagedVolumeError, InstallerError, MediaError, VolumeHeaderError
from installer.prefix import kind_of

FORMAT = 1
HEADER_BYTES = 1024
MAX_VOLUMES = 999  # three digits in a file's name
MAX_TOTAL_BYTES = 1 << 50
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]{0,180}\.airgap")  # prints as itself, whoever chose it
VOLUME_NAME = re.compile(rf"{PLAIN_NAME.pattern}\.[0-9]{{3}}", re.IGNORECASE | re.ASCII)  # FAT may change the case
_CHECK = "header_sha256"  # of the header with an empty text in this place; so a damaged header is not taken for another
_START = b'{"airgap_volume":'
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class VolumeHeader:
    """What a volume says of itself."""

    archive: Sha256Hex  # of the whole archive
    name: str  # of the archive's file
    number: int  # from 1
    count: int
    offset: int  # of the payload in the archive
    size_bytes: int  # of the payload
    total_bytes: int  # of the archive
    sha256: Sha256Hex  # of the payload

    @property
    def full_bytes(self) -> int:
        """Payload of every volume but the last, which may be smaller."""
        return self.size_bytes if self.number < self.count or self.count == 1 else self.offset // (self.count - 1)

    @property
    def archive_facts(self) -> tuple[str, str, int, int, int]:
        """What every volume of one archive says alike. With its number it determines where a payload begins."""
        return self.archive, self.name, self.count, self.total_bytes, self.full_bytes


@dataclass(frozen=True)
class Volume:
    """A file whose header was read, and whose size fits that header."""

    path: Path
    header: VolumeHeader


def volume_name(name: str, number: int) -> str:
    """File name of a volume: the archive's, and the volume's number in three digits."""
    return f"{name}.{number:03}"


def encode_header(header: VolumeHeader) -> bytes:
    """The header's bytes.

    Raises:
        ValueError: it does not fit, or a field is not what a header may hold.
    """
    if not _is_lawful(header):
        raise ValueError(f"not a volume header: {header}")
    body = {"airgap_volume": FORMAT, **asdict(header), _CHECK: ""}
    body[_CHECK] = hashlib.sha256(_spelt(body).encode("ascii")).hexdigest()
    text = _spelt(body)
    return f"{text:<{HEADER_BYTES - 1}}\n".encode("ascii")


def _spelt(body: dict[str, object]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def parse_header(data: bytes, origin: str) -> VolumeHeader:
    """Read a header.

    Raises:
        VolumeHeaderError: it is none, or not in its one spelling.
    """
    try:
        body = json.loads(data.decode("ascii"))
        version = body.pop("airgap_volume")
        del body[_CHECK]
        if set(body) == {field.name for field in fields(VolumeHeader)} and version == FORMAT:
            header = VolumeHeader(**body)
            if _is_lawful(header) and encode_header(header) == data:
                return header
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        pass
    raise VolumeHeaderError(origin, "its header is not that of a volume, or is damaged; copy the file again")


def is_volume(path: Path, start: bytes) -> bool:
    """Whether a file is a volume, damaged or not, by its name or its first bytes."""
    return start.startswith(_START) or bool(VOLUME_NAME.fullmatch(path.name))


def open_file(path: Path) -> BinaryIO:
    """Open a file of a medium. A pipe or device in its place is refused and never waited for.

    Raises:
        InstallerError: it is no plain file.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise InstallerError(f"{path} is a socket, not a file") from exc
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        hint = "; give - to read an archive from a pipe" if stat.S_ISFIFO(status.st_mode) else ""
        raise InstallerError(f"{path} is {kind_of(status)}, not a file{hint}")
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the kernel reads twice as far ahead
    return os.fdopen(descriptor, "rb")


def close_file(file: BinaryIO) -> None:
    """Close a file of a medium. A medium that was pulled out answers with an error, but nothing was written to it."""
    with suppress(OSError):
        file.close()


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """A file of a medium, open as `open_file` opens it."""
    file = open_file(path)
    try:
        yield file
    finally:
        close_file(file)


def read_volume(path: Path) -> Volume:
    """Read the header of a volume, and check the file's size against it.

    Raises:
        VolumeHeaderError: the header is damaged, or the file is no volume.
        DamagedVolumeError: the file is shorter or longer than its header says.
        InstallerError: it is no plain file.
        OSError: it cannot be read.
    """
    with reading(path) as file:
        header = parse_header(file.read(HEADER_BYTES), str(path))
        size = os.fstat(file.fileno()).st_size - HEADER_BYTES
    if size != header.size_bytes:
        raise DamagedVolumeError(str(path), header.number, f"it has {size} bytes of payload, not {header.size_bytes}")
    return Volume(path, header)


def unreadable(path: Path, exc: OSError) -> MediaError:
    """The error for a medium that was pulled or cannot be read."""
    return MediaError(
        f"{path} cannot be read from the media: {exc.strerror}; put the medium back and run the same command again, "
        "which goes on with what was verified"
    )


def _is_lawful(header: VolumeHeader) -> bool:
    numbers = (header.number, header.count, header.offset, header.size_bytes, header.total_bytes)
    if not all(type(number) is int for number in numbers):
        return False
    if not 1 <= header.number <= header.count <= MAX_VOLUMES or header.size_bytes < 1:
        return False
    is_last = header.number == header.count
    return (
        all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in (header.archive, header.sha256))
        and isinstance(header.name, str)
        and bool(PLAIN_NAME.fullmatch(header.name))
        and header.offset == header.full_bytes * (header.number - 1)
        and header.size_bytes <= header.full_bytes
        and (header.offset + header.size_bytes == header.total_bytes) == is_last
        and header.total_bytes <= MAX_TOTAL_BYTES
        and header.total_bytes > header.full_bytes * (header.count - 1)
    )
