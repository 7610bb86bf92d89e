"""Runs a program of a release and keeps the end of what it says.

Whoever built the release wrote the program, and it runs before anybody knows that it works. So it gets nothing to hold:

- a session of its own: it cannot put characters into the terminal of the person who installs (ioctl TIOCSTI);
- no input;
- no end of its output to wait for: whatever it leaves running is ended with it, and only the last bytes are kept.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from typing import TypedDict

from installer.owner import Owner

_KEPT_BYTES = 1 << 16
_QUOTED_LINES = 4
_QUOTED_CHARACTERS = 1000
_MOST_DRAINED = 64
_LOOK_S = 0.05  # how often to look whether it has ended, where its output does not tell


class _User(TypedDict, total=False):
    """Arguments of ``subprocess.Popen``."""

    user: int
    group: int
    extra_groups: tuple[int, ...]
    cwd: str


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int  # as `subprocess` has it: negative for a signal
    said: str  # the last lines that it printed, in one line


def run_child(command: Sequence[str], environ: Mapping[str, str], *, owner: Owner | None, timeout_s: float) -> Ended:
    """Run it to its end.

    Args:
        owner: the user to run it as, in the directory /; None: the present user.
    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took longer, and was ended.
    """
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as output:
        try:
            process = subprocess.Popen(
                command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end,
                start_new_session=True, **_as_user(owner),
            )  # fmt: skip
        finally:
            os.close(write_end)
        try:
            said = _listen(process.pid, output, time.monotonic() + timeout_s)
            if said is None:
                raise subprocess.TimeoutExpired(process.args, timeout_s)
        finally:
            with suppress(ProcessLookupError):  # before it is reaped, so the number is still its own
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ended(process.returncode, quoted(said.decode(errors="replace")))


def _as_user(owner: Owner | None) -> _User:
    return {} if owner is None else {"user": owner.uid, "group": owner.gid, "extra_groups": (), "cwd": "/"}


def _listen(pid: int, output: FileIO, deadline_s: float) -> bytes | None:
    """The last bytes that it prints until it ends; None if it does not end in time."""
    kept, open_ends = b"", [output]
    drained = 0  # pieces that were read after its end: something that it left behind may print for ever
    while time.monotonic() < deadline_s:
        has_ended = _has_ended(pid)
        if not open_ends and not has_ended:  # it has closed its output and works on
            time.sleep(_LOOK_S)
        elif open_ends and select.select(open_ends, [], [], 0 if has_ended else _LOOK_S)[0]:
            piece = output.read(_KEPT_BYTES) or b""
            kept = (kept + piece)[-_KEPT_BYTES:]
            open_ends = open_ends if piece else []
            drained += has_ended
            if piece and drained < _MOST_DRAINED:
                continue
        if has_ended:
            return kept
    return None


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def quoted(output: str) -> str:
    """The last lines in one, for a sentence."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = " | ".join(lines[-_QUOTED_LINES:]) or "no output"
    return said if len(said) <= _QUOTED_CHARACTERS else f"..{said[-_QUOTED_CHARACTERS:]}"
