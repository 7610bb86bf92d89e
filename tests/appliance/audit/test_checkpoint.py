"""Checkpoints: their form, their signature, and that nothing broken is signed."""

from __future__ import annotations

import base64
import hashlib
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.audit.checkpoint import STALE_AFTER_S, integrity, keep_verdict, write_checkpoint
from appliance.audit.erasure import erase
from appliance.audit.fault import LogBrokenError
from appliance.audit.findings import acknowledge
from appliance.audit.keys import load_signer, settle_key, stage_key
from appliance.audit.ledger import read_tail
from appliance.audit.log import AuditLog
from appliance.audit.note import (
    CheckpointError,
    SignedCheckpoint,
    Signer,
    load_verifier,
    parse_verifier,
    verify_checkpoint,
)
from appliance.audit.rounds import Rounds
from appliance.audit.signer import LogSigner
from appliance.audit.stored import newest_note
from appliance.audit.verify import verify_log
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import Database, from_iso
from tests.appliance.records import SYSTEM, fill

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = Signer("example.org/log", KEY)
SIGNED_US = from_iso("2026-11-23T01:37:24.000001Z")
CHECKPOINT = SignedCheckpoint("example.org/log", 12402, hashlib.sha256(b"root").digest(), SIGNED_US)


def test_note_has_the_form_of_c2sp() -> None:
    note = SIGNER.sign(CHECKPOINT)
    body, signature_line = note.split("\n\n")
    root = base64.b64encode(CHECKPOINT.root).decode()
    assert body == f"example.org/log\n12402\n{root}\ntime 2026-11-23T01:37:24.000001Z"
    dash, name, encoded = signature_line.removesuffix("\n").split(" ")
    assert (dash, name) == ("\N{EM DASH}", "example.org/log")
    signature = base64.b64decode(encoded)
    public = KEY.public_key().public_bytes_raw()
    assert signature[:4] == hashlib.sha256(b"example.org/log\n\x01" + public).digest()[:4]
    KEY.public_key().verify(signature[4:], (body + "\n").encode())
    assert verify_checkpoint(note, SIGNER.verifier) == CHECKPOINT


def test_openssl_accepts_the_signature(tmp_path: Path) -> None:
    settle_key(tmp_path, "example.org/log", str(stage_key(tmp_path, "example.org/log").verifier))
    signer = load_signer(tmp_path, "example.org/log")
    body, signature_line = signer.sign(CHECKPOINT).split("\n\n")
    (tmp_path / "body").write_text(body + "\n")
    (tmp_path / "signature").write_bytes(base64.b64decode(signature_line.split(" ")[2])[4:])
    files = ["-inkey", "signer/audit.key", "-in", "body", "-sigfile", "signature"]
    subprocess.run(["openssl", "pkeyutl", "-verify", "-rawin", *files], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.replace("12402", "12403"),
        lambda note: note.replace("example.org/log\n", "example.org/lot\n", 1),
        lambda note: note.replace("time 2026", "time 2027"),
        lambda note: note.replace("\n\n", "\nmore\n\n"),
        lambda note: note[:-10] + "AAAAAAA==\n",
        lambda note: note.replace("\N{EM DASH} example", "\N{EM DASH} someone"),
        lambda note: note.replace("\N{EM DASH} ", "- "),
        lambda note: note.replace("\n\n", "\n"),
        lambda note: note.removesuffix("\n"),
        lambda note: "",
    ],
)
def test_rejects_changed_note(change: Callable[[str], str]) -> None:
    note = SIGNER.sign(CHECKPOINT)
    assert change(note) != note
    with pytest.raises(CheckpointError):
        verify_checkpoint(change(note), SIGNER.verifier)


def test_rejects_signed_text_that_is_no_checkpoint() -> None:
    for body in ("example.org/log\n12\n", CHECKPOINT.body().replace("12402", "+12402"), CHECKPOINT.body() + "more\n"):
        signature = base64.b64encode(SIGNER.verifier.key_id + KEY.sign(body.encode())).decode()
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            verify_checkpoint(f"{body}\n\N{EM DASH} example.org/log {signature}\n", SIGNER.verifier)


def test_rejects_another_key_of_the_same_name() -> None:
    other = Signer("example.org/log", Ed25519PrivateKey.generate())
    with pytest.raises(CheckpointError, match="not signed by"):
        verify_checkpoint(other.sign(CHECKPOINT), SIGNER.verifier)


def test_public_key_survives_its_text_form() -> None:
    assert str(parse_verifier(str(SIGNER.verifier))) == str(SIGNER.verifier)


