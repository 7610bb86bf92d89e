"""How the database is opened and written: transactions, the schema's version, the appliance's own notes, and time.

The tables are in tables.py.

SQLite by default (WAL, every commit synced), PostgreSQL by URL. Times are integers, microseconds since 1970-01-01 UTC.

SQLite allows one writer. Writers of several processes queue on a lock file before they begin, because SQLite's own
waiting is a lottery: with the queue the longest stall of 16 threads is 75 ms, without it 1.5 s.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from appliance.database.presence import Presence
from appliance.database.stored_values import LAST_US, DamagedValueError
from appliance.database.tables import (
    AUDIT_WORDS_SQLITE,
    SCHEMA_VERSION,
    UPGRADES,
    audit_words_postgresql,
    metadata,
    settings,
)
from appliance.database.write_queue import StillLockedError, WriteQueue
from appliance.errors import ApplianceError

_SERIAL_LOCK_ID = 0x67706F61  # "gpoa", the advisory lock of serial transactions on PostgreSQL
_BUSY_TIMEOUT_MS = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DatabaseError(ApplianceError):
    """The database cannot be opened, read or written."""


class ClockError(ApplianceError):
    """The clock shows a time that no event can have."""


def is_undecodable(exc: DatabaseError) -> bool:
    """Whether the driver refused a text that is not UTF-8: SQLite keeps such, somebody else wrote it."""
    return isinstance(exc.__cause__, sa.exc.DBAPIError) and is_undecodable_value(exc.__cause__)


def is_undecodable_value(exc: sa.exc.DBAPIError) -> bool:
    """The same for errors that the driver itself raises within a transaction."""
    return "decode" in str(exc.orig).lower()


# The clock may be set back by so much. What was begun later than that from now was begun under a clock that was wrong,
# and would not end in its time.
CLOCK_SLACK_US = 3600 * 1_000_000


def now_us() -> int:
    """The time, in microseconds since 1970-01-01 UTC.

    Raises:
        ClockError: it is before that, so nothing could be read again that is written now.
    """
    time_us = time.time_ns() // 1000
    if time_us < 0:
        raise ClockError("the clock of this host is before 1970; set it, then try again")
    return time_us


def as_datetime(time_us: int) -> datetime:
    """`time_us` as an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=time_us)


def as_us(moment: datetime) -> int:
    """An aware datetime as `time_us`."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def as_iso(time_us: int) -> str:
    """`time_us` as 2026-11-23T01:37:24.123456Z, always with six decimals."""
    return as_datetime(time_us).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_iso(text: str) -> int:
    """Microseconds of what `as_iso` wrote.

    Raises:
        ValueError: another form.
    """
    return as_us(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC))


class Database:
    """Transactions on one database; any number of threads and processes may hold one each.

    Make it after a fork: connections must not be shared between processes.
    """

    def __init__(self, engine: sa.Engine, lock_path: Path | None) -> None:
        self.engine = engine
        self.is_sqlite = lock_path is not None
        self._lock_path = lock_path
        self._queue = None if lock_path is None else WriteQueue(lock_path)
        self.presence = None if lock_path is None else Presence(lock_path.with_suffix(".turns"))
        self._local = threading.local()

    @property
    def directory(self) -> Path | None:
        """Where its files lie, and others may lie that the processes share; None for a server's."""
        return None if self._lock_path is None else self._lock_path.parent

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one state of the database.

        Raises:
            DatabaseError: the database cannot be reached or read.
        """
        with _translated(), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @contextmanager
    def write(self, *, serial: bool = False) -> Iterator[sa.Connection]:
        """One durable transaction, committed when the block ends and undone when it raises.

        Args:
            serial: exclude every other serial transaction. On SQLite every write is serial.
        Raises:
            DatabaseError: nothing was written.
            sqlalchemy.exc.IntegrityError: a constraint refused; nothing was written.
        """
        if getattr(self._local, "writing", False):
            raise RuntimeError("internal error: a write transaction inside another one would wait for itself")
        self._local.writing = True
        try:
            with _translated(), ExitStack() as stack:
                if self._queue is not None:
                    stack.enter_context(self._queue.turn())
                connection = stack.enter_context(self.engine.connect().execution_options(appliance_write=True))
                with connection.begin():
                    if serial and not self.is_sqlite:
                        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SERIAL_LOCK_ID)))
                    yield connection
        finally:
            self._local.writing = False

    def close(self) -> None:
        """Close the connections that are not in use. Turns of this process end before: it no longer stands for them."""
        self.engine.dispose()
        if self.presence is not None:
            self.presence.disappear()


def open_database(url: str) -> Database:
    """The database at `url` (``sqlite:///PATH`` or ``postgresql://..``), made on first use.

    Raises:
        DatabaseError: it cannot be opened, or a newer release wrote it.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as exc:
        raise DatabaseError("the database URL is not a URL") from exc
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database and parsed.database != ":memory:":
        database = _open_sqlite(parsed, Path(parsed.database))
    elif backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        database = Database(sa.create_engine(parsed, pool_size=8, max_overflow=24, pool_pre_ping=True), None)
    else:
        raise DatabaseError("the database URL must be sqlite:///PATH or postgresql://..")
    try:
        _prepare_schema(database)
    except DatabaseError:
        database.close()
        raise
    return database


@contextmanager
def open_copy(path: Path) -> Iterator[Database]:
    """An SQLite database that is only read: not a byte is written beside it, also on read-only media.

    A write-ahead log beside it is part of it. SQLite cannot read one without writing, so both are then copied to a
    temporary directory first.

    Raises:
        DatabaseError: it cannot be read, or a newer release wrote it.
    """
    log = path.with_name(path.name + "-wal")
    with ExitStack() as stack:
        try:
            if log.exists() and log.stat().st_size:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="appliance-")))
                shutil.copyfile(path, directory / "copy")
                shutil.copyfile(log, directory / "copy-wal")
                database = Database(_read_only_engine(directory / "copy", "mode=rw"), directory / "copy.lock")
            else:
                database = Database(_read_only_engine(path.absolute(), "mode=ro&immutable=1"), path)
        except OSError as exc:
            raise DatabaseError(f"cannot read the database {path}: {exc.strerror}") from exc
        stack.callback(database.close)
        with database.read() as connection:
            found = read_number(connection, "schema")
        if found is None or not 1 <= found <= SCHEMA_VERSION:
            raise DatabaseError(f"{path} has schema {found or '(none)'}, and this release knows 1 to {SCHEMA_VERSION}")
        yield database


