"""Describes a refused call for the record: which process tried what, and what the call could have done."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from appliance.isolation.dangers import danger_of

UNWATCHED = "refused calls are seen by nobody"  # the subject in the record if the host allows no watcher

# The positions of the arguments that tell what a call was for. None of them is a pointer.
_TELLING = {
    "socket": (0, 1, 2), "socketpair": (0, 1, 2), "setsockopt": (1, 2), "getsockopt": (1, 2), "ioctl": (1,),
    "fcntl": (1,), "prctl": (0,), "clone": (0,), "unshare": (0,), "setns": (1,), "kill": (0, 1), "tkill": (0, 1),
    "tgkill": (0, 2), "prlimit64": (0, 1), "ptrace": (0, 1), "pidfd_open": (0,), "bpf": (0,), "keyctl": (0,),
    "sendto": (3,), "sendmsg": (2,), "sendmmsg": (3,), "seccomp": (0, 1), "personality": (0,),
}  # fmt: skip


@dataclass(frozen=True)
class Refused:
    """The refusals of one call to one kind within a minute; ``pid`` and ``arguments`` are those of the first."""

    kind: str
    call: str
    pid: int
    arguments: tuple[int, ...]
    count: int
    first_us: int  # microseconds since 1970-01-01 UTC

    @property
    def subject(self) -> str:
        """For the header of the event, which stays when the content is erased and which the alarm reads."""
        return f"{self.kind}: {self.call}"

    def words(self) -> str:
        """One or two sentences."""
        often = "" if self.count == 1 else f", {self.count} times within a minute"
        called = f"{self.call}{self._telling_arguments()}{often}"
        tried = f"Process {self.pid} ({self.kind}) called {called}. It was refused."
        danger = danger_of(self.call)
        if danger is None:
            return f"{tried} This kind of process needs no such call; nobody foresaw it."
        return f"{tried} Such a call could {danger}."

    def _telling_arguments(self) -> str:
        values = [self.arguments[place] & 0xFFFF_FFFF for place in _TELLING.get(self.call, ())]
        if self.call in ("socket", "socketpair"):
            return f" ({_family(values[0])}, type {values[1]:#x}, protocol {values[2]})"
        return f" ({', '.join(f'{value:#x}' for value in values)})" if values else ""


def refused_of(subject: str) -> tuple[str, str]:
    """The kind of process and the call that an event's subject names."""
    kind, _, call = subject.partition(": ")
    return kind, call


def _family(number: int) -> str:
    try:
        return socket.AddressFamily(number).name
    except ValueError:
        return f"family {number}"
