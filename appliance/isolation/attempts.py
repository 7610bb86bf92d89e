"""The attempts to get out that the proof makes: each is one call, or one family of calls, that the filter must refuse.

An attempt that is not refused does no harm: it names loopback's discard port, a descriptor that does not exist, an
option with a value of the wrong length, or an empty request. Where possible, an unfiltered kernel gives another answer
than the filter, so that a missing rule shows.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from appliance.child import fork
from appliance.isolation.kernel import CLONE_NEWNET, SilenceError, syscall
from appliance.isolation.policy import Kind
from appliance.isolation.seccomp import X32_BIT

_DISCARD = ("127.0.0.1", 9)
_MPTCP = 262  # IPPROTO_MPTCP
_MSG_FASTOPEN = 0x20000000
_CLONE_NEWNS, _CLONE_FS = 0x00020000, 0x00000200  # contradict each other: EINVAL, no child
_UNKNOWN = 0x7FFF  # no command or option of any call below
_TOO_BIG = 1 << 20
_NO_FD = -1
_UNCHANGED = -1  # setresuid: leave each id as it is
_FAMILIES = 64
_IP_OPTIONS = 4

# linux/in6.h, linux/in.h, asm-generic/socket.h, linux/tcp.h: options that move packets elsewhere or load code.
_OPTIONS = (
    ("IPv6 routing header (SRv6)", socket.IPPROTO_IPV6, 57),  # IPV6_RTHDR
    ("IPv6 routing header, the old way", socket.IPPROTO_IPV6, 6),  # IPV6_2292PKTOPTIONS
    ("IPv6 hop-by-hop options", socket.IPPROTO_IPV6, 54),  # IPV6_HOPOPTS
    ("IPv6 destination options", socket.IPPROTO_IPV6, 59),  # IPV6_DSTOPTS
    ("IPv6 group joined", socket.IPPROTO_IPV6, 20),  # IPV6_JOIN_GROUP
    ("IPv6 group joined (MCAST)", socket.IPPROTO_IPV6, 42),  # MCAST_JOIN_GROUP
    ("IPv6 group joined, one source", socket.IPPROTO_IPV6, 46),  # MCAST_JOIN_SOURCE_GROUP
    ("IPv4 group joined", socket.IPPROTO_IP, 35),  # IP_ADD_MEMBERSHIP
    ("IPv4 group joined (MCAST)", socket.IPPROTO_IP, 42),
    ("IPv4 group joined, one source", socket.IPPROTO_IP, 46),
    ("IPv4 group joined, one source (old)", socket.IPPROTO_IP, 39),  # IP_ADD_SOURCE_MEMBERSHIP
    ("IPv4 source route", socket.IPPROTO_IP, _IP_OPTIONS),
    ("IPv4 interface chosen", socket.IPPROTO_IP, 50),  # IP_UNICAST_IF
    ("interface chosen", socket.SOL_SOCKET, 25),  # SO_BINDTODEVICE
    ("interface chosen, by number", socket.SOL_SOCKET, 62),  # SO_BINDTOIFINDEX
    ("routing mark", socket.SOL_SOCKET, 36),  # SO_MARK
    ("packet filter attached", socket.SOL_SOCKET, 26),  # SO_ATTACH_FILTER
    ("BPF program attached", socket.SOL_SOCKET, 50),  # SO_ATTACH_BPF
    ("TCP repair", socket.IPPROTO_TCP, 19),  # TCP_REPAIR
    ("TCP upper layer (ULP)", socket.IPPROTO_TCP, 31),  # TCP_ULP
    ("TCP congestion control", socket.IPPROTO_TCP, 13),  # TCP_CONGESTION
)
_CONTROLS = (
    ("list of interfaces (SIOCGIFCONF)", 0x8912),
    ("route added (SIOCADDRT)", 0x890B),
    ("socket's namespace (SIOCGSKNS)", 0x894C),
    ("tunnel attached (TUNSETIFF)", 0x400454CA),
    ("typing into the terminal", 0x5412),  # TIOCSTI
    ("pasting into the terminal", 0x541C),  # TIOCLINUX
)


@dataclass(frozen=True)
class Attempt:
    """One attempt to get out. The filter sees ``call``, ``times`` times; the ``spared`` kinds need that call."""

    name: str
    call: str
    perform: Callable[[], object]
    times: int = 1
    answer: int = errno.EPERM  # what a refusing filter answers; ENOSYS for calls that it says do not exist
    spared: frozenset[Kind] = frozenset()


@dataclass(frozen=True)
class Props:
    """Sockets as the appliance holds them, made on loopback before the door was shut, for attempts to misuse them."""

    listener: socket.socket
    accepted: socket.socket
    pair: socket.socket
    unix: socket.socket  # not connected
    foreign: frozenset[str]  # "32-bit", "x32": ABIs whose calls can be tried here


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
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener, client, accepted, one, other, unix:
        yield Props(listener, accepted, one, unix, _foreign_abis())


def every_attempt(props: Props) -> Iterator[Attempt]:
    """Every attempt, in the order of the table in docs/silence.md."""
    yield from _sockets()
    yield from _peers(props)
    yield from _options(props)
    yield from _borrowed()
    yield from _powers()
    # AArch32 code needs a process of its own; the filter's first rule refuses it in the same way.
    if platform.machine() == "x86_64":
        if "x32" in props.foreign:
            yield Attempt("x32 system call", "x32 call 39", _call_x32)
        if "32-bit" in props.foreign:
            yield Attempt("32-bit system call", "32-bit call 20", call_32_bit)


def _sockets() -> Iterator[Attempt]:
    """Opening a socket."""
    inet, inet6, stream, datagram = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
    yield Attempt("TCP over IPv4", "socket", lambda: _connect(inet, stream, 0, _DISCARD))
    yield Attempt("TCP over IPv6", "socket", lambda: _connect(inet6, stream, 0, ("::1", 9)))
    yield Attempt("Multipath TCP", "socket", lambda: _connect(inet, stream, _MPTCP, _DISCARD))
    yield Attempt("UDP over IPv4 (DNS)", "socket", lambda: _connect(inet, datagram, 0, _DISCARD))
    yield Attempt("UDP over IPv6 (DNS)", "socket", lambda: _connect(inet6, datagram, 0, ("::1", 9)))
    icmp = socket.IPPROTO_ICMP
    yield Attempt("ping socket", "socket", lambda: socket.socket(inet, datagram, icmp).close())
    yield Attempt("raw IP socket", "socket", lambda: socket.socket(inet, socket.SOCK_RAW, icmp).close())
    yield Attempt("packet socket", "socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
    yield Attempt("netlink", "socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close())
    yield Attempt("vsock (the hypervisor)", "socket", lambda: socket.socket(socket.AF_VSOCK, stream).close())
    yield Attempt("every other socket family", "socket", _every_other_family, times=_FAMILIES - 1)
    yield Attempt("Unix datagrams (syslog)", "socketpair", lambda: _pair(datagram))
    yield Attempt("Unix raw (datagrams too)", "socketpair", lambda: _pair(socket.SOCK_RAW))


def _peers(props: Props) -> Iterator[Attempt]:
    """Naming a peer: a service of the host over a Unix socket, or anybody over a socket that was open before."""
    pair = props.pair
    yield Attempt("Unix socket, by path", "connect", lambda: props.unix.connect("/nonexistent/socket"))
    yield Attempt("Unix socket, abstract", "connect", lambda: props.unix.connect("\0nonexistent"))
    yield Attempt("Unix listener (bind)", "bind", lambda: props.unix.bind(""))  # the kernel picks an abstract name
    yield Attempt("sendto with an address", "sendto", lambda: pair.sendto(b"", "\0nonexistent"))
    yield Attempt("inherited listener, connected", "connect", lambda: props.listener.connect(_DISCARD))
    yield Attempt("accepted socket, dissolved", "connect", lambda: _connect_unspecified(props.accepted))
    yield Attempt("accepted socket, connected again", "connect", lambda: props.accepted.connect(_DISCARD))
    yield Attempt("TCP Fast Open, sendto", "sendto", lambda: pair.send(b"", _MSG_FASTOPEN))
    yield Attempt("TCP Fast Open, sendmsg", "sendmsg", lambda: pair.sendmsg([b""], [], _MSG_FASTOPEN))
    yield Attempt("TCP Fast Open, sendmmsg", "sendmmsg", lambda: syscall("sendmmsg", _NO_FD, None, 0, _MSG_FASTOPEN))


def _options(props: Props) -> Iterator[Attempt]:
    """Setting options of an accepted connection or controlling a device; every value is too short or too long."""
    fd = props.accepted.fileno()
    for name, level, option in _OPTIONS:
        value = b"\0" * (41 if option == _IP_OPTIONS else 1)
        yield Attempt(name, "setsockopt", partial(syscall, "setsockopt", fd, level, option, value, len(value)))
    for name, request in _CONTROLS:
        yield Attempt(name, "ioctl", partial(syscall, "ioctl", _NO_FD, request, b"\0" * 64))


def _borrowed() -> Iterator[Attempt]:
    """Calls that do the work on a process's behalf, or borrow the way out of another process."""
    pid = os.getpid()
    yield _plain("io_uring_setup", 1, None)
    yield _plain("io_uring_enter", _NO_FD, 0, 0, 0, None, 0)
    yield _plain("io_uring_register", _NO_FD, _UNKNOWN, None, 0)
    yield _plain("setns", _NO_FD, CLONE_NEWNET)
    yield _plain("unshare", 0)
    contradiction = _CLONE_NEWNS | _CLONE_FS
    yield Attempt("clone into a namespace", "clone", lambda: syscall("clone", contradiction, None, None, None, 0))
    yield Attempt("clone3", "clone3", lambda: syscall("clone3", None, 0), times=0, answer=errno.ENOSYS)
    yield _plain("mount", None, None, None, 0, None)
    yield _plain("umount2", None, _UNKNOWN)
    yield _plain("pivot_root", None, None)
    yield _plain("chroot", None)
    yield _plain("open_tree", _NO_FD, None, _UNKNOWN)
    yield _plain("move_mount", _NO_FD, None, _NO_FD, None, _UNKNOWN)
    yield _plain("fsopen", None, _UNKNOWN)
    yield _plain("open_by_handle_at", _NO_FD, None, 0)
    yield _plain("ptrace", _UNKNOWN, -1, None, None)
    yield _plain("pidfd_open", -1, 0)
    yield _plain("pidfd_getfd", _NO_FD, 0, 0)
    yield _plain("pidfd_send_signal", _NO_FD, 0, None, 0)
    yield _plain("process_vm_readv", pid, None, 0, None, 0, 0)
    yield _plain("process_vm_writev", pid, None, 0, None, 0, 0)
    yield _plain("process_madvise", _NO_FD, None, 0, 0, 0)
    yield _plain("kcmp", -1, -1, _UNKNOWN, 0, 0)
    signals = frozenset({Kind.SUPERVISOR})  # it ends whole groups of processes
    yield Attempt("signal to every process", "kill", lambda: syscall("kill", -1, 0), spared=signals)
    above = os.getppid()
    yield Attempt("signal to who started it", "tgkill", lambda: syscall("tgkill", above, above, 0), spared=signals)
    programs = frozenset({Kind.SUPERVISOR})  # it starts them
    yield Attempt("another program (execve)", "execve", lambda: syscall("execve", None, None, None), spared=programs)
    yield _plain("execveat", _NO_FD, None, None, None, 0)


