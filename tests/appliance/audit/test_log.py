"""Appending: durable, without gaps, in order, all or nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from appliance.audit import merkle
from appliance.audit.details.turns import UnfinishedAnswer
from appliance.audit.event import Actor, Content, NewEvent, encode_header
from appliance.audit.log import AuditLog, EventNotFoundError, RecordError
from appliance.audit.verify import verify_log
from appliance.database.tables import audit_events
from appliance.database.transactions import Database, open_database
from tests.appliance.records import SYSTEM, fill
from tests.waiting import wait_for

APPENDER = """
import sys, threading
from appliance.audit.details.turns import UnfinishedAnswer
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.erasure import erase
from appliance.audit.log import AuditLog
from appliance.database.transactions import (open_database)

url, name, threads, each = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
log = AuditLog(open_database(url))
output = threading.Lock()

def work(thread):
    actor = Actor("", f"{name}-{thread}", "system")
    for number in range(each):
        header = log.append(NewEvent(actor, "prompt", subject=str(number), content=Content(f"{name} {number}")))
        with output:
            print(header.sequence, actor.name, number, flush=True)

workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
for worker in workers: worker.start()
for worker in workers: worker.join()
"""


def test_event_reads_back_as_it_was_appended(log: AuditLog) -> None:
    actor = Actor("u1", "zoë", "api", "10.0.0.9")
    content = Content(
        "naïve ☃ text", UnfinishedAnswer(conversation=None, reasoning="☃", tool_calls=(), prompt_tokens=None)
    )
    header = log.append(NewEvent(actor, "answer", "cancelled", "turn-1", content))
    event = log.get(1)
    assert header.sequence == 1
    assert (event.header, event.content) == (header, content)
    assert (header.actor, header.action, header.outcome, header.subject) == (actor, "answer", "cancelled", "turn-1")


def test_event_without_content_has_no_commitment(log: AuditLog) -> None:
    log.append(NewEvent(SYSTEM, "appliance_started"))
    event = log.get(1)
    assert event.header.commitment is None
    assert (event.content, event.erased) == (None, False)


def test_unknown_number_is_named(log: AuditLog) -> None:
    with pytest.raises(EventNotFoundError) as caught:
        log.get(1)
    assert caught.value.sequence == 1


def test_reopened_log_continues_the_tree(log: AuditLog, database_url: str) -> None:
    fill(log, 5)
    other = open_database(database_url)
    reopened = AuditLog(other)
    assert reopened.append(NewEvent(SYSTEM, "appliance_started")).sequence == 6
    assert reopened.origin == log.origin
    leaves = [merkle.leaf_hash(encode_header(log.get(n).header)) for n in range(1, 7)]
    edge = merkle.RightEdge()
    for leaf in leaves:
        edge.append(leaf)
    assert log.root(6) == edge.root()
    other.close()


def test_stored_proofs_verify(log: AuditLog) -> None:
    fill(log, 13)
    root = log.root(13)
    for sequence in range(1, 14):
        leaf = merkle.leaf_hash(encode_header(log.get(sequence).header))
        merkle.verify_inclusion(leaf, sequence - 1, 13, log.inclusion_proof(sequence, 13), root)
        merkle.verify_consistency(sequence, 13, log.consistency_proof(sequence, 13), log.root(sequence), root)


def test_appends_of_many_threads_and_processes_are_dense_and_all_acknowledged(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", APPENDER, database_url, f"p{number}", "8", "6"], stdout=subprocess.PIPE)
        for number in range(4)
    ]
    lines = [line.split() for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(int(line[0]) for line in lines) == list(range(1, 4 * 8 * 6 + 1))
    log = AuditLog(database)
    for sequence, name, number in lines:
        header = log.get(int(sequence)).header
        assert (header.actor.name, header.subject) == (name.decode(), number.decode())
    report = verify_log(database, tmp_path)
    assert (report.size, report.faults) == (192, ())


def test_waiting_appends_share_a_transaction(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    commits: list[int] = []
    sa.event.listen(sqlite.engine, "commit", lambda _connection: commits.append(1))
    with ThreadPoolExecutor(20) as pool:
        with sqlite.write():  # appends pile up while the database is busy
            waiting = [pool.submit(log.append, NewEvent(SYSTEM, "denied", "denied", str(n))) for n in range(20)]
            wait_for(lambda: len(log._group._waiting) >= 10)
        assert sorted(future.result(10).sequence for future in waiting) == list(range(1, 21))
    assert len(commits) < 20


def test_kill_in_the_middle_loses_no_acknowledged_event(sqlite_url: str, tmp_path: Path) -> None:
    open_database(sqlite_url).close()
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDER, sqlite_url, "victim", "4", "1000000"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().split() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.split() for line in process.stdout.read().splitlines()]
    process.stdout.close()
    process.wait(10)
    database = open_database(sqlite_url)
    log = AuditLog(database)
    report = verify_log(database, tmp_path)
    assert report.faults == ()
    for fields in acknowledged:
        if len(fields) == 3:  # the last line may be incomplete
            assert log.get(int(fields[0])).header.subject == fields[2].decode()
    assert log.append(NewEvent(SYSTEM, "appliance_started")).sequence == report.size + 1
    database.close()


def test_full_database_fails_the_append_and_leaves_the_log_intact(sqlite: Database, tmp_path: Path) -> None:
    log = AuditLog(sqlite)
    fill(log, 3)
    limit_pages(sqlite, spare=2)
    with pytest.raises(RecordError):
        log.append(NewEvent(SYSTEM, "prompt", content=Content("x" * 100_000)))
    assert log.size() == 3
    limit_pages(sqlite, spare=1000)
    assert log.append(NewEvent(SYSTEM, "prompt", content=Content("x" * 100_000))).sequence == 4
    assert verify_log(sqlite, tmp_path).faults == ()


def test_one_failed_transaction_fails_every_append_in_it(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    limit_pages(sqlite, spare=2)
    event = NewEvent(SYSTEM, "prompt", content=Content("y" * 100_000))
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(log.append, event) for _ in range(8)]:
            with pytest.raises(RecordError):
                future.result(20)
    assert log.size() == 0


@pytest.mark.parametrize("text", ["nul\0", "\ud800"])
def test_event_that_cannot_be_stored_is_refused_alone(log: AuditLog, text: str) -> None:
    for event in (NewEvent(SYSTEM, "prompt", subject=text), NewEvent(SYSTEM, "prompt", content=Content(text))):
        with pytest.raises(ValueError, match=r"NUL|surrogate"):
            log.append(event)
    assert log.append(NewEvent(SYSTEM, "prompt")).sequence == 1


def test_append_in_a_transaction_that_fails_is_not_recorded(log: AuditLog, database: Database) -> None:
    with pytest.raises(RuntimeError, match="changed my mind"), database.write(serial=True) as connection:  # noqa: PT012
        log.append_in(connection, NewEvent(SYSTEM, "user_created"))
        raise RuntimeError("changed my mind")
    assert log.size() == 0


def test_log_with_a_missing_row_is_continued(log: AuditLog, database: Database) -> None:
    """Deleting an event must not stop the record. The signer says that it is missing."""
    fill(log, 6)
    with database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence == 3))
    damaged = AuditLog(database)
    assert damaged.get(4).header.sequence == 4
    assert damaged.append(NewEvent(SYSTEM, "prompt")).sequence == 7


def test_log_whose_edge_is_lost_refuses_to_append(log: AuditLog, database: Database) -> None:
    fill(log, 6)
    with database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence == 4))
    damaged = AuditLog(database)
    assert damaged.get(5).header.sequence == 5
    with pytest.raises(RecordError, match="damaged"):
        damaged.append(NewEvent(SYSTEM, "prompt"))


def limit_pages(database: Database, *, spare: int) -> None:
    """Let the SQLite file grow by `spare` pages and no more, for every new connection."""
    database.engine.dispose()
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    database.engine.dispose()

    @sa.event.listens_for(database.engine, "connect")
    def limit(connection: object, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages + spare}")  # type: ignore[attr-defined]
