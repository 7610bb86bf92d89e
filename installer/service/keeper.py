"""The keeper: returns a site to the release before, if a new release does not become healthy when it is first served.

It is installed as `service/keeper` of the site. That is a file of its own, which needs only the host's Python: a new
release cannot judge itself, and the one before may not know how.

    keeper before      before a start: counts it, or returns to the release before
    keeper wait        after a start: waits until the release on trial serves; fails if that takes too long
    keeper after       after an end: a start that somebody stopped does not count
    keeper serve ..    all of this around `appliance serve ..`, where no service manager does it

A release that is not on trial costs one look at a file. A release on trial is given `MOST_STARTS` starts, or one that
takes longer than `limit_s`. Power may fail at any instant: the trial begins before `current` is switched, each start is
counted before it begins, and `current` is switched by one rename.

It does not return if the new release has upgraded the database already, because the release before would refuse it;
then it says so, and the new release is started again. (The new release upgrades the database only when its model has
loaded; see `appliance.runtime.supervisor`.)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from installer.formats.trial import (
    HEALTHY,
    UPGRADED,
    Returned,
    Trial,
    end_trial,
    forget_reached,
    load_reached,
    load_trial,
    write_returned,
    write_trial,
)

MOST_STARTS = 3
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # end the appliance in order
_LEAST_LIMIT_S = 600.0
_SLOWEST_BYTES_S = 16 << 20  # reading and packing the weights from a slow disk
_LOOK_S = 0.2
_LONGEST_STOP_S = 30.0
_AGAIN_S = 2.0  # before another start


def before(site: Path) -> str | None:
    """Count a start, or return to the release before.

    Returns:
        A sentence for the log; None if there is nothing to say.
    """
    with _locked(site) as is_free:
        trial = load_trial(site)
        if not is_free or trial is None:  # an installation has not switched yet, or nothing is on trial
            return None
        if trial.release != current(site):  # the switch never came, or somebody has rolled back
            end_trial(site)
            return None
        stage = _stage(site, trial) if trial.starts else ""  # before the first start it speaks of another time
        if stage == HEALTHY:  # and the keeper ended before it could say so
            end_trial(site)
            return None
        trial = replace(trial, is_upgraded=trial.is_upgraded or stage == UPGRADED)
        if trial.starts < MOST_STARTS and not trial.is_late:
            forget_reached(site)
            write_trial(site, replace(trial, starts=trial.starts + 1))
            return f"Release {trial.release} is on trial, start {trial.starts + 1} of {MOST_STARTS}."
        return _return(site, trial)


def _return(site: Path, trial: Trial) -> str:
    why = "took too long to become ready" if trial.is_late else f"did not become ready in {trial.starts} starts"
    hindrance = None
    if trial.is_upgraded:
        hindrance = f"it has upgraded the database, which release {trial.back_to} refuses"
    elif not (site / "releases" / trial.back_to / "receipt.json").is_file():
        hindrance = f"release {trial.back_to} is no longer installed"
    if hindrance is not None:
        return f"Release {trial.release} {why}. It stays the current one, because {hindrance}."
    now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    write_returned(site, Returned(trial.release, trial.back_to, why, now))
    _point(site, "current", trial.back_to)
    _point(site, "previous", trial.release)
    end_trial(site)
    return f"Release {trial.release} {why}, so release {trial.back_to} is served again."


def wait(site: Path, pid: int, *, limit_s: float | None = None) -> str | None:
    """Wait until the release on trial serves, or the process ``pid`` ends.

    Returns:
        Why the start failed, a sentence; None if the release serves, or nothing is on trial.
    """
    trial = load_trial(site)
    if trial is None or trial.release != current(site):
        return None
    deadline_s = time.monotonic() + (_limit_s(site, trial.release) if limit_s is None else limit_s)
    while _stage(site, trial) != HEALTHY:
        if _has_ended(pid):
            return f"Release {trial.release} ended before it was ready."
        if time.monotonic() >= deadline_s:
            with _locked(site) as is_free:
                if is_free:
                    write_trial(site, replace(trial, is_late=True))
            return f"Release {trial.release} takes too long to become ready; it is stopped."
    with _locked(site) as is_free:
        if is_free:  # otherwise the next start sees that it was ready
            end_trial(site)
    return None


def after(site: Path, result: str) -> None:
    """Do not count a start that somebody has stopped: the service manager then says that all went well."""
    with _locked(site) as is_free:
        trial = load_trial(site)
        if is_free and trial is not None and trial.release == current(site) and result == "success" and trial.starts:
            write_trial(site, replace(trial, starts=trial.starts - 1))


def serve(site: Path, arguments: list[str], *, limit_s: float | None = None) -> int:
    """Run `appliance serve` of the current release, and see a release on trial through. Returns its exit status.

    A release that is not on trial takes the place of this process.
    """
    told: list[int] = []
    while True:
        _say(before(site))
        command = [str(site / "current" / "venv" / "bin" / "appliance"), "serve", "--home", str(site), *arguments]
        if load_trial(site) is None:
            os.execv(command[0], command)  # noqa: S606 - no shell wanted
        process = subprocess.Popen(command)
        _pass_on_signals(process, told)
        failure = wait(site, process.pid, limit_s=limit_s)
        if failure is None:
            return _status(process.wait())
        if told:
            after(site, "success")
            return _status(process.wait())
        _say(failure)
        _end(process)
        time.sleep(_AGAIN_S)
        if told:
            return 0


def _pass_on_signals(process: subprocess.Popen[bytes], told: list[int]) -> None:
    """Give the appliance the signals that are to end it, and note them in ``told``."""

    def pass_on(number: int, _frame: object) -> None:
        told.append(number)
        process.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)


def current(site: Path) -> str | None:
    """The version that ``current`` names."""
    try:
        return os.path.basename(os.readlink(site / "current"))
    except OSError:
        return None


def _stage(site: Path, trial: Trial) -> str:
    """How far the release on trial has come; empty where it has not said so."""
    reached = load_reached(site)
    return reached.stage if reached is not None and reached.release == trial.release else ""


def _limit_s(site: Path, release: str) -> float:
    """How long a first start may take: longer for more weights, which are read, packed and loaded."""
    try:
        size = float(json.loads((site / "releases" / release / "receipt.json").read_bytes())["size_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        size = 0.0
    return _LEAST_LIMIT_S + size / _SLOWEST_BYTES_S


def _has_ended(pid: int) -> bool:
    """Look for `_LOOK_S` whether a process ends."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], _LOOK_S)[0])
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_LONGEST_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()  # its programs end with it
        process.wait()


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


