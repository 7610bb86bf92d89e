"""A disk really fills up: prompts are refused in words, nothing is lost, and answers come back by themselves.

The file systems are real and small: a tmpfs for space and inodes, one that is made read-only, one with a quota.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.audit.verify import verify_log
from appliance.config import Config, init_state, load_config
from appliance.database.transactions import Database, DatabaseError, open_database
from appliance.disk import ALARM_SHARE, WARNING_SHARE, DiskUse, Reserve, measure, refusal
from appliance.doctor import _examine_disk
from appliance.people.accounts import Role
from appliance.runtime.disk_watch import DiskWatch
from appliance.turns.events import AnswerDelta, Done, Failed, Started, TurnEvent
from appliance.turns.request import Message, TurnRequest
from appliance.turns.run import run_turn
from tests.conftest import require
from tests.fakes import FakeEngine, done
from tests.webui.conftest import SYSTEM, Browser, MakeSite, Site, empty_database, make_site  # noqa: F401 - fixtures
from webui.admin.alarms import current_alarms

MIB = 1 << 20
ADA = Actor("1", "ada", "web")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with 64 MiB and 256 inodes."""
    with mounted(tmp_path / "disk", "size=64m,nr_inodes=256,mode=0755") as path:
        yield path


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    require(os.geteuid() == 0, "the right to mount a file system (root)")
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    require(done.returncode == 0, f"a tmpfs with {options}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


class Appliance:
    """The parts of an appliance that write to ``state/``: the record, the recorder's watch, and turns."""

    def __init__(self, home: Path) -> None:
        init_state(home)
        self.config: Config = load_config(home)
        self.asked = 0  # turns that reached the engine
        self.state, directory = self.config.state_dir, self.config.record_dir
        self.watch = DiskWatch(directory)
        self.database: Database = open_database(self.config.database_url)
        make_room = Reserve(directory).give_back
        self.log = AuditLog(self.database, refusal=partial(refusal, directory), make_room=make_room)

    def look(self) -> None:
        self.watch.look(self.log, SYSTEM)

    def ask(self, text: str = "Hello") -> TurnEvent:
        """The last event of a turn."""
        request = TurnRequest("t", "1", (Message("user", text),), seed=1)
        with FakeEngine() as engine:
            last = list(run_turn(self.log, engine.client, ADA, request, conversation_id=None))[-1]
            self.asked += len(engine.requests)
        return last

    def actions(self) -> list[str]:
        return [self.log.get(number).header.action for number in range(1, self.log.size() + 1)]

    def texts(self, action: str) -> list[str]:
        events = [self.log.get(number) for number in range(1, self.log.size() + 1)]
        return [e.content.text for e in events if e.header.action == action and e.content is not None]

    def assert_intact(self) -> None:
        report = verify_log(self.database, self.state)
        assert report.is_intact, report


@pytest.fixture
def appliance(disk: Path) -> Iterator[Appliance]:
    made = Appliance(disk)
    yield made
    made.database.close()


def fill(disk: Path, name: str = "ballast", *, leave: int = 0) -> Path:
    """Take all space but ``leave`` bytes with one file."""
    path = disk / name
    with path.open("ab", buffering=0) as stream, suppress(OSError):
        while measure(disk).free_bytes > leave:
            stream.write(b"x" * min(1 << 16, measure(disk).free_bytes - leave))
    return path


def share_used(disk: Path, share: float) -> Path:
    use = measure(disk)
    return fill(disk, leave=int(use.total_bytes * (1 - share)))


def assert_refused(event: TurnEvent, words: str) -> None:
    assert isinstance(event, Failed), event
    assert event.code == "record_failed"
    assert words in event.message


def test_a_disk_filled_by_something_else_is_survived(appliance: Appliance, disk: Path) -> None:
    assert isinstance(appliance.ask(), Done)
    ballast = fill(disk)
    appliance.look()
    assert_refused(appliance.ask(), "The disk of the appliance is full")
    assert appliance.asked == 1  # the second prompt never reached the engine
    assert appliance.actions() == ["prompt", "answer", "disk_full"]
    assert "prompts are refused" in appliance.texts("disk_full")[0]
    for _ in range(3):
        appliance.look()  # once, not at every look
    assert appliance.actions() == ["prompt", "answer", "disk_full"]
    appliance.assert_intact()
    ballast.unlink()
    appliance.look()
    assert isinstance(appliance.ask("again"), Done)
    assert appliance.actions() == ["prompt", "answer", "disk_full", "disk_freed", "prompt", "answer"]
    assert Reserve(appliance.config.record_dir).is_held
    appliance.assert_intact()


def test_a_disk_filled_by_prompts_alone_loses_none_of_them(appliance: Appliance) -> None:
    """The watch does not look in between: each prompt sees what the watch has not seen yet."""
    answered = 0
    while isinstance(end := appliance.ask("word " * 40_000), Done):
        answered += 1
        assert answered < 1000
    assert_refused(end, "The disk of the appliance is full")
    assert answered > 10
    appliance.look()
    assert appliance.actions() == ["prompt", "answer"] * answered + ["disk_full"]
    assert_refused(appliance.ask(), "The disk of the appliance is full")
    appliance.assert_intact()


def test_the_room_of_the_reserve_is_not_for_prompts(appliance: Appliance, disk: Path) -> None:
    fill(disk)
    appliance.look()
    assert measure(disk).level != "full"  # the reserve's bytes are free now
    assert_refused(appliance.ask(), "The disk of the appliance is full")


def test_inodes_that_run_out_are_a_full_disk(appliance: Appliance, disk: Path) -> None:
    names = list[Path]()
    with suppress(OSError):
        while True:
            names.append(disk / f"file-{len(names)}")
            names[-1].touch()
    appliance.look()
    assert_refused(appliance.ask(), "The disk of the appliance is full")
    assert "files (inodes)" in appliance.texts("disk_full")[0]
    for name in names:
        name.unlink(missing_ok=True)
    appliance.look()
    assert isinstance(appliance.ask(), Done)
    appliance.assert_intact()


def test_marks_are_recorded_once_for_each_crossing(appliance: Appliance, disk: Path) -> None:
    for share, expected in ((0.70, 0), (0.78, 1), (0.79, 1), (0.92, 2), (0.93, 2)):
        share_used(disk, share)
        appliance.look()
        appliance.look()
        assert appliance.actions().count("disk_filling") == expected, share
    first, second = appliance.texts("disk_filling")
    assert first.startswith(("78%", "79%"))
    assert second.startswith(("92%", "93%"))
    os.truncate(disk / "ballast", 0)
    appliance.look()
    share_used(disk, 0.80)
    appliance.look()
    assert appliance.actions().count("disk_filling") == 3
    assert isinstance(appliance.ask(), Done)


def test_a_read_only_disk_refuses_in_words_and_says_so_afterwards(appliance: Appliance, disk: Path) -> None:
    assert isinstance(appliance.ask(), Done)
    appliance.database.close()  # the kernel does not remount a disk with files open for writing; disk errors do
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        appliance.look()
        assert_refused(appliance.ask(), "can only be read")
        with pytest.raises(DatabaseError):
            appliance.log.check_writable()
    finally:
        appliance.database.close()
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    appliance.look()
    assert appliance.actions() == ["prompt", "answer", "disk_full", "disk_freed"]
    assert "is read-only" in appliance.texts("disk_full")[0]
    assert isinstance(appliance.ask(), Done)
    appliance.assert_intact()


def test_an_appliance_starts_on_a_full_disk_and_says_why_it_does_not_answer(appliance: Appliance, disk: Path) -> None:
    appliance.database.close()
    fill(disk)
    again = Appliance(disk)
    again.look()
    assert_refused(again.ask(), "The disk of the appliance is full")
    assert again.actions()[-1] == "disk_full"
    again.database.close()


def test_a_quota_is_a_full_disk_though_the_disk_is_not(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test injects the kernel's answer: on few kernels can a test make a file system with quotas."""
    allocate, exceeded = os.posix_fallocate, True

    def within_quota(descriptor: int, offset: int, length: int) -> None:
        if exceeded:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", within_quota)
    assert measure(appliance.state).level == "ok"
    appliance.look()
    assert "Disk quota exceeded" in appliance.texts("disk_full")[0]
    assert_refused(appliance.ask(), "The disk of the appliance is full")
    exceeded = False
    appliance.look()
    assert isinstance(appliance.ask(), Done)
    assert appliance.actions() == ["disk_full", "disk_freed", "prompt", "answer"]
    assert not (appliance.config.record_dir / "probe").exists()


def test_the_end_of_an_answer_is_recorded_with_the_room_of_the_reserve(appliance: Appliance, disk: Path) -> None:
    """The disk fills while the model answers. The text so far is recorded, and the next prompt is refused."""

    def answer(request: TurnRequest) -> Iterator[TurnEvent]:
        yield Started(20, 0.0)
        fill(disk)
        yield AnswerDelta("a long answer " * 10_000)
        yield done()

    request = TurnRequest("t", "1", (Message("user", "Hello"),), seed=1)
    with FakeEngine(answer) as engine:
        end = list(run_turn(appliance.log, engine.client, ADA, request, conversation_id=None))[-1]
    assert isinstance(end, Done)
    assert appliance.actions() == ["prompt", "answer"]
    assert_refused(appliance.ask(), "The disk of the appliance is full")
    appliance.look()
    assert appliance.actions() == ["prompt", "answer", "disk_full"]
    appliance.assert_intact()


# What people see -----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A web application whose site is on a small disk of its own, with the recorder's watch."""
    with mounted(tmp_path / "site-0", "size=64m,mode=0755"):
        make_site: MakeSite = request.getfixturevalue("make_site")
        made = make_site()
        made.services.record.refusal = partial(refusal, made.services.config.record_dir)
        yield made
        made.services.record.database.close()


def look(site: Site, watch: DiskWatch) -> None:
    watch.look(site.services.record, SYSTEM)


def ready(site: Site) -> tuple[int, str]:
    response = site.browser().get("/readyz")
    assert response.json is not None
    return response.status_code, response.json["status"]


def send(browser: Browser, path: str, **body: str) -> TestResponse:
    headers = {"X-CSRF-Token": browser.token(), "Origin": "http://localhost", "Accept": "application/json"}
    return browser.client.post(path, json=body, headers=headers)


def test_a_full_disk_is_said_wherever_somebody_looks(site: Site) -> None:
    home, config = site.services.config.home, site.services.config
    watch = DiskWatch(config.record_dir)
    ada, key = site.browser(site.add_user("ada", Role.USER)), site.add_key(site.add_user("bob", Role.USER))
    conversation = send(ada, "/chat", text="Hello").json
    assert conversation is not None
    assert ready(site) == (200, "ready")
    site.add_user("root", Role.ADMIN)

    ballast = fill(home)
    look(site, watch)
    assert ready(site) == (503, "disk_full")
    admin = site.browser(site.services.accounts.find("root"))  # signing in is recorded, in the room of the reserve
    page = admin.get("/admin")
    assert page.status_code == 200
    assert "The disk of the appliance is full, so nothing can be recorded and nothing is answered." in page.text
    for path in ("/chat", f"/chat/{conversation['id']}/turns"):
        refused = send(ada, path, text="word " * 50_000, effort="low")
        assert refused.status_code == 503
        assert "The disk of the appliance is full" in refused.text
    body = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hello"}]}
    answer = site.app.test_client().post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"]["code"] == "record_failed"
    assert "The disk of the appliance is full" in answer.json["error"]["message"]
    finding = _examine_disk(config)
    assert not finding.is_well
    assert "The disk of the appliance is full" in finding.detail

    ballast.unlink()
    look(site, watch)
    assert ready(site) == (200, "ready")
    assert send(ada, f"/chat/{conversation['id']}/turns", text="Hello", effort="low").status_code == 200
    assert current_alarms(site.services) == []
    assert _examine_disk(config).is_well


@pytest.mark.parametrize(
    ("share", "severity", "is_well"), [(0.5, None, True), (0.8, "warning", True), (0.93, "alarm", False)]
)
def test_a_disk_that_fills_warns_first(site: Site, share: float, severity: str | None, is_well: bool) -> None:
    DiskWatch(site.services.config.record_dir)
    share_used(site.services.config.home, share)
    assert [alarm.severity for alarm in current_alarms(site.services)] == ([severity] if severity else [])
    finding = _examine_disk(site.services.config)
    assert finding.is_well is is_well
    assert (finding.remedy is None) is (severity is None)
    assert ready(site) == (200, "ready")


def test_not_ready_while_the_database_takes_nothing(site: Site) -> None:
    """The database can be read but not written: its directory became read-only, or another process locks it."""
    record = site.services.record
    assert ready(site) == (200, "ready")
    record._written_s = float("-inf")  # as after WRITTEN_WITHIN_S
    with record.database.engine.connect() as connection:
        refuse = "BEFORE INSERT ON settings BEGIN SELECT RAISE(ABORT, 'no'); END"
        connection.exec_driver_sql(f"CREATE TRIGGER refuse {refuse}")
        connection.commit()
    assert ready(site) == (503, "record_failed")


def test_strangers_who_ask_often_cause_one_write(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    monkeypatch.setattr("appliance.audit.log.write_setting", lambda *_: writes.append(1))
    for _ in range(20):
        assert ready(site) == (200, "ready")
    assert len(writes) == 1


# The arithmetic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "inodes", "read_only", "level"),
    [(500, 100, False, "ok"), (260, 100, False, "ok"), (250, 100, False, "warning"), (101, 100, False, "warning"),
     (100, 100, False, "alarm"), (20, 100, False, "alarm"), (19, 100, False, "full"), (500, 250, True, "full"),
     (500, 75, False, "warning"), (500, 16, False, "alarm"), (500, 15, False, "full")],
)  # fmt: skip
def test_levels(free: int, inodes: int, read_only: bool, level: str) -> None:
    """For a disk of 1,000 MiB, 20 of which are the least, and 300 inodes."""
    scaled = inodes if inodes < 100 else 300
    assert DiskUse(1000 * MIB, free * MIB, 300, scaled, read_only).level == level


def test_a_large_disk_is_full_only_when_little_is_left() -> None:
    terabyte = 1 << 40
    assert DiskUse(terabyte, 40 * MIB, 0, 0).level == "alarm"
    assert DiskUse(terabyte, 31 * MIB, 0, 0).level == "full"
    assert (WARNING_SHARE, ALARM_SHARE) == (0.75, 0.90)
