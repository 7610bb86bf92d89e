"""The supervisor with real processes: what it starts, restarts, ends, and refuses to begin with."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config import load_config
from appliance.runtime.processes import programs_of
from appliance.runtime.supervisor import MAX_FAILED_STARTS
from appliance.signals import how_ended
from installer.formats.trial import Returned, Trial, write_returned, write_trial
from tests.appliance.supervised import ENGINE, Site, command_line, is_alive, supervised
from tests.waiting import wait_for

STOP_LIMIT_S = 60.0  # a hang would last for ever; a loaded machine is slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for the tests that leave it running."""
    with supervised(tmp_path_factory.mktemp("site")) as site:
        yield site


def wait_gone(pids: set[int]) -> None:
    wait_for(lambda: not any(map(is_alive, pids)), said=lambda: f"still there: {set(filter(is_alive, pids))}")


def test_says_where_it_is_ready_and_how_the_first_administrator_begins(running: Site) -> None:
    url = running.url
    running.wait_for(f"first admin of {url}")
    assert "ways out tried, each refused by the kernel" in running.said()
    assert running.said().index("ways out tried") < running.said().index("Appliance ready")


def test_web_reaches_the_engine_and_nothing_else(running: Site) -> None:
    answer = running.ask()
    assert answer["way_out"] == "PermissionError"


def test_tells_the_recorder_how_silence_was_proved(running: Site) -> None:
    assert running.url
    first = running.recorded()[0]
    assert first["event"] == "started"
    assert all(attempt["refused"] for attempt in first["silence"]["attempts"])


def test_programs_see_only_the_descriptors_meant_for_them(running: Site) -> None:
    engine = Path(f"/proc/{running.ask()['engine']}/fd")
    time.sleep(0.2)  # until the engine has closed the socket of the question
    sockets = [target for fd in engine.iterdir() if (target := os.readlink(fd)).startswith("socket:")]
    assert len(sockets) == 1, sockets  # the doorbell: neither the listener nor the web's end


def test_restarts_a_dead_engine_at_the_same_doorbell(running: Site) -> None:
    before = running.ask()["engine"]
    os.kill(before, signal.SIGKILL)
    after = running.ask()["engine"]
    assert after != before
    assert "the engine ended after" in running.said()
    assert "signal SIGKILL" in running.said()
    wait_for_death(running, "engine")


def wait_for_death(site: Site, process: str, how: str = "signal SIGKILL") -> None:
    """Wait until the recorder has a note of it."""
    wait_for(
        lambda: any(note.get("process") == process and note["how"] == how for note in site.recorded()),
        said=site.recorded,
    )


def child_of(parent: int) -> int:
    """The one process that `parent` started."""
    (found,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(found)


def test_the_death_of_a_web_worker_is_noted_with_its_signal(running: Site) -> None:
    os.kill(child_of(running.ask()["pid"]), signal.SIGKILL)
    wait_for_death(running, "web worker")


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit status 0"), (3, "exit status 3"), (-9, "signal SIGKILL"), (-32, "signal SIG32")]
)
def test_what_ended_a_process_has_words_even_if_the_signal_has_no_name(code: int, words: str) -> None:
    """32 is the C library's own, so no program can ignore it, and Python has no name for it."""
    assert how_ended(code) == words


def test_restarts_a_dead_web_on_the_same_address(running: Site) -> None:
    before = running.ask()["pid"]
    os.kill(before, signal.SIGKILL)
    wait_gone({before})
    wait_for_death(running, "web")
    wait_for(lambda: running.ask()["pid"] not in (before, 1))  # an orphaned worker answers until it notices


def test_waits_where_no_further_process_can_be_started_and_goes_on_afterwards(tmp_path: Path) -> None:
    """Others of the same user may have taken the last process for a moment: that ends no appliance."""
    limit = tmp_path / "limit"
    with supervised(tmp_path, no_process_while=str(limit)) as site:
        before = site.ask()["pid"]
        limit.touch()
        os.kill(before, signal.SIGKILL)
        site.wait_for("the web does not start: no further process can be started: Resource temporarily unavailable")
        limit.unlink()
        wait_gone({before})
        site.until(lambda: site.ask()["pid"] not in (before, 1))  # an orphaned worker answers until it notices


