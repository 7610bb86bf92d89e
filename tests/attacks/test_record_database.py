"""Somebody writes to the database beside the appliance: values of any type in the tables of accounts and settings, and
a lock that is never released. Every page and command answers in words.
"""

from __future__ import annotations

import fcntl
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from appliance.audit.event import Actor
from appliance.database.stored_values import LAST_US
from appliance.database.write_queue import WriteQueue
from appliance.people.accounts import Role
from appliance.people.four_eyes import Change
from appliance.people.key_rights import KeyRights
from tests.attacks.test_record_review import NOT_UTF8, allow_any_value, database_file
from tests.webui.conftest import PASSWORD, Browser, Site

COLUMNS = {
    "users": ("id", "name", "display_name", "roles", "password_hash", "disabled", "created_us", "vouched_by",
              "admin_ended_us"),
    "sessions": ("token_hash", "user_id", "address", "created_us", "seen_us"),
    "api_keys": ("id", "user_id", "label", "secret_hash", "created_us", "used_us", "revoked_us", "expires_us",
                 "scopes", "requests_per_minute", "tokens_per_day"),
    "api_key_use": ("full_us", "day", "tokens"),  # a key whose row is gone gets another
    "links": ("token_hash", "user_id", "roles", "first_admin", "expires_us", "ended", "made_by"),
    "approvals": ("id", "kind", "subject_id", "subject", "roles_before", "roles", "end_keys", "requester_id",
                  "requester", "created_us", "state", "decided_by"),
    "sign_in_limits": ("key", "full_us"),
    "known_addresses": ("user_id", "network", "seen_us"),
    "recorded_bytes": ("user_id", "day", "bytes", "refused"),
    "audit_checkpoints": ("size", "note"),
    "settings": ("name", "value"),
}  # fmt: skip
PAGES = ("/account", "/admin", "/review/1")
VALUES = (None, "xyz", b"\xff\xfe", -(2**62), 1.5, NOT_UTF8, LAST_US)
SETTINGS = ("9" * 5000, "9" * 30, "[" * 60_000, '{"time_us": 1e30, "size": 1, "intact": 1}',
            '{"time_us": 999999999999999999999, "size": 1, "intact": true}')  # fmt: skip


class Inhabited:
    """A site where every table has rows, with everybody who uses it."""

    def __init__(self, site: Site) -> None:
        self.site, services = site, site.services
        self.user = site.add_user("ada", *Role)
        other = site.add_user("bob", Role.ADMIN)
        self.key = site.add_key(self.user, KeyRights(requests_per_minute=60_000, tokens_per_day=1_000_000))
        self.link = services.accounts.make_reset_link(other.id, by=Actor("", "root", "cli"))
        services.approvals.ask(
            Change("roles", other.id, "bob", other.roles, frozenset(Role)), by=self.user.actor("web", "127.0.0.1")
        )
        self.browser: Browser = site.browser(self.user)
        site.browser().post("/sign-in", name="ada", password="wrong")
        self.ask()
        with services.record.database.write() as connection:
            connection.exec_driver_sql("INSERT INTO audit_checkpoints VALUES (1, 'none')")
            connection.exec_driver_sql("INSERT OR IGNORE INTO recorded_bytes VALUES (?, 20000, 1, 0)", (self.user.id,))
            for name in ("turns_closed_to", "audit_exported_us", "audit_checked", "audit_fault", "written_us"):
                connection.exec_driver_sql("INSERT OR IGNORE INTO settings VALUES (?, '1')", (name,))

    def ask(self) -> int:
        body = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"Authorization": f"Bearer {self.key}"}
        return self.site.app.test_client().post("/v1/chat/completions", json=body, headers=headers).status_code

    def statuses(self) -> dict[str, int]:
        """The status of every page."""
        stranger = self.site.app.test_client()
        form = {"name": "ada", "password": PASSWORD}
        return {
            **{path: self.browser.get(path).status_code for path in PAGES},
            "key": self.ask(),
            "link": stranger.get(f"/welcome/{self.link}").status_code,
            "sign-in": stranger.post("/sign-in", data=form, headers={"Origin": "http://localhost"}).status_code,
        }


@contextmanager
def damaged(path: Path, table: str, column: str, value: object) -> Iterator[None]:
    """Put `value` into `column` of every row (for a key: of one row); undo it afterwards."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        rows = connection.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid").fetchall()  # noqa: S608
        assert rows, table
        is_sql = value is NOT_UTF8
        with connection:
            for rowid, _ in rows:
                connection.execute(
                    f"UPDATE OR IGNORE {table} SET {column} = {value if is_sql else '?'} WHERE rowid = {rowid}",  # noqa: S608
                    [] if is_sql else [value],
                )
        try:
            yield
        finally:
            with connection:
                for rowid, before in rows:
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", [before, rowid])  # noqa: S608


@pytest.mark.parametrize("table", COLUMNS)
def test_any_value_in_a_table_beside_the_record_is_answered_in_words(site: Site, table: str) -> None:
    home = Inhabited(site)
    path = database_file(site)
    allow_any_value(path)
    site.services.record.database.engine.dispose()  # connections know the old definitions
    for column in COLUMNS[table]:
        if (table, column) == ("audit_checkpoints", "size"):
            continue  # SQLite stores only whole numbers in a rowid
        for value in (*VALUES, *(SETTINGS if table == "settings" else ())):
            with damaged(path, table, column, value):
                wrong = {what: status for what, status in home.statuses().items() if status == 500}
                assert not wrong, (column, value, wrong)
    assert home.ask() == 200


@contextmanager
def locked_for_ever(site: Site) -> Iterator[None]:
    """Another process locks the file on which writers queue. The site waits a moment instead of ten seconds."""
    path = database_file(site)
    lock = path.with_name(path.name + ".lock")
    database = site.services.record.database
    database._queue = WriteQueue(lock, longest_wait_s=0.05)
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def test_a_lock_that_is_never_given_back_is_said_and_not_waited_for(site: Site) -> None:
    home = Inhabited(site)
    with locked_for_ever(site):
        answered = home.statuses()
        assert home.browser.get("/review").status_code == 503  # a look that cannot be recorded shows nothing
        assert "not available just now" in home.browser.get("/review").text.lower()
        assert home.ask() == 503
    assert answered["/account"] == 200  # pages that only read still work
    assert {status for status in answered.values() if status not in (200, 503)} == set()
    assert home.ask() == 200
    assert home.browser.get("/review").status_code == 200


def test_writers_who_give_up_leave_nothing_behind(site: Site) -> None:
    home = Inhabited(site)
    before = set(threading.enumerate())
    with locked_for_ever(site):
        for _ in range(5):
            assert home.ask() == 503
        waiting = [thread for thread in set(threading.enumerate()) - before if thread.name == "write-queue"]
        assert len(waiting) == 1
    assert home.ask() == 200


def test_commands_say_in_one_line_what_is_damaged(site: Site) -> None:
    home = Inhabited(site)
    for column, words in (("created_us", "users.created_us holds a value"), ("roles", "a role that this release")):
        with damaged(database_file(site), "users", column, "xyz"):
            command = [sys.executable, "-m", "appliance.cli", "users", "link", "ada"]
            command += ["--home", str(site.services.config.home)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert home.ask() == 200
