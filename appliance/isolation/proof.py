"""The proof that the door is shut: each way out is tried, and the kernel must refuse every one.

A try that is not refused does no harm: it names loopback's discard port, a descriptor that does not exist, or an empty
request. Where it can, it is also made so that an unfiltered kernel gives another answer than the filter's EPERM, for a
missing rule to show.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.isolation.kernel import CLONE_NEWNET, SilenceError, syscall
from appliance.isolation.seccomp import MSG_FASTOPEN, TIOCSTI, X32_BIT

_DISCARD = ("127.0.0.1", 9)
_MPTCP = 262  # IPPROTO_MPTCP
_CLONE_NEWNS, _CLONE_FS = 0x00020000, 0x00000200  # contradict each other: EINVAL, no child
_UNKNOWN = 0x7FFF  # no command or option of any call below
_TOO_BIG = 1 << 20


@dataclass(frozen=True)
class Attempt:
    """One way out and what the kernel answered: an errno's name, a signal's name, or OPEN."""

    way: str
    answer: str
    refused: bool


@dataclass(frozen=True)
class Props:
    """Sockets that the appliance would hold anyway, made on loopback before the door was shut, to try to misuse."""

    listener: socket.socket
    accepted: socket.socket
    pair: socket.socket


@contextmanager
def open_props() -> Iterator[Props]:
    """Props for one proof, closed afterwards.

    Raises:
        SilenceError: there is no loopback to make them on.
    """
    try:
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        accepted = listener.accept()[0]
    except OSError as exc:
        raise SilenceError(f"the proof of silence needs the loopback interface: {exc.strerror}") from exc
    one, other = socket.socketpair()
    with listener, client, accepted, one, other:
        yield Props(listener, accepted, one)


def prove_silence(props: Props) -> tuple[Attempt, ...]:
    """Try every way out; the attempts in the order of the table in docs/silence.md.

    Raises:
        SilenceError: one was not refused, or refused in a way that shows another layer at work; all such are named.
    """
    attempts = tuple(_attempt_all(props))
    found = [f"{attempt.way} ({attempt.answer})" for attempt in attempts if not attempt.refused]
    if found:
        raise SilenceError(f"the way out is not shut, nothing may start: {'; '.join(found)}")
    return attempts


def _attempt_all(props: Props) -> Iterator[Attempt]:
    for way, expected, attempt in _ways(props):
        code = _errno_of(attempt)
        yield Attempt(way, errno.errorcode.get(code, str(code)) if code else "OPEN", code == expected)
    for way, foreign_call in _FOREIGN_CALLS.get(platform.machine(), ()):
        answer = _death_in_child(foreign_call)
        yield Attempt(way, answer, answer in ("SIGSYS", "SIGSEGV"))  # SIGSEGV: a kernel built without 32-bit calls


def _ways(props: Props) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """(what is tried, the errno that the filter answers, the try)."""
    inet, inet6, stream, datagram = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
    fast_open = (b"", MSG_FASTOPEN)
    # 1. Sockets of one's own.
    yield "TCP over IPv4", errno.EPERM, lambda: _connect(inet, stream, 0, _DISCARD)
    yield "TCP over IPv6", errno.EPERM, lambda: _connect(inet6, stream, 0, ("::1", 9))
    yield "Multipath TCP", errno.EPERM, lambda: _connect(inet, stream, _MPTCP, _DISCARD)
    yield "UDP over IPv4 (DNS)", errno.EPERM, lambda: _connect(inet, datagram, 0, _DISCARD)
    yield "UDP over IPv6 (DNS)", errno.EPERM, lambda: _connect(inet6, datagram, 0, ("::1", 9))
    yield "ping socket", errno.EPERM, lambda: socket.socket(inet, datagram, socket.IPPROTO_ICMP).close()
    yield "raw IP socket", errno.EPERM, lambda: socket.socket(inet, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    yield "packet socket", errno.EPERM, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    yield "netlink", errno.EPERM, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
    yield "vsock (the hypervisor)", errno.EPERM, lambda: socket.socket(socket.AF_VSOCK, stream).close()
    yield "every other socket family", errno.EPERM, _every_other_family
    # 2. The host's own services, over Unix sockets.
    yield "Unix socket, by path", errno.EPERM, lambda: _connect(socket.AF_UNIX, stream, 0, "/nonexistent/socket")
    yield "Unix socket, abstract", errno.EPERM, lambda: _connect(socket.AF_UNIX, stream, 0, "\0nonexistent")
    yield "Unix datagrams (syslog)", errno.EPERM, lambda: socket.socketpair(socket.AF_UNIX, datagram)
    yield "Unix raw (datagrams too)", errno.EPERM, lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)
    yield "Unix listener (bind)", errno.EPERM, _bind_anywhere
    yield "sendto with an address", errno.EPERM, lambda: props.pair.sendto(b"", "\0nonexistent")
    # 3. Sockets that were there before the door was shut.
    yield "inherited listener, connected", errno.EPERM, lambda: props.listener.connect(_DISCARD)
    yield "accepted socket, dissolved", errno.EPERM, lambda: _connect_unspecified(props.accepted)
    yield "accepted socket, connected again", errno.EPERM, lambda: props.accepted.connect(_DISCARD)
    yield "TCP Fast Open, sendto", errno.EPERM, lambda: props.pair.send(*fast_open)
    yield "TCP Fast Open, sendmsg", errno.EPERM, lambda: props.pair.sendmsg([b""], [], MSG_FASTOPEN)
    yield "TCP Fast Open, sendmmsg", errno.EPERM, lambda: syscall("sendmmsg", -1, None, 0, MSG_FASTOPEN)
    # 4. Calls that do it on one's behalf, or borrow another's way.
    yield "io_uring_setup", errno.EPERM, lambda: syscall("io_uring_setup", 1, None)
    yield "io_uring_enter", errno.EPERM, lambda: syscall("io_uring_enter", -1, 0, 0, 0, None, 0)
    yield "io_uring_register", errno.EPERM, lambda: syscall("io_uring_register", -1, _UNKNOWN, None, 0)
    yield "setns", errno.EPERM, lambda: syscall("setns", -1, CLONE_NEWNET)
    yield "unshare", errno.EPERM, lambda: syscall("unshare", 0)
    yield "clone into a namespace", errno.EPERM, lambda: syscall("clone", _CLONE_NEWNS | _CLONE_FS, None, None, None, 0)
    yield "clone3", errno.ENOSYS, lambda: syscall("clone3", None, 0)
    yield "mount", errno.EPERM, lambda: syscall("mount", None, None, None, 0, None)
    yield "open_tree", errno.EPERM, lambda: syscall("open_tree", -1, None, _UNKNOWN)
    yield "ptrace", errno.EPERM, lambda: syscall("ptrace", _UNKNOWN, -1, None, None)
    yield "pidfd_getfd", errno.EPERM, lambda: syscall("pidfd_getfd", -1, 0, 0)
    yield "process_vm_readv", errno.EPERM, lambda: syscall("process_vm_readv", os.getpid(), None, 0, None, 0, 0)
    yield "process_vm_writev", errno.EPERM, lambda: syscall("process_vm_writev", os.getpid(), None, 0, None, 0, 0)
    yield "bpf", errno.EPERM, lambda: syscall("bpf", _UNKNOWN, None, _TOO_BIG)
    yield "perf_event_open", errno.EPERM, lambda: syscall("perf_event_open", None, 0, -1, -1, 0)
    yield "userfaultfd", errno.EPERM, lambda: syscall("userfaultfd", _UNKNOWN)
    yield "request_key (kernel DNS)", errno.EPERM, lambda: syscall("request_key", None, None, None, 0)
    yield "add_key", errno.EPERM, lambda: syscall("add_key", None, None, None, 0, 0)
    yield "keyctl", errno.EPERM, lambda: syscall("keyctl", _UNKNOWN, 0, 0, 0, 0)
    yield "typing into the terminal", errno.EPERM, lambda: syscall("ioctl", -1, TIOCSTI, b"\0")


def _errno_of(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as exc:
        return exc.errno or 0
    return 0


def _connect(family: int, kind: int, protocol: int, address: tuple[str, int] | str) -> None:
    with socket.socket(family, kind, protocol) as sock:
        sock.connect(address)


def _connect_unspecified(sock: socket.socket) -> None:
    """connect(AF_UNSPEC) turns a connected TCP socket back into a fresh one, ready to be connected elsewhere."""
    syscall("connect", sock.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16)


def _every_other_family() -> None:
    """Raises OSError(EPERM) only if all of them do: an answer from behind the filter ends the loop."""
    for family in range(64):
        if family != socket.AF_UNIX:
            code = _errno_of(lambda family=family: syscall("socket", family, int(socket.SOCK_STREAM), 0))  # type: ignore[misc]
            if code != errno.EPERM:
                raise OSError(code, os.strerror(code))
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _bind_anywhere() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind("")  # the kernel picks an abstract name


def _x32_call() -> None:
    syscall(X32_BIT + 39)  # getpid


def _i386_call() -> None:
    """getpid as a 32-bit process asks for it: mov eax, 20; int 0x80; ret."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


# AArch32 code needs a process of its own; the filter's first rule is the same for it.
_FOREIGN_CALLS: dict[str, tuple[tuple[str, Callable[[], None]], ...]] = {
    "x86_64": (("32-bit system call", _i386_call), ("x32 system call", _x32_call)),
}


def _death_in_child(foreign_call: Callable[[], None]) -> str:
    """The signal that the call died of, or what it came back with."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            code = _errno_of(foreign_call)
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = os.WEXITSTATUS(status)
    return errno.errorcode.get(code, str(code)) if code else "OPEN"


def reach_into_memory(pid: int) -> bool:
    """Whether this process may open the memory of another of the same user, outside of the isolation, for writing."""
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
    except OSError:
        return False
    return True
