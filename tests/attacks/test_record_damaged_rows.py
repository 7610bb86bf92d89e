"""Somebody damages one row of the database. Lists show the other rows, and show the damaged one as damaged."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from appliance.audit.event import Actor
from appliance.audit.pages import check_accounts
from appliance.database.stored_values import LAST_US
from appliance.people.accounts import Role
from appliance.people.four_eyes import Change
from tests.attacks.test_record_database import COLUMNS, VALUES
from tests.attacks.test_record_review import NOT_UTF8, allow_any_value, database_file
from tests.webui.conftest import Browser, Site

ROOT = Actor("", "root", "cli")


class House:
    """Ada uses every page. Of each kind of row, one is damaged: hers or somebody else's."""

    def __init__(self, site: Site) -> None:
        self.site, services = site, site.services
        self.ada, self.path = site.add_user("ada", *Role), database_file(site)
        bob, eve = site.add_user("bob", Role.ADMIN), site.add_user("eve", Role.USER)
        self.browser: Browser = site.browser(self.ada)
        services.accounts.make_reset_link(eve.id, by=ROOT)
        by, roles = self.ada.actor("web", "127.0.0.1"), frozenset(Role)
        for user in (bob, eve):
            services.approvals.ask(Change("roles", user.id, user.name, user.roles, roles), by=by)
        services.sessions.create(self.ada, address="10.1.1.1")
        for number in (1, 2):
            services.api_keys.create(self.ada, f"program {number}", by=by)
            services.conversations.create(self.ada.id, title=f"Talk {number}")
        allow_any_value(self.path)
        services.record.database.engine.dispose()  # connections know the old definitions


# For each list: its table, the damaged row, the page, and what the page must show of the other rows.
LISTS = {
    "users": ("name = 'eve'", "/admin", (">ada<", ">bob<")),
    "approvals": ("subject = 'eve'", "/admin", (">bob<", "change the roles of bob")),
    "links": ("user_id IS NOT NULL", "/admin", (">ada<", ">bob<", ">eve<")),
    "sessions": ("address = '10.1.1.1'", "/account", ("127.0.0.1",)),
    "api_keys": ("label = 'program 1'", "/account", ("program 2",)),
    "conversations": ("title = 'Talk 1'", "/chat", ("Talk 2",)),
}
CONVERSATION = ("id", "title", "pinned", "created_us", "updated_us", "leaf_id")
# Values that the appliance cannot have written, whatever else the column holds.
DAMAGE: dict[str, list[tuple[str, object]]] = {
    "users": [("created_us", "xyz"), ("roles", "emperor"), ("name", b"\xff"), ("id", b"7"), ("disabled", 5)],
    "approvals": [("state", "perhaps"), ("roles", "emperor"), ("created_us", LAST_US), ("subject", NOT_UTF8)],
    "sessions": [("seen_us", "xyz"), ("address", b"\xff"), ("token_hash", "text")],
    "api_keys": [
        ("label", b"7"),
        ("expires_us", "xyz"),
        ("secret_hash", "text"),
        ("scopes", "everything"),
        ("requests_per_minute", 0),
        ("tokens_per_day", -1),
    ],
}


@contextmanager
def damaged(path: Path, table: str, where: str, column: str, value: object) -> Iterator[None]:
    """Put `value` into `column` of one row; undo it afterwards."""
    with closing(sqlite3.connect(path)) as connection:
        rowid, before = connection.execute(f"SELECT rowid, {column} FROM {table} WHERE {where}").fetchone()  # noqa: S608
        is_sql = value is NOT_UTF8
        with connection:
            done = connection.execute(
                f"UPDATE OR IGNORE {table} SET {column} = {value if is_sql else '?'} WHERE rowid = {rowid}",  # noqa: S608
                [] if is_sql else [value],
            )
        assert done.rowcount == 1, (table, column, value)
        try:
            yield
        finally:
            with connection:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {rowid}", [before])  # noqa: S608


