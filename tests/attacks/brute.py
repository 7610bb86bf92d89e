"""Each kind of process asks the kernel for everything: every number of a system call, every option of a connection,
every control of a descriptor. Run it in a new network namespace:

    unshare --net python -m tests.attacks.brute DIRECTORY filter-alone|every-layer

It prints one JSON object: for each kind what passed its filter, and every packet that left while an intruder in a web
worker told two connections everything there is. The filters are the real ones, but for their answer: an errno that no
kernel gives for anything else tells a refusal by the filter from one by the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from appliance.config import init_state, load_config
from appliance.isolation import confinement, seccomp, shut_the_door_for_programs
from appliance.isolation.files import Places, places_of
from appliance.isolation.kernel import machine
from appliance.isolation.landlock import landlock_abi
from appliance.isolation.policy import Kind
from tests.attacks.attacked_network import make_network
from tests.in_child import in_child
from tests.unprivileged import SERVICE_UID, give_to_user

KINDS: Final = (Kind.WEB, Kind.RECORDER, Kind.ENGINE_CPU, Kind.PACKER, Kind.READER, Kind.ADMINISTRATION)
MARK: Final = 133  # EHWPOISON
ANSWERED: Final = -1  # stands for an errno: the call was made and succeeded
ADDRESSES: Final = {"IPv4": "198.51.100.1", "IPv6": "fd00::1"}
_ETH_P_ALL: Final = 3
# Not tried, because they end or derail the process: the first three are allowed to all. The kernel (since 6.14) asks no
# filter about the last two, and kills a process that calls them unless a probe of root's traced it.
_NOT_TRIED: Final = {"exit", "exit_group", "rt_sigreturn", "uretprobe", "uprobe"}
_LEVELS: Final = (*range(300), 1000, 0x7FFF_FFFF, -1)
_OPTIONS: Final = (*range(256), 0x1000, 0x7FFF_FFFF, -1)
_LENGTHS: Final = (0, 4, 40)
# Beyond 0xFFFF: tunnels, namespaces, pidfds, devices, file systems, answers to a filter, what a descriptor's owner is.
_WIDE: Final = (
    *(0x400454CA, 0x400454CB, 0x800454D2, 0x400454CD, 0x8004540F, 0x80045430, 0x5437, 0x40045431, 0x40186101),
    *(0xC0502100, 0xC0182101, 0x40082102, 0xC0182103, 0x4020AE46, 0x40086602, 0x40086604, 0x5000940F, 0x40049409),
    *(0xC0189436, 0x4020940D, 0xC020660B, 0x401C5820, 0x801C581F, 0xC0045877, 0xC0045878, 0xC028AA03, 0xC018AA3F),
    *(0x40042408, 0x8008700B, 0x40045201, 0x40085203, 0x4B61, 0x80045432, 0x802C542A, 0x8004667F, 0xFF04, 0x89FF0000),
)
_CLONE_BITS: Final = tuple(1 << bit for bit in range(32))
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = [ctypes.c_long] * 7


def answer(number: int, *arguments: int) -> int:
    """The errno of one system call, or ANSWERED."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    return ANSWERED if _libc.syscall(number, *padded) != -1 else ctypes.get_errno()


def passes(number: int, *arguments: int) -> bool:
    return answer(number, *arguments) != MARK


def mark_refusals() -> None:
    """Have filters that are installed from now on refuse with MARK."""
    build = seccomp.build_filter

    def build_marked(*arguments: Any, **options: Any) -> list[seccomp.Instruction]:
        refusal = (seccomp._RETURN, 0, 0, seccomp.Refusal.ERRNO)
        marked = (seccomp._RETURN, 0, 0, seccomp.RET_ERRNO | MARK)
        return [marked if step == refusal else step for step in build(*arguments, **options)]

    seccomp.build_filter = build_marked


def try_numbers() -> dict[str, list[int]]:
    """Numbers of calls that pass, with arguments that no call can use, and do not give ENOSYS."""
    numbers = machine().numbers
    kept = {numbers[name] for name in _NOT_TRIED if name in numbers}
    x32 = seccomp.X32_BIT
    tried = {
        "native": (number for number in range(601) if number not in kept),
        "high half": (number | 1 << 32 for number in range(601) if number not in kept),
        "x32": (x32 | number for number in range(601)),
        "negative": (-number for number in range(1, 601)),
        "huge": (0x7FFF_FFFF, 0x2000_0000, 0x3FFF_FFFF),
    }
    return {name: [n for n in some if answer(n, *[-1] * 6) not in (MARK, 38)] for name, some in tried.items()}


