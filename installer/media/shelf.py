"""The shelf: all media that a command may read, and which volumes of one archive lie on them now.

Media come and go, so `look` reads the headers again each time. The first look decides which archive is meant: the one
of the named files or, if none is named, the only one on the media. The order of names and directories means nothing,
and names mean little: FAT may change their case, and discs may shorten them to 8 and 3 characters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from installer.errors import (
    AmbiguousMediaError,
    ArchiveError,
    ForeignVolumeError,
    InstallerError,
    MissingVolumeError,
    RepeatedVolumeError,
)
from installer.media.volume import VOLUME_NAME, Volume, VolumeHeader, read_volume, unreadable, volume_name

_SHORT_NAME = re.compile(r"[A-Z0-9_~-]{1,8}\.[0-9]{3}", re.IGNORECASE | re.ASCII)


class Shelf:
    """The volumes of one archive.

    Args:
        files: volumes by name. The directories that they lie in are searched, too.
        directories: where further volumes may lie, now or when a medium has been put in.
    Raises:
        InstallerError: a named file is no volume, is damaged, is foreign or is there twice; or no archive is meant.
    """

    def __init__(self, files: Sequence[Path], directories: Sequence[Path]) -> None:
        self._files = tuple(files)
        self._directories = tuple(dict.fromkeys((*directories, *(path.parent for path in files))))
        named = [_read_named(path) for path in self._files]
        meant = {volume.header.archive_facts: volume.header for volume in named or self._on_media()}
        if not meant:
            raise AmbiguousMediaError(f"there is no archive and no volume in {self.places}{self._unreadable()}")
        if named:
            for volume in named:
                _require_archive(volume, named[0].header)
        elif len(meant) > 1:
            names = ", ".join(sorted(_archive_words(header) for header in meant.values()))
            raise AmbiguousMediaError(f"{self.places} holds volumes of several archives: {names}; name a file of one")
        self.archive = next(iter(meant.values()))  # any volume's header: they agree about the archive

    @property
    def places(self) -> str:
        """The directories, for a sentence."""
        return ", ".join(map(str, self._directories))

    def look(self) -> dict[int, Volume]:
        """The volumes of the archive that can be read now, by number.

        Raises:
            RepeatedVolumeError: two different files are one volume.
        """
        found: dict[int, Volume] = {}
        for volume in self._on_media():
            if volume.header.archive_facts != self.archive.archive_facts:
                continue
            other = found.setdefault(volume.header.number, volume)
            if not _is_same(volume.path, other.path):
                raise RepeatedVolumeError(volume.header.number, str(other.path), str(volume.path))
        return found

    def missing(self, found: dict[int, Volume]) -> ArchiveError | None:
        """The error that names the missing volumes, or says what is wrong with a file that has the name of one."""
        numbers = [number for number in range(1, self.archive.count + 1) if number not in found]
        faults = (self.fault(number) for number in numbers)
        wrong = next((fault for fault in faults if not isinstance(fault, MissingVolumeError)), None)
        whole = MissingVolumeError(self.archive.name, numbers, self.archive.count, self.places) if numbers else None
        return wrong or whole

    def fault(self, number: int) -> ArchiveError:
        """Why there is no volume of this number: none is there, or a file with its name is something else."""
        for path in self._named_like(number):
            try:
                _require_archive(read_volume(path), self.archive)
            except FileNotFoundError:
                continue
            except ForeignVolumeError as exc:
                if _SHORT_NAME.fullmatch(path.name):
                    continue  # archives may share such a name
                return exc
            except OSError as exc:
                return unreadable(path, exc)
            except ArchiveError as exc:
                return exc
            except InstallerError as exc:
                return ArchiveError(str(exc))
        return MissingVolumeError(self.archive.name, [number], self.archive.count, self.places)

    def _named_like(self, number: int) -> Iterator[Path]:
        """Where a volume may lie, by its name: as it was written, in another case, or shortened."""
        name = volume_name(self.archive.name, number)
        for directory in self._directories:
            yield directory / name
            for path in _volumes_in(directory):
                is_short = _SHORT_NAME.fullmatch(path.name) and path.name.endswith(name[-4:])
                if path.name != name and (is_short or path.name.lower() == name.lower()):
                    yield path

    def _unreadable(self) -> str:
        """The directories that cannot be listed, for the end of a sentence: their media are gone or damaged."""
        found = []
        for directory in self._directories:
            try:
                os.listdir(directory)
            except OSError as exc:
                found.append(f"{directory} cannot be read: {exc.strerror}")
        return f" ({'; '.join(found)})" if found else ""

    def _on_media(self) -> Iterator[Volume]:
        """Every volume that can be read, of any archive, each file once."""
        for path in dict.fromkeys((*self._files, *(path for d in self._directories for path in _volumes_in(d)))):
            try:
                yield read_volume(path)
            except (InstallerError, OSError):
                continue  # `missing` says what is wrong with it, if it is needed


def names_in(directory: Path) -> list[str]:
    """The names on a medium; none if it is not mounted at the moment."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _volumes_in(directory: Path) -> list[Path]:
    names = (name for name in names_in(directory) if VOLUME_NAME.fullmatch(name) or _SHORT_NAME.fullmatch(name))
    return [directory / name for name in names]


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths are one file. A file system that ignores case may number it anew for each spelling."""
    if path.parent == other.parent and path.name.lower() == other.name.lower():
        return True
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of the media has just gone
        return True


def _read_named(path: Path) -> Volume:
    try:
        return read_volume(path)
    except OSError as exc:
        raise unreadable(path, exc) from exc


def _require_archive(volume: Volume, archive: VolumeHeader) -> None:
    if volume.header.archive_facts != archive.archive_facts:
        raise ForeignVolumeError(str(volume.path), _archive_words(volume.header), _archive_words(archive))


def _archive_words(header: VolumeHeader) -> str:
    return f"{header.name}, SHA-256 {header.archive[:16]}.."
