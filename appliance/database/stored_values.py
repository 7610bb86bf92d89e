"""Columns that give out only what the appliance writes: SQLite keeps a value of any type in any column.

Whoever can write the database can put anything into a row of an account. Read as it stands it would end a page in the
middle of something else, or be taken for another value. Here such a value raises `DamagedValueError`, which
`appliance.database.transactions` makes a `DatabaseError`: the page says what is damaged and shows nothing of it.

Not for the record, whose damage is shown (`appliance.audit.rows`), nor for conversations, of which one may be damaged
without hiding the others. PostgreSQL keeps no such values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

LAST_US: Final = 253_402_300_799_999_999  # the end of the year 9999


class DamagedValueError(Exception):
    """A value that the appliance has not written; the text names its column."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} holds a value that the appliance does not write; somebody has changed the database")


class _Stored(sa.types.TypeDecorator[Any]):
    """A type whose values are looked at when they are read."""

    impl: type[sa.types.TypeEngine[Any]] = sa.Text
    cache_ok = True

    def __init__(self, where: str, *, optional: bool) -> None:
        super().__init__()
        self.where = where
        self.optional = optional

    def is_right(self, value: object) -> bool:
        return isinstance(value, str)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any] | None:
        if dialect.name != "sqlite":
            return super().result_processor(dialect, coltype)

        def checked(value: object) -> object:  # in the place of the type's own: it makes n zeros of an integer n
            if (value is None and self.optional) or self.is_right(value):
                return value
            raise DamagedValueError(self.where)

        return checked


class StoredNumber(_Stored):
    """A whole number."""

    impl = sa.BigInteger
    cache_ok = True

    def is_right(self, value: object) -> bool:
        return type(value) is int


class StoredTime(StoredNumber):
    """Microseconds since 1970 that a calendar has."""

    cache_ok = True

    def is_right(self, value: object) -> bool:
        return type(value) is int and 0 <= value <= LAST_US


class StoredFlag(_Stored):
    """Yes or no, which SQLite keeps as 1 or 0."""

    impl = sa.Boolean
    cache_ok = True

    def is_right(self, value: object) -> bool:
        return type(value) is int and value in (0, 1)


class StoredBytes(_Stored):
    """Bytes."""

    impl = sa.LargeBinary
    cache_ok = True

    def is_right(self, value: object) -> bool:
        return isinstance(value, bytes)


class StoredText(_Stored):
    """Text; what is written goes through the type that the column had."""

    cache_ok = True

    def __init__(self, where: str, *, optional: bool, written_as: sa.types.TypeDecorator[str] | None = None) -> None:
        super().__init__(where, optional=optional)
        self.written_as = written_as

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        written = self.written_as
        return value if written is None else written.process_bind_param(value, dialect)


def check_what_is_read(*tables: sa.Table) -> None:
    """Give every column of these tables a type that looks at what is read.

    Raises:
        TypeError: a column has a type that nothing here stands for.
    """
    for table in tables:
        for column in table.c:
            column.type = _checked_type(column)


def _checked_type(column: sa.Column[Any]) -> _Stored:
    where, optional = f"{column.table.name}.{column.name}", bool(column.nullable)
    match column.type:
        case sa.types.TypeDecorator() as text:
            return StoredText(where, optional=optional, written_as=text)
        case sa.Boolean():
            return StoredFlag(where, optional=optional)
        case sa.LargeBinary():
            return StoredBytes(where, optional=optional)
        case sa.Integer() if column.name.endswith("_us"):
            return StoredTime(where, optional=optional)
        case sa.Integer():
            return StoredNumber(where, optional=optional)
    raise TypeError(f"internal error: {where} has a type that is not foreseen")
