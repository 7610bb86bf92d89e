"""The keeper: a new release that does not become healthy is left for the one before, whatever happens meanwhile."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from installer.formats import trial as files
from installer.formats.trial import (
    HEALTHY,
    UPGRADED,
    Reached,
    Returned,
    Trial,
    begin_trial,
    end_trial,
    load_returned,
    load_trial,
    write_reached,
    write_trial,
)
from installer.service import keeper, write_keeper
from tests.waiting import wait_for

# What a release's `appliance serve` does in these tests: a script in its place.
READY = """
import json, os, signal, sys
site = sys.argv[sys.argv.index("--home") + 1]
version = os.path.basename(os.readlink(site + "/current"))
with open(site + "/state/audit/reached.json", "w") as file:
    json.dump({"release": version, "stage": "healthy"}, file)
print("serving", version, flush=True)
signal.pause()
"""
CRASHES = "import sys; print('no model', flush=True); sys.exit(1)"
HANGS = "import signal; print('loading', flush=True); signal.pause()"
STOPS_NEVER = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("loading", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site in which release 1.0 has served, and 2.0 has just been made current."""
    for version in ("1.0", "2.0"):
        release = tmp_path / "releases" / version
        (release / "venv" / "bin").mkdir(parents=True)
        (release / "receipt.json").write_text(json.dumps({"version": version, "size_bytes": 1}))
        set_program(tmp_path, version, READY)
    (tmp_path / "state" / "audit").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1.0")
    switch(tmp_path)
    write_keeper(tmp_path, Path(sys.executable).resolve())
    return tmp_path


def set_program(site: Path, version: str, program: str) -> None:
    path = site / "releases" / version / "venv" / "bin" / "appliance"
    path.write_text(f"#!{Path(sys.executable).resolve()} -IS\n{program}")
    path.chmod(0o755)


def switch(site: Path) -> None:
    """As the installer does."""
    begin_trial(site, "2.0", "1.0")
    (site / "previous").unlink(missing_ok=True)
    (site / "previous").symlink_to("releases/1.0")
    (site / "current").unlink()
    (site / "current").symlink_to("releases/2.0")


def start(site: Path, *, reaches: str = "", ended: str = "exit-code") -> str | None:
    """One start that a service manager makes, which comes so far and then ends."""
    said = keeper.before(site)
    if reaches:
        write_reached(site, Reached(os.path.basename(os.readlink(site / "current")), reaches))
    keeper.after(site, ended)
    return said


def test_three_starts_that_fail_lead_back(site: Path) -> None:
    for number in (1, 2, 3):
        assert start(site) == f"Release 2.0 is on trial, start {number} of 3."
        assert keeper.current(site) == "2.0"
    assert start(site) == "Release 2.0 did not become ready in 3 starts, so release 1.0 is served again."
    assert keeper.current(site) == "1.0"
    assert os.readlink(site / "previous") == "releases/2.0"
    assert load_trial(site) is None
    returned = load_returned(site)
    assert returned is not None
    assert (returned.left, returned.to, returned.why) == ("2.0", "1.0", "did not become ready in 3 starts")
    assert start(site) is None, "what was returned to is not on trial"


def test_the_appliance_can_read_what_the_keeper_writes_under_any_umask(site: Path) -> None:
    before = os.umask(0o077)  # as the unit sets it
    try:
        for _ in range(4):
            start(site)
    finally:
        os.umask(before)
    assert (site / "service" / "returned.json").stat().st_mode & 0o777 == 0o644


def test_a_release_that_serves_is_on_trial_no_more(site: Path) -> None:
    keeper.before(site)
    write_reached(site, Reached("2.0", HEALTHY))
    assert keeper.wait(site, os.getpid()) is None
    assert load_trial(site) is None
    for _ in range(5):
        start(site)
    assert keeper.current(site) == "2.0"


def test_power_fails_between_ready_and_the_end_of_the_trial(site: Path) -> None:
    keeper.before(site)
    write_reached(site, Reached("2.0", HEALTHY))  # and the keeper ends here
    assert keeper.before(site) is None
    assert load_trial(site) is None


def test_what_a_release_reached_at_another_time_counts_nothing(site: Path) -> None:
    write_reached(site, Reached("2.0", HEALTHY))  # it served a year ago
    for _ in range(4):
        start(site)
    assert keeper.current(site) == "1.0"


def test_a_start_that_takes_too_long_leads_back_at_once(site: Path) -> None:
    keeper.before(site)
    assert keeper.wait(site, os.getpid(), limit_s=0) == "Release 2.0 takes too long to become ready; it is stopped."
    keeper.after(site, "exit-code")
    assert keeper.before(site) == "Release 2.0 took too long to become ready, so release 1.0 is served again."


