"""Somebody with the appliance's own user, or root, sends signals to its processes from outside, perhaps by mistake:
storms of signals, stopped processes, and stops at the worst moment.

None may change how many workers there are, start other code or a second server, or leave a process behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.appliance.supervised import ENGINE, Site, is_alive, supervised
from tests.waiting import wait_for

# All signals but those that end, kill or stop a process, or report a fault of its own.
STORM = signal.valid_signals() - {
    *(signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGCHLD, signal.SIGABRT, signal.SIGSEGV),
    *(signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS),
}
ENDING = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT}  # for the supervisor: a closed terminal, and its keys
HUNG = """
import signal, threading
signal.signal(signal.SIGUSR1, lambda *_: threading.Event().wait())
"""


def state_of(pid: int) -> str:
    """The state as in proc_pid_stat(5), or "gone" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def processes_of(site: Site) -> dict[str, int]:
    """The processes that the supervisor has started, by what they are."""
    words = {"gunicorn": "web", "APPLIANCE_DOORBELL_FD": "engine", "APPLIANCE_READER_FD": "reader"}
    words |= {"recorder": "recorder", "recorded": "recorder"}
    found = {}
    for pid in children_of(site.process.pid):
        name, line = Path(f"/proc/{pid}/comm").read_text().strip(), Path(f"/proc/{pid}/cmdline").read_text()
        if name not in ("watcher", "log relay"):  # these have the supervisor's command line
            name = next(what for word, what in words.items() if word in line)
        found[name] = pid
    return found


def processes(site: Site) -> dict[str, int]:
    """The same with the web worker, once all of them answer."""
    answer = site.ask()
    (worker,) = children_of(answer["pid"])
    return {**processes_of(site), "web worker": worker}


def test_storms_of_signals_change_nothing(tmp_path: Path) -> None:
    with supervised(tmp_path) as site:
        before = processes(site)
        assert len(before) >= 5, before
        for _ in range(3):
            for pid in [site.process.pid, *before.values()]:
                for number in STORM - (ENDING if pid == site.process.pid else set()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        # gunicorn handles its signals in order, so this end comes after all of them.
        os.kill(before["web worker"], signal.SIGKILL)
        site.until(lambda: children_of(before["web"]) not in ([], [before["web worker"]]))
        after = processes(site)
        assert {**after, "web worker": 0} == {**before, "web worker": 0}, site.said()
        assert site.process.poll() is None
        ended = [note for note in site.recorded() if note["event"] == "process_ended"]
        assert {note["process"] for note in ended} <= {"web worker"}, ended


def test_a_process_that_is_stopped_goes_on(tmp_path: Path) -> None:
    with supervised(tmp_path) as site:
        before = processes(site)
        for name, pid in before.items():
            os.kill(pid, signal.SIGSTOP)
            site.until(lambda name=name: f"the {name} was stopped by SIGSTOP" in site.said())  # type: ignore[misc]
            site.until(lambda pid=pid: state_of(pid) != "T")  # type: ignore[misc]
        assert processes(site) == before
        site.until(lambda: any(note["event"] == "process_paused" for note in site.recorded()))
        paused = [note for note in site.recorded() if note["event"] == "process_paused"]
        assert {note["process"] for note in paused} >= {"engine", "web", "recorder"}


def test_an_engine_that_hangs_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, engine=HUNG + ENGINE, still_s=1.0) as site:
        engine = site.ask()["engine"]
        os.kill(engine, signal.SIGUSR1)
        site.until(lambda: state_of(engine) in ("gone", "Z"))
        assert site.ask()["engine"] != engine
        how = [note["how"] for note in site.recorded() if note.get("process") == "engine"]
        assert how == ["killed, because it neither answered nor computed"]


def test_a_stop_before_anything_runs_is_orderly(tmp_path: Path) -> None:
    with supervised(tmp_path, signal_at_first_word=int(signal.SIGTERM)) as site:
        assert site.process.wait(60) == 0, site.said()
        assert "Appliance ready" not in site.said()
        assert not [pid for pid in site.descendants() if is_alive(pid)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_while_weights_are_packed_is_orderly(tmp_path: Path, number: signal.Signals) -> None:
    with supervised(tmp_path, packer="import time; print('packing', flush=True); time.sleep(1000)") as site:
        site.wait_for("packing")
        started = site.descendants()
        site.process.send_signal(number)
        assert site.process.wait(60) == 0, site.said()
        assert not [pid for pid in started if is_alive(pid)]


def test_a_stop_finds_stopped_processes_and_ends_them_in_order(tmp_path: Path) -> None:
    with supervised(tmp_path) as site:
        before = processes(site)
        site.process.send_signal(signal.SIGTERM)
        for pid in before.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        assert site.process.wait(60) == 0
        assert not [pid for pid in before.values() if is_alive(pid)]
        assert site.recorded()[-1]["event"] == "ended"


def test_two_supervisors_of_one_site_never_run_together(tmp_path: Path) -> None:
    """Two begin at once. Later a third begins, after somebody has removed the lock file."""
    with supervised(tmp_path) as first, supervised(tmp_path, release=False) as second:
        wait_for(
            lambda: first.process.poll() is not None or second.process.poll() is not None,
            said=lambda: (first.said(), second.said()),
        )
        loser, winner = (first, second) if first.process.poll() is not None else (second, first)
        assert loser.process.poll() == 1
        assert "is already being served by another process" in loser.said()
        assert winner.ask()
        (tmp_path / "state" / "supervisor.lock").unlink()
        with supervised(tmp_path, release=False) as third:
            assert third.process.wait(60) == 1, third.said()
        assert winner.ask()
