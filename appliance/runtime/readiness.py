"""How the supervisor learns whether its programs answer, although it cannot connect to them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from appliance.doorbell import ring
from appliance.engine.wire import ProtocolError, StatusRequest, decode, encode
from appliance.runtime.one_way import one_way_pipe
from appliance.turns.engine import Status


class ReadyPipe:
    """A pipe into which a program writes a byte when it is ready: a web worker that has loaded the application
    (gunicorn_hooks.py), a recorder that has recorded the start.
    """

    def __init__(self) -> None:
        self._read_end, self.fd = one_way_pipe()
        os.set_blocking(self._read_end, False)
        self._answers = 0

    def answers(self) -> int:
        """How many bytes have come so far."""
        with contextlib.suppress(BlockingIOError):
            self._answers += len(os.read(self._read_end, 4096))
        return self._answers

    def is_answered(self) -> bool:
        """True once a byte has come."""
        return self.answers() > 0


class EndedWorkers:
    """A pipe into which gunicorn writes a line for each web worker that ended by itself; only gunicorn learns of that.

    A worker closes the writing end as soon as it is forked, and cannot open it again. Even so, this class accepts only
    lines in the form that gunicorn_hooks.py writes, and at most `MOST_AT_ONCE` of them each time.
    """

    MOST_AT_ONCE = 16
    _MAX_LINE_BYTES = 512  # below PIPE_BUF: lines of several writers do not mix

    def __init__(self) -> None:
        self._read_end, self.fd = one_way_pipe()
        os.set_blocking(self._read_end, False)
        self._pending = b""

    def ended(self) -> list[dict[str, object]]:
        """What gunicorn reported since the last call: ``how`` each worker ended, after how many seconds (``ran_s``)."""
        with contextlib.suppress(BlockingIOError):
            self._pending += os.read(self._read_end, self.MOST_AT_ONCE * self._MAX_LINE_BYTES)
        *lines, self._pending = self._pending.split(b"\n")
        self._pending = self._pending[: self._MAX_LINE_BYTES]
        return [end for line in lines[: self.MOST_AT_ONCE] if (end := _worker_end(line)) is not None]


_HOW = re.compile(r"exit status [0-9]{1,3}|signal SIG[A-Z0-9+]{1,12}")
_LONGEST_RUN_S = 1e9  # 31 years


def _worker_end(line: bytes) -> dict[str, object] | None:
    try:
        body = json.loads(line)
        how, ran_s = body["how"], float(body["ran_s"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not isinstance(how, str) or _HOW.fullmatch(how) is None:
        return None
    if not math.isfinite(ran_s) or not 0 <= ran_s <= _LONGEST_RUN_S:
        return None
    return {"how": how, "ran_s": ran_s}


class Answer:
    """What a short program prints, as soon as it has ended; ``fd`` is its standard output."""

    def __init__(self) -> None:
        self._read_end, self.fd = one_way_pipe()
        os.set_blocking(self._read_end, False)
        self._printed = b""

    def text(self) -> str | None:
        """Everything it printed; None while it runs."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._read_end, 4096):
                self._printed += piece
            return self._printed.decode(errors="replace")
        return None


class EngineProbe:
    """Asks for the engine's status, one question at a time, so that the doorbell's short queue stays free for turns.

    Engine and web workers hold the doorbell, too. Whatever they do to it, the probe raises no error: it gets no answer.
    """

    _LONGEST_STATUS_BYTES = 65536

    def __init__(self, doorbell: socket.socket) -> None:
        self._doorbell = doorbell
        self._ours: socket.socket | None = None
        self._received = b""

    def is_answered(self) -> bool:
        """Ask if no question is under way; True once a status has arrived."""
        if self._ours is None:
            self._ask()
            return False
        try:
            piece = self._ours.recv(self._LONGEST_STATUS_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            piece = b""
        self._received += piece
        if piece and not self._received.endswith(b"\n") and len(self._received) < self._LONGEST_STATUS_BYTES:
            return False
        self._ours.close()
        self._ours = None
        try:
            return isinstance(decode(self._received), Status)
        except ProtocolError:  # the engine died while answering
            return False

    def _ask(self) -> None:
        try:
            ours = ring(self._doorbell)
        except OSError:  # the next call asks again
            return
        ours.setblocking(False)
        with contextlib.suppress(ConnectionError):  # the next call reads the end
            ours.send(encode(StatusRequest()))
        self._ours, self._received = ours, b""


class EnginePulse:
    """Detects an engine at a standstill: it neither answers nor computes.

    A busy engine may answer late, because it takes requests one after the other; so silence alone proves nothing.
    Before its first answer an engine loads the model, and there is no limit for that. Where the host hides processes
    from each other, nobody can say whether it computes, and no engine counts as lost.
    """

    _LONGEST_LOOK_S = 2.0  # the most that counts between two looks; a stopped supervisor asks nothing
    _LEAST_SHARE = 0.1  # of one core, for an engine that computes

    def __init__(
        self, doorbell: socket.socket, *, used_s: Callable[[int], float | None] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Args: used_s: processor time of a process so far; None where it cannot be seen."""
        self._probe, self._used_s, self._clock_s = EngineProbe(doorbell), used_s or processor_time_s, clock_s
        self._pid, self._silent_s = 0, 0.0
        self._used_before_s: float | None = 0.0
        self._looked_s = clock_s()
        self.was_felt = False  # the present engine has answered

    def is_lost(self, pid: int, *, limit_s: float) -> bool:
        """Look at the engine with this pid; True if it has stood still for `limit_s`."""
        now_s = self._clock_s()
        passed_s, self._looked_s = min(now_s - self._looked_s, self._LONGEST_LOOK_S), now_s
        if pid != self._pid:
            self._pid, self.was_felt = pid, False
        if self._probe.is_answered():
            self.was_felt = True
            self._begin_again(pid)
            return False
        self._silent_s += passed_s
        if not self.was_felt or self._silent_s < limit_s:
            return False
        used_before_s = self._used_before_s
        self._begin_again(pid)
        if used_before_s is None or self._used_before_s is None:
            return False
        return self._used_before_s - used_before_s < self._LEAST_SHARE * limit_s

    def _begin_again(self, pid: int) -> None:
        self._silent_s, self._used_before_s = 0.0, self._used_s(pid)


def processor_time_s(pid: int) -> float | None:
    """Processor time of all threads of a process since its start, in user and kernel mode; proc_pid_stat(5).

    None where /proc does not show it: with hidepid (proc(5)) only root sees a process whose memory is hidden.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
