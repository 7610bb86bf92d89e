"""The trial of a new release: the files by which installer, keeper and appliance tell each other how it goes.

    service/trial.json          the installer, before it switches `current`: which release, and which was before; the
                                keeper counts the starts
    state/audit/reached.json    the appliance: how far this start of the release has come
    service/returned.json       the keeper: the release that was left, the one that is served again, and why

The first and the last belong to the owner of the releases. The second belongs to the user of the appliance, so whoever
reads it as root must expect anything there: `load_reached` follows no link and waits for nothing.

A file that is missing or cannot be read as what it should be is `None`: a trial is a help, and must not stop a start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

TRIAL, RETURNED = Path("service", "trial.json"), Path("service", "returned.json")
_REACHED_DIRECTORY, _REACHED = ("state", "audit"), "reached.json"
UPGRADED, HEALTHY = "upgraded", "healthy"  # stages: the database was upgraded; the release serves
_MOST_BYTES = 4096
Record = TypeVar("Record")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,64}")


@dataclass(frozen=True)
class Trial:
    """A release that has been made current and has not served yet."""

    release: str
    back_to: str  # the release that is served again if this one does not become healthy
    starts: int = 0  # that have begun and not become healthy
    is_late: bool = False  # the last start took too long
    is_upgraded: bool = False  # it has upgraded the database


@dataclass(frozen=True)
class Reached:
    """How far the present start of a release has come."""

    release: str
    stage: str


@dataclass(frozen=True)
class Returned:
    """A release did not become healthy, and another one is served in its place."""

    left: str
    to: str
    why: str
    at: str  # UTC, ISO 8601


def load_trial(site: Path) -> Trial | None:
    return _parsed(Trial, _read(site / TRIAL))


def load_returned(site: Path) -> Returned | None:
    return _parsed(Returned, _read(site / RETURNED))


def load_reached(site: Path) -> Reached | None:
    descriptor = _open_below(site, _REACHED_DIRECTORY)
    if descriptor is None:
        return None
    try:
        return _parsed(Reached, _read(Path(_REACHED), descriptor))
    finally:
        os.close(descriptor)


def stage_of(site: Path, release: str) -> str:
    """How far the last start of this release has come; empty where it has not said so."""
    reached = load_reached(site)
    return reached.stage if reached is not None and reached.release == release else ""


def write_reached(site: Path, reached: Reached) -> None:
    """Written by the appliance, which owns the directory."""
    _write(site.joinpath(*_REACHED_DIRECTORY, _REACHED), reached, for_all=False)


def forget_reached(site: Path) -> None:
    """Remove the mark of an earlier start. What is no file, and so no mark, may stay."""
    descriptor = _open_below(site, _REACHED_DIRECTORY)
    if descriptor is None:
        return
    try:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(_REACHED, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def write_trial(site: Path, trial: Trial) -> None:
    _make_directory(site)
    _write(site / TRIAL, trial, for_all=True)


def end_trial(site: Path) -> None:
    (site / TRIAL).unlink(missing_ok=True)


def write_returned(site: Path, returned: Returned) -> None:
    _make_directory(site)
    _write(site / RETURNED, returned, for_all=True)


def begin_trial(site: Path, release: str, before: str | None) -> None:
    """Note, before `current` is switched from ``before`` to ``release``, what to return to.

    A release that is still on trial itself is nothing to return to; what it would have returned to is. But if it has
    upgraded the database, or serves and nobody could note that yet, the earlier release is no way back any more.
    """
    if before is None or before == release:
        return
    running = load_trial(site)
    is_unproven = running is not None and running.release == before and not _came_far(site, running)
    back_to = running.back_to if running is not None and is_unproven else before
    if back_to == release:
        end_trial(site)
        return
    write_trial(site, Trial(release, back_to))


def _came_far(site: Path, trial: Trial) -> bool:
    """Whether the release has used the database. Before the first start the mark speaks of another time."""
    return trial.is_upgraded or bool(trial.starts and stage_of(site, trial.release))


def is_on_trial(site: Path, release: str) -> bool:
    trial = load_trial(site)
    return trial is not None and trial.release == release


def _make_directory(site: Path) -> None:
    directory = site / TRIAL.parent
    if not directory.is_dir():
        directory.mkdir()
        directory.chmod(0o755)


def _open_below(site: Path, names: tuple[str, ...]) -> int | None:
    """The directory, reached without following a link; None if it is not there."""
    descriptor = os.open(site, os.O_RDONLY | os.O_DIRECTORY)
    for name in names:
        above = descriptor
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        except OSError:
            return None
        finally:
            os.close(above)
    return descriptor


def _read(path: Path, directory: int | None = None) -> bytes:
    """The beginning of a plain file; empty if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _MOST_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _parsed(kind: type[Record], data: bytes) -> Record | None:
    """A record of this kind; None unless every field is there with its type."""
    try:
        values = json.loads(data)
        record = kind(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    for one in fields(record):  # type: ignore[arg-type]
        value = getattr(record, one.name)
        if type(value).__name__ != one.type:
            return None
        if one.name in ("release", "back_to", "left", "to") and not _is_version(value):
            return None
    return record


def _is_version(name: str) -> bool:
    """Whether a name is that of a release's directory, which never leads out of ``releases/``."""
    return _VERSION.fullmatch(name) is not None and name[0] != "."


def _write(path: Path, record: Any, *, for_all: bool) -> None:
    """Replace the file by one rename, when its data is on disk. Everybody, or the owner alone, can read it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if for_all:  # whatever the umask of the service is; the appliance itself may not change rights
                os.fchmod(descriptor, 0o644)
            file.write(json.dumps(asdict(record)).encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
    except OSError:  # the disk is full
        fresh.unlink(missing_ok=True)
        raise
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
