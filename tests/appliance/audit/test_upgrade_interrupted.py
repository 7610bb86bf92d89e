"""Upgrades that do not come to their end: whatever ends one, the database is as the earlier release left it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from appliance.audit.log import AuditLog
from appliance.audit.upgrade import upgrade
from appliance.audit.verify import verify_log
from appliance.database import migrate  # alembic is loaded once, before the many processes of these tests
from appliance.database.transactions import DatabaseError, SchemaError, open_database
from tests.appliance.conftest import PostgreSQL
from tests.appliance.earlier import everything_in, make_earlier

assert migrate
_READS = ("SELECT", "PRAGMA", "BEGIN")


def upgrade_it(url: str, state_dir: Path) -> None:
    open_database(url, upgrade=partial(upgrade, state_dir=state_dir)).close()


@contextmanager
def listening(event: str, listener: Callable[..., None]) -> Iterator[None]:
    """What happens on every engine that is made meanwhile."""
    sa.event.listen(sa.Engine, event, listener)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, event, listener)


def in_another_process(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    with contextlib.suppress(BaseException):
        work()
        status = 0
    os._exit(status)


def killed_at(url: str, state_dir: Path, number: int) -> bool:
    """Whether the upgrade was killed just before its statement with this number that writes, the commit included."""
    count = 0

    def reached(*arguments: Any) -> None:
        nonlocal count
        statement = str(arguments[2]).lstrip().upper() if len(arguments) > 1 else "COMMIT"
        if not statement.startswith(_READS):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        with listening("before_cursor_execute", reached), listening("commit", reached):
            upgrade_it(url, state_dir)

    _, status = os.waitpid(in_another_process(work), 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


def test_an_upgrade_that_is_killed_before_any_of_its_statements_changes_nothing(
    database_url: str, tmp_path: Path
) -> None:
    make_earlier(database_url, 1)
    before = everything_in(database_url)
    number = 1
    while killed_at(database_url, tmp_path, number):
        assert everything_in(database_url) == before, number
        number += 1
    assert number > 20
    database = open_database(database_url)
    assert AuditLog(database).size() == 6
    assert verify_log(database, None).faults == ()
    database.close()


def test_of_many_starts_at_once_one_upgrades(database_url: str, tmp_path: Path) -> None:
    make_earlier(database_url, 1)
    children = [in_another_process(lambda: upgrade_it(database_url, tmp_path)) for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    database = open_database(database_url)
    assert AuditLog(database).size() == 6
    database.close()


def test_a_disk_that_fills_during_the_upgrade_leaves_the_earlier_schema(sqlite_url: str, tmp_path: Path) -> None:
    """SQLite's own limit of pages: it gives the same error as the disk, at the same places."""
    make_earlier(sqlite_url, 1)
    before = everything_in(sqlite_url)

    def limit(connection: Any, _record: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    with listening("connect", limit), pytest.raises(DatabaseError, match="database or disk is full"):
        upgrade_it(sqlite_url, tmp_path)
    assert everything_in(sqlite_url) == before
    upgrade_it(sqlite_url, tmp_path)


def test_a_database_that_can_only_be_read_is_refused_in_words(sqlite_url: str, tmp_path: Path) -> None:
    make_earlier(sqlite_url, 1)
    before = everything_in(sqlite_url)

    def read_only(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA query_only = ON")

    match = "the database failed: OperationalError: attempt to write a readonly database"
    with listening("connect", read_only), pytest.raises(DatabaseError, match=match):
        upgrade_it(sqlite_url, tmp_path)
    assert everything_in(sqlite_url) == before


def test_a_role_of_postgresql_that_may_not_alter_tables_is_refused_in_words(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    url = postgresql.empty_database()
    make_earlier(url, 1)
    with psycopg.connect(host=postgresql.directory, user="postgres", dbname="postgres") as connection:
        connection.execute("DROP ROLE IF EXISTS clerk")
        connection.execute("CREATE ROLE clerk LOGIN")
        connection.execute("GRANT USAGE, CREATE ON SCHEMA public TO clerk")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk")
    before = everything_in(url)
    try:
        with pytest.raises(DatabaseError, match="the database failed: InsufficientPrivilege: must be owner of table"):
            upgrade_it(url.replace("postgres@", "clerk@"), tmp_path)
        assert everything_in(url) == before
    finally:
        with psycopg.connect(host=postgresql.directory, user="postgres", dbname="postgres") as connection:
            connection.execute("DROP OWNED BY clerk")
            connection.execute("DROP ROLE clerk")


def test_a_database_that_became_a_newer_one_s_meanwhile_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    """Between the first look at the revision and the transaction: the newer release's recorder was quicker."""
    make_earlier(sqlite_url, 1)

    def too_late(database: Any) -> None:
        upgrade_it(sqlite_url, tmp_path)
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
        upgrade(database, state_dir=tmp_path)

    with pytest.raises(SchemaError, match="a newer release has upgraded the database to the schema 0099"):
        open_database(sqlite_url, upgrade=too_late)
