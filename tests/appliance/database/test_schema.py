"""The revision of a database: what a new one has, what the migrations lead to, and what is refused in which words."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from appliance.database.message_words import saying
from appliance.database.migrate import differences_of, migrate
from appliance.database.schema import MIGRATIONS, Standing, schema_of
from appliance.database.tables import SCHEMA, alembic_version, api_keys, messages
from appliance.database.transactions import Database, SchemaError, open_copy, open_database, write_setting
from tests.appliance.earlier import KEY_MADE_US, everything_in, make_earlier, open_as_it_is, sqlite_file


def claim(database: Database, *revisions: object) -> None:
    """Have the database say that its schema has these revisions."""
    with database.write() as connection:
        connection.execute(alembic_version.delete())
        for revision in revisions:
            connection.execute(alembic_version.insert().values(version_num=revision))


def test_a_new_database_has_the_tables_and_the_revision_of_this_release(database: Database) -> None:
    with database.read() as connection:
        assert differences_of(connection) == []
        assert schema_of(connection).standing is Standing.CURRENT


def test_the_newest_migration_leads_to_the_revision_of_the_tables() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA


@pytest.mark.parametrize("version", [1, 2])
def test_the_migrations_lead_to_the_tables_of_a_new_database(database_url: str, version: int) -> None:
    make_earlier(database_url, version)
    database = open_as_it_is(database_url)
    with database.rebuild() as connection:
        schema = schema_of(connection)
        assert (schema.revision, schema.standing) == (f"000{version}", Standing.OLDER)
        assert differences_of(connection) != []
        migrate(connection, schema.revision)
        assert differences_of(connection) == []
        assert schema_of(connection).standing is Standing.CURRENT
        ends_us = connection.scalar(sa.select(api_keys.c.expires_us))
        assert ends_us == KEY_MADE_US + 365 * 24 * 3600 * 1_000_000  # keys from before end, too
        rights = (api_keys.c.scopes, api_keys.c.requests_per_minute, api_keys.c.tokens_per_day)
        assert connection.execute(sa.select(*rights)).one() == (None, None, None)  # every scope, and no limit
        found = connection.scalars(sa.select(messages.c.id).where(messages.c.number.in_(saying(connection, "earl"))))
        assert found.all() == ["m"]  # what was said before can be found
    database.close()
    open_database(database_url).close()


def test_a_difference_of_the_tables_has_words(sqlite: Database) -> None:
    with sqlite.write() as connection:
        connection.exec_driver_sql("ALTER TABLE users DROP COLUMN vouched_by")
        connection.exec_driver_sql("DROP INDEX ix_approvals_state")
        assert differences_of(connection) == [
            "the index ix_approvals_state is missing", "the column users.vouched_by is missing",
        ]  # fmt: skip


NEXT = f"{int(SCHEMA) + 1:04}"
REBUILT = f"""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "{NEXT}", "{SCHEMA}"
def upgrade():
    with op.batch_alter_table("users", recreate="always") as users:
        pass
    {{more}}
