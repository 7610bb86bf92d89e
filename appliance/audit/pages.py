"""Checks what the pages read beside the log itself: an index could hide an event, and an account could lie.

1. The database's structure: `PRAGMA integrity_check` compares every index with its table; indexes and tables of the
   record are defined as this release defines them; no trigger and no view stands between the pages and the tables.
2. Events confirm what the badge says of verification and export; otherwise somebody else wrote it. Each account has the
   roles and the state that the log gave it last.
3. The search index has the words of the contents (word_check.py).
4. Every prompt has its answer. One that has none, and that no process answers, is a remark and no fault: the recorder
   closes such prompts in turn (interrupted.py), within an hour of its start.

What this does not cover: passwords, keys and links. Their values are never in the log.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from appliance.audit.fault import Fault
from appliance.audit.full_check import CHECKED, EXPORTED, last_check, last_export
from appliance.audit.tree import MAX_REMARKS
from appliance.audit.word_check import check_words
from appliance.database.damaged_rows import read_rows
from appliance.database.tables import AUDIT_WORDS_SQLITE, audit_contents, audit_events, metadata, users
from appliance.database.transactions import Database, read_setting
from appliance.turns.interrupted import lost_prompts

_LOST = "this prompt has no answer, and no process is known to answer it; the recorder closes it within an hour"
_RECORD_TABLES = ("audit_events", "audit_contents", "audit_checkpoints")


@dataclass(frozen=True)
class PagesReport:
    """``unchecked`` are sentences without an end; ``seconds`` says what each part took."""

    faults: tuple[Fault, ...]
    remarks: tuple[Fault, ...]
    unchecked: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def checked(self) -> list[str]:
        """What was."""
        return [f"{part} in {seconds:.1f} s" for part, seconds in self.seconds.items()]


def check_pages(database: Database, *, processes: int = 1) -> PagesReport:
    """Check everything listed above.

    Args:
        processes: how many may work at once; only a process without other threads may start some.
    Raises:
        DatabaseError: the database cannot be read at all.
    """
    faults: list[Fault] = []
    unchecked = []
    seconds: dict[str, float] = {}
    began_s = time.perf_counter()
    with database.read() as connection:
        faults += check_accounts(connection) + check_claims(connection)
        seconds["accounts"], began_s = time.perf_counter() - began_s, time.perf_counter()
        if database.is_sqlite:
            faults += _check_structure(connection)
        else:
            unchecked.append("the indexes of PostgreSQL, for which there is its extension amcheck")
        seconds["indexes"], began_s = time.perf_counter() - began_s, time.perf_counter()
        faults += check_words(connection, is_sqlite=database.is_sqlite, database=database, processes=processes)
        seconds["words"] = time.perf_counter() - began_s
    began_s = time.perf_counter()
    remarks = tuple(Fault(number, number, _LOST) for number in lost_prompts(database, MAX_REMARKS))
    seconds["answers"] = time.perf_counter() - began_s
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return PagesReport(tuple(faults), remarks, tuple(unchecked), rounded)


def check_claims(connection: sa.Connection) -> list[Fault]:
    """A last verification or a last export that no event confirms; the badge does not believe them."""
    faults = []
    if read_setting(connection, CHECKED) and last_check(connection) is None:
        faults.append(Fault(0, 0, "the database says that every event was checked, and no event tells of it"))
    if read_setting(connection, EXPORTED) and last_export(connection) is None:
        faults.append(Fault(0, 0, "the database says that a checkpoint has left, and no event tells of it"))
    return faults


def check_accounts(connection: sa.Connection) -> list[Fault]:
    """Accounts whose roles or state are not what the log said last."""
    roles, disabled, unknown = _said_of_accounts(connection)
    faults = []
    present = set()
    there = {column["name"] for column in sa.inspect(connection).get_columns(users.name)}  # an earlier copy has fewer
    query = sa.select(*(column for column in users.c if column.name in there))
    found = read_rows(connection, query.order_by(users.c.name), users.c.name, lambda row: row)
    for damaged in found.damaged:
        present.add(damaged.name)
        faults.append(Fault(0, 0, f"the account {damaged.name} is damaged: {damaged}"))
    for row in found:
        present.add(row.name)
        if row.name not in disabled:
            faults.append(Fault(0, 0, f"the account {row.name} is there, and no event made it"))
            continue
        if row.name not in unknown and _sorted(row.roles) != roles[row.name][1]:
            sequence, said = roles[row.name]
            message = f"the account {row.name} has the roles {row.roles}, and this event gave it {said}"
            faults.append(Fault(sequence, sequence, message))
        if bool(row.disabled) != disabled[row.name][1]:
            sequence, is_disabled = disabled[row.name]
            words = ("enabled", "disabled") if is_disabled else ("disabled", "enabled")
            message = f"the account {row.name} is {words[0]}, and this event {words[1]} it"
            faults.append(Fault(sequence, sequence, message))
    faults += [
        Fault(disabled[name][0], disabled[name][0], f"the account {name} is gone, and no event removed it")
        for name in sorted(disabled.keys() - present)
    ]
    return faults


_Said = dict[str, tuple[int, str]]


def _said_of_accounts(connection: sa.Connection) -> tuple[_Said, dict[str, tuple[int, bool]], set[str]]:
    """For each account the event that gave its roles and the one that set its state; and the accounts whose roles were
    erased."""
    events, contents = audit_events.c, audit_contents.c
    query = sa.select(events.sequence, events.action, events.subject, contents.text)
    query = query.select_from(audit_events.outerjoin(audit_contents, events.sequence == contents.sequence))
    actions = ("user_created", "roles_changed", "user_disabled", "user_enabled")
    query = query.where(events.action.in_(actions)).order_by(events.sequence)
    roles: _Said = {}
    disabled: dict[str, tuple[int, bool]] = {}
    unknown = set[str]()
    for sequence, action, name, text in connection.execute(query):
        if action in ("user_created", "roles_changed"):
            (unknown.add if text is None else unknown.discard)(name)
            roles[name] = sequence, _sorted(str(text or "").rpartition("-> ")[2])
        if action != "roles_changed":
            disabled[name] = sequence, action == "user_disabled"
    return roles, disabled, unknown


def _sorted(roles: object) -> str:
    return ",".join(sorted(part.strip() for part in str(roles).split(",")))


def _check_structure(connection: sa.Connection) -> list[Fault]:
    """What is wrong with the file, its indexes and its definitions."""
    faults = [
        Fault(0, 0, f"the database file is damaged: {line}")
        for line in connection.exec_driver_sql("PRAGMA integrity_check").scalars()
        if line != "ok"
    ]
    return faults + _check_definitions(connection, _defined())


def _check_definitions(connection: sa.Connection, expected: dict[tuple[str, str], str]) -> list[Fault]:
    faults = []
    found = _definitions(connection)
    for kind, name in found:
        if kind in ("trigger", "view"):
            faults.append(Fault(0, 0, f"the database has a {kind} {name}, which this appliance never makes"))
    for (kind, name), definition in expected.items():
        if (kind, name) not in found:
            faults.append(Fault(0, 0, f"the {kind} {name} is missing in the database"))
        elif found[kind, name] != definition:
            faults.append(Fault(0, 0, f"the {kind} {name} in the database is not defined as this appliance defines it"))
    extra = [name for kind, name in found if kind == "index" and (kind, name) not in expected]
    faults += [Fault(0, 0, f"the database has an index {name}, which this appliance never makes") for name in extra]
    return faults


def _defined() -> dict[tuple[str, str], str]:
    """The tables and indexes of the record as this release makes them."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection, tables=[metadata.tables[name] for name in _RECORD_TABLES])
        connection.exec_driver_sql(AUDIT_WORDS_SQLITE)
        return _definitions(connection)


def _definitions(connection: sa.Connection) -> dict[tuple[str, str], str]:
    """By kind and name: triggers and views of the whole database, tables and indexes of the record."""
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master"
    rows: Sequence[sa.Row[tuple[str, str, str, str | None]]] = connection.exec_driver_sql(query).all()
    return {
        (row.type, row.name): " ".join((row.sql or "").split())
        for row in rows
        if row.type in ("trigger", "view") or row.tbl_name in _RECORD_TABLES or row.tbl_name.startswith("audit_words")
    }
