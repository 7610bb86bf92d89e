"""A private PostgreSQL, databases of both kinds, and the record on top of them."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from appliance.audit.log import AuditLog
from appliance.database.transactions import Database, open_database
from tests.conftest import require
from tests.unprivileged import let_through


@dataclass
class PostgreSQL:
    """A running cluster on a Unix socket in ``directory``."""

    directory: str

    def empty_database(self) -> str:
        """Empty the one database. Returns its URL. A new database for each test would take ten times as long."""
        with psycopg.connect(host=self.directory, user="postgres", dbname="postgres") as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return f"postgresql://postgres@/postgres?host={self.directory}"


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A cluster of our own, run by an unprivileged user and reachable only through its socket."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    require(bool(found), "PostgreSQL (initdb)")
    binaries = Path(found[-1]).parent
    user = "nobody" if os.geteuid() == 0 else None  # initdb refuses root
    directory = str(tmp_path_factory.mktemp("pg"))  # an address of a socket has 107 bytes at most
    if user:
        let_through(Path(directory))
        os.chown(directory, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    data = f"{directory}/data"
    control = [f"{binaries}/pg_ctl", "-D", data, "-l", f"{directory}/log", "-s", "-w"]
    options = f"-F -k {directory} -c listen_addresses= -c shared_buffers=16MB"
    initdb = [f"{binaries}/initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"]
    try:
        for command in (initdb, [*control, "-o", options, "start"]):
            subprocess.run(
                command, user=user, check=True, stdout=subprocess.DEVNULL, timeout=60, cwd=directory,
                env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
            )  # fmt: skip
        yield PostgreSQL(directory)
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], user=user, check=False, timeout=60, cwd=directory)
        shutil.rmtree(directory)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/site.sqlite3"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.empty_database()


def _opened(url: str) -> Iterator[Database]:
    """A database that does not wait for the disk. Tests of durability use processes of their own."""
    opened = open_database(url)
    opened.close()
    if opened.is_sqlite:
        sa.event.listen(opened.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    yield opened
    opened.close()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    yield from _opened(database_url)


@pytest.fixture
def log(database: Database) -> AuditLog:
    return AuditLog(database)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/only.sqlite3"


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    """SQLite alone, for tests where the kind of database does not matter or is the point."""
    yield from _opened(sqlite_url)
