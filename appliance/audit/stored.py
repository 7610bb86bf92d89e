"""The signed checkpoints in the database: for each size the newest.

They are a copy for the pages and for evidence; the ledger decides (ledger.py).
"""

from __future__ import annotations

import sqlalchemy as sa

from appliance.database.tables import audit_checkpoints
from appliance.database.transactions import Database


def newest_note(database: Database) -> str | None:
    """The latest stored checkpoint as it was signed."""
    with database.read() as connection:
        return connection.scalar(sa.select(audit_checkpoints.c.note).order_by(audit_checkpoints.c.size.desc()).limit(1))


def largest_size(database: Database) -> int | None:
    """The size of the latest stored checkpoint."""
    with database.read() as connection:
        size: int | None = connection.scalar(sa.select(sa.func.max(audit_checkpoints.c.size)))
    return size


def note_of_size(database: Database, size: int) -> str | None:
    """The stored checkpoint of the first `size` events."""
    with database.read() as connection:
        return connection.scalar(sa.select(audit_checkpoints.c.note).where(audit_checkpoints.c.size == size))


def store_note(database: Database, size: int, note: str) -> None:
    """Keep a checkpoint in the place of an earlier one of the same size."""
    with database.write() as connection:
        connection.execute(audit_checkpoints.delete().where(audit_checkpoints.c.size == size))
        connection.execute(audit_checkpoints.insert().values(size=size, note=note))


def forget_notes(database: Database) -> None:
    """Remove all: signing begins anew, and the ledger keeps what was signed before."""
    with database.write() as connection:
        connection.execute(audit_checkpoints.delete())
