"""While the appliance serves, the recorder's thread reads the release again. A finding is an event and an alarm."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from appliance.audit.event import NewEvent
from appliance.audit.log import AuditLog
from appliance.database.transactions import open_database
from appliance.runtime.release_watch import comparison, newest_finding, watching
from appliance.runtime.slow_reading import RATE_BYTES_S
from installer.formats.manifest import MANIFEST, RECEIPT, Entry, encode_manifest

FILES = {"venv/lib/a.py": b"pass\n", "model/cpu/weights-00001.bin": bytes(3_000_000), "release.json": b"{}"}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of three files, with its manifest and receipt."""
    release = tmp_path / "1.0"
    entries = {}
    for name, data in FILES.items():
        path = release / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o444)
        entries[name] = Entry(len(data), hashlib.sha256(data).hexdigest(), path.stat().st_mtime_ns)
    for directory in (release, *release.rglob("*")):
        if directory.is_dir():
            directory.chmod(0o755)
    sealed = encode_manifest(entries)
    (release / MANIFEST).write_bytes(sealed)
    (release / RECEIPT).write_text(json.dumps({"manifest_sha256": hashlib.sha256(sealed).hexdigest()}))
    return release


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(open_database(f"sqlite:///{tmp_path}/record.sqlite3"))


def flip(path: Path) -> None:
    """Flip one bit, and restore the file's time."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def recorded(log: AuditLog, release: Path, monkeypatch: pytest.MonkeyPatch) -> list[NewEvent]:
    """What the thread had appended when its first comparison was in the record."""
    appended: list[NewEvent] = []
    done = threading.Event()
    append = AuditLog.append

    def note(self: AuditLog, event: NewEvent) -> object:
        header = append(self, event)
        appended.append(event)
        done.set()
        return header

    monkeypatch.setattr(AuditLog, "append", note)
    with watching(log, release, rate_bytes_s=1 << 40):
        assert done.wait(60)
    return appended


def test_a_flipped_bit_of_weights_is_an_event_and_a_finding_until_it_is_mended(
    log: AuditLog, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = release / "model/cpu/weights-00001.bin"
    flip(weights)
    (event,) = recorded(log, release, monkeypatch)
    assert (event.action, event.outcome, event.subject) == ("release_compared", "failed", "1.0")
    assert event.content is not None
    assert event.content.details.values()["differences"] == [
        {"path": "model/cpu/weights-00001.bin", "fault": "differs"}
    ]
    assert newest_finding(log, release) == event.content.text
    assert "model/cpu/weights-00001.bin differs" in event.content.text
    assert newest_finding(log, release.with_name("2.0")) is None, "another release is not meant"
    flip(weights)
    log.append(comparison(release))
    assert newest_finding(log, release) is None


def test_an_untouched_release_is_recorded_as_compared(
    log: AuditLog, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (event,) = recorded(log, release, monkeypatch)
    assert event.outcome == "ok"
    assert event.content is not None
    assert event.content.text == "3 files of release 1.0 are as they were installed"
    assert newest_finding(log, release) is None


def test_a_planted_file_and_a_lost_manifest_are_findings(log: AuditLog, release: Path) -> None:
    (release / "venv" / "evil.pth").write_text("import os\n")
    found = comparison(release)
    assert found.content is not None
    assert "venv/evil.pth is not part of the release" in found.content.text
    (release / RECEIPT).unlink()
    found = comparison(release)
    assert found.content is not None
    assert "receipt.json cannot be read" in found.content.text


def test_each_piece_is_paced_and_the_end_does_not_wait_for_the_rest(log: AuditLog, release: Path) -> None:
    read: list[int] = []
    assert comparison(release, read.append).outcome == "ok"
    assert sum(read) == sum(len(data) for data in FILES.values())
    assert max(read) <= RATE_BYTES_S // 100, "the reading never holds the disk for long"
    with watching(log, release, rate_bytes_s=1):  # a million seconds for the weights
        pass
    assert log.size() == 0, "an unfinished comparison says nothing"
