"""Whatever is done to the stored log, the verification names the events."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from appliance.audit import merkle
from appliance.audit.checkpoint import write_checkpoint
from appliance.audit.erasure import erase
from appliance.audit.event import Content, NewEvent, SealedContent, encode_header
from appliance.audit.fault import Fault
from appliance.audit.log import AuditLog
from appliance.audit.verify import verify_log
from appliance.database.tables import audit_checkpoints, audit_contents, audit_events
from appliance.database.transactions import Database
from tests.appliance.records import SYSTEM, fill

SIZE = 21
COLUMNS = [
    *(f"audit_events.{column.name}" for column in audit_events.c),
    *(f"audit_contents.{column.name}" for column in audit_contents.c),
]


@pytest.fixture
def signed(log: AuditLog, tmp_path: Path) -> AuditLog:
    """A log of 21 events, signed at 10 and at 21."""
    fill(log, 10)
    write_checkpoint(log, tmp_path)
    fill(log, SIZE - 10)
    write_checkpoint(log, tmp_path)
    return log


def faults(log: AuditLog, state_dir: Path) -> tuple[Fault, ...]:
    report = verify_log(log.database, state_dir)
    assert report.is_intact == (not report.faults)
    return report.faults


def test_untouched_log_is_intact(signed: AuditLog, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    report = verify_log(signed.database, tmp_path, progress=lambda done, all_: told.append((done, all_)))
    assert (report.size, report.faults, report.erased) == (SIZE, (), 0)
    assert report.root == signed.root(SIZE)
    assert report.checkpoints == 2
    assert report.newest is not None
    assert report.newest.size == SIZE


@pytest.mark.parametrize("sequence", [6, 16])
@pytest.mark.parametrize("column", COLUMNS)
def test_one_changed_byte_is_found_and_its_event_named(
    signed: AuditLog, tmp_path: Path, column: str, sequence: int
) -> None:
    table = audit_events if column.startswith("audit_events") else audit_contents
    if table is audit_contents and sequence % 4 == 0:
        sequence += 1  # every fourth event has no content
    name = column.partition(".")[2]
    with signed.database.write() as connection:
        mine = table.c.sequence == sequence
        old = connection.scalar(sa.select(table.c[name]).where(mine))
        new = 1000 + sequence if name == "sequence" else changed(old)
        connection.execute(table.update().where(mine).values({name: new}))
    found = faults(signed, tmp_path)
    assert any(fault.first <= sequence <= fault.last for fault in found), found
    assert not any(fault.last < sequence for fault in found), found


def changed(value: Any) -> Any:
    """The value with one byte changed."""
    if value is None:
        return bytes(32)
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"


@pytest.mark.parametrize("sequence", [1, 8, 13, 21])
def test_deleted_event_is_named(signed: AuditLog, tmp_path: Path, sequence: int) -> None:
    with signed.database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence == sequence))
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence == sequence))
    assert [fault.first for fault in faults(signed, tmp_path)] == [sequence]


def test_deleted_content_without_an_erasure_is_named(signed: AuditLog, tmp_path: Path) -> None:
    with signed.database.write() as connection:
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence == 7))
    assert faults(signed, tmp_path) == (Fault(7, 7, "its content is gone, and no event says that it was erased"),)


def test_exchanged_events_are_both_named(signed: AuditLog, tmp_path: Path) -> None:
    exchange(signed.database, audit_events, 5, 6)
    assert {5, 6} <= {fault.first for fault in faults(signed, tmp_path)}


def test_exchanged_contents_are_both_named(signed: AuditLog, tmp_path: Path) -> None:
    exchange(signed.database, audit_contents, 5, 6)
    assert [fault.first for fault in faults(signed, tmp_path)] == [5, 6]


def test_inserted_event_and_content_are_named(signed: AuditLog, tmp_path: Path) -> None:
    with signed.database.write() as connection:
        row = dict(connection.execute(sa.select(audit_events).where(audit_events.c.sequence == 3)).one()._mapping)
        connection.execute(audit_events.insert().values({**row, "sequence": -4}))
        connection.execute(audit_events.insert().values({**row, "sequence": SIZE + 1}))
        connection.execute(audit_contents.insert().values(sequence=4, salt=b"s", text="put there", details="{}"))
    assert [fault.first for fault in faults(signed, tmp_path)] == [-4, 4, SIZE + 1, SIZE + 1]


@pytest.mark.parametrize("keep_checkpoints", [True, False])
def test_cut_tail_is_found_by_a_checkpoint_in_the_database_or_a_file(
    signed: AuditLog, tmp_path: Path, keep_checkpoints: bool
) -> None:
    with signed.database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence > 15))
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence > 15))
        if not keep_checkpoints:
            connection.execute(audit_checkpoints.delete())
    removed = [] if keep_checkpoints else [(10, 10)]
    assert [(fault.first, fault.last) for fault in faults(signed, tmp_path)] == [*removed, (16, SIZE)]


def test_consistently_rewritten_log_is_found_between_two_checkpoints(signed: AuditLog, tmp_path: Path) -> None:
    rewrite(signed.database, 13, "a harmless question")
    assert [(fault.first, fault.last) for fault in faults(signed, tmp_path)] == [(11, SIZE)]


def test_consistently_rewritten_log_without_checkpoints_is_not_found(log: AuditLog, tmp_path: Path) -> None:
    """The documentation states this limit: only a signature that is kept elsewhere shows a rewritten log."""
    fill(log, SIZE)
    rewrite(log.database, 13, "a harmless question")
    assert faults(log, tmp_path) == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda note: note.replace("time 2", "time 3"), "signature is wrong"),
        (lambda note: note[:-9] + "AAAAAA==\n", "signature is wrong"),
        (lambda note: "", "not a signed note"),
    ],
)
def test_changed_checkpoint_is_named(signed: AuditLog, tmp_path: Path, change: Callable[[str], str], word: str) -> None:
    with signed.database.write() as connection:
        mine = audit_checkpoints.c.size == 10
        note = connection.scalar(sa.select(audit_checkpoints.c.note).where(mine))
        connection.execute(audit_checkpoints.update().where(mine).values(note=change(note or "")))
    (fault,) = faults(signed, tmp_path)
    assert fault.first == 10
    assert "stored for 10 events" in fault.message
    assert word in fault.message


def test_checkpoint_moved_to_another_size_is_named(signed: AuditLog, tmp_path: Path) -> None:
    with signed.database.write() as connection:
        connection.execute(audit_checkpoints.update().where(audit_checkpoints.c.size == 10).values(size=12))
    assert [fault.first for fault in faults(signed, tmp_path)] == [10, 12]


def test_missing_public_key_is_a_fault(signed: AuditLog, tmp_path: Path) -> None:
    (tmp_path / "keys" / "audit.pub").unlink()
    (fault,) = faults(signed, tmp_path)
    assert "public key" in fault.message


@pytest.mark.parametrize("value", ["'text'", "x'ff'", "1.5", "NULL"])
@pytest.mark.parametrize("column", ["time_us", "actor_name", "subtrees", "commitment"])
def test_value_of_another_type_in_sqlite_is_named(sqlite: Database, tmp_path: Path, column: str, value: str) -> None:
    log = AuditLog(sqlite)
    fill(log, 9)
    with sqlite.write() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = ON")  # so that NOT NULL does not protect it
        connection.exec_driver_sql(
            "UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'audit_events'"
        )
    sqlite.close()
    with sqlite.write() as connection:
        connection.exec_driver_sql(f"UPDATE audit_events SET {column} = {value} WHERE sequence = 6")  # noqa: S608
    assert 6 in {fault.first for fault in faults(log, tmp_path)}


def test_erasure_that_does_not_cover_the_gone_content_is_no_excuse(signed: AuditLog, tmp_path: Path) -> None:
    erase(signed, 1, 2, by=SYSTEM, reason="for this test")
    with signed.database.write() as connection:
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence == 3))
    assert [fault.first for fault in faults(signed, tmp_path)] == [3]


def exchange(database: Database, table: sa.Table, one: int, other: int) -> None:
    with database.write() as connection:
        for old, new in ((one, -1), (other, one), (-1, other)):
            connection.execute(table.update().where(table.c.sequence == old).values(sequence=new))


def rewrite(database: Database, sequence: int, text: str) -> None:
    """Change one event's content and make everything that follows from it fit again."""
    sealed = SealedContent(b"n" * 32, text, "{}")
    with database.write() as connection:
        change = audit_contents.update().where(audit_contents.c.sequence == sequence)
        connection.execute(change.values(salt=sealed.salt, text=text, details="{}"))
        mine = audit_events.c.sequence == sequence
        connection.execute(audit_events.update().where(mine).values(commitment=sealed.commitment()))
    log, edge = AuditLog(database), merkle.RightEdge()
    events = [log.get(number) for number in range(1, log.size() + 1)]
    with database.write() as connection:
        for number, event in enumerate(events, 1):
            completed = edge.append(merkle.leaf_hash(encode_header(event.header)))
            mine = audit_events.c.sequence == number
            connection.execute(audit_events.update().where(mine).values(subtrees=b"".join(completed)))


