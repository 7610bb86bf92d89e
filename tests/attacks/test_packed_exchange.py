"""Attacks on the weights packed for this processor: exchanged together with their description, or packed otherwise."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.audit.event import Content, NewEvent
from appliance.audit.log import AuditLog, Event
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import ClockError, now_us, open_database
from appliance.people.accounts import Role
from appliance.runtime.packed_watch import PackedWatch, newest_packed_finding
from installer.formats.manifest import MANIFEST, RECEIPT, encode_manifest
from tests.appliance.records import SYSTEM
from tests.appliance.supervised import Site as RunningSite
from tests.appliance.supervised import supervised
from tests.webui.conftest import Site

QUICKLY = (1 << 40, 1 << 40)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    database = open_database(f"sqlite:///{tmp_path}/record.sqlite3")
    yield AuditLog(database)
    database.close()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    release = tmp_path / "releases" / "1.0"
    release.mkdir(parents=True)
    sealed = encode_manifest({})
    (release / MANIFEST).write_bytes(sealed)
    (release / RECEIPT).write_text(json.dumps({"manifest_sha256": hashlib.sha256(sealed).hexdigest()}))
    return release


def put(release: Path, weights: bytes) -> Path:
    """Write packed weights and a description that fits them, as the packer does and anybody can."""
    directory = release.parent.parent / "packed" / release.name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "packed.bin").write_bytes(weights)
    description = {"plan": "0" * 64, "layout": 2, "xxh3_128": [hashlib.sha256(weights).hexdigest()[:32]]}
    (directory / "packed.json").write_text(json.dumps(description))
    return directory


def looked(log: AuditLog, release: Path, *, anew: bool) -> Event:
    """What is recorded after the packer has ended."""
    before = log.size()
    with PackedWatch(log, release, release.parent.parent / "packed", rates_bytes_s=QUICKLY) as watch:
        watch.packer_ended(anew=anew)
        while log.size() == before:
            os.sched_yield()
    return log.get(log.size())


def words(event: Event) -> tuple[str, str, str]:
    assert event.content is not None
    return event.header.action, event.header.outcome, event.content.text


def test_weights_exchanged_with_their_description_are_an_event_and_a_finding(log: AuditLog, release: Path) -> None:
    put(release, b"right" * 1000)
    assert words(looked(log, release, anew=True)) == (
        "weights_packed", "ok", "the packed weights of release 1.0: packed now",
    )  # fmt: skip
    assert words(looked(log, release, anew=False))[:2] == ("weights_compared", "ok")
    assert newest_packed_finding(log, release) is None
    put(release, b"wrong" * 1000)
    event = looked(log, release, anew=False)
    assert words(event) == (
        "weights_compared", "failed",
        "the packed weights of release 1.0 are not those of event 1: packed.bin and packed.json were exchanged",
    )  # fmt: skip
    assert newest_packed_finding(log, release) == (
        "The packed weights of release 1.0 are not those of event 1: packed.bin and packed.json were exchanged"
    )
    put(release, b"right" * 1000)
    assert words(looked(log, release, anew=False))[:2] == ("weights_compared", "ok")
    assert newest_packed_finding(log, release) is None


def a_link(directory: Path) -> None:
    (directory / "packed.bin").rename(directory / "elsewhere")
    (directory / "packed.bin").symlink_to("elsewhere")


def a_directory(directory: Path) -> None:
    (directory / "packed.bin").unlink()
    (directory / "packed.bin").mkdir()


def a_pipe(directory: Path) -> None:
    (directory / "packed.bin").unlink()
    os.mkfifo(directory / "packed.bin")


def nothing(directory: Path) -> None:
    (directory / "packed.bin").unlink()


def cut(directory: Path) -> None:
    os.truncate(directory / "packed.bin", 100)


def other_description(directory: Path) -> None:
    (directory / "packed.json").write_text("{}")


@pytest.mark.parametrize("attack", [a_link, a_directory, a_pipe, nothing, cut, other_description])
def test_whatever_lies_in_the_place_of_the_files_is_a_finding(
    log: AuditLog, release: Path, attack: Callable[[Path], None]
) -> None:
    directory = put(release, b"right" * 1000)
    looked(log, release, anew=True)
    attack(directory)
    assert words(looked(log, release, anew=False))[:2] == ("weights_compared", "failed")


def test_a_packer_that_packs_otherwise_is_a_finding_and_what_it_made_is_expected_later(
    log: AuditLog, release: Path
) -> None:
    """Packing the same weights again gives the same bytes, so a damaged file that is packed anew is no finding."""
    put(release, b"right" * 1000)
    looked(log, release, anew=True)
    assert words(looked(log, release, anew=True))[:2] == ("weights_compared", "ok")
    put(release, b"wrong" * 1000)
    event = looked(log, release, anew=True)
    assert words(event)[:2] == ("weights_packed", "failed")
    assert "are not those of event 1: one of the two packings was wrong" in words(event)[2]
    assert newest_packed_finding(log, release) is not None
    assert words(looked(log, release, anew=False))[:2] == ("weights_compared", "ok")
    put(release, b"right" * 1000)
    assert words(looked(log, release, anew=False))[:2] == ("weights_compared", "failed")


def test_weights_packed_before_this_was_recorded_are_recorded_when_they_are_first_seen(
    log: AuditLog, release: Path
) -> None:
    put(release, b"right" * 1000)
    event = looked(log, release, anew=False)
    assert words(event)[:2] == ("weights_packed", "ok")
    assert "seen for the first time; they were packed before" in words(event)[2]
    put(release, b"wrong" * 1000)
    assert words(looked(log, release, anew=False))[:2] == ("weights_compared", "failed")


def test_an_event_whose_content_was_changed_says_nothing_of_what_was_packed(log: AuditLog, release: Path) -> None:
    """Somebody who can write the database puts other digests into the event. The true ones of an older event count."""
    put(release, b"right" * 1000)
    looked(log, release, anew=True)
    put(release, b"wrong" * 1000)
    second = looked(log, release, anew=True)
    put(release, b"right" * 1000)
    third = looked(log, release, anew=True)
    put(release, b"evil" * 1000)
    assert second.content is not None
    assert third.sealed is not None
    forged = third.sealed.details.replace(
        hashlib.sha256(b"right" * 1000).hexdigest(), hashlib.sha256(b"evil" * 1000).hexdigest()
    )
    with log.database.write() as connection:
        changed = audit_contents.update().where(audit_contents.c.sequence == third.sequence)
        connection.execute(changed.values(details=forged))
    event = looked(log, release, anew=False)
    assert words(event)[:2] == ("weights_compared", "failed")
    assert f"not those of event {second.sequence}" in words(event)[2]


def test_a_damaged_event_of_the_comparison_ends_no_page(log: AuditLog, release: Path) -> None:
    put(release, b"right" * 1000)
    looked(log, release, anew=True)
    put(release, b"wrong" * 1000)
    looked(log, release, anew=False)
    with log.database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == 2).values(via="xyz"))
    assert newest_packed_finding(log, release) == "The packed weights of release 1.0 were exchanged"


def test_nothing_is_recorded_where_nothing_was_packed(log: AuditLog, release: Path) -> None:
    """As on CUDA: the watch is told, looks, and ends in order."""
    with PackedWatch(log, release, release.parent.parent / "packed", rates_bytes_s=QUICKLY) as watch:
        watch.packer_ended(anew=False)
    assert log.size() == 0


def test_the_comparison_is_made_again_by_itself(log: AuditLog, release: Path) -> None:
    put(release, b"right" * 1000)
    directory = release.parent.parent / "packed"
    with PackedWatch(log, release, directory, rates_bytes_s=QUICKLY, again_s=0.01) as watch:
        watch.packer_ended(anew=True)
        while log.size() < 2:
            os.sched_yield()
    assert words(log.get(2))[:2] == ("weights_compared", "ok")


def test_an_event_that_no_clock_can_date_is_tried_again(log: AuditLog, release: Path) -> None:
    put(release, b"right" * 1000)
    asked, again = [], threading.Event()

    def clock_us() -> int:
        asked.append(True)
        if len(asked) == 1:
            raise ClockError("the clock of this host is before 1970; set it, then try again")
        again.set()
        return now_us()

    later = AuditLog(log.database, clock_us=clock_us)
    with PackedWatch(later, release, release.parent.parent / "packed", rates_bytes_s=QUICKLY, again_s=0.01) as watch:
        watch.packer_ended(anew=True)
        assert again.wait(60)
    assert words(log.get(1))[:2] == ("weights_packed", "ok")


def test_the_recorder_is_told_of_each_packing_and_a_new_recorder_again(tmp_path: Path) -> None:
    """The supervisor sees whether the packer packed; the packer itself writes nothing into the record."""
    recorder = """
