"""The signer's memory: what it repairs and reports, and how signing begins anew after a finding or with another key."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.audit.checkpoint import integrity, write_checkpoint
from appliance.audit.evidence import EvidenceError, export_evidence, verify_evidence
from appliance.audit.fault import LogBrokenError
from appliance.audit.findings import AcknowledgementError, acknowledge, find_acknowledgement, past_findings
from appliance.audit.keys import load_signer, settle_key, stage_key
from appliance.audit.ledger import LedgerState, read_ledger, read_tail
from appliance.audit.log import AuditLog
from appliance.audit.note import CheckpointError, SignedCheckpoint, Verifier, load_verifier, verify_checkpoint
from appliance.audit.signer import LogSigner
from appliance.audit.statement import Statement, is_statement, parse_statement
from appliance.audit.stored import newest_note, store_note
from appliance.audit.verify import Against, verify_log
from appliance.database.tables import audit_checkpoints, audit_contents, audit_events
from appliance.database.transactions import Database, DatabaseError, from_iso, open_copy
from tests.appliance.records import SYSTEM, fill

NOON = from_iso("2026-11-23T12:00:00.000000Z")
HOUR = 3_600_000_000


@pytest.fixture
def log(sqlite: Database) -> AuditLog:
    """A log on SQLite. The signer is the same on both databases, and its files are the point."""
    return AuditLog(sqlite)


def ledger(state_dir: Path) -> LedgerState:
    state = read_ledger(state_dir / "audit")
    assert state is not None
    return state


def public_key(state_dir: Path) -> Verifier:
    verifier = load_verifier(state_dir / "keys")
    assert verifier is not None
    return verifier


def delete_event(log: AuditLog, sequence: int) -> None:
    with log.database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence == sequence))
        connection.execute(audit_contents.delete().where(audit_contents.c.sequence == sequence))


def sign_until_refused(signer: LogSigner, match: str | None = None) -> None:
    """Sign until it is refused: at the latest when the turn of the older event has come."""

    def sign_often() -> None:
        for _ in range(3):
            signer.sign()

    with pytest.raises(LogBrokenError, match=match):
        sign_often()


def acknowledged(log: AuditLog, state_dir: Path) -> str:
    """Acknowledge the open finding. Returns its name."""
    _, finding = read_tail(state_dir / "audit") or ("", None)
    assert finding is not None
    acknowledge(log, finding, finding.id, "looked into", by=SYSTEM)
    return finding.id


def test_every_checkpoint_is_in_the_ledger_and_names_the_one_before_it(log: AuditLog, tmp_path: Path) -> None:
    signer = LogSigner(log, tmp_path)
    for _ in range(3):
        fill(log, 2)
        signer.sign()
    state = ledger(tmp_path)
    assert (state.entries, state.signed_size, state.faults, state.last_note) == (4, 6, [], newest_note(log.database))
    assert stat.S_IMODE((tmp_path / "audit" / "ledger.txt").stat().st_mode) == 0o600


def test_two_signers_of_one_site_follow_each_other(log: AuditLog, tmp_path: Path) -> None:
    """The recorder, and a command beside it."""
    fill(log, 2)
    recorder, command = LogSigner(log, tmp_path), LogSigner(log, tmp_path)
    for signer in (recorder, command, recorder, command):
        fill(log, 1)
        signer.sign()
    assert verify_log(log.database, tmp_path).faults == ()


def test_half_written_last_line_is_removed_and_said(log: AuditLog, tmp_path: Path) -> None:
    """The power failed while a note was written. It was not published, so nothing is lost."""
    fill(log, 3)
    write_checkpoint(log, tmp_path)
    path = tmp_path / "audit" / "ledger.txt"
    whole = path.read_bytes()
    for cut in (1, 40):
        path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-cut])
        write_checkpoint(log, tmp_path)
        report = verify_log(log.database, tmp_path)
        assert report.faults == ()
        assert any("half-written last line" in str(remark) for remark in report.remarks)
        whole = path.read_bytes()


def test_note_that_was_never_published_is_published_at_the_next_start(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died after the ledger and before the database."""
    fill(log, 3)
    with monkeypatch.context() as patch:
        patch.setattr("appliance.audit.signer.store_note", raise_database_error)
        with pytest.raises(DatabaseError):
            write_checkpoint(log, tmp_path)
    fill(log, 1)
    write_checkpoint(log, tmp_path)
    assert verify_log(log.database, tmp_path).faults == ()
    with log.database.read() as connection:
        assert list(connection.execute(audit_checkpoints.select()).scalars()) == [3, 4]


