"""An extract proves a range of events and that none of them is missing, and nothing else."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.audit.details.codec import Details
from appliance.audit.details.review import RangeExported
from appliance.audit.erasure import erase
from appliance.audit.event import Content, NewEvent
from appliance.audit.evidence import EvidenceError, ProvenEvents
from appliance.audit.extract import write_extract
from appliance.audit.extract_check import is_extract, verify_extract
from appliance.audit.fault import LogBrokenError
from appliance.audit.keys import stage_key
from appliance.audit.log import AuditLog, RecordError
from appliance.audit.merkle import RightEdge, TreeStack, aligned, leaf_hash
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import Database
from tests.appliance.records import SYSTEM, fill

Lines = list[dict[str, Any]]


def written(log: AuditLog, state: Path, first: int, last: int, *, with_content: bool = True) -> Lines:
    out = io.BytesIO()
    write_extract(log, state, out, first, last, by=SYSTEM, with_content=with_content)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def proved(lines: Lines, state: Path) -> ProvenEvents:
    data = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    return verify_extract(io.BytesIO(data), (state / "keys" / "audit.pub").read_text())


@pytest.fixture
def exported(sqlite: Database, tmp_path: Path) -> tuple[Lines, Path]:
    """The events 3 to 9 of 21; 4 and 8 have no content."""
    log = AuditLog(sqlite)
    fill(log, 21)
    return written(log, tmp_path, 3, 9), tmp_path


def test_subtrees_of_any_range_make_the_tree() -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(40)]
    stored = {}
    edge = RightEdge()
    for number, leaf in enumerate(leaves, 1):
        for level, value in enumerate(edge.append(leaf)):
            stored[level, (number >> level) - 1] = value
    for first in range(41):
        for last in range(first, 41):
            tree = TreeStack()
            for subtree in aligned(0, first):
                tree.push(subtree.level, stored[subtree.level, subtree.index])
            for leaf in leaves[first:last]:
                tree.push(0, leaf)
            for subtree in aligned(last, 40):
                tree.push(subtree.level, stored[subtree.level, subtree.index])
            assert tree.root() == edge.root(), (first, last)


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 21), (21, 21), (2, 16), (16, 17), (5, 10**9)])
def test_any_range_is_proved_with_what_it_holds(log: AuditLog, tmp_path: Path, first: int, last: int) -> None:
    fill(log, 21)
    lines = written(log, tmp_path, first, last)
    proven = proved(lines, tmp_path)
    last = min(last, 21)
    assert (proven.first, proven.last, proven.events, proven.is_complete) == (first, last, last - first + 1, True)
    without = len([number for number in range(first, last + 1) if number % 4 == 0])
    assert (proven.without, proven.with_content, proven.absent) == (without, last - first + 1 - without, 0)
    assert proven.checkpoint.size == 22


def test_the_export_is_an_event_with_its_range(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    written(log, tmp_path, 2, 3, with_content=False)
    event = log.get(4)
    assert (event.header.action, event.header.actor) == ("evidence_exported", SYSTEM)
    assert event.content == Content("events 2 to 3", RangeExported(first=2, last=3, with_content=False))


def test_absent_contents_are_counted_with_who_left_them_out(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 5)
    erase(log, 1, 2, by=SYSTEM, reason="for this test")
    proven = proved(written(log, tmp_path, 1, 5), tmp_path)
    assert (proven.with_content, proven.absent, proven.left_out) == (2, 2, False)
    proven = proved(written(log, tmp_path, 1, 5, with_content=False), tmp_path)
    assert (proven.with_content, proven.absent, proven.left_out) == (0, 4, True)


def drop(lines: Lines) -> None:
    del lines[3]


def exchange(lines: Lines) -> None:
    lines[3], lines[4] = lines[4], lines[3]


def twice(lines: Lines) -> None:
    lines.insert(3, lines[3])


def shorten(lines: Lines) -> None:
    lines[0]["last"] -= 1
    lines[-1]["events"] -= 1
    del lines[-2]


def begin_later(lines: Lines) -> None:
    lines[0]["first"] += 1
    lines[-1]["events"] -= 1
    del lines[1]


def other_header(lines: Lines) -> None:
    lines[2]["header"] = lines[2]["header"].replace('"bob"', '"eve"')


def other_content(lines: Lines) -> None:
    lines[1]["content"] = lines[1]["content"].replace("word3", "other")


def content_of_another(lines: Lines) -> None:
    lines[2].update(salt=lines[1]["salt"], content=lines[1]["content"])


def called_damaged(lines: Lines) -> None:
    """Hide an event by calling it damaged, with a hash of one's own."""
    lines[2] = {"sequence": 4, "damaged": "unreadable", "leaf": base64.b64encode(b"x" * 32).decode()}


FORGERIES: list[Callable[[Lines], object]] = [
    drop, exchange, twice, shorten, begin_later, other_header, other_content, content_of_another, called_damaged,
    lambda lines: lines.pop(),
    lambda lines: lines.pop(0),
    lambda lines: lines.append(lines[-1]),
    lambda lines: lines[-1].update(after=lines[-1]["after"][:-1]),
    lambda lines: lines[-1].update(after=["!"] * len(lines[-1]["after"])),
    lambda lines: lines[0].update(before=[]),
    lambda lines: lines[0].update(before=[lines[0]["before"][0][:8]] * len(lines[0]["before"])),
    lambda lines: lines[0].update(first="3"),
    lambda lines: lines[0].update(first=0),
    lambda lines: lines[0].update(last=10**9),
    lambda lines: lines[0].update(checkpoint=lines[0]["checkpoint"].replace("\n22\n", "\n21\n")),
    lambda lines: lines[0].pop("with_content"),
    lambda lines: lines[1].pop("salt"),
    lambda lines: lines[1].update(header="{}"),
    lambda lines: lines.insert(1, {}),
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES)
def test_rejects_what_is_not_the_range_that_was_signed(
    exported: tuple[Lines, Path], forge: Callable[[Lines], object]
) -> None:
    lines, state = exported
    proved(lines, state)
    forge(lines)
    with pytest.raises(EvidenceError):
        proved(lines, state)


