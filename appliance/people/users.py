"""What an account is: its name, its roles, whether it is disabled, and what the table ``users`` says of it.

Changes are made by accounts.py, four_eyes.py and sign_in.py, each in a transaction with its event.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from appliance.audit.event import Actor, Via
from appliance.database.damaged_rows import Rows, read_rows
from appliance.database.tables import users
from appliance.database.transactions import DatabaseError, as_datetime
from appliance.errors import ApplianceError

NAME_PATTERN: Final = r"[a-z0-9][a-z0-9._\-]{0,63}"  # for browsers, too: they want the dash escaped
NAME_RULE: Final = (
    "A user name has 1 to 64 characters: small letters from a to z, digits, dot, dash and underscore. "
    "It begins with a letter or a digit."
)
_NAME: Final = re.compile(NAME_PATTERN)


class Role(StrEnum):
    """What a person may do; roles do not include one another."""

    USER = "user"  # chats
    REVIEWER = "reviewer"  # reads the record
    ADMIN = "admin"  # manages accounts and settings, reads no content


ALL_ROLES = frozenset(Role)


class AccountError(ApplianceError):
    """A change of an account is refused; the message is for the person who asked."""


class NoLongerAdminError(AccountError):
    """The one who asked is no administrator any more."""


class UserNotFoundError(AccountError):
    """There is no such user."""

    def __init__(self) -> None:
        super().__init__("There is no such user.")


@dataclass(frozen=True)
class User:
    """One account, without its secrets."""

    id: str
    name: str
    display_name: str
    roles: frozenset[Role]
    disabled: bool
    created_at: datetime

    def actor(self, via: Via, address: str = "") -> Actor:
        """This user, acting."""
        return Actor(self.id, self.name, via, address)


def user_of_row(row: sa.Row[Any]) -> User:
    created_at = as_datetime(row.created_us)
    return User(row.id, row.name, row.display_name, parse_roles(row.roles), bool(row.disabled), created_at)


def find_user(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> User:
    """The one user for whom the condition holds.

    Raises:
        UserNotFoundError: there is none.
    """
    row = connection.execute(sa.select(users).where(condition)).one_or_none()
    if row is None:
        raise UserNotFoundError
    return user_of_row(row)


def read_users(connection: sa.Connection, query: sa.Select[Any]) -> Rows[User]:
    """The accounts of a query over the table."""
    return read_rows(connection, query, users.c.name, user_of_row)


def active_admins(connection: sa.Connection) -> list[User]:
    """The administrators who are not disabled, by name. One whose row is damaged can do nothing, and is left out."""
    query = sa.select(users).where(sa.not_(users.c.disabled)).order_by(users.c.name)
    return [user for user in read_users(connection, query) if Role.ADMIN in user.roles]


def able_admins(connection: sa.Connection) -> list[User]:
    """The active administrators who can sign in. An unused first one-time link means that there is no password yet."""
    query = sa.select(users).where(sa.not_(users.c.disabled), users.c.password_hash.is_not(None))
    return [user for user in read_users(connection, query.order_by(users.c.name)) if Role.ADMIN in user.roles]


def has_damaged_user(connection: sa.Connection) -> bool:
    """Whether a row of an account cannot be read: nobody knows whose it is and which roles it has."""
    return bool(read_users(connection, sa.select(users)).damaged)


def check_not_last_admin(connection: sa.Connection, user: User) -> None:
    """Refuse a change that would leave no administrator.

    Raises:
        AccountError: `user` is the only administrator who can sign in.
    """
    if [admin.id for admin in able_admins(connection)] == [user.id]:
        raise AccountError("This is the last administrator; make another one first.")


def check_still_admin(connection: sa.Connection, by: Actor) -> None:
    """Refuse a change by somebody who is no administrator any more: while the change waited for its turn, the role or
    the account may have ended.

    Raises:
        NoLongerAdminError: a person acts who is none.
    """
    if by.via in ("cli", "system"):
        return
    if by.user_id not in {admin.id for admin in active_admins(connection)}:
        raise NoLongerAdminError(f"{by.name} is no administrator any more. Nothing was changed.")


def check_free(connection: sa.Connection, name: str) -> None:
    """Refuse a name that somebody has.

    Raises:
        AccountError: it is taken.
    """
    if connection.execute(sa.select(users.c.id).where(users.c.name == name)).first():
        raise AccountError(f"The name {name} is taken.")


def is_name(name: str) -> bool:
    """Whether an account can have this name."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """The name of a new account, without the blanks around it. It is never changed in silence: capitals are refused.

    Raises:
        AccountError: it is not a name.
    """
    name = name.strip()
    if is_name(name):
        return name
    if is_name(name.lower()):
        raise AccountError(f"A user name has no capital letters. You can choose {name.lower()} instead.")
    raise AccountError(NAME_RULE)


def checked_roles(roles: Iterable[Role]) -> frozenset[Role]:
    """The roles as a set.

    Raises:
        AccountError: there is none.
    """
    wanted = frozenset(roles)
    if not wanted:
        raise AccountError("An account needs at least one role.")
    return wanted


def parse_roles(joined: str) -> frozenset[Role]:
    """Roles as they are stored.

    Raises:
        DatabaseError: there is a role that this release does not know.
    """
    try:
        return frozenset(Role(part) for part in joined.split(",") if part)
    except ValueError as exc:
        raise DatabaseError("the database holds a role that this release does not know") from exc


def join_roles(roles: Iterable[Role]) -> str:
    """Roles as they are stored and recorded."""
    return ",".join(sorted(roles))
