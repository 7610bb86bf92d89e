"""Reads the rows of a list one by one, so that a damaged row does not hide the others.

    found = read_rows(connection, query, users.c.name, user_of_row)
    found, found.damaged            # the accounts that are whole, and what is wrong with the others

Only SQLite keeps damaged rows (`appliance.database.stored_values`). Code that needs one row, to sign somebody in or to
change the row, gets an error that names the row instead: a value that the appliance did not write must decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from appliance.database.stored_values import DamagedValueError
from appliance.database.transactions import DatabaseError, is_undecodable_value

T = TypeVar("T")

_MAX_NAME_CHARS: Final = 64


@dataclass(frozen=True)
class DamagedRow:
    """A row that is not as the appliance writes it. ``number`` is SQLite's row id, ``name`` the value by which people
    know the row, as far as it can be shown."""

    table: str
    number: int
    name: str
    problem: str

    def __str__(self) -> str:
        return f"row {self.number} of the table {self.table}: {self.problem}"


class Rows(list[T]):
    """What `make` returned for each whole row, in order; ``damaged`` are the other rows."""

    def __init__(self, rows: Iterable[T | DamagedRow]) -> None:
        self.damaged: list[DamagedRow] = []
        for row in rows:
            if isinstance(row, DamagedRow):
                self.damaged.append(row)
            else:
                self.append(row)


def read_rows(
    connection: sa.Connection, query: sa.Select[Any], named: sa.Column[Any], make: Callable[[sa.Row[Any]], T]
) -> Rows[T]:
    """What `make` returns for each row of `query`, in its order.

    Args:
        named: the column by which people know a row of this table.
        make: may raise DatabaseError for a value that the appliance does not write.
    """
    try:
        return Rows([make(row) for row in connection.execute(query).all()])
    except (DamagedValueError, DatabaseError):
        if connection.dialect.name != "sqlite":  # only SQLite numbers its rows
            raise
    except sa.exc.DBAPIError as exc:
        if not is_undecodable_value(exc):
            raise
    rowid = sa.literal_column(f"{named.table.name}.rowid", sa.Integer)
    numbers = connection.scalars(query.with_only_columns(rowid, maintain_column_froms=True)).all()
    return Rows([_alone(connection, query, named, number, make) for number in numbers])


def _alone(
    connection: sa.Connection, query: sa.Select[Any], named: sa.Column[Any], number: int,
    make: Callable[[sa.Row[Any]], T],
) -> T | DamagedRow:  # fmt: skip
    table = named.table.name
    query = query.where(sa.literal_column(f"{table}.rowid") == number)
    try:
        return make(connection.execute(query).one())
    except (DamagedValueError, DatabaseError) as exc:
        problem = str(exc)
    except sa.exc.DBAPIError as exc:
        if not is_undecodable_value(exc):
            raise
        problem = "a text in it is not UTF-8; somebody has changed the database"
    as_bytes = sa.type_coerce(sa.cast(named, sa.LargeBinary), sa.types.NullType())
    name = connection.scalar(query.with_only_columns(as_bytes, maintain_column_froms=True))
    return DamagedRow(table, number, (name or b"").decode(errors="replace")[:_MAX_NAME_CHARS], problem)
