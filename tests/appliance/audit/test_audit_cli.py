"""The record's commands, called by an administrator or by somebody who checks a copy: words and exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.audit.details.review import KeyReplaced
from appliance.audit.event import Content, NewEvent
from appliance.audit.keys import stage_key
from appliance.audit.ledger import read_ledger
from appliance.audit.log import AuditLog
from appliance.audit.note import SignedCheckpoint
from appliance.audit.statement import Statement
from appliance.audit.stored import store_note
from appliance.config import load_config
from appliance.database.tables import audit_events
from appliance.database.transactions import from_iso, open_database
from tests.appliance.records import SYSTEM, fill
from tests.appliance.test_cli import Done, run
from tests.conftest import require

NOON = from_iso("2026-11-23T12:00:00.000000Z")


def cli(home: Path, *words: str | Path) -> Done:
    return run(*words, "--home", home)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A signed site with eight events."""
    home = tmp_path / "site"
    home.mkdir()
    assert cli(home, "audit", "checkpoint").exit_code == 1  # nothing to sign yet
    with_log(home, lambda log: fill(log, 8))
    return home


def with_log(home: Path, work: Callable[[AuditLog], object]) -> None:
    database = open_database(load_config(home).database_url)
    work(AuditLog(database))
    database.close()


def exported(home: Path, name: str) -> Path:
    """A checkpoint that left the site."""
    path = home.parent / name
    path.write_text(cli(home, "audit", "checkpoint").stdout)
    return path


def copied(home: Path, name: str) -> Path:
    """The database on other media, with the public key beside it."""
    directory = home.parent / name
    directory.mkdir()
    shutil.copy(home / "state" / "database" / "appliance.sqlite3", directory / "copy.sqlite3")
    shutil.copy(home / "state" / "keys" / "audit.pub", directory / "audit.pub")
    return directory / "copy.sqlite3"


def damage(file: Path) -> None:
    database = open_database(f"sqlite:///{file}")
    with database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 5).values(actor_name="eve"))
    database.close()


def test_clock_that_ran_backwards_between_two_commands_is_said_by_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "site"
    home.mkdir()
    for name, time_us in (("ann", NOON), ("bob", from_iso("1999-03-01T00:00:00.000000Z"))):
        monkeypatch.setattr(time, "time_ns", lambda time_us=time_us: time_us * 1000)
        assert cli(home, "users", "add", name, "--role", "user").exit_code == 0
    monkeypatch.setattr(time, "time_ns", lambda: NOON * 1000 + 10**9)
    done = cli(home, "audit", "verify")
    assert done.exit_code == 0, done.output
    assert "REMARK event 3: its time, 1999-03-01T00:00:00.000000Z, is before that of the event before it" in done.stdout


def test_verify_says_broken_with_status_1_and_names_the_event(home: Path) -> None:
    assert cli(home, "audit", "verify").exit_code == 0
    damage(home / "state" / "database" / "appliance.sqlite3")
    done = cli(home, "audit", "verify")
    assert done.exit_code == 1
    assert "FAULT  event 5: its header does not fit its hash" in done.stdout
    assert "The log is BROKEN" in done.stdout


def test_an_exported_checkpoint_is_continued_by_the_site_and_by_a_copy(home: Path) -> None:
    first = exported(home, "first.txt")
    second = exported(home, "second.txt")
    copy = copied(home, "media")
    against = "--against", first, "--against", second
    assert cli(home, "audit", "verify", *against).exit_code == 0
    done = run("audit", "verify", "--database", copy, "--key", copy.with_name("audit.pub"), *against)
    assert done.exit_code == 0, done.output
    assert "The log is intact" in done.stdout
    assert "Not checked: the signer's own file" in done.stdout


def test_a_copy_of_a_cut_site_does_not_continue_the_exported_checkpoint(home: Path) -> None:
    """The events that the checkpoint covers are gone, and so are all checkpoints in the database."""
    against = exported(home, "first.txt")
    copy = copied(home, "media")
    database = open_database(f"sqlite:///{copy}")
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit_events WHERE sequence > 6")
        connection.exec_driver_sql("DELETE FROM audit_contents WHERE sequence > 6")
        connection.exec_driver_sql("DELETE FROM audit_checkpoints")
    database.close()
    done = run("audit", "verify", "--database", copy, "--key", copy.with_name("audit.pub"), "--against", against)
    assert done.exit_code == 1
    assert "events 7 to 8: missing at the end: they were signed at" in done.stdout
    assert str(against) in done.stdout


def test_a_copy_checked_with_another_sites_key_is_broken(home: Path, tmp_path: Path) -> None:
    exported(home, "first.txt")
    copy = copied(home, "media")
    other = tmp_path / "other"
    other.mkdir()
    assert cli(other, "users", "add", "ann", "--role", "user").exit_code == 0
    exported(other, "others.txt")
    done = run("audit", "verify", "--database", copy, "--key", other / "state" / "keys" / "audit.pub")
    assert done.exit_code == 1
    assert "BROKEN" in done.stdout