@pytest.mark.parametrize("text", ["", "name", "name+00000000+AAAA", "no base64+00000000+!!"])
def test_rejects_what_is_no_public_key(text: str) -> None:
    with pytest.raises(CheckpointError):
        parse_verifier(text)


def test_rejects_public_key_with_another_id() -> None:
    name, key_id, key = str(SIGNER.verifier).split("+", 2)
    with pytest.raises(CheckpointError, match="id"):
        parse_verifier(f"{name}+{'0' * len(key_id)}+{key}")


def test_key_comes_into_force_when_it_is_named_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = stage_key(tmp_path, "log")
    settle_key(tmp_path, "log", str(first.verifier))
    assert str(load_signer(tmp_path, "log").verifier) == str(load_verifier(tmp_path / "keys")) == str(first.verifier)
    assert stat.S_IMODE((tmp_path / "signer" / "audit.key").stat().st_mode) == 0o600
    stage_key(tmp_path, "log")
    settle_key(tmp_path, "log", str(first.verifier))  # a crash came before the second key was named
    assert str(load_signer(tmp_path, "log").verifier) == str(first.verifier)
    assert [path.name for path in (tmp_path / "signer").iterdir()] == ["audit.key"]
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["audit.pub"]


def test_half_written_new_key_is_removed(tmp_path: Path) -> None:
    (tmp_path / "signer").mkdir()
    (tmp_path / "signer" / "audit.key.new").write_text("-----BEGIN")
    settle_key(tmp_path, "log", "whatever")
    assert list((tmp_path / "signer").iterdir()) == []


def test_unusable_key_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "signer").mkdir()
    (tmp_path / "signer" / "audit.key").write_text("not a key")
    with pytest.raises(CheckpointError, match=r"audit\.key"):
        load_signer(tmp_path, "log")


def test_checkpoint_signs_size_and_root_and_is_kept_twice(log: AuditLog, tmp_path: Path) -> None:
    assert write_checkpoint(log, tmp_path) is None  # nothing to sign yet
    fill(log, 5)
    checkpoint = write_checkpoint(log, tmp_path, clock_us=lambda: from_iso("2026-11-23T23:59:59.000000Z"))
    assert checkpoint is not None
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (log.origin, 5, log.root(5))
    note = newest_note(log.database)
    assert note == (tmp_path / "audit" / "checkpoint-2026-11-23.txt").read_text()
    verifier = load_verifier(tmp_path / "keys")
    assert verifier is not None
    assert verify_checkpoint(note or "", verifier) == checkpoint


def test_each_day_keeps_its_last_checkpoint_as_a_file(log: AuditLog, tmp_path: Path) -> None:
    for day, hour in ((23, 1), (23, 2), (24, 1)):
        fill(log, 1)
        write_checkpoint(log, tmp_path, clock_us=lambda d=day, h=hour: from_iso(f"2026-11-{d}T0{h}:00:00.000000Z"))  # type: ignore[misc]
    names = sorted(path.name for path in (tmp_path / "audit").glob("checkpoint-*"))
    assert names == ["checkpoint-2026-11-23.txt", "checkpoint-2026-11-24.txt"]
    assert "\n2\n" in (tmp_path / "audit" / names[0]).read_text()
    assert verify_log(log.database, tmp_path).checkpoints == 3


def test_idle_log_is_signed_again_with_a_later_time(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 1)
    write_checkpoint(log, tmp_path, clock_us=lambda: 1_000_000)
    write_checkpoint(log, tmp_path, clock_us=lambda: 2_000_000)
    report = verify_log(log.database, tmp_path)
    assert report.newest is not None
    assert (report.faults, report.newest.time_us) == ((), 2_000_000)


def break_header(database: Database) -> None:
    with database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 7).values(actor_name="eve"))


def break_content(database: Database) -> None:
    with database.write() as connection:
        connection.execute(audit_contents.update().where(audit_contents.c.sequence == 7).values(text="other"))


def cut_tail(database: Database) -> None:
    with database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence > 3))


def break_signed_hashes(database: Database) -> None:
    with database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 4).values(subtrees=bytes(96)))


def shorten_signed_hashes(database: Database) -> None:
    with database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 4).values(subtrees=bytes(32)))


