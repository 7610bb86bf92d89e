"""How much a person may use: tokens and requests of a day (UTC), and turns at the same time.

A quota is given to one person, to a group, or to everybody. One of a group holds for each of its members, for each
alone. Of all that hold for a person, the strictest decides, limit by limit; an API key's own limits come on top. A
change holds from the next turn on and is an event (``quota_changed``) in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.tables import people_groups, quotas, users
from appliance.database.transactions import now_us
from appliance.people.account_changes import open_admin_change
from appliance.people.groups import group_ids_of
from appliance.people.users import AccountError

Kind = Literal["person", "group", "everybody"]
Of = Literal["tokens_per_day", "requests_per_day", "concurrent_turns"]

OF_WORDS: Final[Mapping[Of, str]] = {
    "tokens_per_day": "tokens a day",
    "requests_per_day": "requests a day",
    "concurrent_turns": "answers at the same time",
}
_MOST: Final[Mapping[Of, int]] = {
    "tokens_per_day": 1_000_000_000_000, "requests_per_day": 1_000_000_000, "concurrent_turns": 10_000,
}  # fmt: skip


@dataclass(frozen=True)
class Quota:
    """What one holder may use; a limit that is None does not exist."""

    tokens_per_day: int | None = None
    requests_per_day: int | None = None
    concurrent_turns: int | None = None

    def words(self) -> str:
        """The limits in one line, for the record and for lists."""
        limits = [(getattr(self, of), words) for of, words in OF_WORDS.items()]
        return "; ".join(f"{limit:,} {words}" for limit, words in limits if limit is not None) or "no limit"


@dataclass(frozen=True)
class Limit:
    """The strictest limit of one kind that holds for a person, and whose quota it is."""

    of: Of
    most: int
    whose: str  # "your account", "the group North", "everybody"


Holding = Mapping[Of, Limit]  # what holds for a person; a kind that is missing has no limit


class Quotas:
    """The quotas of one database; without a state of its own."""

    def __init__(self, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._record = record
        self._clock_us = clock_us

    def get(self, kind: Kind, holder_id: str = "") -> Quota:
        """The quota of one holder; without limits where there is none."""
        mine = sa.and_(quotas.c.kind == kind, quotas.c.holder_id == holder_id)
        with self._record.database.read() as connection:
            row = connection.execute(sa.select(quotas).where(mine)).one_or_none()
        return Quota() if row is None else _quota_of(row)

    def give(self, kind: Kind, holder_id: str, quota: Quota, *, by: Actor) -> None:
        """Give a holder this quota in place of the one before.

        Raises:
            NoLongerAdminError: the one who asks is no administrator any more.
            AccountError: a limit is out of range, or there is no such person or group.
        """
        check_quota(quota)
        mine = sa.and_(quotas.c.kind == kind, quotas.c.holder_id == holder_id)
        with open_admin_change(self._record, by, clock_us=self._clock_us) as change:
            connection = change.connection
            name = _name_of(connection, kind, holder_id)
            row = connection.execute(sa.select(quotas).where(mine)).one_or_none()
            before = Quota() if row is None else _quota_of(row)
            if before == quota:
                return
            connection.execute(quotas.delete().where(mine))
            if quota != Quota():
                limits = {one.name: getattr(quota, one.name) for one in fields(Quota)}
                connection.execute(quotas.insert().values(kind=kind, holder_id=holder_id, **limits))
            change.note("quota_changed", name, f"{kind}: {before.words()} -> {quota.words()}")

    def of_people(self) -> set[str]:
        """The ids of the people who have a quota of their own."""
        with self._record.database.read() as connection:
            return set(connection.scalars(sa.select(quotas.c.holder_id).where(quotas.c.kind == "person")))

    def holding(self, user_id: str) -> Holding:
        """What holds for a person now."""
        with self._record.database.read() as connection:
            return holding_of(connection, user_id)


def holding_of(connection: sa.Connection, user_id: str) -> Holding:
    """The strictest limits for a person, within the caller's transaction. Of equal ones the nearest names its holder:
    the person's own, then the groups' by name, then everybody's."""
    groups = group_ids_of(connection, user_id)
    wanted = sa.or_(
        sa.and_(quotas.c.kind == "person", quotas.c.holder_id == user_id),
        sa.and_(quotas.c.kind == "group", quotas.c.holder_id.in_(groups)),
        quotas.c.kind == "everybody",
    )
    rows = connection.execute(
        sa.select(quotas, sa.func.coalesce(people_groups.c.name, "").label("name"))
        .outerjoin(people_groups, sa.and_(quotas.c.kind == "group", people_groups.c.id == quotas.c.holder_id))
        .where(wanted)
    ).all()
    order = ("person", "group", "everybody")
    holding: dict[Of, Limit] = {}
    for row in sorted(rows, key=lambda row: (order.index(row.kind), row.name)):
        for of in OF_WORDS:
            most = getattr(row, of)
            if most is not None and (of not in holding or most < holding[of].most):
                holding[of] = Limit(of, most, _WHOSE[row.kind].format(row.name))
    return holding


_WHOSE: Final[Mapping[str, str]] = {"person": "your account", "group": "the group {}", "everybody": "everybody"}


def check_quota(quota: Quota) -> None:
    """Raises: AccountError: no quota can have these limits."""
    for of, most in _MOST.items():
        limit = getattr(quota, of)
        if limit is not None and not 0 <= limit <= most:
            raise AccountError(f"A limit of {OF_WORDS[of]} is a whole number from 0 to {most:,}.")


def _quota_of(row: sa.Row[tuple[object, ...]]) -> Quota:
    return Quota(row.tokens_per_day, row.requests_per_day, row.concurrent_turns)


def _name_of(connection: sa.Connection, kind: Kind, holder_id: str) -> str:
    if kind == "everybody" and not holder_id:
        return "everybody"
    table = users if kind == "person" else people_groups
    name: str | None = connection.scalar(sa.select(table.c.name).where(table.c.id == holder_id))
    if kind == "everybody" or name is None:
        raise AccountError(f"There is no such {kind}.")
    return name
