"""Writes files below a directory whose owner may be somebody else, and may change it at the same time.

Nothing below that directory is reached through a link: each directory and file is opened by descriptor from the one
above it. So a process of the appliance's user cannot make root write elsewhere.

Several files are written together: all lie on the disk before the first gets its name, so a disk that becomes full
leaves every one as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from installer.durable import remove_at

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def write_below(top: Path, name: str, data: bytes) -> None:
    """Write `top`/`name` by one rename, and make it durable; see `prepared_below`."""
    with prepared_below(top, {name: data}) as put_in_place:
        put_in_place()


@contextmanager
def prepared_below(top: Path, files: Mapping[str, bytes]) -> Iterator[Callable[[], None]]:
    """Write the files under passing names. It makes directories that are missing, and replaces whatever else is in the
    place of a directory or a file.

    Args:
        top: an existing directory; only what is below it is not trusted.
        files: relative paths and contents.
    Yields:
        what gives the files their names, in this order, each by one rename. If it is not called, nothing stays.
    """
    with contextlib.ExitStack() as stack:
        places = _Places(stack, os.open(top, os.O_RDONLY | os.O_DIRECTORY))
        try:
            for name, data in files.items():
                _prepare(*places.of(name), data)
            yield lambda: _put_in_place(places, list(files))
        except BaseException:
            places.tidy(list(files))
            raise


class _Places:
    """The directories that files lie in, each opened once."""

    def __init__(self, stack: contextlib.ExitStack, top: int) -> None:
        self._stack = stack
        self._opened = {"": top}
        self._made: list[tuple[int, str]] = []
        stack.callback(os.close, top)

    def of(self, name: str) -> tuple[int, str]:
        """The directory of a file and the file's name in it."""
        directory, _, leaf = name.rpartition("/")
        return self._directory(directory), leaf

    def _directory(self, name: str) -> int:
        if name not in self._opened:
            above, _, leaf = name.rpartition("/")
            self._opened[name] = self._enter(self._directory(above), leaf)
            self._stack.callback(os.close, self._opened[name])
        return self._opened[name]

    def _enter(self, above: int, name: str) -> int:
        """Open a directory, which is made if it is missing or if something else is in its place."""
        for _ in range(2):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=above)
                self._made.append((above, name))
                os.fsync(above)
            try:
                return os.open(name, _DIRECTORY, dir_fd=above)
            except NotADirectoryError:  # for a link, too
                os.unlink(name, dir_fd=above)
        return os.open(name, _DIRECTORY, dir_fd=above)

    def sync(self) -> None:
        for directory in self._opened.values():
            os.fsync(directory)

    def tidy(self, names: list[str]) -> None:
        """Remove what was prepared and did not get its name, and the directories that were made for it."""
        for name in names:
            directory, _, leaf = name.rpartition("/")
            if directory in self._opened:
                with contextlib.suppress(OSError):
                    os.unlink(_passing(leaf), dir_fd=self._opened[directory])
        for above, name in reversed(self._made):
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(name, dir_fd=above)


def _passing(name: str) -> str:
    return f".{name}.new"


def _prepare(directory: int, name: str, data: bytes) -> None:
    remove_at(directory, _passing(name))
    with open(os.open(_passing(name), _NEW_FILE, 0o644, dir_fd=directory), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(places: _Places, names: list[str]) -> None:
    for name in names:
        directory, leaf = places.of(name)
        try:
            os.replace(_passing(leaf), leaf, src_dir_fd=directory, dst_dir_fd=directory)
        except IsADirectoryError:
            remove_at(directory, leaf)
            os.replace(_passing(leaf), leaf, src_dir_fd=directory, dst_dir_fd=directory)
    places.sync()