def try_options(sockets: Iterable[socket.socket]) -> dict[str, list[tuple[int, int]]]:
    """Each (level, option) that passes, for setting and for asking, with values of several lengths."""
    number = machine().numbers
    value = ctypes.create_string_buffer(b"\x01" + bytes(255))
    length = ctypes.c_uint32()
    at, length_at = ctypes.addressof(value), ctypes.addressof(length)
    passed: dict[str, set[tuple[int, int]]] = {"setsockopt": set(), "getsockopt": set()}
    for fd in (sock.fileno() for sock in sockets):
        for level in _LEVELS:
            for option in _OPTIONS:
                for size in _LENGTHS:
                    if passes(number["setsockopt"], fd, level, option, at, size):
                        passed["setsockopt"].add((level, option))
                length.value = 64
                if passes(number["getsockopt"], fd, level, option, at, length_at):
                    passed["getsockopt"].add((level, option))
    return {name: sorted(found) for name, found in passed.items()}


@contextlib.contextmanager
def descriptors(home: Path, terminal: int, more: Iterable[socket.socket]) -> Iterator[dict[str, int]]:
    """One descriptor of each sort that a process of the appliance can hold."""
    with contextlib.ExitStack() as stack:
        bells = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        turns = socket.socketpair()
        for sock in (*bells, *turns):
            stack.enter_context(sock)
        read_end, write_end = os.pipe()
        path = home / "state" / "database" / "appliance.sqlite3"
        made = {
            "pipe, reading": read_end, "pipe, writing": write_end, "terminal": terminal,
            "event counter": os.eventfd(0), "database": os.open(path, os.O_RDWR | os.O_CREAT, 0o600),
            "directory": os.open(path.parent, os.O_RDONLY), "null": os.open("/dev/null", os.O_RDWR),
            "random": os.open("/dev/urandom", os.O_RDONLY),
        }  # fmt: skip
        for fd in made.values():
            stack.callback(os.close, fd)
        poll = stack.enter_context(select.epoll())
        sockets = {"doorbell": bells[0], "turn": turns[0]} | {f"TCP {at}": sock for at, sock in enumerate(more)}
        yield made | {name: sock.fileno() for name, sock in sockets.items()} | {"epoll": poll.fileno()}


def try_controls(held: dict[str, int], *, all_of: bool) -> dict[str, list[int]]:
    """The ioctl requests that pass, for each descriptor. The value is a page of zeros."""
    number = machine().numbers["ioctl"]
    page = ctypes.create_string_buffer(4096)
    at = ctypes.addressof(page)
    return {
        name: [request for request in (*range(0x10000), *_WIDE) if passes(number, fd, request, at)]
        for name, fd in held.items()
        if all_of or name in ("pipe, reading", "database")
    }


def try_small(fd: int) -> dict[str, list[Any]]:
    """Commands and options of calls that the filter judges by their first or second argument alone."""
    number, own = machine().numbers, os.getpid()
    fork, thread = 0x0120_0011, 0x003D_0F00
    flags = {bit | base for bit in _CLONE_BITS for base in (0, 0x11, fork, thread)} | {0x11, 0}
    options = (*range(512), 0x59616D61, 0x41555856, 0x53564D41)
    return {
        "fcntl": [command for command in range(2100) if passes(number["fcntl"], fd, command, own)],
        "prctl": [option for option in options if passes(number["prctl"], option, -1, -1, -1, -1)],
        "dumpable": [value for value in range(16) if passes(number["prctl"], 4, value)],
        "clone": [flag for flag in sorted(flags - {fork, thread, 0x007D_0F00}) if passes(number["clone"], flag, 0)],
        "prlimit64": [pid for pid in (0, 1, own, os.getppid(), -1) if passes(number["prlimit64"], pid, 7, 0, 0)],
        "setpriority": [
            [which, who] for which in range(4) for who in (0, 1, -1) if passes(number["setpriority"], which, who, 19)
        ],
        "socket": [family for family in range(64) for kind in range(16) if passes(number["socket"], family, kind)],
        "socketpair": [
            [family, kind] for family in range(64) for kind in range(16)
            if passes(number["socketpair"], family, kind, 0, 0)
        ],
        "shutdown": [how for how in range(-1, 8) if passes(number["shutdown"], 2**20, how)],
    }  # fmt: skip


