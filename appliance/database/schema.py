"""Which revision of the schema a database has, and the tables of a new database.

A new database gets the tables of `tables.metadata` at once. The recorder upgrades the database of an earlier release
when it starts (migrate.py, appliance/audit/upgrade.py). This module does not import alembic, so neither web workers nor
commands load it.

Releases before alembic kept a number in the table `settings`. It counts only where there is no table `alembic_version`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from appliance.database.message_words import MESSAGE_WORDS_SQLITE, message_words_postgresql
from appliance.database.tables import (
    AUDIT_WORDS_SQLITE,
    SCHEMA,
    alembic_version,
    audit_words_postgresql,
    metadata,
    settings,
)

MIGRATIONS: Final = Path(__file__).with_name("migrations")
BEFORE_ALEMBIC: Final = {"1": "0001", "2": "0002"}  # settings.schema -> the revision that stands for it
# settings.schema since alembic: a release from before alembic takes the database for a newer one's and refuses it.
SINCE_ALEMBIC: Final = "3"
_SHOWN_CHARS: Final = 32


class Standing(Enum):
    """How the schema of a database relates to that of this release."""

    EMPTY = "empty"
    CURRENT = "current"
    OLDER = "older"
    NEWER = "newer"
    UNKNOWN = "unknown"  # written by no release


@dataclass(frozen=True)
class Schema:
    """What a database says of its schema. ``revision`` is empty where it says nothing."""

    revision: str
    standing: Standing

    def problem(self) -> str:
        """Why this release cannot use the database as it is, and what to do; for OLDER, NEWER and UNKNOWN."""
        match self.standing:
            case Standing.OLDER:
                return (
                    f"the database has the schema {self.revision} of an earlier release, and this release uses "
                    f"{SCHEMA}: start the appliance, or wait until it has started; it verifies the record and then "
                    "upgrades the database"
                )
            case Standing.NEWER:
                return (
                    f"a newer release has upgraded the database to the schema {self.revision}, and this release knows "
                    f"none after {SCHEMA}: serve the site with the newer release (after `installer rollback`, the same "
                    "command returns to it)"
                )
        return (
            f"the database says that its schema is {self.revision or '(nothing)'}, and no release writes that: "
            "somebody has changed the database; restore the site's state/ from a backup"
        )


def schema_of(connection: sa.Connection) -> Schema:
    """What the database says of its schema."""
    tables = sa.inspect(connection)
    if not tables.has_table(settings.name):
        return Schema("", Standing.EMPTY)
    if tables.has_table(alembic_version.name):
        rows = connection.scalars(sa.select(alembic_version.c.version_num)).all()
        return _classify(rows[0] if len(rows) == 1 else "")
    number = connection.scalar(sa.select(settings.c.value).where(settings.c.name == "schema"))
    revision = BEFORE_ALEMBIC.get(number or "")
    return Schema(_shown(number), Standing.UNKNOWN) if revision is None else Schema(revision, Standing.OLDER)


def create_tables(connection: sa.Connection) -> None:
    """Make the tables of a new database, at the revision of this release."""
    metadata.create_all(connection)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(AUDIT_WORDS_SQLITE)
        connection.exec_driver_sql(MESSAGE_WORDS_SQLITE)
    else:
        audit_words_postgresql.create(connection)
        message_words_postgresql.create(connection)
    connection.execute(settings.insert().values(name="schema", value=SINCE_ALEMBIC))
    keep_revision(connection, SCHEMA)


def keep_revision(connection: sa.Connection, revision: str) -> None:
    """Make alembic's table, which a database of before alembic lacks, with this revision."""
    alembic_version.create(connection)
    connection.execute(alembic_version.insert().values(version_num=revision))


def _classify(found: object) -> Schema:
    """Revisions are four digits and count up from 0001."""
    if not isinstance(found, str) or len(found) != len(SCHEMA) or not (found.isascii() and found.isdecimal()):
        return Schema(_shown(found), Standing.UNKNOWN)
    if found == SCHEMA:
        return Schema(found, Standing.CURRENT)
    if int(found) == 0:
        return Schema(found, Standing.UNKNOWN)
    return Schema(found, Standing.OLDER if found < SCHEMA else Standing.NEWER)


def _shown(found: object) -> str:
    return ascii(found)[1:-1][:_SHOWN_CHARS] if isinstance(found, str) else type(found).__name__