@pytest.mark.parametrize("data", [b"", b"{}\n", b"[]\n", b"\xff\n", b"null\n", b"[" * 100_000 + b"\n", b'{"format":1}'])
def test_rejects_bytes_that_are_no_extract(exported: tuple[Lines, Path], data: bytes) -> None:
    with pytest.raises(EvidenceError):
        verify_extract(io.BytesIO(data), (exported[1] / "keys" / "audit.pub").read_text())


@pytest.mark.parametrize("cut", [1, 40, 400, 1500, -1, -40])
def test_a_file_that_is_cut_off_proves_nothing(exported: tuple[Lines, Path], cut: int) -> None:
    lines, state = exported
    data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
    assert is_extract(data)
    verify_extract(io.BytesIO(data), (state / "keys" / "audit.pub").read_text())
    with pytest.raises(EvidenceError):
        verify_extract(io.BytesIO(data[:cut]), (state / "keys" / "audit.pub").read_text())


def test_another_key_is_no_proof(exported: tuple[Lines, Path], tmp_path: Path) -> None:
    lines, _ = exported
    other = stage_key(tmp_path / "others", lines[0]["public_key"].split("+")[0])
    (tmp_path / "other" / "keys").mkdir(parents=True)
    (tmp_path / "other" / "keys" / "audit.pub").write_text(str(other.verifier))
    with pytest.raises(EvidenceError, match="not signed by"):
        proved(lines, tmp_path / "other")


def test_a_damaged_event_is_named_and_hides_no_other(sqlite: Database, tmp_path: Path) -> None:
    log = AuditLog(sqlite)
    fill(log, 9)
    written(log, tmp_path, 1, 1)  # signs ten events
    with sqlite.write() as connection:
        connection.exec_driver_sql("UPDATE audit_events SET action = 'xyz' WHERE sequence = 3")
        connection.exec_driver_sql("UPDATE audit_events SET actor_name = CAST(x'ff' AS TEXT) WHERE sequence = 5")
        connection.exec_driver_sql("UPDATE audit_contents SET details = 7, salt = 'x' WHERE sequence = 6")
    proven = proved(written(log, tmp_path, 1, 9), tmp_path)
    assert (proven.damaged, proven.events, proven.is_complete) == ([3, 5, 6], 6, False)
    assert "event" in (proven.log_fault or "")


def test_events_that_were_never_signed_before_the_damage_are_not_exported(sqlite: Database, tmp_path: Path) -> None:
    log = AuditLog(sqlite)
    fill(log, 4)
    with sqlite.write() as connection:
        connection.exec_driver_sql("UPDATE audit_events SET actor_name = 'eve' WHERE sequence = 3")
    with pytest.raises(LogBrokenError):
        written(log, tmp_path, 1, 4)


@pytest.mark.parametrize(("first", "last"), [(5, 9), (0, 2), (3, 2)])
def test_a_range_without_events_is_refused_and_no_event(log: AuditLog, tmp_path: Path, first: int, last: int) -> None:
    fill(log, 4)
    with pytest.raises(EvidenceError):
        written(log, tmp_path, first, last)
    assert log.size() == 4


def test_a_range_across_a_missing_event_is_refused(sqlite: Database, tmp_path: Path) -> None:
    log = AuditLog(sqlite)
    fill(log, 9)
    written(log, tmp_path, 1, 1)
    with sqlite.write() as connection:
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence == 3))
        connection.execute(audit_events.delete().where(audit_events.c.sequence == 3))
    with pytest.raises(EvidenceError, match="event 3"):
        written(log, tmp_path, 1, 9)


def test_nothing_is_written_when_the_export_cannot_be_recorded(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 2)
    monkeypatch.setattr(log, "damage", "for this test")
    with pytest.raises(RecordError):
        written(log, tmp_path, 1, 2)


def test_memory_stays_flat_however_much_is_exported(sqlite: Database, tmp_path: Path) -> None:
    """64 contents of 1 MiB, in a process that may have little more than the interpreter needs."""
    log = AuditLog(sqlite)
    for number in range(64):
        log.append(
            NewEvent(SYSTEM, "prompt", content=Content("", Details(unknown={"n": number, "token_ids": "x" * 2**20})))
        )
    code = f"""
import resource
from pathlib import Path
from appliance.audit.details.codec import Details
from appliance.audit.details.review import RangeExported
from appliance.audit.event import Actor
from appliance.audit.extract import write_extract
from appliance.audit.extract_check import verify_extract
from appliance.audit.log import AuditLog
from appliance.database.transactions import (open_database)
log, state = AuditLog(open_database({str(sqlite.engine.url)!r})), Path({str(tmp_path)!r})
with open(state / "one.jsonl", "wb") as file:
    write_extract(log, state, file, 1, 1, by=Actor("", "t", "cli"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(state / "all.jsonl", "wb") as file:
    write_extract(log, state, file, 1, 64, by=Actor("", "t", "cli"))
with open(state / "all.jsonl", "rb") as file:
    assert verify_extract(file, (state / "keys" / "audit.pub").read_text()).with_content == 64
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40 * 1024  # KiB; the contents are 64 MiB
