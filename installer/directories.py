"""The directories of an installed release: as the installer makes them, with nothing in them that is not listed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from installer.durable import remove_tree
from installer.formats.manifest import ENVIRONMENT, MANIFEST, Difference, Entry, Fault, printable
from installer.receipt import RECEIPT


def own_directories(release: Path) -> tuple[Difference, ...]:
    """Make every directory the installer's own, as it makes them; what was wrong with each.

    It comes first, because nothing below a closed directory can be compared.
    """
    found = []
    waiting = [release]
    while waiting:
        directory = waiting.pop()
        fault = _directory_fault(directory.lstat())
        if fault is not None:
            found.append(Difference(printable(os.path.relpath(directory, release)), fault))
            if os.geteuid() == 0:
                os.chown(directory, 0, 0)
            directory.chmod(0o755)
        with os.scandir(directory) as entries:
            waiting += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return tuple(found)


def _directory_fault(status: os.stat_result) -> Fault | None:
    if status.st_uid not in (0, os.geteuid()):
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    wanted = 0o755 if status.st_uid == 0 else 0o700
    return None if status.st_mode & wanted == wanted else "cannot be read"


def remove_unlisted(release: Path, expected: Mapping[str, Entry]) -> None:
    """Remove everything but the listed files, their directories, and what the caller does not compare now."""
    tops = {path.split("/")[0] for path in expected}
    kept = {parent for path in expected for parent in (path, *map(str, PurePosixPath(path).parents))}
    spared = {MANIFEST, RECEIPT, *({ENVIRONMENT} - tops)}
    top = release / ENVIRONMENT if tops == {ENVIRONMENT} else release
    waiting = [top]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = os.path.relpath(entry.path, release)
                if path in spared:
                    continue
                if path not in kept:
                    remove_tree(Path(entry.path))
                elif path not in expected and entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif path not in expected:  # a file or a link in the place of a directory
                    remove_tree(Path(entry.path))
