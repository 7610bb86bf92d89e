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
loaded; see `appliance.runtime.supervisor`.) Nor does it return to a release that is gone or cannot be started.

A full disk does not stop a return: what cannot be noted now is noted before a later start. An installer may work at the
same time. It holds the lock of the site, and the keeper then changes nothing; and the keeper changes no trial that the
installer has begun meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
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

from installer.formats.serving import is_served
from installer.formats.trial import (
    HEALTHY,
    UPGRADED,
    Returned,
    Trial,
    end_trial,
    forget_reached,
    load_trial,
    stage_of,
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
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk or a quota answers
_LAUNCHER = Path("venv", "bin", "appliance")


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
            if _has_failed(trial) and current(site) == trial.back_to:  # or a return could not be noted
                _note_return(site, trial)
            end_trial(site)
            return None
        stage = stage_of(site, trial.release) if trial.starts else ""  # before the first start it is of another time
        if stage == HEALTHY:  # and the keeper ended before it could say so
            end_trial(site)
            return None
        if _is_served(site):
            return "Another process serves this site, so this start does not count."
        trial = replace(trial, is_upgraded=trial.is_upgraded or stage == UPGRADED)
        if not _has_failed(trial):
            forget_reached(site)
            write_trial(site, replace(trial, starts=trial.starts + 1))
            return f"Release {trial.release} is on trial, start {trial.starts + 1} of {MOST_STARTS}."
        return _return(site, trial)


def _is_served(site: Path) -> bool:
    """Whether an appliance runs that somebody started in another way; the release will refuse to start beside it."""
    try:
        return is_served(site / "state")
    except OSError:
        return False


def _has_failed(trial: Trial) -> bool:
    return trial.starts >= MOST_STARTS or trial.is_late


def _why(trial: Trial) -> str:
    return "took too long to become ready" if trial.is_late else f"did not become ready in {trial.starts} starts"


def _return(site: Path, trial: Trial) -> str:
    hindrance = _hindrance(site, trial)
    if hindrance is not None:
        return f"Release {trial.release} {_why(trial)}. It stays the current one, because {hindrance}."
    is_noted = True
    try:
        _note_return(site, trial)
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        is_noted = False
    _point(site, "current", trial.back_to)
    with contextlib.suppress(OSError):  # it only remembers the way back
        _point(site, "previous", trial.release)
    if is_noted:
        end_trial(site)
    return f"Release {trial.release} {_why(trial)}, so release {trial.back_to} is served again."


def _hindrance(site: Path, trial: Trial) -> str | None:
    """Why the release before cannot be served."""
    before = site / "releases" / trial.back_to
    if trial.is_upgraded:
        return f"it has upgraded the database, which release {trial.back_to} refuses"
    if not (before / "receipt.json").is_file():
        return f"release {trial.back_to} is no longer installed"
    if not os.access(before / _LAUNCHER, os.X_OK):
        return f"release {trial.back_to} is damaged ({_LAUNCHER} cannot be run)"
    return None


def _note_return(site: Path, trial: Trial) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    write_returned(site, Returned(trial.release, trial.back_to, _why(trial), now))


def wait(site: Path, pid: int, *, limit_s: float | None = None) -> str | None:
    """Wait until the release on trial serves, or the process ``pid`` ends.

    Returns:
        Why the start failed, a sentence; None if the release serves, or nothing is on trial.
    """
    trial = load_trial(site)
    if trial is None or trial.release != current(site):
        return None
    deadline_s = time.monotonic() + (_limit_s(site, trial.release) if limit_s is None else limit_s)
    while stage_of(site, trial.release) != HEALTHY:
        if _has_ended(pid):
            return f"Release {trial.release} ended before it was ready."
        if time.monotonic() >= deadline_s:
            _judge(site, trial.release, is_late=True)
            return f"Release {trial.release} takes too long to become ready; it is stopped."
    _judge(site, trial.release, is_late=False)
    return None


def _judge(site: Path, release: str, *, is_late: bool) -> None:
    """End the trial of this release, or note that it was late. An installer may have put another one on trial since.

    What cannot be written is said, and does not change what the caller does; the next start sees that it was ready.
    """
    try:
        with _locked(site) as is_free:
            trial = load_trial(site)
            if not is_free or trial is None or trial.release != release:
                return
            if is_late:
                write_trial(site, replace(trial, is_late=True))
            else:
                end_trial(site)
    except OSError as exc:
        _say(_hindered(exc))


def after(site: Path, result: str) -> None:
    """Do not count a start that somebody has stopped: the service manager then says that all went well.

    How far that start came counts all the same.
    """
    with _locked(site) as is_free:
        trial = load_trial(site)
        if not is_free or trial is None or trial.release != current(site) or result != "success" or not trial.starts:
            return
        stage = stage_of(site, trial.release)
        if stage == HEALTHY:
            end_trial(site)
            return
        is_upgraded = trial.is_upgraded or stage == UPGRADED
        write_trial(site, replace(trial, starts=trial.starts - 1, is_upgraded=is_upgraded))


def serve(site: Path, arguments: list[str], *, limit_s: float | None = None) -> int:
    """Run `appliance serve` of the current release, and see a release on trial through. Returns its exit status.

    A release that is not on trial takes the place of this process.
    """
    told: list[int] = []
    while True:
        _begin(site)
        command = [str(site / "current" / _LAUNCHER), "serve", "--home", str(site), *arguments]
        if load_trial(site) is None:
            os.execv(command[0], command)  # noqa: S606 - no shell wanted
        try:
            process = subprocess.Popen(command)
        except OSError as exc:  # a failed start like any other: its program or its interpreter is gone
            _say(f"Release {current(site)} cannot be started: {exc.strerror} ({command[0]}).")
            time.sleep(_AGAIN_S)
            if told:
                return 0
            continue
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
    """Make ``current`` or ``previous`` name this release, by one rename.

    On a full disk, ``previous`` becomes ``current`` if it names that release.
    """
    fresh, goal = site / f".{link}.new", Path("releases", version)
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(goal)
    except OSError as exc:
        fresh = site / "previous"
        if exc.errno not in _FULL or link != "current" or not fresh.is_symlink() or Path(os.readlink(fresh)) != goal:
            raise
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


def _begin(site: Path) -> None:
    """`before` for a start that follows in any case."""
    try:
        _say(before(site))
    except OSError as exc:
        _say(_hindered(exc))


def _hindered(exc: OSError) -> str:
    return f"The keeper cannot do its work ({exc.strerror}: {exc.filename}); a release on trial is not watched."


def _say(sentence: str | None) -> None:
    if sentence is not None:
        print(sentence, flush=True)


def main() -> None:
    """The entry of `service/keeper`; what it keeps is the site in which it lies."""
    site = Path(os.path.realpath(sys.argv[0])).parent.parent
    command, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    is_serving = command == "serve"
    try:
        sys.exit(_run(site, command, arguments))
    except OSError as exc:  # a full disk, for example; it must not keep a release from being served
        _say(f"The appliance cannot be started: {exc.strerror}: {exc.filename}." if is_serving else _hindered(exc))
        sys.exit(1 if is_serving else 0)


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