def _point(site: Path, link: str, version: str) -> None:
    """Make ``current`` or ``previous`` name this release, by one rename."""
    fresh = site / f".{link}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("releases", version))
    fresh.replace(site / link)
    descriptor = os.open(site, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(site: Path) -> Iterator[bool]:
    """The lock of the installer; False while an installer holds it, and then nothing may be changed."""
    descriptor = os.open(site, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _say(sentence: str | None) -> None:
    if sentence is not None:
        print(sentence, flush=True)


def main() -> None:
    """The entry of `service/keeper`; what it keeps is the site in which it lies."""
    site = Path(os.path.realpath(sys.argv[0])).parent.parent
    command, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    try:
        sys.exit(_run(site, command, arguments))
    except OSError as exc:  # a full disk, for example; it must not keep a release from being served
        _say(f"The keeper cannot do its work ({exc.strerror}: {exc.filename}); a release on trial is not watched.")
        sys.exit(1 if command == "serve" else 0)


def _run(site: Path, command: str, arguments: list[str]) -> int | str:
    """Returns the exit status, or a sentence that says what is wrong."""
    if command == "before":
        _say(before(site))
    elif command == "wait":
        failure = wait(site, int(os.environ.get("MAINPID", "0")))
        _say(failure)
        return 0 if failure is None else 1
    elif command == "after":
        after(site, os.environ.get("SERVICE_RESULT", ""))
    elif command == "serve":
        return serve(site, arguments)
    else:
        return "usage: keeper serve [options of `appliance serve`]; a service also runs: before, wait, after"
    return 0


if __name__ == "__main__":
    main()