def test_note_that_could_not_be_published_is_by_the_same_signer(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 3)
    signer = LogSigner(log, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("appliance.audit.signer.store_note", raise_database_error)
        with pytest.raises(DatabaseError):
            signer.sign()
    fill(log, 1)
    signer.sign()
    assert verify_log(log.database, tmp_path).faults == ()


def raise_database_error(*_: object, **_options: object) -> None:
    raise DatabaseError("for this test")


def test_full_disk_leaves_the_ledger_whole(log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(log, 3)
    signer = LogSigner(log, tmp_path)
    signer.sign()
    before = (tmp_path / "audit" / "ledger.txt").read_bytes()

    real_write = os.write

    def write_half(descriptor: int, data: bytes) -> int:
        return real_write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("appliance.audit.ledger_file.os.write", write_half)
        with pytest.raises(CheckpointError, match="No space"):
            signer.sign()
    assert (tmp_path / "audit" / "ledger.txt").read_bytes() == before
    signer.sign()
    assert verify_log(log.database, tmp_path).faults == ()


def test_after_an_acknowledgement_signing_begins_anew_and_everything_stays_visible(
    log: AuditLog, tmp_path: Path
) -> None:
    fill(log, 9)
    signer = LogSigner(log, tmp_path)
    signer.sign()
    (daily,) = (tmp_path / "audit").glob("checkpoint-*")
    before = daily.read_bytes()
    delete_event(log, 3)
    fill(log, 1)
    sign_until_refused(signer)
    finding = acknowledged(log, tmp_path)
    checkpoint = LogSigner(log, tmp_path).sign()
    assert checkpoint is not None
    assert integrity(log, tmp_path).state == "verified"
    report = verify_log(log.database, tmp_path)
    assert report.faults == ()
    assert [str(fault) for fault in report.known_damage] == ["event 3: it is missing"]
    assert "looked into" in str(report.findings[0])
    assert daily.read_bytes() == before
    assert list((tmp_path / "audit").glob(f"checkpoint-*-after-finding-{finding}.txt"))
    actions = [log.get(number).header.action for number in range(10, log.size() + 1)]
    assert actions[1:] == ["record_finding", "finding_acknowledged"]
    delete_event(log, 5)
    sign_until_refused(LogSigner(log, tmp_path), "event 5")
    assert len(ledger(tmp_path).findings) == 2


@pytest.mark.parametrize("action", ["record_finding", "finding_acknowledged"])
def test_text_that_is_not_utf8_hides_no_finding_and_stops_no_signer(
    sqlite: Database, tmp_path: Path, action: str
) -> None:
    log = AuditLog(sqlite)
    fill(log, 9)
    LogSigner(log, tmp_path).sign()
    delete_event(log, 3)
    fill(log, 1)
    sign_until_refused(LogSigner(log, tmp_path))
    finding = acknowledged(log, tmp_path)
    with sqlite.write() as connection:
        number = "(SELECT sequence FROM audit_events WHERE action = ?)"
        undecodable = f"UPDATE audit_contents SET text = CAST(x'ff80' AS TEXT) WHERE sequence = {number}"  # noqa: S608
        connection.exec_driver_sql(undecodable, (action,))
    (past,) = past_findings(log)
    assert past.acknowledged is not None
    words = past.words if action == "record_finding" else past.acknowledged.reason
    assert words == "this event is damaged: its text is not UTF-8"
    _, open_finding = read_tail(tmp_path / "audit") or ("", None)
    assert open_finding is not None
    assert open_finding.id == finding
    assert find_acknowledgement(log, open_finding) == past.acknowledged


@pytest.mark.parametrize(("name", "reason"), [("00000000", "a reason"), (None, "  "), (None, "x" * 501)])
def test_acknowledgement_needs_the_open_finding_and_a_reason(
    log: AuditLog, tmp_path: Path, name: str | None, reason: str
) -> None:
    fill(log, 5)
    write_checkpoint(log, tmp_path)
    delete_event(log, 5)
    with pytest.raises(LogBrokenError):
        write_checkpoint(log, tmp_path)
    _, finding = read_tail(tmp_path / "audit") or ("", None)
    assert finding is not None
    with pytest.raises(AcknowledgementError):
        acknowledge(log, finding, name or finding.id, reason, by=SYSTEM)
    with pytest.raises(LogBrokenError):
        write_checkpoint(log, tmp_path)


def test_acknowledgement_written_beforehand_does_not_count(log: AuditLog, tmp_path: Path) -> None:
    """A finding is named after what was signed, so nobody knows its name before it exists."""
    fill(log, 5)
    write_checkpoint(log, tmp_path)
    delete_event(log, 5)
    names = set[str]()
    for _ in range(2):
        copy = tmp_path / f"copy-{len(names)}"
        shutil.copytree(tmp_path / "audit", copy / "audit")
        shutil.copytree(tmp_path / "keys", copy / "keys")
        shutil.copytree(tmp_path / "signer", copy / "signer")
        with pytest.raises(LogBrokenError):
            LogSigner(log, copy).sign()
        _, finding = read_tail(copy / "audit") or ("", None)
        assert finding is not None
        names.add(finding.id)
    assert len(names) == 2


def test_lost_key_is_a_finding_and_another_key_is_made_only_when_it_is_acknowledged(
    log: AuditLog, tmp_path: Path
) -> None:
    fill(log, 3)
    write_checkpoint(log, tmp_path)
    old = str(public_key(tmp_path))
    (tmp_path / "signer" / "audit.key").unlink()
    with pytest.raises(LogBrokenError, match="signing key is missing"):
        write_checkpoint(log, tmp_path)
    assert not (tmp_path / "signer" / "audit.key").exists()
    acknowledged(log, tmp_path)
    write_checkpoint(log, tmp_path)
    assert str(public_key(tmp_path)) != old
    report = verify_log(log.database, tmp_path)
    assert (report.faults, len(report.findings)) == ((), 1)


def test_old_key_signs_the_new_one(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    running = LogSigner(log, tmp_path)
    running.sign()
    old, exported = public_key(tmp_path), newest_note(log.database) or ""
    new = LogSigner(log, tmp_path).rotate_key(by=SYSTEM)
    assert str(public_key(tmp_path)) == str(new) != str(old)
    fill(log, 2)
    running.sign()
    verify_checkpoint(newest_note(log.database) or "", new)
    report = verify_log(log.database, tmp_path, against=[Against("exported", exported)])
    assert report.faults == ()
    assert any("signing key was replaced" in str(remark) for remark in report.remarks)
    event = log.get(4)
    assert event.content is not None
    assert (event.header.action, event.header.subject) == ("signing_key_replaced", str(new))
    assert not (tmp_path / "signer" / "audit.key.new").exists()


def test_who_trusts_the_old_key_can_check_what_the_new_one_signed(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    write_checkpoint(log, tmp_path)
    old, exported = public_key(tmp_path), newest_note(log.database) or ""
    for _ in range(2):
        LogSigner(log, tmp_path).rotate_key(by=SYSTEM)
    evidence = export_evidence(log, tmp_path, [1, 2], by=SYSTEM)
    assert len(verify_evidence(evidence, str(old)).events) == 2
    with open_copy(Path(log.database.engine.url.database or "")) as copy:
        assert verify_log(copy, None, key=old, against=[Against("exported", exported)]).faults == ()
    stranger = stage_key(tmp_path / "other", log.origin)
    with pytest.raises(EvidenceError, match=r"not signed by .* get the new audit\.pub"):
        verify_evidence(evidence, str(stranger.verifier))


@pytest.mark.parametrize("named", [True, False])
def test_rotation_that_a_power_cut_stopped_is_finished_or_undone(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    fill(log, 3)
    write_checkpoint(log, tmp_path)
    old = str(public_key(tmp_path))
    stop_at = "appliance.audit.signer.settle_key" if named else "appliance.audit.ledger_file.append_note"
    signer = LogSigner(log, tmp_path)
    signer.sign()
    with monkeypatch.context() as patch:
        patch.setattr(stop_at, raise_database_error)
        with pytest.raises(DatabaseError):
            signer.rotate_key(by=SYSTEM)
    write_checkpoint(log, tmp_path)
    assert (str(public_key(tmp_path)) != old) == named
    assert verify_log(log.database, tmp_path).faults == ()


def test_site_of_an_earlier_release_is_taken_over_and_that_is_said(log: AuditLog, tmp_path: Path) -> None:
    sign_as_before(log, tmp_path)
    write_checkpoint(log, tmp_path)
    report = verify_log(log.database, tmp_path)
    assert report.faults == ()
    assert any("an earlier release signed the first 5 events" in str(remark) for remark in report.remarks)
    with log.database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence > 3))
    with pytest.raises(LogBrokenError):
        write_checkpoint(log, tmp_path)


def test_site_of_an_earlier_release_whose_end_was_cut_off_is_a_finding(log: AuditLog, tmp_path: Path) -> None:
    sign_as_before(log, tmp_path)
    with log.database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence > 3))
    with pytest.raises(LogBrokenError):
        write_checkpoint(log, tmp_path)
    assert integrity(log, tmp_path).state == "broken"


def sign_as_before(log: AuditLog, state_dir: Path) -> None:
    """Five events, signed at 3 and at 5 as releases without a ledger did."""
    key = stage_key(state_dir, log.origin)
    settle_key(state_dir, log.origin, str(key.verifier))
    signer = load_signer(state_dir, log.origin)
    (state_dir / "audit").mkdir()
    for count in (3, 2):
        fill(log, count)
        checkpoint = SignedCheckpoint(log.origin, log.size(), log.root(log.size()), NOON)
        store_note(log.database, log.size(), signer.sign(checkpoint))
        (state_dir / "audit" / "checkpoint-2026-11-23.txt").write_text(signer.sign(checkpoint))


def test_clock_that_was_set_back_is_said_in_ledger_and_report(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    write_checkpoint(log, tmp_path, clock_us=lambda: NOON)
    write_checkpoint(log, tmp_path, clock_us=lambda: NOON - HOUR)
    write_checkpoint(log, tmp_path, clock_us=lambda: NOON - HOUR + 1)
    report = verify_log(log.database, tmp_path, clock_us=lambda: NOON)
    assert report.faults == ()
    said = [str(remark) for remark in report.remarks if "clock" in str(remark)]
    assert said == ["the clock went back from 2026-11-23T12:00:00.000000Z to 2026-11-23T11:00:00.000000Z"]


@pytest.mark.parametrize(("ahead_us", "said"), [(59_000_000, False), (61_000_000, True), (5 * 86_400_000_000, True)])
def test_clock_that_was_set_ahead_within_a_run_is_said(
    log: AuditLog, tmp_path: Path, ahead_us: int, said: bool
) -> None:
    fill(log, 2)
    clock = iter([NOON] * 20)
    signer = LogSigner(log, tmp_path, clock_us=lambda: next(clock), elapsed_us=lambda: 0)
    signer.sign()
    clock = iter([NOON + 60_000_000 + ahead_us] * 20)
    signer._elapsed_us = lambda: 60_000_000
    signer.sign()
    remarks = [str(remark) for remark in verify_log(log.database, tmp_path).remarks if "went ahead" in str(remark)]
    assert bool(remarks) == said
    assert not said or "from 2026-11-23T12:01:00.000000Z to" in remarks[0]


def test_checkpoint_of_the_future_does_not_keep_the_badge_green(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 3)
    write_checkpoint(log, tmp_path, clock_us=lambda: NOON)
    found = integrity(log, tmp_path, clock_us=lambda: NOON - HOUR)
    assert (found.state, found.ahead) == ("stale", True)
    report = verify_log(log.database, tmp_path, clock_us=lambda: NOON - HOUR)
    assert any("the newest checkpoint is of" in str(remark) for remark in report.remarks)


@pytest.mark.parametrize(
    ("step_us", "said"),
    [(-400_000, ""), (-2_000_000, "before"), (-27 * 365 * 24 * HOUR, "before"), (24 * HOUR, ""),
     (30 * 24 * HOUR, "long after")],
)  # fmt: skip
def test_event_whose_time_does_not_follow_is_remarked(
    sqlite: Database, tmp_path: Path, step_us: int, said: str
) -> None:
    times = [NOON, NOON + 1, NOON + step_us, NOON + step_us + 1]
    remaining = iter(times)
    fill(AuditLog(sqlite, clock_us=lambda: next(remaining)), 4)
    report = verify_log(sqlite, tmp_path)
    assert report.is_intact
    assert [remark.first for remark in report.remarks] == ([3] if said else [])
    assert all(said in remark.message for remark in report.remarks)


def change_before_the_checkpoint(log: AuditLog) -> None:
    delete_event(log, 2)


def cut_off(log: AuditLog) -> None:
    with log.database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence > 3))
        connection.execute(audit_checkpoints.delete())