@pytest.mark.parametrize("damage", [break_header, break_content, cut_tail, break_signed_hashes, shorten_signed_hashes])
def test_signs_nothing_that_is_broken_and_says_so(
    log: AuditLog, tmp_path: Path, damage: Callable[[Database], None]
) -> None:
    fill(log, 5)
    write_checkpoint(log, tmp_path)
    fill(log, 5)
    damage(log.database)
    signed = newest_note(log.database)
    with pytest.raises(LogBrokenError):
        write_checkpoint(log, tmp_path)
    assert newest_note(log.database) == signed
    state = integrity(log, tmp_path)
    assert (state.state, state.verified_size) == ("broken", 5)
    assert state.fault
    assert state.finding


def test_integrity_goes_from_stale_to_verified_and_back(log: AuditLog, tmp_path: Path) -> None:
    assert integrity(log, tmp_path).state == "stale"
    fill(log, 3)
    assert integrity(log, tmp_path).state == "stale"
    checkpoint = write_checkpoint(log, tmp_path)
    assert checkpoint is not None
    fill(log, 1)
    now = integrity(log, tmp_path)
    assert (now.state, now.size, now.verified_size, now.verified_us) == ("verified", 4, 3, checkpoint.time_us)
    later_us = checkpoint.time_us + (STALE_AFTER_S + 1) * 1_000_000
    assert integrity(log, tmp_path, clock_us=lambda: later_us).state == "stale"


def test_finding_stays_until_a_reviewer_acknowledges_it(log: AuditLog, tmp_path: Path) -> None:
    """The row was changed. Putting it back, so that a verification finds nothing, does not undo that."""
    fill(log, 7)
    break_header(log.database)
    with pytest.raises(LogBrokenError):
        write_checkpoint(log, tmp_path)
    with log.database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 7).values(actor_name="ada"))
    keep_verdict(log, verify_log(log.database, tmp_path), by=SYSTEM)
    with pytest.raises(LogBrokenError, match="acknowledge"):
        write_checkpoint(log, tmp_path)
    assert integrity(log, tmp_path).state == "broken"
    _, finding = read_tail(tmp_path / "audit") or ("", None)
    assert finding is not None
    acknowledge(log, finding, finding.id, "a test", by=SYSTEM)
    write_checkpoint(log, tmp_path)
    assert integrity(log, tmp_path).state == "verified"
    report = verify_log(log.database, tmp_path)
    assert report.faults == ()
    assert [(found.id, found.acknowledged is not None) for found in report.findings] == [(finding.id, True)]


@pytest.mark.parametrize("damage", [break_header, break_content])
def test_older_events_are_checked_again_in_turn(
    log: AuditLog, tmp_path: Path, damage: Callable[[Database], None]
) -> None:
    signer = LogSigner(log, tmp_path, rounds=Rounds(4, draw=lambda _: 0))
    fill(log, 10)
    signer.sign()
    signer.sign()  # 1 to 4
    damage(log.database)
    with pytest.raises(LogBrokenError, match="event 7"):
        signer.sign()  # 5 to 8
    with pytest.raises(LogBrokenError, match="event 7"):
        signer.sign()  # again: the finding stays


def test_checking_in_turn_begins_again_at_the_end(log: AuditLog, tmp_path: Path) -> None:
    signer = LogSigner(log, tmp_path, rounds=Rounds(6, draw=lambda _: 0))
    fill(log, 10)
    for _ in range(3):  # nothing, 1 to 6, 7 to 10
        signer.sign()
    with log.database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 2).values(actor_name="eve"))
    with pytest.raises(LogBrokenError, match="event 2"):
        signer.sign()


def test_erasure_does_not_break_a_checkpoint(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 6)
    write_checkpoint(log, tmp_path)
    erase(log, 2, 2, by=SYSTEM, reason="for this test")
    erase(log, 5, 6, by=SYSTEM, reason="for this test")
    for _ in range(3):
        write_checkpoint(log, tmp_path)
    assert integrity(log, tmp_path).state == "verified"


def test_full_verification_marks_an_old_event_as_broken(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 9)
    write_checkpoint(log, tmp_path)
    break_header(log.database)
    keep_verdict(log, verify_log(log.database, tmp_path), by=SYSTEM)
    state = integrity(log, tmp_path)
    assert (state.state, "event 7" in (state.fault or "")) == ("broken", True)


def test_foreign_public_key_is_refused_before_signing(log: AuditLog, tmp_path: Path) -> None:
    fill(log, 1)
    write_checkpoint(log, tmp_path)
    (tmp_path / "keys" / "audit.pub").write_text(str(SIGNER.verifier))
    with pytest.raises(LogBrokenError, match="does not belong"):
        write_checkpoint(log, tmp_path)
