"""How the database is opened and written: transactions, the appliance's own notes, and time.

The tables are in tables.py, the revision of the schema is in schema.py.

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from appliance.database.presence import FilePresence, Presence, SessionPresence
from appliance.database.schema import Standing, create_tables, schema_of
from appliance.database.stored_values import LAST_US, DamagedValueError
from appliance.database.tables import SCHEMA, settings
from appliance.database.write_queue import StillLockedError, WriteQueue
from appliance.errors import ApplianceError

_SERIAL_LOCK_ID = 0x67706F61  # "gpoa", the advisory lock of serial transactions on PostgreSQL
_BUSY_TIMEOUT_MS = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DatabaseError(ApplianceError):
    """The database cannot be opened, read or written."""


class SchemaError(DatabaseError):
    """This release cannot use the database as it is: trying again does not help."""


class ClockError(ApplianceError):
    """The clock shows a time that no event can have."""


def is_undecodable(exc: DatabaseError) -> bool:
    """Whether the driver refused a text that is not UTF-8. SQLite keeps such text; the appliance never writes it."""
    return isinstance(exc.__cause__, sa.exc.DBAPIError) and is_undecodable_value(exc.__cause__)


def is_undecodable_value(exc: sa.exc.DBAPIError) -> bool:
    """The same for errors that the driver itself raises within a transaction."""
    return "decode" in str(exc.orig).lower()


# How far the clock may be set back. Whatever has a beginning later than this after now began under a wrong clock, and
# would not end in time.
CLOCK_SLACK_US = 3600 * 1_000_000


def now_us() -> int:
    """The time, in microseconds since 1970-01-01 UTC.

    Raises:
        ClockError: the clock is before 1970; such a time could be written and not read again.
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
        self.presence: Presence = (
            SessionPresence(engine, self.read) if lock_path is None else FilePresence(lock_path.with_suffix(".turns"))
        )
        self._local = threading.local()

    @property
    def directory(self) -> Path | None:
        """The directory of its files, where processes may keep other files that they share; None for a server."""
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
        with self._writing() as connection, self._transaction(connection, serial=serial):
            yield connection

    @contextmanager
    def rebuild(self) -> Iterator[sa.Connection]:
        """A serial transaction that may change tables.

        SQLite changes most of a table by making another, copying the rows and dropping the old one, which would also
        delete every row that refers to them. So foreign keys are not enforced; the caller checks them at the end.

        Raises:
            DatabaseError: nothing was changed.
        """
        with (
            self._writing() as connection,
            _without_foreign_keys(connection),
            self._transaction(connection, serial=True),
        ):
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A connection whose transactions write, and on SQLite the lock of the one writer."""
        if getattr(self._local, "writing", False):
            raise RuntimeError("internal error: a write transaction inside another one would wait for itself")
        self._local.writing = True
        try:
            with _translated(), ExitStack() as stack:
                if self._queue is not None:
                    stack.enter_context(self._queue.turn())
                yield stack.enter_context(self.engine.connect().execution_options(appliance_write=True))
        finally:
            self._local.writing = False

    @contextmanager
    def _transaction(self, connection: sa.Connection, *, serial: bool) -> Iterator[None]:
        with connection.begin():
            if serial and not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SERIAL_LOCK_ID)))
            yield

    def close(self) -> None:
        """Close the connections that are not in use. End the turns of this process first: from now on they are lost."""
        self.engine.dispose()
        self.presence.disappear()


def open_database(url: str, *, upgrade: Callable[[Database], None] | None = None) -> Database:
    """The database at `url` (``sqlite:///PATH`` or ``postgresql://..``), made on first use.

    Args:
        upgrade: brings a database of an earlier release up to date; None: such a database is refused. Only one process
            upgrades, the recorder (appliance/audit/upgrade.py): another release may serve the site at this moment.
    Raises:
        SchemaError: the tables are not those of this release, and are not to be upgraded or cannot be.
        DatabaseError: it cannot be opened.
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
        _prepare_schema(database, upgrade)
    except ApplianceError:
        database.close()
        raise
    return database


@contextmanager
def open_copy(path: Path) -> Iterator[Database]:
    """Open an SQLite database to read it, without writing a byte beside it; read-only media will do.

    A write-ahead log beside the file is part of the database. SQLite cannot read one without writing, so both are then
    copied to a temporary directory first.

    Raises:
        SchemaError: its tables are not those of this release or an earlier one.
        DatabaseError: it cannot be read.
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
            schema = schema_of(connection)
        if schema.standing not in (Standing.CURRENT, Standing.OLDER):
            has = f"the schema {schema.revision}" if schema.revision else "no schema"
            raise SchemaError(f"{path} has {has}, and this release reads those up to {SCHEMA}")
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
    """A note that is a number or a time in microseconds; None if it is missing or something else."""
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


def _prepare_schema(database: Database, upgrade: Callable[[Database], None] | None) -> None:
    """Make the tables of a new database, and see that those of another are this release's."""
    with database.read() as connection:
        schema = schema_of(connection)
    if schema.standing is Standing.EMPTY:
        with database.write(serial=True) as connection:
            schema = schema_of(connection)  # somebody else may have made them meanwhile
            if schema.standing is Standing.EMPTY:
                create_tables(connection)
                return
    if schema.standing is Standing.OLDER and upgrade is not None:
        upgrade(database)
    elif schema.standing is not Standing.CURRENT:
        raise SchemaError(schema.problem())


@contextmanager
def _without_foreign_keys(connection: sa.Connection) -> Iterator[None]:
    """Have SQLite not enforce them in the next transaction; within one, this could no longer be changed."""
    if connection.dialect.name != "sqlite":
        yield
        return
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        cursor.execute("PRAGMA foreign_keys = ON")


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
        words = str(reason).partition(" with text ")[0]  # that text may be content, which logs must not hold
        raise DatabaseError(f"the database failed: {type(reason).__name__}: {words}") from exc
    except OSError as exc:
        raise DatabaseError(f"the database failed: {exc.strerror}") from exc
