"""Groups of people. A group has a name and members; what it allows its members is in quotas.py.

Every change is an event of the record, written in the same transaction. A person may be in several groups. Only an
administrator changes groups; they decide nothing about roles, so one administrator does it alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.tables import group_members, people_groups, quotas, users
from appliance.database.transactions import now_us
from appliance.people.account_changes import Transaction, open_admin_change
from appliance.people.users import AccountError, User, find_user

MAX_GROUPS: Final = 200
_MAX_NAME_CHARS: Final = 64


@dataclass(frozen=True)
class Group:
    """One group; ``members`` is how many people are in it."""

    id: str
    name: str
    members: int


class Groups:
    """The groups of one database; without a state of its own."""

    def __init__(self, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._record = record
        self._clock_us = clock_us

    def list_groups(self) -> list[Group]:
        """All groups by name."""
        count = sa.func.count(group_members.c.user_id).label("members")
        query = sa.select(people_groups.c.id, people_groups.c.name, count).outerjoin(group_members)
        with self._record.database.read() as connection:
            rows = connection.execute(query.group_by(people_groups.c.id, people_groups.c.name)).all()
        return sorted((Group(row.id, row.name, row.members) for row in rows), key=lambda group: group.name)

    def get(self, group_id: str) -> Group:
        """Raises: AccountError: there is no such group."""
        found = next((group for group in self.list_groups() if group.id == group_id), None)
        if found is None:
            raise AccountError("There is no such group.")
        return found

    def members(self, group_id: str) -> list[str]:
        """The names of its members."""
        query = sa.select(users.c.name).join(group_members).where(group_members.c.group_id == group_id)
        with self._record.database.read() as connection:
            return list(connection.scalars(query.order_by(users.c.name)))

    def create(self, name: str, *, by: Actor) -> Group:
        """Raises: AccountError: the name is taken or not a name, or there are too many groups."""
        with self._change(by) as change:
            return create_group(change, name)

    def remove(self, group_id: str, *, by: Actor) -> None:
        """Remove a group; its members stay as they are otherwise."""
        with self._change(by) as change:
            connection = change.connection
            name = _name_of(connection, group_id)
            of_group = sa.and_(quotas.c.kind == "group", quotas.c.holder_id == group_id)
            connection.execute(quotas.delete().where(of_group))
            connection.execute(people_groups.delete().where(people_groups.c.id == group_id))
            change.note("group_changed", name, "removed")

    def set_groups_of(self, user_id: str, group_ids: Iterable[str], *, by: Actor) -> None:
        """Put a person into exactly these groups.

        Raises:
            AccountError: there is no such person or group.
        """
        with self._change(by) as change:
            connection = change.connection
            user, wanted = find_user(connection, users.c.id == user_id), set(group_ids)
            before = set(group_ids_of(connection, user_id))
            for group_id in sorted(wanted - before):
                join_group(change, user, group_id)
            for group_id in sorted(before - wanted):
                of_both = sa.and_(group_members.c.group_id == group_id, group_members.c.user_id == user_id)
                connection.execute(group_members.delete().where(of_both))
                change.note("group_changed", _name_of(connection, group_id), f"without {user.name}")

    def of_person(self, user_id: str) -> list[Group]:
        """The groups that a person is in, by name."""
        with self._record.database.read() as connection:
            mine = set(group_ids_of(connection, user_id))
        return [group for group in self.list_groups() if group.id in mine]

    def _change(self, by: Actor) -> AbstractContextManager[Transaction]:
        return open_admin_change(self._record, by, clock_us=self._clock_us)


def create_group(change: Transaction, name: str) -> Group:
    """As `Groups.create`, within the caller's transaction."""
    name = checked_group_name(name)
    names = set(change.connection.scalars(sa.select(people_groups.c.name)))
    if name in names:
        raise AccountError(f"There is a group {name} already.")
    if len(names) >= MAX_GROUPS:
        raise AccountError(f"There are {MAX_GROUPS} groups, which is as many as there can be.")
    group = Group(secrets.token_hex(8), name, 0)
    change.connection.execute(people_groups.insert().values(id=group.id, name=name, created_us=change.now_us))
    change.note("group_changed", name, "made")
    return group


def join_group(change: Transaction, user: User, group_id: str) -> None:
    """Put a person into one more group.

    Raises:
        AccountError: there is no such group.
    """
    name = _name_of(change.connection, group_id)
    change.connection.execute(group_members.insert().values(group_id=group_id, user_id=user.id))
    change.note("group_changed", name, f"with {user.name}")


def group_ids_of(connection: sa.Connection, user_id: str) -> list[str]:
    """The groups that a person is in."""
    return list(connection.scalars(sa.select(group_members.c.group_id).where(group_members.c.user_id == user_id)))


def checked_group_name(name: str) -> str:
    """The name as it is stored.

    Raises:
        AccountError: it is not a name.
    """
    name = " ".join(name.split())
    if not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
        raise AccountError(f"The name of a group has 1 to {_MAX_NAME_CHARS} printable characters.")
    return name


def _name_of(connection: sa.Connection, group_id: str) -> str:
    name: str | None = connection.scalar(sa.select(people_groups.c.name).where(people_groups.c.id == group_id))
    if name is None:
        raise AccountError("There is no such group.")
    return name