def _read_only_engine(path: Path, how: str) -> sa.Engine:
    address = f"file:{quote(str(path))}?{how}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.StaticPool)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def read_setting(connection: sa.Connection, name: str) -> str | None:
    """One of the appliance's own notes in the table `settings`."""
    return connection.scalar(sa.select(settings.c.value).where(settings.c.name == name))


def read_number(connection: sa.Connection, name: str) -> int | None:
    """A note that is a number or a time in microseconds; None where there is none or it is neither."""
    return as_number(read_setting(connection, name))


def as_number(stored: object) -> int | None:
    """A number of events or a time of the calendar, as it is or in digits; None for anything else."""
    if isinstance(stored, str) and len(stored) <= len(str(LAST_US)) and stored.isdecimal():
        stored = int(stored)
    return stored if type(stored) is int and 0 <= stored <= LAST_US else None


def write_setting(connection: sa.Connection, name: str, value: str | None) -> None:
    """Keep a note; None removes it."""
    connection.execute(settings.delete().where(settings.c.name == name))
    if value is not None:
        connection.execute(settings.insert().values(name=name, value=value))


def _open_sqlite(url: sa.URL, path: Path) -> Database:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as exc:
        raise DatabaseError(f"cannot open the database {path}: {exc.strerror}") from exc
    engine = sa.create_engine(url, pool_size=8, max_overflow=24)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # we begin transactions ourselves
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for pragma in (
            f"busy_timeout = {_BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",  # every commit reaches the disk before it is acknowledged
            "foreign_keys = ON",
            "secure_delete = ON",  # erased content is overwritten
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("appliance_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return Database(engine, path.with_name(path.name + ".lock"))


def _prepare_schema(database: Database) -> None:
    """Make the tables of a new database, bring those of an older release up to date, refuse those of a newer one."""
    with database.write(serial=True) as connection:
        if not sa.inspect(connection).has_table(settings.name):
            metadata.create_all(connection)
            if database.is_sqlite:
                connection.exec_driver_sql(AUDIT_WORDS_SQLITE)
            else:
                audit_words_postgresql.create(connection)
            write_setting(connection, "schema", str(SCHEMA_VERSION))
            return
        found = read_number(connection, "schema")
        if found is None or not 1 <= found <= SCHEMA_VERSION:
            raise DatabaseError(
                f"the database has schema {found or '(none)'}, and this release knows 1 to {SCHEMA_VERSION}; "
                "serve it with the release that wrote it, or a newer one"
            )
        _upgrade(connection, found)


def _upgrade(connection: sa.Connection, found: int) -> None:
    """Bring the schema from version ``found`` to SCHEMA_VERSION, within the caller's transaction."""
    if found == SCHEMA_VERSION:
        return
    metadata.create_all(connection)  # tables that a later version added; existing ones are left as they are
    for version in range(found + 1, SCHEMA_VERSION + 1):
        for statement in UPGRADES[version]:
            connection.exec_driver_sql(statement)
    write_setting(connection, "schema", str(SCHEMA_VERSION))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (DamagedValueError, StillLockedError) as exc:
        raise DatabaseError(str(exc)) from exc
    except sa.exc.SQLAlchemyError as exc:
        reason = getattr(exc, "orig", None) or exc
        words = str(reason).partition(" with text ")[0]  # what cannot be decoded may be content, and logs hold none
        raise DatabaseError(f"the database failed: {type(reason).__name__}: {words}") from exc
    except OSError as exc:
        raise DatabaseError(f"the database failed: {exc.strerror}") from exc
