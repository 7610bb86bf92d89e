"""The events of a running turn in a file, for every reader: a page, a second tab, another web worker.

The owner, the process that runs the turn, holds a lock on the file until it removes the file. So the file says three
things: a turn runs (the file exists), its owner is alive (the file is locked; the kernel drops the lock with the
process), and what the turn has said. Lines are JSON: a `Head`, then one for each event, and `Kept` as the last.

    <directory>/<user>.<conversation>    one turn at a time in a conversation; or the id of a response in the background
    <directory>/<turn>.stop              asks the turn to end; any process may make it

Readers trust the file: web workers share one directory, and nobody else may write there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

from appliance.errors import ApplianceError
from appliance.file_lock import is_owned, own
from appliance.turns.answer import About
from appliance.turns.events import Done, EngineEvent, Queued
from appliance.turns.typed import checked

_log = logging.getLogger(__name__)
MAX_FILE_BYTES: Final = 64 * 1024 * 1024  # some hundred bytes for each token, and more with log probabilities
_READ_BYTES: Final = 256 * 1024
_POLL_S: Final = 0.05  # a worker may not watch files (inotify); a look costs some ten microseconds
_CLAIM_TRIES: Final = 20
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class ConversationBusyError(ApplianceError):
    """A turn of this conversation is running."""

    def __init__(self) -> None:
        super().__init__("An answer is being written in this conversation.")


@dataclass(frozen=True)
class Head:
    """Which turn it is, which message of the conversation it answers, when it began, and what makes the answer.
    ``begun`` is the message of the answer that the turn continues, if it does.

    ``question`` is empty if the turn is a response in the background; ``include`` is what readers draw beside words.
    ``began_s`` is a reading of `time.monotonic`, which is the same in all processes of the machine. Setting the clock
    does not change a turn's age.
    """

    turn: str
    question: str
    began_s: float
    about: About | None = None
    begun: str | None = None
    include: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    """The turn is over, and its answer is this message of the conversation, or this response; None: it could not be put
    there."""

    message: str | None


@dataclass(frozen=True)
class Entry:
    """One line after the head: its number, from 1 on, and when it was written, in seconds since the turn began."""

    number: int
    at_s: float
    event: EngineEvent | Queued | Kept


_KINDS: Final[dict[str, type[Any]]] = {kind.__name__: kind for kind in (*get_args(EngineEvent), Queued, Kept)}


class Journal:
    """The owner's side of one file. It belongs to one thread at a time."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `claim`."""
        self._path = path
        self._descriptor = descriptor
        self._stop = path  # until the turn is known
        self._begin_s = time.monotonic()
        self._is_writable = True
        self._room_bytes = MAX_FILE_BYTES

    def begin(self, head: Head) -> None:
        """Write which turn it is; from now on readers find it.

        Raises:
            OSError: the file cannot be written.
        """
        self._stop = self._path.with_name(f"{head.turn}.stop")
        self._begin_s = head.began_s
        line = json.dumps(asdict(head)).encode() + b"\n"
        if os.write(self._descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def write(self, event: EngineEvent | Queued | Kept) -> None:
        """Add an event. A full disk ends the file but not the turn; the record decides whether the turn fails. So does
        the limit of a file.

        The sampled tokens are left out: replay reads them from the record, and no reader of the file needs them.
        """
        if isinstance(event, Done):
            event = replace(event, token_ids=())
        at_s = round(time.monotonic() - self._begin_s, 3)
        line = json.dumps([at_s, type(event).__name__, asdict(event)], separators=(",", ":")).encode() + b"\n"
        if not self._is_writable:
            return
        self._room_bytes -= len(line)
        try:
            if self._room_bytes < 0:
                raise OSError(f"it would be longer than {MAX_FILE_BYTES} bytes")
            if os.write(self._descriptor, line) < len(line):
                raise OSError("the disk took half a line")
        except OSError as exc:
            self._is_writable = False
            _log.warning("the turn in %s goes on, but nobody can read along: %s", self._path.name, exc)

    def is_stopped(self) -> bool:
        """Whether somebody wants the turn to end."""
        return self._stop is not self._path and self._stop.exists()

    def leave(self) -> None:
        """Release the lock and leave the file to the next process that finds it, as if this one had died."""
        os.close(self._descriptor)

    def close(self, to: Path | None = None) -> None:
        """Remove the file and release the lock. Readers that have it open can still read all of it.

        Args:
            to: move the file there instead, if it holds the whole turn.
        """
        is_moved = to is not None and self._is_writable and self._move(to)
        # In this order, see `Reader.stop`. Once the file has moved, another process may have a new one in its place.
        for path in dict.fromkeys((self._stop,) if is_moved else (self._path, self._stop)):
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(self._descriptor)

    def _move(self, to: Path) -> bool:
        try:
            self._path.rename(to)
        except OSError:
            return False
        return True


class Reader:
    """One reader's side. It belongs to one thread at a time; `close` it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `open_reader`."""
        self._path = path
        self._descriptor = descriptor
        self._offset = 0
        self._rest = b""
        self._number = 0
        self._head: Head | None = None
        self._ready: list[Entry] = []  # read with the head

    @property
    def head(self) -> Head | None:
        """None while the turn is being prepared."""
        if self._head is None:
            self._ready += self._take_in()
        return self._head

    def read(self, wait_s: float) -> list[Entry]:
        """New entries, as many as one read takes; [] if none came within `wait_s`."""
        if self._ready:
            entries, self._ready = self._ready, []
            return entries
        deadline_s = time.monotonic() + wait_s
        while not (entries := self._take_in()) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        return entries

    def has_owner(self) -> bool:
        """Whether the process that writes the file is alive."""
        return is_owned(self._descriptor)

    def stop(self) -> None:
        """Ask the turn to end, unless it is over. The caller has seen its head.

        Raises:
            OSError: the file that asks for it cannot be made.
        """
        if self.head is None:
            raise RuntimeError("internal error: a turn that is being prepared cannot be stopped")
        stop = self._path.with_name(f"{self.head.turn}.stop")
        stop.touch(mode=0o600)
        # If the turn is over, its owner may have looked for this file before it was made; nobody else removes it.
        if not _is_at(self._path, self._descriptor):
            stop.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._descriptor)

    def _take_in(self) -> list[Entry]:
        piece = os.pread(self._descriptor, _READ_BYTES, self._offset)
        self._offset += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if lines and self._head is None:
            self._head = checked(Head, json.loads(lines.pop(0)))
        return [self._entry(line) for line in lines]

    def _entry(self, line: bytes) -> Entry:
        at_s, kind, values = json.loads(line)
        self._number += 1
        return Entry(self._number, checked(float, at_s), checked(_KINDS[kind], values))