"""


def with_migration(directory: Path, code: str) -> Path:
    """The migrations of this release and one more."""
    shutil.copytree(MIGRATIONS, directory, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "versions" / f"r{NEXT}_trial.py").write_text(code)
    return directory


def test_a_table_that_is_made_anew_keeps_what_refers_to_its_rows(tmp_path: Path, sqlite_url: str) -> None:
    """SQLite would delete it with the old table: keys, sessions and conversations of every account."""
    make_earlier(sqlite_url, 2)
    before = everything_in(sqlite_url)
    database = open_as_it_is(sqlite_url)
    with database.rebuild() as connection:
        migrate(connection, "0002", migrations=with_migration(tmp_path / "trial 100%", REBUILT.format(more="")))
    database.close()
    after = everything_in(sqlite_url)
    assert after["alembic_version"][1] == [f"('{NEXT}',)"]
    for table in ("users", "api_keys", "conversations"):
        assert len(before[table][1]) > 0
        for row, earlier in zip(after[table][1], before[table][1], strict=True):
            assert row.startswith(earlier.removesuffix(")")), "columns are added behind the others"


def test_foreign_keys_are_enforced_again_after_an_upgrade(sqlite_url: str) -> None:
    make_earlier(sqlite_url, 2)
    database = open_as_it_is(sqlite_url)
    with database.rebuild() as connection:
        migrate(connection, "0002")
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"), database.write() as connection:
        connection.exec_driver_sql("UPDATE api_keys SET user_id = 'nobody'")
    database.close()


def test_a_migration_that_leaves_rows_without_what_they_refer_to_is_refused(tmp_path: Path, sqlite_url: str) -> None:
    make_earlier(sqlite_url, 2)
    before = everything_in(sqlite_url)
    code = REBUILT.format(more="""op.execute("DELETE FROM users")""")
    database = open_as_it_is(sqlite_url)
    match = "row 1 of the table (api_keys|conversations) refers to a row of users that is not there"
    with pytest.raises(SchemaError, match=match), database.rebuild() as connection:
        migrate(connection, "0002", migrations=with_migration(tmp_path / "trial", code))
    database.close()
    assert everything_in(sqlite_url) == before


@pytest.mark.parametrize("version", [1, 2])
def test_only_who_may_upgrade_opens_a_database_of_an_earlier_release(database_url: str, version: int) -> None:
    make_earlier(database_url, version)
    before = everything_in(database_url)
    with pytest.raises(SchemaError) as refused:
        open_database(database_url)
    assert str(refused.value) == (
        f"the database has the schema 000{version} of an earlier release, and this release uses {SCHEMA}: start the "
        "appliance, or wait until it has started; it verifies the record and then upgrades the database"
    )
    assert everything_in(database_url) == before


def test_a_database_of_a_newer_release_is_refused_with_both_revisions_and_what_to_do(
    database: Database, database_url: str
) -> None:
    newer = NEXT
    claim(database, newer)
    for upgrade in (None, lambda _: pytest.fail("it is not to be upgraded")):
        with pytest.raises(SchemaError) as refused:
            open_database(database_url, upgrade=upgrade)
        assert str(refused.value) == (
            f"a newer release has upgraded the database to the schema {newer}, and this release knows none after "
            f"{SCHEMA}: serve the site with the newer release (after `installer rollback`, the same command returns to "
            "it)"
        )


def test_a_release_from_before_alembic_takes_the_database_for_a_newer_one_s(database: Database) -> None:
    """It reads a number in the settings, and its sentence names the number."""
    with database.read() as connection:
        number = connection.exec_driver_sql("SELECT value FROM settings WHERE name = 'schema'").scalar()
    assert number is not None
    assert int(number) > 2


FORGED = [(), ("0001", "0003"), ("",), ("0000",), ("3",), ("two",), ("9" * 5000,), ("-001",), ("٠٠٠٣",), (b"0003",)]


@pytest.mark.parametrize("revisions", FORGED)
def test_a_revision_that_no_release_writes_is_refused_in_words(sqlite_url: str, revisions: tuple[object, ...]) -> None:
    database = open_database(sqlite_url)
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
        for revision in revisions:
            connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (revision,))
    database.close()
    before = everything_in(sqlite_url)
    for upgrade in (None, lambda _: pytest.fail("it is not to be upgraded")):
        with pytest.raises(SchemaError, match=r"no release writes that: somebody has changed the database; restore"):
            open_database(sqlite_url, upgrade=upgrade)
    assert everything_in(sqlite_url) == before


@pytest.mark.parametrize("number", ["0", "3", "-1", "two", "", None])
def test_a_number_that_no_release_before_alembic_wrote_is_refused_in_words(
    database_url: str, number: str | None
) -> None:
    make_earlier(database_url, 2)
    database = open_as_it_is(database_url)
    with database.write() as connection:
        write_setting(connection, "schema", number)
    database.close()
    with pytest.raises(SchemaError, match="no release writes that"):
        open_database(database_url)


@pytest.mark.parametrize("standing", ["newer", "empty"])
def test_a_copy_of_a_newer_or_an_empty_database_is_refused(tmp_path: Path, sqlite: Database, standing: str) -> None:
    path = sqlite_file(str(sqlite.engine.url))
    if standing == "newer":
        claim(sqlite, "0099")
        match = f"has the schema 0099, and this release reads those up to {SCHEMA}"
    else:
        path = tmp_path / "empty"
        path.touch()
        match = "has no schema"
    sqlite.close()
    with pytest.raises(SchemaError, match=re.escape(str(path)) + " " + match), open_copy(path):
        pass


def test_alembic_is_loaded_only_for_an_upgrade() -> None:
    code = "import sys, appliance.cli, appliance.people.accounts, appliance.runtime.recorder, webui.app"
    code += "; print({name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'sqlalchemy'" in loaded
    assert "'alembic'" not in loaded
