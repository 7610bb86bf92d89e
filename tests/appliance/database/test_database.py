"""Opening a database, its transactions, and what it refuses."""

from __future__ import annotations

import fcntl
import stat
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from appliance.database.tables import storable, users
from appliance.database.transactions import (
    Database,
    DatabaseError,
    as_iso,
    from_iso,
    now_us,
    open_database,
    read_setting,
    write_setting,
)
from tests.appliance.conftest import PostgreSQL


def test_opening_twice_keeps_what_was_written(database: Database, database_url: str) -> None:
    with database.write() as connection:
        write_setting(connection, "colour", "green")
    again = open_database(database_url)
    with again.read() as connection:
        assert read_setting(connection, "colour") == "green"
    again.close()


def test_many_processes_may_open_a_new_database_at_once(database_url: str) -> None:
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            open_database(database_url).close()
        except DatabaseError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_failed_block_undoes_the_transaction(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:  # noqa: PT012
        write_setting(connection, "colour", "green")
        raise ZeroDivisionError
    with database.read() as connection:
        assert read_setting(connection, "colour") is None


def test_reader_sees_one_state(database: Database) -> None:
    with database.read() as reader:
        assert read_setting(reader, "colour") is None
        with database.write() as connection:
            write_setting(connection, "colour", "green")
        assert read_setting(reader, "colour") is None
    with database.read() as reader:
        assert read_setting(reader, "colour") == "green"


def test_reading_connection_cannot_write_on_postgresql(postgresql: PostgreSQL) -> None:
    database = open_database(postgresql.empty_database())
    with pytest.raises(DatabaseError, match="read-only"), database.read() as connection:
        write_setting(connection, "colour", "green")
    database.close()


def test_serial_transactions_exclude_each_other(database: Database) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(10)
        with database.write(serial=True):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with database.write(serial=True):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_sqlite_writers_queue_on_a_lock_file(sqlite: Database, sqlite_url: str) -> None:
    """SQLite alone would let writers retry at random, and some of them wait very long."""
    order: list[str] = []

    def write() -> None:
        with sqlite.write():
            order.append("written")

    with open(sqlite_url.removeprefix("sqlite:///") + ".lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=write)
        thread.start()
        thread.join(0.2)
        order.append("released")
    thread.join(10)
    assert order == ["released", "written"]


def test_write_inside_a_write_is_refused_instead_of_waiting_for_ever(database: Database) -> None:
    with database.write(), pytest.raises(RuntimeError, match="internal error"), database.write():
        pass
    with database.write():  # and the first one has ended properly
        pass


def test_broken_constraint_is_told_apart_from_a_broken_database(database: Database) -> None:
    row = {"id": "1", "name": "ada", "display_name": "", "roles": "", "disabled": False, "created_us": 0}
    with database.write() as connection:
        connection.execute(users.insert().values(row))
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(users.insert().values(row))


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://host/x", "sqlite://", "sqlite:///:memory:"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(DatabaseError, match="URL"):
        open_database(url)


def test_unreachable_postgresql_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError):
        open_database(f"postgresql:///site?host={tmp_path}")


def test_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "site.sqlite3"
    path.write_bytes(b"this is no database, but something dear to somebody" * 100)
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="not a database"):
        open_database(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_sqlite_file_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "site.sqlite3"
    database = open_database(f"sqlite:///{path}")
    with database.write() as connection:
        write_setting(connection, "colour", "green")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    database.close()


def test_sqlite_commits_reach_the_disk(sqlite_url: str) -> None:
    database = open_database(sqlite_url)
    with database.read() as connection:
        pragmas = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in (
            "journal_mode", "synchronous", "foreign_keys", "secure_delete")}  # fmt: skip
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    database.close()


def test_text_is_made_storable_on_the_way_in_and_in_what_is_looked_for(database: Database) -> None:
    with database.write() as connection:
        write_setting(connection, "a\0b", "c\ud800d")
    with database.read() as connection:
        assert read_setting(connection, "a\0b") == storable("c\ud800d") == "c\N{REPLACEMENT CHARACTER}d"


def test_times_survive_their_text_form() -> None:
    for time_us in (0, 1, 1_795_398_974_059_955, now_us()):
        assert from_iso(as_iso(time_us)) == time_us
    assert as_iso(1) == "1970-01-01T00:00:00.000001Z"
