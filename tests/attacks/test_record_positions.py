"""Somebody who writes the database moves the notes of how far something was done: forward, back, or away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from appliance.audit.checkpoint import integrity, keep_verdict, mark_exported
from appliance.audit.details.review import VerificationDetails
from appliance.audit.event import Content, NewEvent
from appliance.audit.fault import LogBrokenError
from appliance.audit.log import AuditLog
from appliance.audit.pages import check_pages
from appliance.audit.rounds import Rounds
from appliance.audit.signer import LogSigner
from appliance.audit.verify import verify_log
from appliance.config import Config, init_state, load_config
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import Database, now_us, open_database, write_setting
from appliance.turns.interrupted import LostTurns
from tests.appliance.records import SYSTEM, asked, fill
from tests.appliance.runtime.test_recorder import ADA, STARTED, Recorder, opened

VALUES = ("0", "1", "3", "999999", "9" * 30, "-1", "soon", None)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    init_state(tmp_path)
    return replace(load_config(tmp_path), checkpoint_interval_s=0.2)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/site.sqlite3")
    yield database
    database.close()


def put(database: Database, name: str, value: str | None) -> None:
    with database.write() as connection:
        write_setting(connection, name, value)


def ask(log: AuditLog, turn: str) -> None:
    """Record a prompt whose process has died."""
    log.append(NewEvent(ADA, "prompt", subject=turn, content=Content("?", asked(process="0123456789abcdef"))))


def outcomes(log: AuditLog) -> list[tuple[str, str]]:
    events = [log.get(number).header for number in range(1, log.size() + 1)]
    return [(event.action, event.outcome) for event in events]


@pytest.mark.parametrize("value", VALUES)
def test_no_note_in_the_database_keeps_a_lost_prompt_open(config: Config, value: str | None) -> None:
    with opened(config) as log:
        for number in range(3):
            ask(log, f"turn-{number}")
        put(log.database, "turns_closed_to", value)
    recorder = Recorder(config)
    recorder.note(STARTED)
    recorder.end()
    with opened(config) as log:
        assert outcomes(log)[3:6] == [("answer", "interrupted")] * 3


def test_a_lost_prompt_far_back_is_closed_in_turn_and_said_until_then(sqlite: Database) -> None:
    log = AuditLog(sqlite)
    ask(log, "long ago")
    fill_answered(log, 30)
    (remark,) = check_pages(sqlite).remarks
    assert str(remark).startswith("event 1: this prompt has no answer, and no process is known to answer it")
    lost = LostTurns(log, newest=10, rounds=Rounds(7, draw=lambda stretches: stretches // 2))
    calls = 0
    while not lost.close():
        calls += 1
    assert 0 < calls <= 61 // 7 + 1  # not at once, but within a round
    assert outcomes(log)[-1] == ("answer", "interrupted")
    assert check_pages(sqlite).remarks == ()


def fill_answered(log: AuditLog, turns: int) -> None:
    for number in range(turns):
        log.append(NewEvent(ADA, "prompt", subject=f"turn-{number}"))
        log.append(NewEvent(ADA, "answer", subject=f"turn-{number}"))


@pytest.mark.parametrize("value", VALUES)
def test_no_note_in_the_database_keeps_older_events_from_being_checked_again(
    sqlite: Database, tmp_path: Path, value: str | None
) -> None:
    log = AuditLog(sqlite)
    fill(log, 20)
    signer = LogSigner(log, tmp_path, rounds=Rounds(4, draw=lambda _: 0))
    signer.sign()
    with sqlite.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 15).values(actor_name="eve"))

    def put_and_sign_a_round() -> None:
        for _ in range(6):
            put(sqlite, "audit_rechecked_to", value)
            signer.sign()

    with pytest.raises(LogBrokenError, match="event 15"):
        put_and_sign_a_round()


def test_a_process_that_is_started_again_and_again_comes_to_every_stretch() -> None:
    seen = {Rounds(10).next(95) for _ in range(2000)}
    assert seen == {(begin, min(begin + 10, 95)) for begin in range(0, 95, 10)}


def test_the_mark_of_a_failed_verification_that_was_taken_away_is_a_finding_all_the_same(
    sqlite: Database, tmp_path: Path
) -> None:
    """This holds even if the damage is mended before the signer looks."""
    log = AuditLog(sqlite)
    fill(log, 9)
    signer = LogSigner(log, tmp_path)
    signer.sign()
    damage = audit_events.update().where(audit_events.c.sequence == 7)
    with sqlite.write() as connection:
        connection.execute(damage.values(actor_name="eve"))
    keep_verdict(log, verify_log(sqlite, tmp_path), by=SYSTEM)
    with sqlite.write() as connection:
        connection.execute(damage.values(actor_name="ada"))
        write_setting(connection, "audit_fault", None)
    with pytest.raises(LogBrokenError, match="event 10 tells of a verification that failed"):
        signer.sign()
    assert integrity(log, tmp_path).finding is not None


NOT_UTF8: sa.ColumnElement[str] = sa.literal_column("CAST(x'ff' AS TEXT)")


def test_a_failed_verification_whose_words_were_damaged_is_a_finding_all_the_same(
    sqlite: Database, tmp_path: Path
) -> None:
    log = AuditLog(sqlite)
    fill(log, 9)
    signer = LogSigner(log, tmp_path)
    signer.sign()
    log.append(
        NewEvent(
            SYSTEM,
            "record_verified",
            "failed",
            content=Content("9 events, 1 fault", VerificationDetails(events=9, erased=0, signed_to=9, faults=1)),
        )
    )
    with sqlite.write() as connection:
        connection.execute(audit_contents.update().where(audit_contents.c.sequence == 10).values(text=NOT_UTF8))
    with pytest.raises(LogBrokenError, match="event 10 tells of a verification that failed"):
        signer.sign()
    assert integrity(log, tmp_path).finding is not None


def test_a_verification_whose_words_were_damaged_is_not_believed_and_fails_no_badge(
    sqlite: Database, tmp_path: Path
) -> None:
    log = AuditLog(sqlite)
    fill(log, 9)
    LogSigner(log, tmp_path).sign()
    keep_verdict(log, verify_log(sqlite, tmp_path), by=SYSTEM)
    assert integrity(log, tmp_path).checked is not None
    with sqlite.write() as connection:
        connection.execute(audit_contents.update().where(audit_contents.c.sequence == 10).values(details=NOT_UTF8))
    assert integrity(log, tmp_path).checked is None


def claims(size: int, time_us: int, *, intact: bool = True) -> str:
    return json.dumps({"time_us": time_us, "size": size, "intact": intact})


def test_the_badge_believes_no_verification_and_no_export_that_no_event_tells_of(
    sqlite: Database, tmp_path: Path
) -> None:
    log = AuditLog(sqlite)
    fill(log, 9)
    now = now_us()
    for note in (claims(9, now), claims(9, now + 10**13), claims(10**9, 0), "[]", "9" * 5000):
        put(sqlite, "audit_checked", note)
        put(sqlite, "audit_exported_us", str(now))
        seen = integrity(log, tmp_path)
        assert (seen.checked, seen.exported_us) == (None, None), note


def test_the_badge_believes_what_an_event_tells_of_and_no_more(sqlite: Database, tmp_path: Path) -> None:
    log = AuditLog(sqlite)
    fill(log, 9)
    LogSigner(log, tmp_path).sign()
    keep_verdict(log, verify_log(sqlite, tmp_path), by=SYSTEM)
    mark_exported(sqlite, log.append(NewEvent(SYSTEM, "checkpoint_exported")))
    true = integrity(log, tmp_path)
    assert true.checked is not None
    assert (true.checked.size, true.checked.intact) == (9, True)
    assert true.exported_us is not None
    put(sqlite, "audit_checked", claims(10**6, true.checked.time_us))
    assert integrity(log, tmp_path).checked is None
    put(sqlite, "audit_checked", claims(9, true.checked.time_us, intact=False))
    assert integrity(log, tmp_path).checked is None
