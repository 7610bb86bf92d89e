"""What the table of usage says: by day, person, group or API key.

A group's line holds what its present members have used, in the group or out of it; a person in two groups counts in
both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import sqlalchemy as sa

from appliance.database.tables import api_keys, group_members, people_groups, usage_by_day, users
from appliance.database.transactions import Database
from appliance.people.usage import MOST, Figures

By = Literal["day", "person", "group", "key"]
CHAT: Final = "(the chat)"
STRANGER: Final = "(nobody signed in)"


@dataclass(frozen=True)
class Line:
    """One line of the table: a day (in days since 1970 UTC, as text), or a name, and how many people it is about."""

    name: str
    people: int
    figures: Figures


def usage_lines(database: Database, by: By, first_day: int, last_day: int) -> list[Line]:
    """The lines of the days from `first_day` to `last_day`: days in order, without those on which nothing was used;
    everything else with the most tokens first."""
    sums = [
        (sa.func.max if one.name in MOST else sa.func.sum)(usage_by_day.c[one.name]).label(one.name)
        for one in fields(Figures)
    ]
    used = sa.case((usage_by_day.c.requests > 0, usage_by_day.c.user_id))
    people = sa.func.count(sa.distinct(used)).label("people")
    source, names = _SOURCES[by]
    query: sa.Select[Any] = sa.select(*names, people, *sums).select_from(source)
    within = usage_by_day.c.day.between(first_day, last_day)
    with database.read() as connection:
        rows = connection.execute(query.where(within).group_by(*(_bare(name) for name in names))).all()
    lines = [Line(_name(by, row), row.people, _figures(row)) for row in rows]
    if by == "day":
        return sorted(lines, key=lambda line: int(line.name))
    return sorted(lines, key=lambda line: (-line.figures.tokens, line.name))


def _or_empty(column: sa.Column[Any]) -> sa.Label[Any]:
    """A column of an outer join, which has no value where nothing joins."""
    return sa.func.coalesce(column, "").label(column.name)


def _bare(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return column.element if isinstance(column, sa.Label) else column


_WITH_PEOPLE: Final = usage_by_day.outerjoin(users, users.c.id == usage_by_day.c.user_id)
_SOURCES: Final[dict[By, tuple[sa.FromClause, tuple[sa.ColumnElement[Any], ...]]]] = {
    "day": (usage_by_day, (usage_by_day.c.day,)),
    "person": (_WITH_PEOPLE, (usage_by_day.c.user_id, _or_empty(users.c.name))),
    "group": (
        usage_by_day.join(group_members, group_members.c.user_id == usage_by_day.c.user_id).join(people_groups),
        (people_groups.c.name,),
    ),
    "key": (
        _WITH_PEOPLE.outerjoin(api_keys, api_keys.c.id == usage_by_day.c.key_id),
        (usage_by_day.c.key_id, _or_empty(users.c.name), _or_empty(api_keys.c.label)),
    ),
}


def _name(by: By, row: sa.Row[Any]) -> str:
    match by:
        case "day":
            return str(row.day)
        case "person":
            return row.name or STRANGER
        case "group":
            return str(row.name)
        case "key":
            whose = row.name or STRANGER
            return f"{whose}/{row.label}" if row.key_id else f"{whose} {CHAT}"


def _figures(row: sa.Row[Any]) -> Figures:
    return Figures(**{one.name: int(getattr(row, one.name) or 0) for one in fields(Figures)})
