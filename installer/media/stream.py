"""The bytes of an archive out of its volumes, in order and in place: nothing is joined on a disk.

Each volume is compared with the SHA-256 of its header before the first byte of the next one is passed on; a thread
hashes it beside the one that reads. If a medium is missing or was pulled, `ask` tells the person, and reading goes on
where it stopped. Without `ask` it is an error (MediaError), and all missing volumes are named before the first byte is
read.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from installer.archive import CHUNK_BYTES
from installer.errors import DamagedVolumeError, MissingVolumeError
from installer.hashing import RunningDigest
from installer.media.shelf import Shelf
from installer.media.volume import HEADER_BYTES, Volume, close_file, open_file, unreadable, volume_name

Ask = Callable[[str], None]  # tells a person what to do, and returns when it was done


class VolumeStream:
    """Reads an archive from its volumes.

    Raises:
        InstallerError: without ``ask``: a volume is missing.
    """

    def __init__(self, shelf: Shelf, ask: Ask | None = None) -> None:
        self._shelf, self._ask = shelf, ask
        self._position = 0  # in the archive
        self._volume: Volume | None = None  # the one being read; None at its end
        self._file: BinaryIO | None = None  # None: not opened yet, or lost
        self._digest: RunningDigest | None = None  # of the payload so far; None if it was not read from its start
        self._hasher = ThreadPoolExecutor(max_workers=1)
        if ask is None and (error := shelf.missing(shelf.look())) is not None:
            raise error

    @property
    def size_bytes(self) -> int:
        return self._shelf.archive.total_bytes

    def read(self, count: int, /) -> bytes:
        """The next ``count`` bytes of the archive; fewer only at its end.

        Raises:
            ArchiveError: a volume is missing, damaged or unreadable.
        """
        parts = []
        while count and self._position < self.size_bytes:
            parts.append(self._read_some(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, /) -> int:
        """Go to a position of the archive. A volume that is not read from its start is not compared with its header."""
        self._close_volume()
        self._position = position
        return position

    def close(self) -> None:
        """Close what is open, and end the thread."""
        self._close_volume()
        self._hasher.shutdown()

    def require_intact(self) -> None:
        """After bytes were refused: read the rest of their volume, and say so if the medium is at fault.

        Raises:
            DamagedVolumeError: the volume's bytes are not those of its header.
            MediaError: it cannot be read to its end.
        """
        while self._volume is not None:
            self._read_some(CHUNK_BYTES)

    def _read_some(self, count: int) -> bytes:
        """Some of the current volume's bytes, and its end if they are its last."""
        volume = self._volume or self._next()
        left = volume.header.offset + volume.header.size_bytes - self._position
        while True:
            try:
                chunk = self._opened(volume).read(min(count, left, CHUNK_BYTES))
                if chunk:
                    break
                raise OSError(0, "it ends too early")
            except OSError as exc:
                self._lost(volume, exc)
        self._position += len(chunk)
        if self._digest is not None:
            self._digest.update(chunk)
        if len(chunk) == left:
            self._leave(volume)
        return chunk

    def _next(self) -> Volume:
        """The volume that holds the current position; asks for it until it is there."""
        number, at = divmod(self._position, self._shelf.archive.full_bytes)
        number += 1
        while number not in (found := self._shelf.look()):
            fault = self._shelf.fault(number)
            if self._ask is None:
                raise fault
            wrong = "" if isinstance(fault, MissingVolumeError) else f"{fault}; "
            name, count = volume_name(self._shelf.archive.name, number), self._shelf.archive.count
            self._ask(f"{wrong}put in the medium with volume {number} of {count}, {name}")
        self._volume, self._digest = found[number], None if at else RunningDigest(self._hasher)
        return found[number]

    def _opened(self, volume: Volume) -> BinaryIO:
        """The volume's file, wherever it lies now, at the current position."""
        if self._file is None:
            place = self._shelf.look().get(volume.header.number)
            if place is None or place.header != volume.header:
                raise OSError(0, "the medium is gone")
            self._file = open_file(place.path)
            self._file.seek(HEADER_BYTES + self._position - volume.header.offset)
        return self._file

    def _lost(self, volume: Volume, exc: OSError) -> None:
        """The medium was pulled, or a block of it cannot be read: ask for it, or give up."""
        self._close_file()
        if self._ask is None:
            raise unreadable(volume.path, exc) from exc
        self._ask(f"{volume.path} cannot be read ({exc.strerror}): put its medium back")

    def _leave(self, volume: Volume) -> None:
        """The end of a volume: compare it with its header."""
        found = None if self._digest is None else self._digest.hexdigest()
        self._close_volume()
        if found not in (None, volume.header.sha256):
            raise DamagedVolumeError(str(volume.path), volume.header.number, "its SHA-256 differs from its header's")

    def _close_volume(self) -> None:
        self._close_file()
        self._volume = None

    def _close_file(self) -> None:
        if self._file is not None:
            close_file(self._file)
        self._file = None
