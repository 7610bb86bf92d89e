"""This release serves a site of an earlier one: confined as always, with the real recorder and web application."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appliance.audit.log import AuditLog
from appliance.audit.verify import verify_log
from appliance.config import init_state, load_config
from appliance.database.tables import SCHEMA
from appliance.database.transactions import DatabaseError, open_database
from appliance.runtime.site_lock import lock_site
from tests.appliance.audit.test_upgrade import EARLIER_SITE
from tests.appliance.earlier import everything_in
from tests.appliance.supervised import ENGINE, supervised
from tests.appliance.test_cli import run
from tests.attacks.test_strange_ends import RECORDER
from tests.unprivileged import give_to_user
from tests.webui.served import write_release


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site that commit 57270c6 made, with another release beside it."""
    subprocess.run(["tar", "-xzf", EARLIER_SITE, "-C", tmp_path, "--no-same-owner"], check=True)
    init_state(tmp_path)
    write_release(tmp_path / "current", "gpt-oss-fake")
    return tmp_path


def test_the_recorder_upgrades_the_database_before_anything_else_uses_it(home: Path) -> None:
    with supervised(home, release=False, engine=ENGINE, recorder=RECORDER, web="webui.wsgi:app") as site:
        assert site.url
        assert f"the database was upgraded from the schema 0001 to {SCHEMA}" in site.said()
        site.process.terminate()
        assert site.process.wait(30) == 0, site.said()
    config = load_config(home)
    database = open_database(config.database_url)
    log = AuditLog(database)
    actions = [log.get(number).header.action for number in range(5, log.size() + 1)]
    assert actions[:2] == ["schema_upgraded", "appliance_started"]
    assert "attempt_refused" not in actions
    assert "process_ended" not in actions
    assert verify_log(database, config.state_dir).faults == ()
    database.close()


@pytest.mark.parametrize("command", [("users", "list"), ("audit", "verify"), ("doctor",)])
def test_a_command_leaves_the_database_of_an_earlier_release_and_says_what_upgrades_it(
    home: Path, command: tuple[str, ...]
) -> None:
    """The earlier release may be serving it: a new one is installed before it is started."""
    config = load_config(home)
    give_to_user(home)
    before = everything_in(config.database_url)
    done = run(*command, "--home", home)
    assert done.exit_code == 1
    assert f"has the schema 0001 of an earlier release, and this release uses {SCHEMA}: start the" in done.output
    assert everything_in(config.database_url) == before


def test_the_command_upgrades_without_serving_and_only_a_site_that_is_not_served(home: Path) -> None:
    give_to_user(home)
    url = load_config(home).database_url
    locks = lock_site(load_config(home))
    try:
        refused = run("upgrade", "--home", home)
        assert (refused.exit_code, refused.stderr) == (1, f"Error: {home} is already being served by another process\n")
    finally:
        for lock in locks:
            os.close(lock)
    with pytest.raises(DatabaseError, match="of an earlier release"):
        open_database(url)
    for _ in range(2):
        done = run("upgrade", "--home", home)
        assert (done.exit_code, done.stdout) == (0, f"The database has the schema {SCHEMA}, which this release uses.\n")
    database = open_database(url)
    assert AuditLog(database).get(5).header.actor.via == "cli"
    assert AuditLog(database).size() == 5
    database.close()


def test_the_command_upgrades_a_damaged_record_only_for_a_reason(home: Path) -> None:
    give_to_user(home)
    path = home / "state" / "database" / "appliance.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        change_an_event(connection)
    give_to_user(home)  # what SQLite made beside it
    assert "the record is damaged" in run("upgrade", "--home", home).stderr
    assert run("upgrade", "--home", home, "--despite-damage", " ").exit_code == 2
    assert run("upgrade", "--home", home, "--despite-damage", "a disk died").exit_code == 0
    assert "FAULT  event 3" in run("audit", "verify", "--home", home).stdout


def change_an_event(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE audit_events SET subject = 'eve' WHERE sequence = 3")


def claim_a_newer_schema(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("INSERT INTO alembic_version VALUES ('0099')")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_an_event, "the record is damaged, so the database stays at the schema 0001 of the earlier release: "),
        (claim_a_newer_schema, f"to the schema 0099, and this release knows none after {SCHEMA}: serve the site with"),
    ],
)
def test_a_database_that_cannot_be_served_ends_the_start_with_the_reason(
    home: Path, change: Callable[[sqlite3.Connection], None], words: str
) -> None:
    config = load_config(home)
    assert config.database_file is not None
    with closing(sqlite3.connect(config.database_file)) as connection, connection:
        change(connection)
    before = everything_in(config.database_url)
    with supervised(home, release=False, engine=ENGINE, recorder=RECORDER, web="webui.wsgi:app") as site:
        assert site.process.wait(30) == 1
        said = site.said()
    assert said.count(words) == 1  # it is not tried again
    assert said.endswith("Error: the recorder cannot serve as things are; see its message above\n")
    assert everything_in(config.database_url) == before
