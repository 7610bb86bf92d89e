"""The watcher: a small process that answers every refused call of the programs and reports it.

    watch = start_watch()                                   # in the supervisor, before its own filter
    watch.adopt(listener, Kind.WEB, programs=1)             # in a forked child that has put on a watched filter
    for refusal in watch.refusals(): ..                     # in the supervisor, now and then

A program's filter (seccomp.py) makes the caller of a refused call wait, and the watcher answers EPERM. The only call
that the watcher lets pass is the execve by which a child becomes its program. Our own code announces the number of
these with the listener, before any other code runs in that child. The watcher reads nothing of the caller's memory, so
another thread cannot change what it decides by.

It is forked before the supervisor's filter is installed, because that filter forbids answering notifications. Otherwise
an intruder in the supervisor could install a filter of its own and let every call pass. If the watcher ends, refused
calls fail with ENOSYS and go unseen. It cannot be started again, so the appliance says so until its next start.

Source: seccomp_unotify(2), Linux 5.5 (5.0 without the flag that lets a call pass).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from appliance.child import fork
from appliance.isolation.dangers import FOREIGN, danger_of
from appliance.isolation.kernel import Machine, SilenceError, machine, name_process, syscall
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.privileges import open_descriptors
from appliance.isolation.refused import Refused
from appliance.isolation.seccomp import X32_BIT, Refusal, install_filter, install_watched_filter
from appliance.signals import ignore_all_but

REPORT_EVERY_S = 60.0  # one report for each kind of process and call
_MAX_REPORTS = 128  # a minute; beyond it, harmless calls count together as "other calls", and foreign ones together
_MAX_MESSAGE_BYTES = 65536

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, pid, flags, then struct seccomp_data: nr, arch, ip, args
_ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


class Watch:
    """The side of the watcher that the supervisor and its children use."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid, self._control = pid, control

    def adopt(self, listener: int, label: str, *, programs: int, report: bool = True) -> None:
        """Hand ``listener`` to the watcher, which answers there; this process closes it.

        Args:
            programs: how many calls of execve to let pass.
            report: False for a proof: refused calls are only counted, for `noticed`.
        Raises:
            SilenceError: the watcher has ended.
        """
        message = {"adopt": label, "programs": programs, "report": report}
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], [listener])
        except OSError as exc:
            raise SilenceError("the process that watches over refused calls has ended") from exc
        finally:
            os.close(listener)

    def noticed(self, label: str) -> dict[str, int]:
        """How often each call was refused to processes adopted as ``label`` without a report.

        Raises:
            SilenceError: the watcher has ended.
        """
        try:
            self._control.send(json.dumps({"count": label}).encode())
            answer: dict[str, int] = json.loads(self._control.recv(_MAX_MESSAGE_BYTES))
        except (OSError, ValueError) as exc:
            raise SilenceError("the process that watches over refused calls has ended") from exc
        return answer

    def refusals(self) -> Iterator[Refused]:
        """The refusals since the last call of this method."""
        while True:
            try:
                message = self._control.recv(_MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except OSError:  # nothing more has come, or the watcher has ended
                return
            if not message:
                return
            body: dict[str, Any] = json.loads(message)
            yield Refused(**{**body, "arguments": tuple(body["arguments"])})

    def fileno(self) -> int:
        """The descriptor of the socket to the watcher, which the supervisor keeps."""
        return self._control.fileno()

    def stop(self) -> None:
        """End the watcher, which this process must have started."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG)[0] == 0:  # not reaped yet, so the pid is still its own
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)


def start_watch() -> Watch | None:
    """Fork the watcher; None if the kernel does not allow it, or another process already watches over this one.

    Raises:
        SilenceError: the watcher could not be confined.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork()
    if pid == 0:
        try:
            _become_watcher(theirs)
        finally:
            os._exit(1)
    theirs.close()
    watch = Watch(pid, ours)
    if _can_start_programs(watch):
        return watch
    watch.stop()
    return None


def _can_start_programs(watch: Watch) -> bool:
    """Whether a watched process can become a program: a child tries to execute a name that no program has."""
    pid = fork()
    if pid == 0:
        code = 1
        try:
            watch.adopt(install_watched_filter(call_policy(Kind.RECORDER)), "trial", programs=1, report=False)
            syscall("execve", b"\0", None, None)
        except OSError as exc:
            code = 0 if exc.errno == errno.ENOENT else 1
        except SilenceError:
            pass  # the status says no
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def call_name(target: Machine, number: int, arch: int) -> str:
    """The name of a refused call in reports."""
    if arch != target.audit_arch:
        return f"{FOREIGN[0]} {number}"
    if target.has_x32 and number >= X32_BIT:
        return f"{FOREIGN[1]} {number - X32_BIT}"
    return next((name for name, known in target.numbers.items() if known == number), f"call {number}")


def _without_number(call: str) -> str:
    """The name under which a call counts once there are many, so that a hundred harmless calls hide no other call.

    Harmful calls are few and keep their names.
    """
    if danger_of(call) is None:
        return "other calls"
    return next((f"{foreign} of some number" for foreign in FOREIGN if call.startswith(foreign)), call)


@dataclass
class _Tally:
    """Refusals of one call to one kind that are not reported yet."""

    count: int = 0
    pid: int = 0
    arguments: tuple[int, ...] = ()
    first_us: int = 0
    next_report_s: float = 0.0


@dataclass
class _Adopted:
    """One listener: the processes behind it are of one kind."""

    label: str
    programs: int
    report: bool
    tallies: dict[str, _Tally] = field(default_factory=dict)


class _Watcher:
    """The watcher's own side; one thread."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._target = machine()
        self._adopted: dict[int, _Adopted] = {}
        self._reported: dict[tuple[str, str], _Tally] = {}  # by kind and call
        self._counted: dict[str, dict[str, int]] = {}  # by label and call
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self) -> None:
        """Answer until the supervisor has ended."""
        while True:
            for fd, events in self._poll.poll(1000 if self._reported else None):
                if fd == self._control.fileno():
                    if not self._take_message():
                        return
                elif events & select.POLLIN:
                    self._answer(fd)
                else:  # every process behind it has ended
                    self._poll.unregister(fd)
                    os.close(fd)
                    del self._adopted[fd]
            self._send_reports()

    def _take_message(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE_BYTES, 1)
        if not message:
            return False
        body: dict[str, Any] = json.loads(message)
        if "count" in body:
            self._control.send(json.dumps(self._counted.pop(body["count"], {})).encode())
        elif fds:
            self._adopted[fds[0]] = _Adopted(body["adopt"], body["programs"], body["report"])
            self._poll.register(fds[0], select.POLLIN)
        return True

    def _answer(self, listener: int) -> None:
        request = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, request)
        except OSError as exc:
            if exc.errno == errno.ENOENT:  # the caller was killed meanwhile
                return
            raise
        number_id, pid, _, number, arch, _, *arguments = _NOTIFICATION.unpack(request)
        adopted, call = self._adopted[listener], call_name(self._target, number & 0xFFFFFFFF, arch)
        if call == "execve" and adopted.programs > 0:
            adopted.programs -= 1
            if self._send(listener, number_id, 0, _CONTINUE):
                return
        self._note(adopted, call, pid, tuple(arguments))
        self._send(listener, number_id, -errno.EPERM, 0)

    def _send(self, listener: int, number_id: int, error: int, flags: int) -> bool:
        """True if the caller has the answer or is gone; False if the kernel knows no such answer (before Linux 5.5)."""
        try:
            fcntl.ioctl(listener, _SEND, _ANSWER.pack(number_id, 0, error, flags))
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                return False
            if exc.errno != errno.ENOENT:
                raise
        return True

    def _note(self, adopted: _Adopted, call: str, pid: int, arguments: tuple[int, ...]) -> None:
        if not adopted.report:
            counts = self._counted.setdefault(adopted.label, {})
            counts[call] = counts.get(call, 0) + 1
            return
        if len(self._reported) >= _MAX_REPORTS:
            call = _without_number(call)
        tally = self._reported.setdefault((adopted.label, call), _Tally())
        if tally.count == 0:
            tally.pid, tally.arguments, tally.first_us = pid, arguments, time.time_ns() // 1000
        tally.count += 1

    def _send_reports(self) -> None:
        """Send the due reports. One that the supervisor cannot take now is sent later, with what came since."""
        now_s = time.monotonic()
        for (kind, call), tally in list(self._reported.items()):
            if now_s < tally.next_report_s:
                continue
            if tally.count == 0:
                del self._reported[kind, call]
                continue
            report = Refused(kind, call, tally.pid, tally.arguments, tally.count, tally.first_us)
            with contextlib.suppress(BlockingIOError):
                self._control.send(json.dumps(asdict(report)).encode(), socket.MSG_DONTWAIT)
                tally.count, tally.next_report_s = 0, now_s + REPORT_EVERY_S


def _become_watcher(control: socket.socket) -> None:
    os.setsid()  # the supervisor deals with Ctrl-C in the terminal
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    ignore_all_but(())  # it ends with the supervisor, after the programs
    name_process("watcher")
    for fd in open_descriptors() - {0, 1, 2, control.fileno()}:
        os.close(fd)
    install_filter(call_policy(Kind.WATCHER), Refusal.ERRNO)
    _Watcher(control).run()
    os._exit(0)
