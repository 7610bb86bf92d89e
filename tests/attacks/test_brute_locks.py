"""Code inside a web worker holds every lock that it can take, for ever, and truncates and overwrites what SQLite shares
between processes. Whom does that stop, and what is lost?
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from appliance.audit import ledger_file
from appliance.audit.fault import LogBrokenError
from appliance.audit.log import AuditLog
from appliance.audit.note import CheckpointError
from appliance.audit.signer import LogSigner
from appliance.audit.verify import verify_log
from appliance.database.presence import FilePresence, PresenceError
from appliance.database.transactions import Database, DatabaseError, open_database
from appliance.file_lock import own
from appliance.people.hashing_places import HashingBusyError, HashingPlaces
from tests.appliance.records import fill

LIMIT_S = 0.1


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ledger_file, "LONGEST_WAIT_S", LIMIT_S)
    return tmp_path / "state"


@pytest.fixture
def database(state: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{state}/database/site.sqlite3")) as database:
        yield database


@contextmanager
def held(*paths: Path) -> Iterator[None]:
    """Locks that a process can hold when it may only read these files."""
    descriptors = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        for descriptor in descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_who_reads_the_ledger_does_not_keep_the_recorder_from_signing(state: Path, database: Database) -> None:
    """A web worker may read state/audit, and a process that may read a file can lock it. Nothing was signed any more,
    and nothing recorded that the supervisor had seen.
    """
    log = AuditLog(database)
    signer = LogSigner(log, state)
    fill(log, 3)
    assert signer.sign() is not None
    with held(*(path for path in (state / "audit").iterdir() if path.is_file())):
        fill(log, 2)
        checkpoint = signer.sign()
        assert checkpoint is not None
        assert checkpoint.size == 5
        assert verify_log(database, state).is_intact  # readers are not stopped either


def test_a_signer_that_does_not_end_is_named(state: Path, database: Database) -> None:
    """Only signers can open that lock: this one is a command that somebody has stopped."""
    log = AuditLog(database)
    signer = LogSigner(log, state)
    fill(log, 3)
    signer.sign()
    with held(state / "signer" / "signing.lock"), pytest.raises(CheckpointError, match="does not end"):
        signer.sign()
    fill(log, 1)
    assert signer.sign() is not None


def test_who_locks_each_new_process_keeps_it_from_turns_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new process makes a file and locks it. Somebody who watches the directory can be quicker."""
    opened, taken = os.open, list[int]()

    def open_and_be_late(path: str | Path, flags: int, mode: int = 0o777) -> int:
        descriptor = opened(path, flags, mode)
        taken.append(opened(path, os.O_RDWR))
        assert own(taken[-1])
        return descriptor

    presence = FilePresence(tmp_path / "turns")
    with monkeypatch.context() as patch:
        patch.setattr("appliance.database.presence.os.open", open_and_be_late)
        with pytest.raises(PresenceError, match="another process locks every file"):
            presence.own_id()
    for descriptor in taken:
        os.close(descriptor)
    assert presence.is_alive(presence.own_id())
    presence.disappear()


def test_who_holds_all_places_of_hashing_keeps_people_from_signing_in_in_words(tmp_path: Path) -> None:
    places = HashingPlaces(tmp_path, cores=2, longest_wait_s=LIMIT_S)
    paths = [tmp_path / f"hashing-{number}.lock" for number in range(places.total)]
    for path in paths:
        path.touch()
    for known in (False, True):
        with held(*paths), pytest.raises(HashingBusyError), places.take(known=known):
            pass
        with places.take(known=known):
            pass


@contextmanager
def another_process(path: Path, work: str) -> Iterator[None]:
    """A child that does ``work`` to a file, says so, and keeps its locks until the block ends. SQLite's locks belong to
    a process.
    """
    said, say = os.pipe()
    stay, leave = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(leave)
            getattr(Attack, work)(path)
            os.write(say, b"1")
            os.read(stay, 1)
        finally:
            os._exit(0)
    os.close(say)
    os.close(stay)
    try:
        assert os.read(said, 1) == b"1"
        yield
    finally:
        os.close(said)
        os.close(leave)
        os.waitpid(pid, 0)


