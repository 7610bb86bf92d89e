"""A return to the release before, attacked: releases that pretend, crash late or cannot be run, a disk that is full, a
release that is gone, and an installer at the same moment. What is served, and what `status` and the record are told."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.file_lock import own
from installer.cli import main
from installer.formats.serving import LOCK
from installer.formats.trial import (
    HEALTHY,
    UPGRADED,
    Reached,
    Trial,
    begin_trial,
    load_returned,
    load_trial,
    write_reached,
    write_trial,
)
from installer.service import keeper
from tests.conftest import require
from tests.installer.archives import Sender, release_files
from tests.installer.sites import install_archive
from tests.installer.test_keeper import CRASHES, HANGS, READY, killed_at, set_program, site, start
from tests.unprivileged import let_through

__all__ = ["site"]  # a fixture
# It serves until the keeper has seen that, and then crashes.
SERVED_AND_CRASHED = READY.replace(
    "signal.pause()", "while os.path.exists(site + '/service/trial.json'): pass\nsys.exit(7)"
)


class ServedError(Exception):
    """A release that is not on trial would take the place of the keeper now."""


def serve_until_proven(site: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float = 60.0) -> str | None:
    """`keeper serve` until it would run a release that is not on trial; the version of that release."""

    def served(path: str, command: list[str]) -> None:
        raise ServedError(path)

    monkeypatch.setattr(os, "execv", served)
    monkeypatch.setattr(keeper, "_AGAIN_S", 0.0)
    with same_handlers(), pytest.raises(ServedError):
        keeper.serve(site, [], limit_s=limit_s)
    return keeper.current(site)


@contextmanager
def same_handlers() -> Iterator[None]:
    """The keeper sets handlers, which are the test's own here."""
    handlers = {number: signal.getsignal(number) for number in keeper.PASSED_ON}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def fail_three_times(site: Path) -> None:
    for _ in range(4):
        start(site)


# --- releases ---------------------------------------------------------------------------------------------------------


def no_program(site: Path) -> None:
    (site / "releases" / "2.0" / "venv" / "bin" / "appliance").unlink()


def no_interpreter(site: Path) -> None:
    """The host's Python was upgraded, and the one that the release was installed for is gone."""
    (site / "releases" / "2.0" / "venv" / "bin" / "appliance").write_text("#!/nonexistent/python3 -IS\n")


def no_permission(site: Path) -> None:
    (site / "releases" / "2.0" / "venv" / "bin" / "appliance").chmod(0o444)


RELEASES: dict[str, Callable[[Path], object]] = {
    "it crashes": lambda site: set_program(site, "2.0", CRASHES),
    "its program is missing": no_program,
    "its interpreter is gone": no_interpreter,
    "its program may not be run": no_permission,
}