import json, os, sys
out = open("state/audit/recorded", "a", buffering=1)
for line in sys.stdin:
    out.write(line)
    os.write(int(os.environ["APPLIANCE_READY_FD"]), b"1")
    if json.loads(line)["event"] == "packer_ended" and not os.path.exists("state/audit/died"):
        open("state/audit/died", "w").close()
        os._exit(7)
"""
    with supervised(tmp_path, packer="raise SystemExit(10)", recorder=recorder) as site:
        site.wait_for("Appliance ready")
        site.until(lambda: len(packer_notes(site)) >= 2)
        notes = packer_notes(site)
    assert notes[0] is True
    assert False in notes[1:]


def packer_notes(site: RunningSite) -> list[bool]:
    return [note["anew"] for note in site.recorded() if note["event"] == "packer_ended"]


def test_the_finding_is_an_alarm_on_the_administrators_page(site: Site) -> None:
    release = site.services.config.release_dir
    text = f"the packed weights of release {release.name} are not those of event 1: packed.bin was exchanged"
    event = NewEvent(SYSTEM, "weights_compared", "failed", release.name, Content(text))
    site.services.record.append(event)
    page = site.browser(site.add_user("ada", Role.ADMIN)).get("/admin").text
    assert f"The packed weights of release {release.name} are not those of event 1: packed.bin was exchanged." in page