def _powers() -> Iterator[Attempt]:
    """Code inside the kernel, the kernel's helpers, and changing the identity of the process."""
    yield _plain("bpf", _UNKNOWN, None, _TOO_BIG)
    yield _plain("perf_event_open", None, 0, -1, -1, 0)
    yield _plain("userfaultfd", _UNKNOWN)
    yield _plain("finit_module", _NO_FD, None, 0)
    yield _plain("kexec_load", 0, 0, None, 0)
    yield _plain("personality", 0xFFFFFFFF)  # only asks
    yield Attempt("request_key (kernel DNS)", "request_key", lambda: syscall("request_key", None, None, None, 0))
    yield _plain("add_key", None, None, None, 0, 0)
    yield _plain("keyctl", _UNKNOWN, 0, 0, 0, 0)
    yield _plain("setresuid", _UNCHANGED, _UNCHANGED, _UNCHANGED)
    yield _plain("capset", None, None)
    yield _plain("fanotify_init", _UNKNOWN, 0)
    cuda = frozenset({Kind.ENGINE_CUDA})  # the calls of its driver are not known well enough to refuse these
    spare = cuda | {Kind.SUPERVISOR}
    yield Attempt("memfd_create", "memfd_create", lambda: syscall("memfd_create", b"", 0xFFFF), spared=cuda)
    yield Attempt("shutdown", "shutdown", lambda: syscall("shutdown", _NO_FD, 2), spared=cuda)
    yield Attempt("rights of a file changed (fchmodat)", "fchmodat", lambda: syscall("fchmodat", _NO_FD, None, 0))
    yield Attempt("file given away (fchownat)", "fchownat", lambda: syscall("fchownat", _NO_FD, None, 0, 0, 0))
    yield Attempt("rights of an open file changed", "fchmod", lambda: syscall("fchmod", _NO_FD, 0o666), spared=cuda)
    yield Attempt("open file given away", "fchown", lambda: syscall("fchown", _NO_FD, -1, -1), spared=cuda)
    yield Attempt("device node made (mknodat)", "mknodat", lambda: syscall("mknodat", _NO_FD, None, 0, 0), spared=cuda)
    yield Attempt("a filter with a listener", "seccomp", lambda: syscall("seccomp", 1, 8, None), spared=spare)
    yield Attempt("memory opened to others (prctl)", "prctl", lambda: syscall("prctl", 4, 99, 0, 0, 0), spared=cuda)
    yield Attempt("signals from a descriptor (fcntl)", "fcntl", lambda: syscall("fcntl", _NO_FD, 8, 0), spared=cuda)