@pytest.mark.parametrize("case", RELEASES)
def test_a_release_that_cannot_serve_is_left(case: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RELEASES[case](site)
    assert serve_until_proven(site, monkeypatch) == "1.0"
    returned = load_returned(site)
    assert returned is not None
    assert (returned.left, returned.to, returned.why) == ("2.0", "1.0", "did not become ready in 3 starts")


def test_a_release_that_hangs_is_left(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_program(site, "2.0", HANGS)
    assert serve_until_proven(site, monkeypatch, limit_s=0.0) == "1.0"


class _Healthz(http.server.BaseHTTPRequestHandler):
    """A web server that answers while the engine is not there."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_a_release_whose_pages_answer_and_whose_engine_does_not_is_left(site: Path) -> None:
    keeper.before(site)
    with http.server.HTTPServer(("127.0.0.1", 0), _Healthz) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/healthz") as answer:
            assert answer.status == 200
        assert keeper.wait(site, os.getpid(), limit_s=0) == "Release 2.0 takes too long to become ready; it is stopped."
        server.shutdown()
    keeper.after(site, "exit-code")
    assert keeper.before(site) == "Release 2.0 took too long to become ready, so release 1.0 is served again."


def test_a_release_that_crashes_after_it_has_served_stays(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt may be why it crashes. Otherwise whoever may write prompts could bring an older release back."""
    set_program(site, "2.0", SERVED_AND_CRASHED)
    with same_handlers():
        assert keeper.serve(site, []) == 7
    for _ in range(5):
        assert serve_until_proven(site, monkeypatch) == "2.0"
    assert load_returned(site) is None


def test_what_was_returned_to_is_never_left(site: Path) -> None:
    fail_three_times(site)
    for _ in range(10):
        assert start(site) is None
    assert (keeper.current(site), load_trial(site)) == ("1.0", None)


def test_a_start_beside_an_appliance_that_serves_does_not_count(site: Path) -> None:
    """Somebody typed `appliance serve`, or killed the keeper alone: each start of the service is refused."""
    lock = os.open(site / "state" / LOCK, os.O_RDWR | os.O_CREAT)
    assert own(lock)
    for _ in range(6):
        assert start(site) == "Another process serves this site, so this start does not count."
    os.close(lock)
    assert load_trial(site) == Trial("2.0", "1.0")
    fail_three_times(site)
    assert keeper.current(site) == "1.0"


# --- the release before -----------------------------------------------------------------------------------------------


def test_a_release_that_cannot_be_run_is_nothing_to_return_to(site: Path) -> None:
    launcher = site / "releases" / "1.0" / "venv" / "bin" / "appliance"
    launcher.rename(launcher.with_name("elsewhere"))
    for _ in range(3):
        start(site)
    said = "Release 2.0 did not become ready in 3 starts. It stays the current one, because release 1.0 is damaged"
    assert str(keeper.before(site)).startswith(said)
    assert keeper.current(site) == "2.0"
    launcher.with_name("elsewhere").rename(launcher)  # somebody repairs it
    assert str(keeper.before(site)).endswith("so release 1.0 is served again.")


def test_a_release_that_upgraded_the_database_is_returned_to_by_the_next(site: Path) -> None:
    """1.0 would refuse the database that 2.0 has upgraded, although 2.0 was still on trial."""
    start(site, reaches=UPGRADED)
    begin_trial(site, "3.0", "2.0")
    assert load_trial(site) == Trial("3.0", "2.0")


def test_a_release_that_serves_already_is_returned_to_by_the_next(site: Path) -> None:
    """The installer held the lock when the keeper would have ended the trial."""
    keeper.before(site)
    write_reached(site, Reached("2.0", HEALTHY))
    begin_trial(site, "3.0", "2.0")
    assert load_trial(site) == Trial("3.0", "2.0")


def test_a_mark_of_another_time_makes_no_release_proven(site: Path) -> None:
    write_reached(site, Reached("2.0", HEALTHY))
    begin_trial(site, "3.0", "2.0")
    assert load_trial(site) == Trial("3.0", "1.0")


def test_a_stop_does_not_forget_that_the_database_was_upgraded(site: Path) -> None:
    start(site, reaches=UPGRADED, ended="success")
    for _ in range(3):
        start(site)
    assert "it has upgraded the database, which release 1.0 refuses" in str(keeper.before(site))
    assert keeper.current(site) == "2.0"


def test_a_stop_after_it_has_served_ends_the_trial(site: Path) -> None:
    start(site, reaches=HEALTHY, ended="success")
    assert load_trial(site) is None


# --- kills and full disks ---------------------------------------------------------------------------------------------


def late(site: Path) -> object:
    return keeper.wait(site, os.getpid(), limit_s=0)


def stopped(site: Path) -> object:
    keeper.after(site, "success")
    return None


@pytest.mark.parametrize("step_of", [late, stopped])
def test_a_kill_at_any_step_keeps_the_trial(
    step_of: Callable[[Path], object], site: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keeper.before(site)
    for step in range(100):
        copy = tmp_path_factory.mktemp("kill") / "site"
        shutil.copytree(site, copy, symlinks=True)
        was_killed = killed_at(step, lambda copy=copy: step_of(copy))  # type: ignore[misc]
        assert load_trial(copy) is not None
        fail_three_times(copy)
        assert keeper.current(copy) == "1.0"
        if not was_killed:
            assert step >= 3
            return
    pytest.fail("it never ends")


@pytest.fixture
def disk(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The site on a small file system of its own."""
    place = tmp_path_factory.mktemp("disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "mode=755,size=1m,nr_inodes=200", "tmpfs", place],
        capture_output=True, check=False,
    )  # fmt: skip
    require(done.returncode == 0, "a tmpfs")
    try:
        shutil.copytree(site, place / "site", symlinks=True)
        yield place / "site"
    finally:
        subprocess.run(["umount", place], check=True)


def fill_with_bytes(disk: Path) -> None:
    with (disk.parent / "full").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(disk).f_bfree == 0


def fill_with_files(disk: Path) -> None:
    (disk.parent / "full").mkdir()
    with suppress(OSError):
        for number in range(1000):
            (disk.parent / "full" / str(number)).touch()
    assert os.statvfs(disk).f_ffree == 0


@pytest.mark.parametrize("fill", [fill_with_bytes, fill_with_files])
def test_a_full_disk_does_not_stop_a_return_and_it_is_noted_later(fill: Callable[[Path], None], disk: Path) -> None:
    write_trial(disk, Trial("2.0", "1.0", starts=keeper.MOST_STARTS))
    fill(disk)
    assert str(keeper.before(disk)).endswith("so release 1.0 is served again.")
    assert (keeper.current(disk), load_returned(disk)) == ("1.0", None)
    with pytest.raises(OSError, match="No space left"):
        keeper.before(disk)
    assert keeper.current(disk) == "1.0"
    full = disk.parent / "full"
    shutil.rmtree(full) if full.is_dir() else full.unlink()
    assert keeper.before(disk) is None
    returned = load_returned(disk)
    assert returned is not None
    assert (returned.left, returned.to, load_trial(disk)) == ("2.0", "1.0", None)
    assert not [path for path in (disk / "service").iterdir() if path.name.startswith(".")]


def test_on_a_full_disk_the_command_still_serves(
    disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first start cannot be counted; then somebody makes room."""
    set_program(disk, "2.0", CRASHES)
    fill_with_bytes(disk)
    monkeypatch.setattr("time.sleep", lambda _: (disk.parent / "full").unlink(missing_ok=True))
    assert serve_until_proven(disk, monkeypatch) == "1.0"
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("The keeper cannot do its work (No space left on device")
    assert said[-1] == "Release 2.0 did not become ready in 3 starts, so release 1.0 is served again."


# --- an installer at the same moment ----------------------------------------------------------------------------------


def install_next(site: Path) -> None:
    """Another release is made current while the keeper waits for this one."""
    shutil.copytree(site / "releases" / "2.0", site / "releases" / "3.0")
    begin_trial(site, "3.0", "2.0")
    (site / "current").unlink()
    (site / "current").symlink_to("releases/3.0")


@pytest.mark.parametrize("outcome", ["ready", "late"])
def test_the_trial_of_another_release_is_not_ended_or_judged(
    outcome: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.before(site)

    def stage_of(place: Path, _release: str) -> str:
        monkeypatch.undo()
        install_next(place)
        return HEALTHY if outcome == "ready" else ""

    monkeypatch.setattr(keeper, "stage_of", stage_of)
    keeper.wait(site, os.getpid(), limit_s=0)
    assert load_trial(site) == Trial("3.0", "1.0")


# --- what people see --------------------------------------------------------------------------------------------------


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real site whose current release is on trial."""
    directory = tmp_path_factory.mktemp("returns")
    sender = Sender.make(directory / "sender")
    let_through(directory / "site")
    for number, version in enumerate(("1.0", "2.0"), start=1):
        install_archive(sender.archive(release_files(version), version, version=number), sender, directory / "site")
    return directory / "site"


def test_status_and_rollback_say_what_the_keeper_does(real: Path) -> None:
    said = run("status", "--prefix", real).stdout
    way_back = "release 1.0 is served again if it does not become ready"
    assert f"on trial  2.0, 0 of 3 starts; {way_back}" in said
    fail_three_times(real)
    status = run("status", "--prefix", real)
    assert "returned  2.0 did not become ready in 3 starts, so 1.0 is served again since 20" in status.stdout
    assert "on trial" not in status.stdout
    assert status.exit_code == 0
    done = run("rollback", "--prefix", real)
    assert "Note: 2.0 did not become ready in 3 starts at 20" in done.stdout
    assert "on trial again: 1.0 is served if it fails again" in done.stdout
    assert load_trial(real) == Trial("2.0", "1.0")
    fail_three_times(real)
    assert keeper.current(real) == "1.0"
    assert run("rollback", "--to", "2.0", "--prefix", real).exit_code == 0
    shutil.rmtree(real / "releases" / "1.0")
    said = run("status", "--prefix", real).stdout
    assert "0 of 3 starts; release 1.0, which was served before, is no longer installed" in said
    fail_three_times(real)
    assert keeper.current(real) == "2.0"