def test_second_supervisor_of_a_site_is_refused(running: Site) -> None:
    assert running.url
    with supervised(running.home) as second:
        assert second.process.wait(10) == 1
        assert second.said() == f"Error: {running.home} is already being served by another process\n"
    assert running.ask()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ends_everything_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with supervised(tmp_path) as site:
        assert site.ask()
        site.wait_for("first admin of")
        started = site.descendants()
        assert len(started) >= 4  # recorder, engine, gunicorn and its worker
        began_s = time.monotonic()
        site.process.send_signal(number)
        assert site.process.wait(STOP_LIMIT_S) == 0
        assert time.monotonic() - began_s < STOP_LIMIT_S
        assert not {pid for pid in started if is_alive(pid)}
        assert [note["event"] for note in site.recorded()[-2:]] == ["stopping", "ended"]
        assert site.recorded()[-2]["why"] == f"signal {number.name}"
        assert not [note for note in site.recorded() if note["event"] == "process_ended"]
        assert "heavy: []" in site.said()


def test_kills_what_does_not_end_in_time_and_the_recorder_still_signs_last(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    with supervised(tmp_path, engine=deaf + ENGINE) as site:
        engine = site.ask()["engine"]
        site.process.terminate()
        assert site.process.wait(STOP_LIMIT_S) == 0
        assert not is_alive(engine)
        assert "the engine did not end in time and is killed" in site.said()
        wait_for_death(site, "engine", "killed, because it did not stop when it was told to")
        assert site.recorded()[-1]["event"] == "ended"


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    with supervised(tmp_path) as site:
        assert site.ask()
        started = site.descendants()
        site.process.kill()
        wait_gone(started)
        assert "stopping" not in [note["event"] for note in site.recorded()]


FORGETFUL_RECORDER = """
import json, os, sys
out = open("state/audit/recorded", "a", buffering=1)
for line in sys.stdin:
    if not os.path.exists("state/audit/died"):
        open("state/audit/died", "w").close()
        os._exit(9)
    out.write(line)
    os.write(int(os.environ["APPLIANCE_READY_FD"]), b"1")
"""


def test_a_note_that_a_dying_recorder_had_read_goes_to_its_successor(tmp_path: Path) -> None:
    with supervised(tmp_path, recorder=FORGETFUL_RECORDER) as site:
        assert site.url
        wait_for_death(site, "recorder", "exit status 9")
        assert [note["event"] for note in site.recorded()][:1] == ["started"]


WAITING_RECORDER = """
import os, sys, time
out = open("state/audit/recorded", "a", buffering=1)
for line in sys.stdin:
    out.write(line)
    while not os.path.exists("state/audit/go"):
        time.sleep(0.02)
    os.write(int(os.environ["APPLIANCE_READY_FD"]), b"1")
"""


def test_web_workers_wait_until_the_recorder_has_the_database_ready(tmp_path: Path) -> None:
    def running() -> list[str]:
        return [command_line(pid) for pid in site.descendants()]

    with supervised(tmp_path, recorder=WAITING_RECORDER) as site:
        site.until(lambda: any("import decode, encode" in line for line in running()))  # the engine
        assert not any("gunicorn" in line for line in running())
        (tmp_path / "state" / "audit" / "go").touch()
        assert site.ask()


@pytest.mark.parametrize("on_trial", [True, False], ids=["on-trial", "proven"])
def test_on_trial_nothing_touches_the_database_before_the_model_has_loaded(tmp_path: Path, *, on_trial: bool) -> None:
    """The recorder upgrades the database; after that the release before could not be served again."""
    (tmp_path / "service").mkdir()
    if on_trial:
        write_trial(tmp_path, Trial("current", "1.0", starts=1))
    with supervised(tmp_path, engine="raise SystemExit(7)") as site:
        check_gave_up(site, "engine")
    assert (tmp_path / "state" / "audit" / "recorded").exists() is not on_trial


def test_on_trial_everything_is_recorded_when_the_model_has_loaded(tmp_path: Path) -> None:
    write_trial(tmp_path, Trial("current", "1.0", starts=1))
    with supervised(tmp_path) as site:
        assert site.url
        site.until(lambda: any(message["event"] == "ready" for message in site.recorded()))
        assert site.recorded()[0]["event"] == "started"


def test_tells_the_recorder_of_a_return_to_this_release(tmp_path: Path) -> None:
    returned = Returned("2.0", "current", "did not become ready in 3 starts", "2026-11-30T12:00:00+00:00")
    write_returned(tmp_path, returned)
    with supervised(tmp_path) as site:
        assert site.url
        assert site.recorded()[1] == {
            "event": "returned", "left": "2.0", "to": "current", "why": returned.why, "at": returned.at,
        }  # fmt: skip


def test_gives_up_on_an_engine_that_never_starts(tmp_path: Path) -> None:
    with supervised(tmp_path, engine="raise SystemExit(7)") as site:
        check_gave_up(site, "engine")


def test_gives_up_on_a_recorder_that_never_starts(tmp_path: Path) -> None:
    with supervised(tmp_path, recorder="raise SystemExit(7)") as site:
        check_gave_up(site, "recorder")


def check_gave_up(site: Site, program: str) -> None:
    assert site.process.wait(20) == 1
    often = f"exit status 7, {MAX_FAILED_STARTS} times"
    assert site.said().endswith(f"Error: the {program} does not start ({often}); see its messages above\n")
    assert "ready at" not in site.said()


def test_gives_up_on_a_web_application_that_cannot_be_loaded(tmp_path: Path) -> None:
    with supervised(tmp_path, web="absent:app") as site:
        assert site.process.wait(30) == 1
        assert "Error: the web does not start" in site.said()


def test_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with supervised(tmp_path, port=port) as site:
            assert site.process.wait(10) == 1
            taken_address = f"127.0.0.1:{port}: Address already in use"
            assert site.said() == f"Error: cannot listen on {taken_address}; choose another by --port or --host\n"


def test_missing_release_is_one_line(tmp_path: Path) -> None:
    with supervised(tmp_path, release=False) as site:
        assert site.process.wait(10) == 1
        assert site.said() == f"Error: no release is installed in {tmp_path}; install one with: installer install\n"


def test_record_in_postgresql_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "state" / "config").mkdir(parents=True)
    (tmp_path / "state" / "config" / "appliance.toml").write_text('[record]\ndatabase_url = "postgresql:///x"\n')
    with supervised(tmp_path) as site:
        assert site.process.wait(10) == 1
        assert "use SQLite" in site.said()


