"""A small process copies to the log, line by line, everything that the programs print.

    outputs = Outputs(); outputs.start()                # in the supervisor, after the door is shut
    spawn(program, output=outputs.of(Kind.WEB), ..)

A program holds only the writing end of a pipe. If it held the log itself, code that broke into the program could read
what the administrator types at the terminal, send control sequences there, truncate the log file, overwrite earlier
lines, or write lines in another program's name. Here each line begins with the kind of process that wrote it,
unprintable characters become escapes, and each kind has an allowance of bytes, so that none fills the disk.

The process has a filter of its own: it may only read and write the descriptors that it holds. If it ends, another takes
over.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator

from appliance.child import fork
from appliance.isolation.kernel import name_process
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.privileges import open_descriptors
from appliance.isolation.seccomp import Refusal, install_filter
from appliance.runtime.one_way import one_way_pipe
from appliance.signals import ignore_all_but

_LOG_FD = 2
_LONGEST_LINE_BYTES = 16 << 10  # a longer one becomes several
_ALLOWANCE_BYTES, _REFILL_BYTES_S = 1 << 20, 300  # for each kind of process: 1 MiB at once, 1 MiB an hour
_READ_BYTES = 65536


class Outputs:
    """A pipe for each kind of program, and the process that reads them all."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._pipes = {kind: one_way_pipe() for kind in kinds}
        self.pid = 0

    def of(self, kind: Kind) -> int:
        """The descriptor to which programs of this kind write."""
        return self._pipes[kind][1]

    def start(self) -> None:
        """Fork the process that reads; the caller must have one thread."""
        pid = fork()
        if pid == 0:
            try:
                _relay({read_end: kind for kind, (read_end, _) in self._pipes.items()})
            finally:
                os._exit(1)
        self.pid = pid

    def close(self) -> None:
        """Let the process end. It ends once every program has ended and everything they wrote is copied."""
        for read_end, write_end in self._pipes.values():
            os.close(read_end)
            os.close(write_end)


class Lines:
    """Turns the bytes that one kind of program writes into whole, harmless lines of the log, within its allowance."""

    def __init__(self, kind: str, *, now_s: float) -> None:
        self._kind, self._pending = kind, b""
        self._allowance, self._looked_s = float(_ALLOWANCE_BYTES), now_s
        self._left_out = 0

    def take(self, piece: bytes, *, now_s: float) -> bytes:
        """The lines that ``piece`` completes. An empty piece marks the end and completes the last line."""
        *lines, self._pending = (self._pending + piece).split(b"\n")
        if self._pending and (not piece or len(self._pending) >= _LONGEST_LINE_BYTES):
            lines.append(self._pending)
            self._pending = b""
        self._allowance += (now_s - self._looked_s) * _REFILL_BYTES_S
        self._allowance, self._looked_s = min(self._allowance, float(_ALLOWANCE_BYTES)), now_s
        return b"".join(line for whole in lines for part in _parts(whole) for line in self._allowed(part))

    def _allowed(self, part: bytes) -> Iterator[bytes]:
        line = f"{self._kind}: {_printable(part)}\n".encode()
        if len(line) > self._allowance:
            if not self._left_out:
                yield f"{self._kind}: it writes too much; what follows is left out\n".encode()
            self._left_out += 1
            self._allowance = min(self._allowance, 0.0)
            return
        if self._left_out:
            yield f"{self._kind}: {self._left_out} lines were left out\n".encode()
            self._left_out = 0
        self._allowance -= len(line)
        yield line


def _parts(line: bytes) -> Iterator[bytes]:
    for start in range(0, max(len(line), 1), _LONGEST_LINE_BYTES):
        yield line[start : start + _LONGEST_LINE_BYTES]


def _printable(line: bytes) -> str:
    text = line.removesuffix(b"\r").decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() or letter == "\t" else ascii(letter)[1:-1] for letter in text)


def _relay(kinds: dict[int, Kind]) -> None:
    """Copy until every pipe has ended."""
    os.setsid()  # Ctrl-C in the terminal reaches the supervisor alone
    ignore_all_but(())  # it ends with the last program
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    name_process("log relay")
    for fd in open_descriptors() - {0, 1, _LOG_FD, *kinds}:
        os.close(fd)
    install_filter(call_policy(Kind.LOG_RELAY), Refusal.ERRNO)
    now_s = time.monotonic()
    lines = {fd: Lines(kind, now_s=now_s) for fd, kind in kinds.items()}
    poll = select.poll()
    for fd in lines:
        poll.register(fd, select.POLLIN)
    while lines:
        for fd, _ in poll.poll():
            piece = os.read(fd, _READ_BYTES)
            _write(lines[fd].take(piece, now_s=time.monotonic()))
            if not piece:
                poll.unregister(fd)
                del lines[fd]
    os._exit(0)


def _write(data: bytes) -> None:
    """Write to the log. What a full disk or a closed terminal refuses is lost."""
    while data:
        try:
            data = data[os.write(_LOG_FD, data) :]
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(_LOG_FD, select.POLLOUT)
            waiting.poll()
        except OSError:
            return


def wait_for_end(outputs: Outputs, limit_s: float) -> None:
    """After `Outputs.close`: let the process copy what is left for at most `limit_s`, then kill it."""
    if not outputs.pid:  # it could not be started again
        return
    deadline_s = time.monotonic() + limit_s
    with contextlib.suppress(ChildProcessError):  # reaped already
        while os.waitpid(outputs.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() >= deadline_s:
                os.kill(outputs.pid, signal.SIGKILL)
                os.waitpid(outputs.pid, 0)
                return
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