def test_a_start_that_somebody_stops_does_not_count(site: Path) -> None:
    for _ in range(5):
        start(site, ended="success")
    assert load_trial(site) == Trial("2.0", "1.0", starts=0)


def test_a_release_that_has_upgraded_the_database_is_not_left(site: Path) -> None:
    start(site, reaches=UPGRADED)
    start(site)
    start(site)
    refused = "it has upgraded the database, which release 1.0 refuses"
    assert keeper.before(site) == (
        f"Release 2.0 did not become ready in 3 starts. It stays the current one, because {refused}."
    )
    assert keeper.current(site) == "2.0"
    write_reached(site, Reached("2.0", HEALTHY))
    assert keeper.wait(site, os.getpid()) is None, "it may still become healthy"
    assert load_trial(site) is None


def test_a_release_that_was_removed_is_nothing_to_return_to(site: Path) -> None:
    shutil.rmtree(site / "releases" / "1.0")
    for _ in range(3):
        start(site)
    assert keeper.before(site) == (
        "Release 2.0 did not become ready in 3 starts. It stays the current one, because release 1.0 is no longer "
        "installed."
    )


def test_power_fails_between_trial_and_switch(site: Path) -> None:
    """The trial is noted first; the switch never came."""
    (site / "current").unlink()
    (site / "current").symlink_to("releases/1.0")
    assert keeper.before(site) is None
    assert load_trial(site) is None


def test_a_rollback_by_hand_ends_the_trial(site: Path) -> None:
    start(site)
    end_trial(site)
    (site / "current").unlink()
    (site / "current").symlink_to("releases/1.0")
    for _ in range(5):
        start(site)
    assert keeper.current(site) == "1.0"


def test_a_third_release_returns_to_the_last_one_that_served(site: Path) -> None:
    start(site)
    begin_trial(site, "3.0", "2.0")  # 2.0 has never served
    assert load_trial(site) == Trial("3.0", "1.0")
    begin_trial(site, "1.0", "3.0")
    assert load_trial(site) is None, "1.0 has served"