def _plain(call: str, *arguments: int | None) -> Attempt:
    return Attempt(call, call, lambda: syscall(call, *arguments))


def _connect(family: int, kind: int, protocol: int, address: tuple[str, int]) -> None:
    with socket.socket(family, kind, protocol) as sock:
        sock.connect(address)


def _pair(kind: int) -> None:
    for sock in socket.socketpair(socket.AF_UNIX, kind):
        sock.close()


def _connect_unspecified(sock: socket.socket) -> None:
    """connect(AF_UNSPEC) turns a connected TCP socket back into a fresh one, ready to be connected elsewhere."""
    syscall("connect", sock.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16)


def _every_other_family() -> None:
    """Raise the filter's error only if every family is refused: an answer from behind the filter ends the loop."""
    refusal: OSError | None = None
    for family in range(_FAMILIES):
        if family == socket.AF_UNIX:
            continue
        try:
            os.close(syscall("socket", family, int(socket.SOCK_STREAM), 0))
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOANO):
                raise
            refusal = exc
        else:
            return
    if refusal is not None:
        raise refusal


def call_32_bit() -> None:
    """Call getpid as a 32-bit process does: mov eax, 20; int 0x80; ret.

    Raises:
        OSError: the kernel's refusal.
    """
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
        answer = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))


def _call_x32() -> None:
    """Call getpid by its number in the x32 ABI."""
    syscall(X32_BIT + 39)


def _foreign_abis() -> frozenset[str]:
    """The foreign ABIs whose calls do not end the process.

    A kernel without 32-bit calls ends it, and so does a filter of the host's for every foreign call (the setting
    SystemCallArchitectures of a service). Such a call needs no further proof, and cannot be tried.
    """
    if platform.machine() != "x86_64":
        return frozenset()
    return frozenset(name for name, call in (("32-bit", call_32_bit), ("x32", _call_x32)) if not _kills(call))


def _kills(call: Callable[[], object]) -> bool:
    pid = fork()
    if pid == 0:
        try:
            call()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
