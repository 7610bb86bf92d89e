"""Erasing removes what was named and nothing else, and a verification knows the difference."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from appliance.audit.erasure import ErasureError, erase, last_before
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog, RecordError
from appliance.audit.review import Filter, search
from appliance.audit.verify import verify_log
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import Database
from appliance.turns.events import Started, TurnEvent
from appliance.turns.request import Message, TurnRequest
from appliance.turns.run import run_turn
from tests.appliance.records import SYSTEM, fill
from tests.fakes import FakeEngine, done

ADA = Actor("a1", "ada", "web")
REASON = "retention of 90 days"


def no_pause(_: float) -> None:
    pass


def test_erased_content_is_gone_and_the_log_still_verifies(log: AuditLog, database: Database, tmp_path: Path) -> None:
    fill(log, 8)
    erased = erase(log, 2, 5, by=SYSTEM, reason=REASON)
    assert (erased.first, erased.last, erased.contents, erased.running, erased.words_left) == (2, 5, 3, 0, 0)
    assert erased.log_is_cut
    assert [log.get(n).erased for n in range(1, 9)] == [False, True, True, False, True, False, False, False]
    told = [log.get(number) for number in (9, 10)]
    assert [(event.header.action, event.header.subject, event.content) for event in told] == [
        ("content_erased", "2-5", Content(REASON)),
        ("erasure_finished", "2-5", Content("3 contents of the events 2 to 5 erased")),
    ]
    report = verify_log(database, tmp_path)
    assert (report.faults, report.erased) == ((), 3)


def test_erased_text_is_no_longer_in_the_files(sqlite: Database, sqlite_url: str) -> None:
    log = AuditLog(sqlite)
    secret = "xylophonequartz" * 400
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    number = log.append(NewEvent(SYSTEM, "prompt", content=Content(secret))).sequence
    for count in range(30):  # later segments of the index, which are merged
        log.append(NewEvent(SYSTEM, "prompt", content=Content(f"word{count} stays")))
    files = [path, path.with_name(path.name + "-wal")]
    assert any(b"xylophonequartz" * 100 in file.read_bytes() for file in files)
    assert erase(log, number, number, by=SYSTEM, reason=REASON).log_is_cut
    for file in files:
        assert b"xylophonequartz" * 2 not in file.read_bytes(), file
    assert b"xylo" not in path.read_bytes()
    assert len(search(log, SYSTEM, Filter(text="stays")).rows) == 30


@pytest.mark.parametrize(("first", "last"), [(1, 10**9), (1, 2**63), (3, 10**18)])
def test_an_erasure_excuses_no_event_that_comes_after_it(log: AuditLog, tmp_path: Path, first: int, last: int) -> None:
    fill(log, 3)
    erased = erase(log, first, last, by=SYSTEM, reason=REASON)
    assert (erased.last, log.get(4).header.subject) == (3, f"{first}-3")
    number = log.append(NewEvent(ADA, "prompt", content=Content("later"))).sequence
    with log.database.write() as connection:
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence == number))
    assert [fault.first for fault in verify_log(log.database, tmp_path).faults] == [number]


@pytest.mark.parametrize(
    "subject", ["1-1000000000", "-5-9", "1-²", "x", "", "9-1", "1-99999999999999999999999999", "1-2-3"]
)
def test_an_event_that_claims_more_than_existed_excuses_nothing_later(
    log: AuditLog, tmp_path: Path, subject: str
) -> None:
    """An earlier release, which took any range, recorded such events."""
    log.append(NewEvent(SYSTEM, "content_erased", subject=subject))
    number = log.append(NewEvent(ADA, "prompt", content=Content("later"))).sequence
    with log.database.write() as connection:
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence == number))
    assert [fault.first for fault in verify_log(log.database, tmp_path).faults] == [number]


@pytest.mark.parametrize(("first", "last", "reason"), [(4, 9, REASON), (3, 2, REASON), (1, 3, "  "), (1, 3, "x" * 501)])
def test_what_cannot_be_erased_is_refused_and_leaves_no_event(
    log: AuditLog, first: int, last: int, reason: str
) -> None:
    fill(log, 3)
    with pytest.raises(ErasureError):
        erase(log, first, last, by=SYSTEM, reason=reason)
    assert log.size() == 3


def test_the_records_own_testimony_is_not_erased(log: AuditLog, tmp_path: Path) -> None:
    for action in ("prompt", "answer", "review_search", "denied", "content_erased", "record_verified", "link_made"):
        log.append(NewEvent(ADA, action, content=Content(f"about {action}")))
    assert erase(log, 1, 7, by=SYSTEM, reason=REASON).contents == 3
    assert [log.get(number).erased for number in range(1, 8)] == [True] * 3 + [False] * 4


def test_a_killed_erasure_is_finished_by_the_same_command(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(sqlite)
    fill(log, 100)

    def killed(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erase(log, 1, 100, by=SYSTEM, reason=REASON, pause=killed)
    report = verify_log(sqlite, tmp_path)
    assert report.faults == ()
    assert 0 < report.erased < 75
    assert [log.get(number).header.action for number in range(101, log.size() + 1)] == ["content_erased"]
    assert erase(log, 1, 100, by=SYSTEM, reason=REASON, pause=no_pause).contents == 75 - report.erased
    assert [log.get(number).header.action for number in (102, 103)] == ["content_erased", "erasure_finished"]
    report = verify_log(sqlite, tmp_path)
    assert (report.faults, report.erased) == ((), 75)


def test_other_writers_are_let_in_between_two_transactions(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    fill(log, 60)
    appended = list[int]()

    def others(_: float) -> None:
        thread = threading.Thread(target=lambda: appended.append(log.append(NewEvent(ADA, "sign_in")).sequence))
        thread.start()
        thread.join()

    erase(log, 1, 60, by=SYSTEM, reason=REASON, pause=others)
    assert len(appended) > 1


def test_slow_transactions_become_smaller(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    fill(log, 80)
    ticks = iter(range(10_000))
    pauses = list[float]()
    erase(log, 1, 80, by=SYSTEM, reason=REASON, pause=pauses.append, clock_s=lambda: float(next(ticks)))
    assert len(pauses) > 60 - 8  # after the first eight, one content each


def test_a_turn_that_is_being_answered_is_left_out(sqlite: Database) -> None:
    go_on = threading.Event()

    def script(_: TurnRequest) -> Iterator[TurnEvent]:
        yield Started(1, 0.0)
        go_on.wait(30)
        yield done()

    log = AuditLog(sqlite)
    with FakeEngine(script) as engine:
        turn = run_turn(
            log, engine.client, ADA, TurnRequest("t", "a1", (Message("user", "Hi"),), seed=1), conversation_id=None
        )
        next(turn)
        erased = erase(log, 1, 1, by=SYSTEM, reason=REASON)
        assert (erased.contents, erased.running) == (0, 1)
        told = log.get(log.size()).content
        assert told == Content("0 contents of the events 1 to 1 erased, 1 prompts that are being answered left out")
        go_on.set()
        list(turn)
    assert erase(log, 1, 1, by=SYSTEM, reason=REASON).contents == 1


def test_words_of_a_changed_content_do_not_harm_the_index(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    for text in ("alpha beta", "gamma delta"):
        log.append(NewEvent(ADA, "prompt", content=Content(text)))
    with sqlite.write() as connection:
        changed = audit_contents.update().where(audit_contents.c.sequence == 1)
        connection.execute(changed.values(text="gamma delta"))
    erased = erase(log, 1, 1, by=SYSTEM, reason=REASON)
    assert (erased.contents, erased.words_left) == (1, 1)
    assert [row.sequence for row in search(log, SYSTEM, Filter(text="gamma")).rows] == [2]


def test_damaged_contents_are_erased_too(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    fill(log, 3)
    with sqlite.write() as connection:
        connection.exec_driver_sql("UPDATE audit_contents SET details = '{', text = x'ff' WHERE sequence = 2")
    assert erase(log, 1, 3, by=SYSTEM, reason=REASON).contents == 3


def test_by_age_everything_before_the_first_newer_event_is_meant(log: AuditLog) -> None:
    fill(log, 6)
    with log.database.write() as connection:
        for number, time_us in enumerate((10, 20, 50, 30, 60, 70), 1):  # a clock that was set back once
            mine = audit_events.c.sequence == number
            connection.execute(audit_events.update().where(mine).values(time_us=time_us))
    assert [last_before(log, time_us) for time_us in (5, 15, 40, 55, 100)] == [0, 1, 2, 4, 6]


def test_nothing_is_erased_when_the_event_cannot_be_recorded(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(log, 3)
    monkeypatch.setattr(log, "damage", "for this test")
    with pytest.raises(RecordError, match="damaged"):
        erase(log, 1, 3, by=SYSTEM, reason=REASON)
    with log.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(audit_contents)) == 3