def test_nothing_is_changed_while_an_installer_works(site: Path) -> None:
    import fcntl

    lock = os.open(site, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for _ in range(5):
        assert start(site) is None
    os.close(lock)
    assert load_trial(site) == Trial("2.0", "1.0")


def test_power_fails_at_every_step_of_every_start(site: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """After each kill the site has a current release, and at most three starts later it serves 1.0 again."""
    for step in range(1000):
        copy = tmp_path_factory.mktemp("kill") / "site"
        shutil.copytree(site, copy, symlinks=True)
        write_trial(copy, Trial("2.0", "1.0", starts=keeper.MOST_STARTS))
        was_killed = killed_at(step, lambda copy=copy: keeper.before(copy))  # type: ignore[misc]
        assert keeper.current(copy) in ("1.0", "2.0")
        for _ in range(3):
            keeper.before(copy)
        assert keeper.current(copy) == "1.0"
        returned = load_returned(copy)
        assert returned is not None
        assert returned.left == "2.0", "the record would not say so"
        if not was_killed:
            assert step > 10
            return
    pytest.fail("the return never ends")


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a child that is killed at its ``step``-th operation on files; False if it ended before."""
    pid = os.fork()
    if pid == 0:
        seen = 0

        def count(event: str, _arguments: object) -> None:
            nonlocal seen
            if event in ("open", "os.rename", "os.symlink", "os.remove", "os.mkdir"):
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


# What the user of the appliance, or a damaged disk, can put in the place of the files.
MARKS: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "rubbish": lambda path: path.write_bytes(b"\xff{"),
    "deep": lambda path: path.write_bytes(b"[" * 4000),
    "long": lambda path: path.write_bytes(b" " * 10_000 + b'{"release": "2.0", "stage": "healthy"}'),
    "list": lambda path: path.write_text("[]"),
    "number": lambda path: path.write_text('{"release": 2, "stage": "healthy"}'),
    "way-out": lambda path: path.write_text('{"release": "../..", "stage": "healthy"}'),
    "another": lambda path: path.write_text('{"release": "1.0", "stage": "healthy"}'),
    "stage": lambda path: path.write_text('{"release": "2.0", "stage": "nearly"}'),
}


@pytest.mark.parametrize("what", MARKS)
def test_a_mark_that_is_none_proves_nothing(site: Path, what: str) -> None:
    keeper.before(site)
    MARKS[what](site / "state" / "audit" / "reached.json")
    assert keeper.wait(site, os.getpid(), limit_s=0) is not None
    assert load_trial(site) == Trial("2.0", "1.0", starts=1, is_late=True)


@pytest.mark.parametrize("what", ["mark", "trial", "list"])
def test_a_keeper_that_cannot_work_stops_no_start(site: Path, what: str) -> None:
    """A directory stands where the keeper must write, as after damage; a full disk refuses the same calls."""
    if what == "mark":
        (site / "state" / "audit" / "reached.json").mkdir()
    elif what == "trial":
        (site / "service" / ".trial.json.new").mkdir()
    else:
        (site / "service" / "trial.json").unlink()
        (site / "service" / "trial.json").mkdir()
    command = [str(site / "service" / "keeper"), "before"]
    done = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith({"mark": "Release 2.0 is on trial", "trial": "The keeper cannot", "list": ""}[what])


def test_a_link_in_place_of_the_marks_directory_is_not_followed(site: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "reached.json").write_text('{"release": "2.0", "stage": "healthy"}')
    shutil.rmtree(site / "state" / "audit")
    (site / "state" / "audit").symlink_to(elsewhere)
    assert keeper.before(site) == "Release 2.0 is on trial, start 1 of 3."
    assert (elsewhere / "reached.json").exists()
    assert keeper.wait(site, os.getpid(), limit_s=0) is not None


@pytest.mark.parametrize("text", ["", "{", '{"release": "2.0"}', '{"release": "2.0", "back_to": "../../etc"}', "null"])
def test_a_damaged_trial_stops_no_start(site: Path, text: str) -> None:
    (site / "service" / "trial.json").write_text(text)
    assert keeper.before(site) is None
    assert keeper.wait(site, os.getpid()) is None
    keeper.after(site, "success")
    assert keeper.current(site) == "2.0"


def serve(site: Path) -> subprocess.Popen[str]:
    """The keeper as it is installed, alone with the host's Python, and in an empty environment."""
    return subprocess.Popen(
        [site / "service" / "keeper", "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={}, cwd="/",
    )  # fmt: skip


def test_by_a_command_a_release_that_crashes_is_left(site: Path) -> None:
    set_program(site, "2.0", CRASHES)
    process = serve(site)
    assert process.stdout is not None
    said = ""
    while "serving" not in said:
        said += process.stdout.readline()
    assert said.count("no model") == 3
    assert "Release 2.0 did not become ready in 3 starts, so release 1.0 is served again." in said
    assert said.endswith("serving 1.0\n")
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    process.stdout.close()


def test_by_a_command_a_signal_ends_a_release_on_trial_and_does_not_count(site: Path) -> None:
    set_program(site, "2.0", HANGS)
    process = serve(site)
    assert process.stdout is not None
    while "loading" not in process.stdout.readline():
        pass
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stdout.close()
    assert load_trial(site) == Trial("2.0", "1.0", starts=0)


def test_by_a_command_a_release_that_hangs_is_ended_and_left(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_program(site, "2.0", STOPS_NEVER)
    monkeypatch.setattr(keeper, "_LONGEST_STOP_S", 0.1)
    monkeypatch.setattr(keeper, "_AGAIN_S", 0.0)

    def replaced(path: str, command: list[str]) -> None:
        raise InterruptedError(errno.EINTR, "would serve", path)

    monkeypatch.setattr(os, "execv", replaced)
    handlers = {number: signal.getsignal(number) for number in keeper.PASSED_ON}
    try:
        with pytest.raises(InterruptedError) as caught:
            keeper.serve(site, [], limit_s=0.5)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert str(caught.value.filename) == str(site / "current" / "venv" / "bin" / "appliance")
    assert keeper.current(site) == "1.0"


def test_the_keeper_is_the_same_file_each_time_and_runs_alone(site: Path) -> None:
    before = (site / "service" / "keeper").read_bytes()
    assert write_keeper(site, Path(sys.executable).resolve()) is False
    assert (site / "service" / "keeper").read_bytes() == before
    usage = subprocess.run([site / "service" / "keeper"], capture_output=True, text=True, env={}, check=False)
    assert (usage.returncode, usage.stderr.startswith("usage: keeper serve")) == (1, True)
    assert wait_for(lambda: files.load_trial(site)) == Trial("2.0", "1.0")


def test_what_the_keeper_says_of_a_return_is_read_back(site: Path) -> None:
    returned = Returned("2.0", "1.0", "did not become ready in 3 starts", "2026-11-30T12:00:00+00:00")
    files.write_returned(site, returned)
    assert load_returned(site) == returned