@pytest.mark.parametrize(
    "words", [[], ["--database"], ["--database", "--home"], ["--database", "--key", "--home"]], ids=" ".join
)
def test_verify_wants_a_site_or_a_copy_with_its_key(home: Path, words: list[str]) -> None:
    exported(home, "first.txt")
    copy = copied(home, "media")
    values = {"--database": copy, "--key": copy.with_name("audit.pub"), "--home": home}
    done = run("audit", "verify", *(part for word in words for part in (word, values[word])))
    assert done.exit_code == 2
    assert "give either --home, or --database with --key" in done.output


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def test_a_copy_on_read_only_media_is_checked_and_nothing_is_written_beside_it(home: Path) -> None:
    """The file system is mounted read-only. The database was copied while its write-ahead log was in use."""
    unshare = shutil.which("unshare")
    require(os.geteuid() == 0 and unshare is not None, "root, for a mount of one's own")
    exported(home, "first.txt")
    copy = copied(home, "media")
    before = listing(copy.parent)
    command = [
        "unshare", "--mount", "sh", "-c", READ_ONLY, "sh", str(copy.parent), sys.executable, "-m", "appliance.cli",
        "audit", "verify", "--database", str(copy), "--key", str(copy.with_name("audit.pub")), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["intact"] is True
    assert listing(copy.parent) == before


def listing(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_acknowledge_needs_the_name_of_the_open_finding_and_a_reason(home: Path) -> None:
    exported(home, "first.txt")
    done = cli(home, "audit", "acknowledge", "00000000", "--reason", "a reason")
    assert (done.exit_code, "No finding is open" in done.output) == (1, True)
    damage(home / "state" / "database" / "appliance.sqlite3")
    assert cli(home, "audit", "checkpoint").exit_code == 1
    state = read_ledger(home / "state" / "audit")
    assert state is not None
    assert state.open_finding is not None
    name = state.open_finding.id
    for finding, reason in (("00000000", "a reason"), (name, " "), (name, "x" * 501)):
        assert cli(home, "audit", "acknowledge", finding, "--reason", reason).exit_code == 1
    assert cli(home, "audit", "acknowledge", name).exit_code == 2  # without a reason
    assert cli(home, "audit", "checkpoint").exit_code == 1
    done = cli(home, "audit", "acknowledge", name, "--reason", "it was the test")
    assert done.exit_code == 0, done.output
    assert "Acknowledged in event" in done.stdout
    assert cli(home, "audit", "checkpoint").exit_code == 0
    done = cli(home, "audit", "verify")
    assert done.exit_code == 0, done.output
    assert f"FOUND  finding {name}" in done.stdout
    assert "it was the test" in done.stdout
    assert "KNOWN  event 5" in done.stdout


def test_rotate_key_prints_the_new_key_which_old_evidence_and_new_copies_follow(home: Path) -> None:
    first = exported(home, "first.txt")
    old = home.parent / "old.pub"
    shutil.copy(home / "state" / "keys" / "audit.pub", old)
    done = cli(home, "audit", "rotate-key")
    assert done.exit_code == 0, done.output
    new = (home / "state" / "keys" / "audit.pub").read_text()
    assert new != old.read_text()
    assert new.strip() in done.stdout
    copy = copied(home, "media")
    for key in (old, copy.with_name("audit.pub")):
        done = run("audit", "verify", "--database", copy, "--key", key)
        assert done.exit_code == 0, (key, done.output)
    assert cli(home, "audit", "verify", "--against", first).exit_code == 0


def test_rotate_key_is_refused_while_a_finding_is_open(home: Path) -> None:
    exported(home, "first.txt")
    damage(home / "state" / "database" / "appliance.sqlite3")
    assert cli(home, "audit", "checkpoint").exit_code == 1
    before = (home / "state" / "keys" / "audit.pub").read_text()
    done = cli(home, "audit", "rotate-key")
    assert (done.exit_code, "Traceback" in done.output) == (1, False)
    assert (home / "state" / "keys" / "audit.pub").read_text() == before


@pytest.mark.parametrize("form", [[], ["--jsonl"]], ids=["evidence", "extract"])
def test_what_is_exported_after_a_rotation_is_proved_by_the_old_key_too(home: Path, form: list[str]) -> None:
    exported(home, "first.txt")
    old, out = home.parent / "old.pub", home.parent / "out"
    shutil.copy(home / "state" / "keys" / "audit.pub", old)
    for _ in range(2):
        assert cli(home, "audit", "rotate-key").exit_code == 0
    assert cli(home, "audit", "export", "--first", "2", "--last", "7", "--out", out, *form).exit_code == 0
    for key in (old, home / "state" / "keys" / "audit.pub"):
        done = run("audit", "check", out, "--key", key)
        assert done.exit_code == 0, done.output
        assert "Complete: every event from 2 to 7" in done.stdout
    other = home.parent / "other"
    other.mkdir()
    assert cli(other, "users", "add", "ann", "--role", "user").exit_code == 0
    exported(other, "others.txt")
    assert run("audit", "check", out, "--key", other / "state" / "keys" / "audit.pub").exit_code == 1


def test_a_key_that_hands_over_to_the_trusted_one_signs_nothing_beyond_it(home: Path) -> None:
    """Anybody can make such a key, and put events, the hand-over and a checkpoint of their own into a copy."""
    exported(home, "first.txt")
    copy = copied(home, "media")
    database = open_database(f"sqlite:///{copy}")
    log = AuditLog(database)
    trusted = copy.with_name("audit.pub").read_text().strip()
    forger = stage_key(home.parent / "forger", log.origin)
    body = Statement(forger.name, "key", NOON, "0" * 64, {"key": trusted}).body()
    content = Content(f"{forger.verifier} -> {trusted}", KeyReplaced(note=forger.sign_text(body)))
    log.append(NewEvent(SYSTEM, "signing_key_replaced", subject=trusted, content=content))
    size = log.size()
    store_note(database, size, forger.sign(SignedCheckpoint(log.origin, size, log.root(size), NOON)))
    database.close()
    done = run("audit", "verify", "--database", copy, "--key", copy.with_name("audit.pub"))
    assert done.exit_code == 1
    assert f"the checkpoint stored for {size} events" in done.stdout
    assert "signed up to event 8" in done.stdout