def claim(path: Path, close_turn: Callable[[], None]) -> Journal:
    """Become the owner of a new file at `path`. Before it removes a dead owner's file, it calls `close_turn`.

    Raises:
        ConversationBusyError: the file has a living owner.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(_CLAIM_TRIES):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | _FLAGS, 0o600)
        except FileExistsError:
            if remove_dead(path, close_turn):
                continue
            raise ConversationBusyError from None
        own(descriptor, wait=True)
        if _is_at(path, descriptor):  # else another process found it unlocked and removed it
            return Journal(path, descriptor)
        os.close(descriptor)
    raise ConversationBusyError


def open_reader(path: Path) -> Reader | None:
    """A reader from the beginning of the file; None if no turn runs."""
    try:
        return Reader(path, os.open(path, os.O_RDONLY | _FLAGS))
    except OSError:
        return None


def remove_dead(path: Path, close_turn: Callable[[], None]) -> bool:
    """Call `close_turn` and remove a dead owner's file; False if the owner lives. Only the lock's holder removes it."""
    try:
        descriptor = os.open(path, os.O_RDWR | _FLAGS)
    except OSError:
        return True
    try:
        if not own(descriptor):
            return False
        if _is_at(path, descriptor):
            close_turn()
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return path.stat(follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino
    except OSError:
        return False
