"""Many people at once, from a table (CSV): all of them are added, or none, and every bad line is named.

    ada,Ada Lovelace,user,North gate
    grace,Grace Hopper,user reviewer,

The columns are name, display name, roles (words with blanks between; empty: user) and group (empty: none; it must be
there). A first line that begins with "name" is a heading. Commas separate the columns, or semicolons if the first line
has no comma.

What needs a second administrator is no part of a table: such a person is added alone, and waits for the other one
(four_eyes.py). So the rules hold for each line as they hold for one account.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.database.tables import people_groups
from appliance.database.transactions import now_us
from appliance.people.account_changes import Transaction, give_link, insert_user, open_admin_change
from appliance.people.four_eyes import Change, SecondNeededError, check_alone
from appliance.people.groups import join_group
from appliance.people.users import AccountError, Role, check_free, checked_name

MOST_PEOPLE: Final = 500
_COLUMNS: Final = 4


@dataclass(frozen=True)
class LineFault:
    """A line that cannot be used, counted from 1, and why."""

    line: int
    words: str

    def __str__(self) -> str:
        return f"Line {self.line}: {self.words}"


class BulkError(AccountError):
    """Nobody was added; ``faults`` has every bad line."""

    def __init__(self, faults: Sequence[LineFault]) -> None:
        wrong = "one line is wrong" if len(faults) == 1 else f"{len(faults)} lines are wrong"
        super().__init__(f"Nobody was added: {wrong}.")
        self.faults = tuple(faults)


@dataclass(frozen=True)
class NewPerson:
    """What one line asks for."""

    line: int
    name: str
    display_name: str
    roles: frozenset[Role]
    group: str


def parse_people(text: str) -> list[NewPerson]:
    """The people of a table.

    Raises:
        BulkError: a line cannot be read, or a name stands twice.
    """
    people: list[NewPerson] = []
    faults: list[LineFault] = []
    lines_of: dict[str, int] = {}
    for line, cells in _rows(text):
        try:
            person = _person(line, cells)
            if person.name in lines_of:
                raise AccountError(f"{person.name} stands in line {lines_of[person.name]}, too.")
            lines_of[person.name] = line
            people.append(person)
        except AccountError as exc:
            faults.append(LineFault(line, str(exc)))
    if not people and not faults:
        faults.append(LineFault(1, "There is nobody in this table."))
    if len(people) > MOST_PEOPLE:
        faults.append(LineFault(people[MOST_PEOPLE].line, f"A table has at most {MOST_PEOPLE} people."))
    if faults:
        raise BulkError(faults)
    return people


def add_people(
    record: AuditLog, people: Sequence[NewPerson], *, by: Actor, clock_us: Callable[[], int] = now_us
) -> list[tuple[str, str]]:
    """Add everybody in one transaction; returns each name with the token of a one-time link.

    Raises:
        NoLongerAdminError: the one who asks is no administrator any more.
        BulkError: a name is taken, a group is not there, or a line needs a second administrator.
    """
    with open_admin_change(record, by, clock_us=clock_us) as change:
        groups = {row.name: row.id for row in change.connection.execute(sa.select(people_groups))}
        reasons, faults = _judged(change, people, groups.keys())
        if faults:
            raise BulkError(faults)
        return [
            (person.name, _add(change, person, groups.get(person.group), why))
            for person, why in zip(people, reasons, strict=True)
        ]


def _judged(
    change: Transaction, people: Sequence[NewPerson], groups: Collection[str]
) -> tuple[list[str], list[LineFault]]:
    """What the record says of each line, and what is wrong with the others."""
    reasons, faults = [], []
    for person in people:
        try:
            check_free(change.connection, person.name)
            if person.group and person.group not in groups:
                raise AccountError(f"There is no group {person.group}; make it first.")
            wanted = Change("create", None, person.name, frozenset(), person.roles)
            reasons.append(check_alone(change.connection, wanted, change.by, now_us=change.now_us))
        except SecondNeededError:
            words = "Another administrator must confirm a reviewer or administrator, so add this person alone."
            faults.append(LineFault(person.line, f"{person.name}: {words}"))
        except AccountError as exc:
            faults.append(LineFault(person.line, str(exc)))
    return reasons, faults


def _add(change: Transaction, person: NewPerson, group_id: str | None, why: str) -> str:
    user = insert_user(change, person.name, person.display_name, None, person.roles, why=why)
    if group_id is not None:
        join_group(change, user, group_id)
    return give_link(change, user, why=why)


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that say something, without the heading.

    Raises:
        BulkError: the text is no table.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    first = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=";" if ";" in first and "," not in first else ",", strict=True)
    is_first = True
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            is_heading, is_first = is_first and bool(cells) and cells[0].lower() == "name", is_first and not any(cells)
            if any(cells) and not is_heading:
                yield reader.line_num, cells
    except csv.Error as exc:
        raise BulkError([LineFault(reader.line_num, f"The line cannot be read: {exc}.")]) from exc


def _person(line: int, cells: list[str]) -> NewPerson:
    if len(cells) > _COLUMNS:
        raise AccountError(f"There are {len(cells)} columns; the columns are name, display name, roles, group.")
    name, display_name, roles, group = (*cells, *[""] * (_COLUMNS - len(cells)))
    return NewPerson(line, checked_name(name), display_name, _roles(roles), " ".join(group.split()))


def _roles(words: str) -> frozenset[Role]:
    given = words.lower().replace("+", " ").split() or [Role.USER.value]
    unknown = [word for word in given if word not in set(Role)]
    if unknown:
        raise AccountError(f"There is no role {unknown[0]}; the roles are user, reviewer and admin.")
    return frozenset(map(Role, given))
