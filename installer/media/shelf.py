"""The shelf: all media that a command may read, and which volumes of one archive lie on them now.

Media come and go, so `look` reads the headers again each time. The first look decides which archive is meant: the one
of the named files or, if none is named, the only one on the media. The order of names and directories means nothing.
"""

from __future__ import annotations

import os
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
            raise AmbiguousMediaError(f"there is no archive and no volume in {self.places}")
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
            if not os.path.samefile(volume.path, other.path):
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
        for path in (directory / volume_name(self.archive.name, number) for directory in self._directories):
            try:
                _require_archive(read_volume(path), self.archive)
            except FileNotFoundError:
                continue
            except OSError as exc:
                return unreadable(path, exc)
            except ArchiveError as exc:
                return exc
            except InstallerError as exc:
                return ArchiveError(str(exc))
        return MissingVolumeError(self.archive.name, [number], self.archive.count, self.places)

    def _on_media(self) -> Iterator[Volume]:
        """Every volume that can be read, of any archive, each file once."""
        for path in dict.fromkeys((*self._files, *(path for d in self._directories for path in _volumes_in(d)))):
            try:
                yield read_volume(path)
            except (InstallerError, OSError):
                continue  # `missing` says what is wrong with it, if it is needed


def _volumes_in(directory: Path) -> list[Path]:
    try:
        return [directory / name for name in sorted(os.listdir(directory)) if VOLUME_NAME.fullmatch(name)]
    except OSError:  # not mounted at the moment
        return []


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
