"""The list of people that an administrator searches: one page of accounts, with what each row says beside the account.

Search is by a part of the name or of the display name, in any case of ASCII letters. Damaged rows are left out here;
`Accounts.list_users` names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa

from appliance.database.damaged_rows import Rows, read_rows
from appliance.database.tables import group_members, people_groups, users
from appliance.database.transactions import Database, as_datetime
from appliance.people.users import Role, User, user_of_row

PAGE_PEOPLE: Final = 50

State = Literal["", "active", "disabled", "invited"]  # "invited": without a password, so never signed in


@dataclass(frozen=True)
class Person:
    """One account of the list."""

    user: User
    signed_in_at: datetime | None
    has_password: bool
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """What is looked for; an empty field takes everybody. ``page`` counts from 1."""

    text: str = ""
    role: Role | None = None
    group_id: str = ""
    state: State = ""
    page: int = 1


@dataclass(frozen=True)
class Found:
    """One page of what was found, of ``total`` people on ``pages`` pages."""

    people: Rows[Person]
    total: int
    page: int
    pages: int


def find_people(database: Database, search: Search) -> Found:
    """The people of one page, by name. A page after the last is the last one."""
    wanted = _condition(search)
    with database.read() as connection:
        total = connection.scalar(sa.select(sa.func.count()).select_from(users).where(wanted)) or 0
        pages = max(1, -(-total // PAGE_PEOPLE))
        page = min(max(search.page, 1), pages)
        query = sa.select(users).where(wanted).order_by(users.c.name)
        query = query.limit(PAGE_PEOPLE).offset((page - 1) * PAGE_PEOPLE)
        named = _group_names(connection)

        def person(row: sa.Row[Any]) -> Person:
            return _person(row, named.get(row.id, ()))

        return Found(read_rows(connection, query, users.c.name, person), total, page, pages)


def find_person(database: Database, user_id: str) -> Person | None:
    """One account, or None."""
    with database.read() as connection:
        row = connection.execute(sa.select(users).where(users.c.id == user_id)).one_or_none()
        return None if row is None else _person(row, _group_names(connection, user_id).get(user_id, ()))


def _person(row: sa.Row[Any], groups: tuple[str, ...]) -> Person:
    at = None if row.signed_in_us is None else as_datetime(row.signed_in_us)
    return Person(user_of_row(row), at, row.password_hash is not None, groups)


def _condition(search: Search) -> sa.ColumnElement[bool]:
    parts: list[sa.ColumnElement[bool]] = [sa.true()]
    if search.text:
        columns = users.c.name, users.c.display_name
        parts.append(sa.or_(*(sa.func.lower(c).contains(search.text.lower(), autoescape=True) for c in columns)))
    if search.role is not None:  # roles are words with commas between, none of which is a part of another
        parts.append(users.c.roles.contains(search.role.value))
    if search.group_id:
        members = sa.select(group_members.c.user_id).where(group_members.c.group_id == search.group_id)
        parts.append(users.c.id.in_(members))
    match search.state:
        case "active":
            parts.append(sa.and_(sa.not_(users.c.disabled), users.c.password_hash.is_not(None)))
        case "disabled":
            parts.append(users.c.disabled)
        case "invited":
            parts.append(sa.and_(sa.not_(users.c.disabled), users.c.password_hash.is_(None)))
    return sa.and_(*parts)


def _group_names(connection: sa.Connection, user_id: str = "") -> dict[str, tuple[str, ...]]:
    """The names of each person's groups."""
    query = sa.select(group_members.c.user_id, people_groups.c.name).join(people_groups).order_by(people_groups.c.name)
    if user_id:
        query = query.where(group_members.c.user_id == user_id)
    found: dict[str, tuple[str, ...]] = {}
    for member, name in connection.execute(query):
        found[member] = (*found.get(member, ()), name)
    return found
