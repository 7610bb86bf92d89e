"""The reader, ``python -m appliance.attachments.server``: turns files that people attach into text.

It imports the libraries once and then forks a process for each file, which `bounds.confine_to` leaves nothing but
memory, time and one socket. This first process never looks at a byte of a file: it takes sockets from the doorbell, and
ends children that take too long. So no file sees another one, and what a file does to its process ends with it.

Environment: APPLIANCE_READER_FD (the reader's end of its doorbell). SIGTERM ends it and its children.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from appliance.attachments.bounds import MIB, Bounds, OutOfTimeError, address_space_bytes, confine_to
from appliance.attachments.formats.refused import UnreadableError
from appliance.attachments.wire import Code, ReadFile, Refusal, WireError, decode_request, encode
from appliance.child import NoProcessError, fork
from appliance.doorbell import is_shut
from appliance.isolation.confinement import seal
from appliance.signals import how_ended

Read = Callable[[str, bytes, int], ReadFile]

MOST_AT_ONCE: Final = 2  # children; other files wait in the doorbell
LONGEST_FILE_BYTES: Final = 64 * MIB  # the settings allow less
_MAX_LINE_BYTES: Final = 16 * 1024
_BOUNDS: Final = Bounds()
_OTHERS_WAIT_S: Final = 0.5  # after the kernel started no process

_log = logging.getLogger("appliance.attachments")


@dataclass(frozen=True)
class _Child:
    """A process that reads one file. ``alive`` is a pipe that it closes by ending."""

    pid: int
    alive: int
    deadline_s: float


class Reader:
    """Takes files from the doorbell until it is shut."""

    def __init__(self, doorbell: socket.socket, read: Read, bounds: Bounds) -> None:
        self._doorbell, self._read, self._bounds = doorbell, read, bounds
        self._held_bytes = address_space_bytes()
        self._children: dict[int, _Child] = {}  # by descriptor of `alive`

    def run(self) -> None:
        """Serve. Returns when nobody can ring any more."""
        while True:
            poll = select.poll()
            for alive in self._children:
                poll.register(alive, 0)  # POLLHUP is always reported
            if len(self._children) < MOST_AT_ONCE:
                poll.register(self._doorbell, select.POLLIN)
            for descriptor, _ in poll.poll(self._wait_ms()):
                if descriptor in self._children:
                    self._reap(self._children.pop(descriptor))
                elif not self._take():
                    return
            self._end_late()

    def _wait_ms(self) -> int | None:
        if not self._children:
            return None
        return max(0, round(1000 * (min(child.deadline_s for child in self._children.values()) - time.monotonic())))

    def _take(self) -> bool:
        """Start a child for the file that was rung for; False if the doorbell is shut."""
        try:
            byte, fds, _, _ = socket.recv_fds(self._doorbell, 1, 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        if not byte and not fds and is_shut(self._doorbell):
            return False
        for fd in fds:
            with _stream_of(fd) as stream:
                if stream is not None:
                    self._start(stream)
        return True

    def _start(self, stream: socket.socket) -> None:
        alive, ends = os.pipe()
        try:
            pid = fork()
        except NoProcessError as exc:
            _log.error("a file is not read: %s", exc)
            os.close(alive)
            os.close(ends)
            time.sleep(_OTHERS_WAIT_S)
            return
        if pid == 0:
            code = 1
            try:
                stream.setblocking(True)
                confine_to(self._bounds, held_bytes=self._held_bytes, keep=(stream.fileno(), ends))
                _read_one(stream, self._read)
                code = 0
            finally:
                os._exit(code)
        os.close(ends)
        self._children[alive] = _Child(pid, alive, time.monotonic() + self._bounds.whole_s)

    def _reap(self, child: _Child) -> None:
        """Collect a child that has closed its pipe. One that closed it without ending is ended now."""
        os.close(child.alive)
        os.kill(child.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        if code:
            _log.warning("the process that read a file ended early (%s)", how_ended(code))

    def _end_late(self) -> None:
        """Kill children that are late; their pipes then say that they have ended."""
        for child in self._children.values():
            if time.monotonic() >= child.deadline_s:
                os.kill(child.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own


@contextlib.contextmanager
def _stream_of(fd: int) -> Iterator[socket.socket | None]:
    """The socket behind a descriptor that a web worker has sent; None if it is something else."""
    try:
        stream = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        yield None
        return
    with stream:
        yield stream


def _read_one(stream: socket.socket, read: Read) -> None:
    """Read the file that comes through the socket, and answer."""
    answer: ReadFile | Refusal
    try:
        name, data, max_chars = _receive(stream)
        answer = read(name, data, max_chars)
    except BaseException as exc:
        answer = Refusal(_code_of(exc))
    with contextlib.suppress(OSError):
        stream.sendall(encode(answer))


def _receive(stream: socket.socket) -> tuple[str, bytes, int]:
    with stream.makefile("rb") as source:
        request = decode_request(source.readline(_MAX_LINE_BYTES))
        if request.size_bytes > LONGEST_FILE_BYTES:
            raise WireError("a file that is too long")
        data = source.read(request.size_bytes)
    if len(data) < request.size_bytes:
        raise WireError("the file ends early")
    return request.name, data, request.max_chars


def _code_of(error: BaseException) -> Code:
    match error:
        case UnreadableError():
            return error.code
        case MemoryError():
            return "out_of_memory"
        case OutOfTimeError():
            return "out_of_time"
    return "broken"


def _rehearsed() -> Read:
    """The parser, with everything that it will ever import."""
    from appliance.attachments.formats.any_file import read_file
    from appliance.attachments.formats.rehearsal import rehearse

    rehearse()
    return read_file


def main(parser: Read | None = None, bounds: Bounds = _BOUNDS) -> None:
    """Serve until the doorbell is shut. Args: parser: None: that of `formats.any_file`."""
    seal(os.environ, confines_copies=True)
    logging.basicConfig(level=logging.INFO, format="reader: %(message)s", stream=sys.stderr)
    read = parser or _rehearsed()
    with socket.socket(fileno=int(os.environ["APPLIANCE_READER_FD"])) as doorbell:
        doorbell.set_inheritable(False)
        Reader(doorbell, read, bounds).run()


if __name__ == "__main__":
    main()