@pytest.mark.parametrize(
    ("attack", "intact"), [(lambda _: None, True), (change_before_the_checkpoint, False), (cut_off, False)]
)
def test_copy_is_compared_with_an_exported_checkpoint_without_being_written(
    log: AuditLog, tmp_path: Path, attack: Callable[[AuditLog], None], intact: bool
) -> None:
    fill(log, 5)
    write_checkpoint(log, tmp_path)
    exported = Against("exported", newest_note(log.database) or "")
    fill(log, 4)
    write_checkpoint(log, tmp_path)
    attack(log)
    log.database.close()
    media = tmp_path / "media"
    media.mkdir()
    copy = Path(shutil.copy(log.database.engine.url.database or "", media / "copy"))
    for path in (copy, media):
        path.chmod(0o500)
    with open_copy(copy) as database:
        report = verify_log(database, None, key=public_key(tmp_path), against=[exported])
    assert report.is_intact == intact
    assert [path.name for path in media.iterdir()] == ["copy"]


def test_copy_with_its_write_ahead_log_is_read_whole(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 5)
    write_checkpoint(log, tmp_path)
    source = Path(log.database.engine.url.database or "")
    media = tmp_path / "media"
    media.mkdir()
    with log.database.read():  # so that the log is not emptied
        fill(log, 4)
        shutil.copy(source, media / "copy")
        shutil.copy(f"{source}-wal", media / "copy-wal")
    before = {path.name: path.read_bytes() for path in media.iterdir()}
    with open_copy(media / "copy") as database:
        assert verify_log(database, None, key=public_key(tmp_path)).size == 9
    assert {path.name: path.read_bytes() for path in media.iterdir()} == before


