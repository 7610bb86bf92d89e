"""What the tables hold of the tree: how many events there are, and the hashes that stand beside them."""

from __future__ import annotations

import sqlalchemy as sa

from appliance.audit import merkle
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import DatabaseError


class LogDamagedError(DatabaseError):
    """A stored hash that is needed is missing."""


def log_size(connection: sa.Connection) -> int:
    """The number of the last event."""
    return connection.scalar(sa.select(sa.func.max(audit_events.c.sequence))) or 0


def stored_hashes(connection: sa.Connection, subtrees: list[merkle.Subtree]) -> list[bytes]:
    """The stored hashes of complete subtrees, each kept with the event that completed it.

    Raises:
        LogDamagedError: one is missing.
    """
    columns = audit_events.c
    query = sa.select(columns.sequence, columns.subtrees).where(columns.sequence.in_([s.end for s in subtrees]))
    rows = {row.sequence: row.subtrees for row in connection.execute(query)}
    hashes = []
    for subtree in subtrees:
        start = subtree.level * merkle.HASH_BYTES
        stored = rows.get(subtree.end)
        value = stored[start : start + merkle.HASH_BYTES] if isinstance(stored, bytes) else b""
        if len(value) != merkle.HASH_BYTES:
            raise LogDamagedError(f"the hash of {1 << subtree.level} events ending with event {subtree.end} is missing")
        hashes.append(value)
    return hashes


def check_inserted(connection: sa.Connection, size: int, events: int, contents: int) -> None:
    """Believe that events are in the database only if they can be read there: a trigger, or a constraint that ignores
    conflicts, swallows an insertion without an error, and the next event would take the same number.

    Raises:
        LogDamagedError: some are not.
    """
    for table, expected in ((audit_events, events), (audit_contents, contents)):
        query = sa.select(sa.func.count()).select_from(table).where(table.c.sequence.between(size + 1, size + events))
        if connection.scalar(query) != expected:
            raise LogDamagedError(
                f"the database does not keep what is written into {table.name}: somebody has changed what the database "
                "does; see: appliance audit verify"
            )