def send_everything(connections: Iterable[socket.socket]) -> int:
    """Reply with every flag and with ancillary data of every level and type. Return how often the kernel took it."""
    taken = 0
    for connection in connections:
        connection.setblocking(False)
        for bit in _CLONE_BITS:
            with contextlib.suppress(OSError):
                taken += connection.send(b".", ctypes.c_int(bit).value)
        for level in (*range(64), socket.SOL_SOCKET, 255, 263, 282, 287):
            for kind in (*range(80), 0x7FFF_FFFF):
                for size in (4, 20, 40):
                    with contextlib.suppress(OSError):
                        taken += connection.sendmsg([b"."], [(level, kind, b"\x01" * size)])
    return taken


def intrude(kind: Kind, listeners: list[socket.socket]) -> dict[str, Any]:
    """What an intruder does with connections. A web worker has those of people."""
    with contextlib.ExitStack() as stack:
        accepted = [listener.accept()[0] for listener in listeners] if kind is Kind.WEB else []
        for connection in accepted:
            stack.enter_context(connection)
        sent = send_everything(accepted)  # first, because options can make connections slow
        return {"sent": sent, "options": try_options(accepted or listeners[:1]), "numbers": try_numbers()}


def confined(
    kind: Kind, home: Path, places: Places | None, terminal: int, listeners: list[socket.socket]
) -> dict[str, Any]:
    """What this process finds under the policy of ``kind``."""
    with descriptors(home, terminal, listeners) as held:
        confinement.confine(kind, places=places, watch=None, program_follows=False)
        found = {"small": try_small(held["pipe, reading"])}
        found["controls"] = try_controls(held, all_of=kind is Kind.WEB)
        return found | intrude(kind, listeners)


class Packets:
    """Sender and receiver of every packet on every link since the watch began."""

    def __init__(self) -> None:
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._packets.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: no packet may be missed

    def ends(self) -> list[tuple[str, str, int]]:
        """(from, to, protocol) of all packets."""
        found = set()
        while select.select([self._packets], [], [], 0.3)[0]:
            data, (_, ethertype, *_) = self._packets.recvfrom(65536)
            if ethertype == 0x0800:
                family, at, protocol = socket.AF_INET, slice(12, 16), data[9]
            elif ethertype == 0x86DD:
                family, at, protocol = socket.AF_INET6, slice(8, 24), data[6]
            else:
                found.add(("?", f"ethertype {ethertype:#x}", 0))
                continue
            size = at.stop - at.start
            ends = [socket.inet_ntop(family, data[start : start + size]) for start in (at.start, at.stop)]
            found.add((ends[0], ends[1], protocol))
        return sorted(found)

    def dropped(self) -> int:
        """How many packets the watch missed."""
        return int(struct.unpack("=II", self._packets.getsockopt(263, 6, 8))[1])


def main(home: Path, host: str) -> None:
    make_network()
    init_state(home)
    (home / "current").mkdir()
    give_to_user(home)
    places = places_of(load_config(home))
    packets = Packets()
    listeners = [
        socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        for address in ADDRESSES.values()
    ]
    clients = [socket.create_connection(listener.getsockname()[:2]) for listener in listeners]
    terminal = os.openpty()[1]

    def behind_the_door(result: int) -> dict[Kind, Any]:
        for client in clients:
            client.close()
        leave_out = ["watcher", *(["namespace", "landlock"] if host == "filter-alone" else [])]
        shut_the_door_for_programs(
            keep=[result, terminal, *(listener.fileno() for listener in listeners)],
            become=(SERVICE_UID, SERVICE_UID) if os.geteuid() == 0 else None,
            programs=KINDS, places=places, leave_out=leave_out,
        )  # fmt: skip
        mark_refusals()
        granted = places if host == "every-layer" and landlock_abi() else None
        return {
            kind: in_child(lambda _, kind=kind: confined(kind, home, granted, terminal, listeners))  # type: ignore[misc]
            for kind in KINDS
        }

    found = in_child(behind_the_door)
    print(json.dumps({"kinds": found, "packets": packets.ends(), "dropped": packets.dropped()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