def test_copy_of_another_site_was_not_signed_by_this_key(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 5)
    write_checkpoint(log, tmp_path)
    other = stage_key(tmp_path / "other", log.origin).verifier
    assert not verify_log(log.database, None, key=other).is_intact
    with log.database.write() as connection:
        connection.execute(audit_checkpoints.delete())
    faults = verify_log(log.database, None, key=public_key(tmp_path)).faults
    assert [str(fault) for fault in faults] == [f"this database was not signed by this key, {public_key(tmp_path)}"]


def test_exported_checkpoint_by_another_key_is_refused(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 5)
    write_checkpoint(log, tmp_path)
    forged = stage_key(tmp_path / "other", log.origin).sign(SignedCheckpoint(log.origin, 5, log.root(5), NOON))
    (fault,) = verify_log(log.database, tmp_path, against=[Against("brought.txt", forged)]).faults
    assert str(fault).startswith("brought.txt: the checkpoint is not signed by")


def test_fresh_site_is_not_broken(log: AuditLog, tmp_path: Path) -> None:
    assert verify_log(log.database, tmp_path).is_intact
    fill(log, 3)
    assert verify_log(log.database, tmp_path).is_intact
    assert integrity(log, tmp_path).state == "stale"


@pytest.mark.parametrize("facts", [{}, {"faults": ["a", "é\n"]}, {"n": 1}])
def test_statement_survives_its_text_form_and_is_no_checkpoint(facts: dict[str, object]) -> None:
    statement = Statement("log", "finding", NOON, "0" * 64, facts)
    assert is_statement(statement.body())
    assert parse_statement(statement.body()) == statement
    with pytest.raises(CheckpointError):
        parse_statement(statement.body().replace("finding", "founding"))


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"[1]\n", b"null\n", b'"\\ud800"\n', b'"x\\n\\n"\n', b"\xff\n",
     json.dumps(f"log acknowledged\ntime 2026-11-23T12:00:00.000000Z\nprevious {'0' * 64}\n{{}}\n\n").encode() + b"\n",
     json.dumps(f"log key\ntime 2026-11-23T12:00:00.000000Z\nprevious {'0' * 64}\n{{}}\n\n").encode() + b"\n"],
)  # fmt: skip
def test_nonsense_in_the_ledger_is_a_fault_and_never_an_error(log: AuditLog, tmp_path: Path, line: bytes) -> None:
    fill(log, 3)
    write_checkpoint(log, tmp_path)
    with (tmp_path / "audit" / "ledger.txt").open("ab") as file:
        file.write(line)
    assert ledger(tmp_path).faults
    assert integrity(log, tmp_path).size == 3
    assert not verify_log(log.database, tmp_path).is_intact
    with pytest.raises(LogBrokenError):
        write_checkpoint(log, tmp_path)