def test_long_log_is_checked_in_pieces(sqlite: Database, tmp_path: Path) -> None:
    log = AuditLog(sqlite)
    events = [NewEvent(SYSTEM, "prompt", content=Content("many")) for _ in range(4500)]
    with sqlite.write() as connection:
        log.append_many_in(connection, events)
    told: list[int] = []
    report = verify_log(sqlite, tmp_path, progress=lambda done, _all: told.append(done))
    assert (report.size, report.faults, told) == (4500, (), [2000, 4000, 4500])
    with sqlite.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 4100).values(via="api"))
    assert [fault.first for fault in verify_log(sqlite, tmp_path).faults] == [4100]


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_find_what_one_does(
    signed: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr("appliance.audit.parts.SMALLEST_PART", 1)
    whole = verify_log(signed.database, tmp_path, processes=processes)
    assert (whole.faults, whole.root, whole.size) == ((), signed.root(SIZE), SIZE)
    with signed.database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 5).values(actor_name="eve"))
        connection.execute(audit_contents.update().where(audit_contents.c.sequence == 19).values(text="other"))
        connection.execute(audit_events.delete().where(audit_events.c.sequence == 12))
    one, several = (verify_log(signed.database, tmp_path, processes=count) for count in (1, processes))
    assert {5, 12, 19} <= {fault.first for fault in several.faults}
    assert [str(fault) for fault in several.faults] == [str(fault) for fault in one.faults]


def test_part_whose_process_dies_is_checked_by_the_caller(
    signed: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.audit.parts.SMALLEST_PART", 1)
    monkeypatch.setattr("appliance.audit.parts.pickle.dump", lambda *_: os._exit(9))
    with signed.database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 19).values(actor_name="eve"))
    assert 19 in {fault.first for fault in verify_log(signed.database, tmp_path, processes=2).faults}