class Attack:
    """Attacks on the files that SQLite shares, by a process that has the database open as well."""

    kept: sqlite3.Connection

    @staticmethod
    def lock_the_database(path: Path) -> None:
        descriptor = Attack.opened(path, path)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0x4000_0000)  # which each new connection asks for

    @staticmethod
    def lock_the_index(path: Path) -> None:
        descriptor = Attack.opened(path, Path(f"{path}-shm"))
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 120)  # for writing

    @staticmethod
    def opened(database: Path, path: Path) -> int:
        connection = sqlite3.connect(database)
        connection.execute("SELECT count(*) FROM audit_events").fetchone()  # now the shared files exist
        Attack.kept = connection
        return os.open(path, os.O_RDWR)


@pytest.mark.parametrize("lock", ["lock_the_database", "lock_the_index"])
def test_who_holds_a_lock_of_sqlite_stops_the_record_in_words(
    lock: str, state: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(database)
    fill(log, 2)
    database.engine.dispose()
    with monkeypatch.context() as patch:
        patch.setattr("appliance.database.transactions._BUSY_TIMEOUT_MS", 100)
        path = state / "database" / "site.sqlite3"
        with another_process(path, lock), pytest.raises(DatabaseError, match="locked"):
            fill(log, 1)
    database.engine.dispose()
    fill(log, 1)
    assert log.size() == 3


def cut(path: Path) -> None:
    os.truncate(path, 0)


def scribble(path: Path) -> None:
    """Overwrite every second byte, as through a mapping."""
    data = bytearray(path.read_bytes())
    data[::2] = b"\xa5" * len(data[::2])
    with path.open("r+b") as file:
        file.write(data)


def test_who_cuts_the_shared_index_ends_its_users_and_nothing_is_lost(state: Path, database: Database) -> None:
    """Its users have it mapped, so the kernel ends them with SIGBUS. The supervisor starts them again."""
    log = AuditLog(database)
    fill(log, 5)
    LogSigner(log, state).sign()
    database.engine.dispose()
    ready, tell = os.pipe()
    stay, leave = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            faulthandler.disable()
            fill(log, 5)
            os.write(tell, b"1")
            os.read(stay, 1)
            fill(log, 1)
        finally:
            os._exit(0)
    assert os.read(ready, 1) == b"1"
    cut(state / "database" / "site.sqlite3-shm")
    os.write(leave, b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGBUS
    for fd in (ready, tell, stay, leave):
        os.close(fd)
    assert log.size() == 10
    checkpoint = LogSigner(log, state).sign()
    assert checkpoint is not None
    assert checkpoint.size == 10


def test_who_scribbles_over_the_shared_index_makes_nobody_lose_an_event(state: Path, database: Database) -> None:
    log = AuditLog(database)
    signer = LogSigner(log, state)
    fill(log, 5)
    signer.sign()
    for _ in range(3):
        scribble(state / "database" / "site.sqlite3-shm")
        fill(log, 2)
        signer.sign()
    database.engine.dispose()
    assert log.size() == 11
    assert verify_log(database, state).is_intact


@pytest.mark.parametrize("damage", [cut, scribble, os.unlink], ids=lambda damage: str(damage.__name__))
@pytest.mark.parametrize("name", ["site.sqlite3", "site.sqlite3-wal"])
def test_who_destroys_the_files_of_the_database_is_noticed_or_destroys_nothing(
    damage: Callable[[Path], None], name: str, state: Path, database: Database
) -> None:
    """Processes that hold the file go on with what they have. A process that opens it has every event, says that it is
    damaged, or finds that signed events are missing. None takes less than what was signed for intact.
    """
    log = AuditLog(database)
    fill(log, 5)
    LogSigner(log, state).sign()
    damage(state / "database" / name)
    with contextlib.suppress(DatabaseError):
        fill(log, 2)
    database.engine.dispose()
    try:
        checkpoint = LogSigner(log, state).sign()
        report = verify_log(database, state)
    except (DatabaseError, LogBrokenError):
        return
    assert checkpoint is not None
    assert checkpoint.size == 7
    assert report.is_intact
