"""Column types that return only values as the appliance writes them: SQLite keeps a value of any type in any column.

Anybody who can write the database can put anything into a row of an account. Such a value would break a page halfway,
or be taken for another value. Here it raises `DamagedValueError`, which `appliance.database.transactions` turns into a
`DatabaseError`: the page says what is damaged and shows nothing of it.

The record does not use these types, because its damage is shown (`appliance.audit.rows`). Neither do conversations: a
damaged one must not hide the others. PostgreSQL keeps no such values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

LAST_US: Final = 253_402_300_799_999_999  # the end of the year 9999


class DamagedValueError(Exception):
    """The appliance did not write this value; the text names its column."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} holds a value that the appliance does not write; somebody has changed the database")


class _Stored(sa.types.TypeDecorator[Any]):
    """A type that checks each value when it is read."""

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

        def checked(value: object) -> object:  # replaces the type's own, which makes n zero bytes of a number n
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
    """Microseconds since 1970, up to the end of the year 9999."""

    cache_ok = True

    def is_right(self, value: object) -> bool:
        return type(value) is int and 0 <= value <= LAST_US


class StoredFlag(_Stored):
    """Yes or no; SQLite keeps it as 1 or 0."""

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
    """Text. Values are written through the column's original type."""

    cache_ok = True

    def __init__(self, where: str, *, optional: bool, written_as: sa.types.TypeDecorator[str] | None = None) -> None:
        super().__init__(where, optional=optional)
        self.written_as = written_as

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        written = self.written_as
        return value if written is None else written.process_bind_param(value, dialect)


def check_what_is_read(*tables: sa.Table) -> None:
    """Give every column of these tables a type that checks what is read.

    Raises:
        TypeError: there is no checking type for a column's type.
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
