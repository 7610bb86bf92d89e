"""What the pages read beside the log: an index that hides an event, a role that nobody gave."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from appliance.audit.log import AuditLog
from appliance.audit.pages import check_pages
from appliance.database.transactions import Database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from tests.appliance.records import SYSTEM, fill
from tests.webui.conftest import FAST_PASSWORDS


@pytest.fixture
def house(sqlite: Database) -> Accounts:
    """Ada, a disabled user, and Bob, whose roles were changed; and 30 events."""
    log = AuditLog(sqlite)
    accounts = Accounts(AccountStore(log, passwords=FAST_PASSWORDS))
    root = accounts.create_user("root", None, [Role.ADMIN, Role.USER], by=SYSTEM)
    ada = accounts.create_user("ada", None, [Role.USER], by=SYSTEM)
    accounts.disable(ada.id, by=SYSTEM)
    bob = accounts.create_user("bob", None, [Role.USER], by=SYSTEM)
    accounts.set_roles(bob.id, [Role.REVIEWER], by=SYSTEM)
    assert root.roles
    fill(log, 30)
    return accounts


def found(database: Database) -> list[str]:
    return [str(fault) for fault in check_pages(database).faults]


def test_nothing_is_found_in_an_untouched_database(house: Accounts, sqlite: Database) -> None:
    assert found(sqlite) == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE users SET roles = 'admin,user' WHERE name = 'bob'", "the account bob has the roles admin,user"),
        ("UPDATE users SET disabled = 0 WHERE name = 'ada'", "the account ada is enabled"),
        ("UPDATE users SET disabled = 1 WHERE name = 'root'", "the account root is disabled"),
        ("UPDATE users SET name = 'eve' WHERE name = 'ada'", "the account eve is there, and no event made it"),
        ("DELETE FROM users WHERE name = 'ada'", "the account ada is gone"),
        (
            "INSERT INTO settings VALUES "
            """('audit_checked', '{"time_us": 1700000000000000, "size": 9, "intact": true}')""",
            "says that every event was checked, and no event tells of it",
        ),
        (
            "INSERT INTO settings VALUES ('audit_exported_us', '1700000000000000')",
            "says that a checkpoint has left, and no event tells of it",
        ),
        ("CREATE TRIGGER t AFTER INSERT ON audit_events BEGIN SELECT 1; END", "trigger t"),
        ("CREATE VIEW v AS SELECT * FROM audit_events WHERE sequence <> 7", "view v"),
        ("DROP INDEX ix_audit_events_subject", "the index ix_audit_events_subject is missing"),
        ("CREATE INDEX mine ON audit_events(subject) WHERE sequence <> 7", "an index mine"),
    ],
)
def test_what_the_pages_would_believe_is_compared_with_the_log(
    house: Accounts, sqlite: Database, statement: str, words: str
) -> None:
    with sqlite.write() as connection:
        connection.exec_driver_sql(statement)
    assert any(words in fault for fault in found(sqlite)), found(sqlite)


def hide_row_from_index(database: Database) -> None:
    """Rebuild the index with a definition that leaves the row out, then restore the definition."""
    with database.write() as connection:
        connection.exec_driver_sql("DROP INDEX ix_audit_events_actor_name")
        connection.exec_driver_sql(
            "CREATE INDEX ix_audit_events_actor_name ON audit_events (actor_name) WHERE sequence <> 9"
        )
        redefine(connection, " WHERE sequence <> 9", "")
    database.close()


def redefine_index(database: Database) -> None:
    """Replace the index by one of the same name that leaves a row out. Only its definition shows it."""
    with database.write() as connection:
        connection.exec_driver_sql("DROP INDEX ix_audit_events_actor_name")
        connection.exec_driver_sql(
            "CREATE INDEX ix_audit_events_actor_name ON audit_events (actor_name) WHERE sequence <> 9"
        )


def redefine(connection: sa.Connection, old: str, new: str) -> None:
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'ix_audit_events_actor_name'", (old, new)
    )


@pytest.mark.parametrize("attack", [hide_row_from_index, redefine_index])
def test_index_that_hides_an_event_is_found(
    house: Accounts, sqlite: Database, attack: Callable[[Database], None]
) -> None:
    attack(sqlite)
    assert any("ix_audit_events_actor_name" in fault for fault in found(sqlite)), found(sqlite)