def test_environment_of_programs_is_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.runtime.processes.logical_cpus", lambda: 3)
    given = {
        "PATH": "/bin", "LANG": "C.UTF-8", "https_proxy": "http://proxy:3128", "PYTHONPATH": "/evil",
        "GUNICORN_CMD_ARGS": "--reload", "NOTIFY_SOCKET": "/run/notify", "LD_PRELOAD": "/evil.so",
    }  # fmt: skip
    programs = programs_of(load_config(tmp_path), given)
    ours = {"APPLIANCE_HOME": str(tmp_path), "APPLIANCE_CPUS": "3"}
    assert programs.environ == {"PATH": "/bin", "LANG": "C.UTF-8", **ours}
    for argv in (programs.engine, programs.web, programs.recorder, programs.first_admin):
        assert "-I" in argv


def test_weights_are_packed_before_each_engine_and_looked_at_closely_after_a_failure(tmp_path: Path) -> None:
    packer = "import sys; print('packer', sys.argv[1:], flush=True)"
    with supervised(tmp_path, packer=packer, engine="print('engine', flush=True); raise SystemExit(7)") as site:
        assert site.process.wait(20) == 1
        said = [line.partition(": ")[2] for line in site.said().splitlines()]
        lines = [line for line in said if line == "engine" or line.startswith("packer ")]
        assert lines == ["packer []", "engine", "packer ['--thorough']", "engine", "packer ['--thorough']", "engine"]


def test_gives_up_on_weights_that_cannot_be_packed(tmp_path: Path) -> None:
    with supervised(tmp_path, packer="raise SystemExit(7)", engine="print('engine', flush=True)") as site:
        check_gave_up(site, "packer")
        assert "\nengine\n" not in site.said()