@pytest.mark.parametrize("table", LISTS)
def test_one_damaged_row_hides_no_other(site: Site, table: str) -> None:
    house = House(site)
    where, page, others = LISTS[table]
    for column in COLUMNS.get(table, CONVERSATION):
        for value in (*VALUES, 0):
            with damaged(house.path, table, where, column, value):
                answer = house.browser.get(page)
                assert answer.status_code == 200, (column, value)
                for words in others:
                    assert words in answer.text, (column, value, words)


@pytest.mark.parametrize("table", DAMAGE)
def test_a_damaged_row_is_shown_as_damaged(site: Site, table: str) -> None:
    house = House(site)
    where, page, _ = LISTS[table]
    assert "data-damaged" not in house.browser.get(page).text
    for column, value in DAMAGE[table]:
        with damaged(house.path, table, where, column, value):
            assert house.browser.get(page).text.count("data-damaged") == 1, (column, value)


def test_a_damaged_conversation_is_shown_as_damaged(site: Site) -> None:
    house = House(site)
    for column, value in (("title", NOT_UTF8), ("id", b"\xff"), ("updated_us", "xyz"), ("id", NOT_UTF8)):
        with damaged(house.path, "conversations", LISTS["conversations"][0], column, value):
            assert "Damaged conversation" in house.browser.get("/chat").text, (column, value)


def test_a_damaged_account_is_an_alarm_and_a_fault(site: Site) -> None:
    house = House(site)
    with damaged(house.path, "users", "name = 'eve'", "created_us", "xyz"):
        assert "Somebody has damaged accounts in the database: eve." in house.browser.get("/admin").text
        with site.services.record.database.read() as connection:
            found = [str(fault) for fault in check_accounts(connection)]
        assert any(fault.startswith("the account eve is damaged: row") for fault in found), found
        verified = house.browser.post("/review/integrity")
        assert verified.status_code == 200
        assert "the account eve is damaged" in verified.text


def test_damaging_another_administrator_makes_nobody_alone_and_nobody_the_first(site: Site) -> None:
    house = House(site)
    with damaged(house.path, "users", "name = 'bob'", "roles", "emperor"):
        answer = house.browser.post("/admin/users", name="mole", reviewer="yes")
        assert answer.status_code == 303
        assert answer.location.endswith("notice=asked")
        assert "mole" not in [user.name for user in site.services.accounts.list_users()]
    with closing(sqlite3.connect(house.path)) as connection, connection:
        connection.execute("UPDATE users SET roles = 'emperor'")
    assert site.services.accounts.make_first_admin_link() is None


def test_administration_goes_on_beside_a_damaged_account(site: Site) -> None:
    house = House(site)
    with damaged(house.path, "users", "name = 'eve'", "created_us", "xyz"):
        assert house.browser.post("/admin/users", name="carl", user="yes").status_code == 200
        listed = site.services.accounts.list_users()
        assert [user.name for user in listed] == ["ada", "bob", "carl"]
        assert [row.name for row in listed.damaged] == ["eve"]


def test_a_damaged_session_keeps_nobody_from_signing_in(site: Site) -> None:
    house = House(site)
    with damaged(house.path, "sessions", "address = '10.1.1.1'", "token_hash", "text"):
        site.services.sessions.create(house.ada, address="10.2.2.2")
        assert "10.2.2.2" in house.browser.get("/account").text


def test_the_command_lists_the_others_and_the_damaged_one(site: Site) -> None:
    house = House(site)
    command = [sys.executable, "-m", "appliance.cli", "users", "list", "--home", str(site.services.config.home)]
    with damaged(house.path, "users", "name = 'eve'", "created_us", "xyz"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ada", "bob", "eve"]
    assert "DAMAGED, and can do nothing: row" in lines[2]
    assert "users.created_us holds a value that the appliance does not write" in lines[2]
    assert [user.get("roles") for user in json.loads(as_json.stdout)] == [[*sorted(Role)], ["admin"], None]
