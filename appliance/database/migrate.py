"""Brings the schema of an earlier release up to date, within a transaction of the caller.

    with database.rebuild() as connection:
        migrate(connection, schema_of(connection).revision)

1. A database of before alembic gets alembic's table, with the revision that its number stands for.
2. Alembic runs the migrations after that revision (migrations/versions), all in the caller's transaction.
3. On SQLite every foreign key still refers to a row.
4. The tables are those of `tables.metadata`, by alembic's own comparison. So a database that claims a revision that it
   does not have is refused.

What the migrations do to the record is not checked here (appliance/audit/upgrade.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError

from appliance.database.message_words import message_words_postgresql
from appliance.database.schema import MIGRATIONS, keep_revision
from appliance.database.tables import alembic_version, audit_words_postgresql, metadata
from appliance.database.transactions import SchemaError

_NAMED_DIFFERENCES: Final = 3


def migrate(connection: sa.Connection, found: str, *, migrations: Path = MIGRATIONS) -> None:
    """Bring the tables from the revision `found` to the newest, in the caller's transaction.

    Args:
        migrations: the directory of env.py and versions/.
    Raises:
        SchemaError: the tables are not those of the revision; the caller undoes the transaction.
        sqlalchemy.exc.SQLAlchemyError: a statement failed.
    """
    if not sa.inspect(connection).has_table(alembic_version.name):
        keep_revision(connection, found)
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise SchemaError(f"the schema {found} cannot be upgraded: {exc}") from exc
    _check_foreign_keys(connection)
    differences = differences_of(connection)
    if differences:
        named = ", ".join(differences[:_NAMED_DIFFERENCES])
        raise SchemaError(
            f"the database claims to have the schema {found}, but its tables differ from it ({named}): somebody has "
            "changed the database; nothing was upgraded; restore the site's state/ from a backup"
        )


def differences_of(connection: sa.Connection) -> list[str]:
    """How the tables of the database differ from those of this release, in words. Other tables are not looked at."""
    found = _differences(connection, metadata)
    if connection.dialect.name == "postgresql":
        found += _differences(connection, audit_words_postgresql.metadata)
        found += _differences(connection, message_words_postgresql.metadata)
    return [_words(difference) for difference in found]


def _differences(connection: sa.Connection, expected: sa.MetaData) -> list[Any]:
    def is_expected(name: str | None, kind: str, parents: Any) -> bool:
        return kind != "table" or name in expected.tables

    context = MigrationContext.configure(connection, opts={"include_name": is_expected})
    return list(compare_metadata(context, expected))


def _words(difference: Any) -> str:
    """One of alembic's differences: a tuple that begins with its kind, or a list of them about one column."""
    kind, *about = difference[0] if isinstance(difference, list) else difference
    names = [name for part in about if isinstance(name := getattr(part, "name", part), str)]
    verb, _, what = kind.partition("_")
    if verb == "add":
        return f"the {what} {'.'.join(names)} is missing"
    return " ".join((kind.replace("_", " "), *names))


def _check_foreign_keys(connection: sa.Connection) -> None:
    """SQLite enforces none of them in such a transaction (`Database.rebuild`).

    Raises:
        SchemaError: a row refers to one that is not there.
    """
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise SchemaError(f"row {broken[1]} of the table {broken[0]} refers to a row of {broken[2]} that is not there")
