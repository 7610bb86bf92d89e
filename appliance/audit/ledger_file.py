"""The file of the ledger, state/audit/ledger.txt: durable lines, who may write, and whether somebody else has written.

Callers that write hold `locked`. ledger.py says what the lines mean.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.audit.fault import Fault, LogBrokenError
from appliance.audit.keys import sync_directory
from appliance.audit.note import CheckpointError
from appliance.file_lock import lock_within
from appliance.plain_file import open_plain

NAME = "ledger.txt"
_READERS_LOCK = "ledger.lock"
_SIGNERS_LOCK = "signer/signing.lock"
LONGEST_WAIT_S = 10.0
_log = logging.getLogger(__name__)

Stamp = tuple[int, ...]  # changes when anybody writes into the file, who cannot set its ctime


def stamp_of(audit_dir: Path) -> Stamp | None:
    """The file's stamp now; None when there is none."""
    try:
        return _stamp(os.stat(audit_dir / NAME))
    except FileNotFoundError:
        return None


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def append_note(audit_dir: Path, note: str, *, follows: Stamp | None, anywhere: bool = False) -> Stamp:
    """Add a line durably; the file's stamp at once after it. `locked` must be held.

    Args:
        follows: the file's stamp as it must be, None where there must be no file.
        anywhere: add it whatever the file holds.
    Raises:
        LogBrokenError: the file is another; nothing was written.
        CheckpointError: it is not on the disk.
    """
    path = audit_dir / NAME
    try:
        is_new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600)
        try:
            found = _stamp(os.fstat(descriptor))
            if not anywhere and (found != follows if follows else found[1] > 0):
                raise LogBrokenError([Fault(0, 0, f"state/audit/{NAME} was changed while the appliance ran")])
            torn = not is_new and not _ends_line(path)
            stamp = _write_whole(descriptor, b"\n" * torn + line_of(note))
        finally:
            os.close(descriptor)
        if is_new:
            sync_directory(audit_dir)
        return stamp
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be written: {exc.strerror}") from exc


def _ends_line(path: Path) -> bool:
    with open_plain(path) as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _write_whole(descriptor: int, line: bytes) -> Stamp:
    """Write and sync a line; on a full disk the file stays as it was."""
    before = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        stamp = _stamp(os.fstat(descriptor))
        os.fsync(descriptor)
        return stamp
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def line_of(note: str) -> bytes:
    """A note as a line of the file."""
    return json.dumps(note).encode() + b"\n"


def cut_torn_line(audit_dir: Path, end: int) -> None:
    """Remove what follows the last whole line, at byte `end`; `locked` must be held."""
    try:
        with (audit_dir / NAME).open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    except OSError as exc:
        raise CheckpointError(f"{audit_dir / NAME}: cannot be repaired: {exc.strerror}") from exc


@contextmanager
def unchanging(audit_dir: Path | None) -> Iterator[None]:
    """Keep signers waiting while ledger and database are read together, also in processes that may not write here.

    Somebody may hold the lock for ever. Then both are read without it, and a signature made meanwhile may look wrong.
    """
    try:
        descriptor = os.open((audit_dir or Path()) / _READERS_LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # no signer has ever worked here, or the files are on media: nothing changes
        yield
        return
    try:
        lock_within(descriptor, fcntl.LOCK_SH, LONGEST_WAIT_S)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Exclude other signers, in this process and in others, and readers as long as they do not take too long.

    There are two locks, because whoever may read a file can lock it. Signers exclude each other with one that only
    signers may open, so nobody else keeps them from signing. A reader who holds the other lock for longer than any
    reading takes sees a ledger that changes.

    Raises:
        CheckpointError: a directory cannot be used, or another signer does not end.
    """
    with _opened(state_dir / _SIGNERS_LOCK) as signers, _opened(state_dir / "audit" / _READERS_LOCK) as readers:
        if not lock_within(signers, fcntl.LOCK_EX, LONGEST_WAIT_S):
            raise CheckpointError(f"another process that signs holds {_SIGNERS_LOCK} and does not end; end it")
        if not lock_within(readers, fcntl.LOCK_EX, LONGEST_WAIT_S):
            _log.warning("state/audit/%s is held by a process that does not give it back", _READERS_LOCK)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be used: {exc.strerror}") from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)
