"""The connections of one process, and which are closed when there are too many.

A connection is quiet while no request of it is being answered: it handshakes, sends a head or a body, idles between two
requests, or closes. Only quiet ones are closed to make room; the one that has been quiet for longest is the first. An
honest client is quiet for milliseconds, or it is idle and can ask again on a new connection, as HTTP expects. A client
that only occupies connections loses them first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from webui.serving.limits import Limits


class Member(Protocol):
    """What the crowd knows of a connection. ``due_s`` is its next deadline."""

    source: str
    is_exempt: bool  # a trusted proxy, which may have any number of connections
    due_s: float

    def give_way(self) -> None:
        """Close at once to make room."""

    def look_at_deadlines(self, now_s: float) -> None: ...


M = TypeVar("M", bound=Member)


class Crowd(Generic[M]):
    """All connections. Belongs to the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._members: dict[M, None] = {}
        self._counts: dict[str, int] = {}
        self._quiet: dict[M, None] = {}  # the first has been quiet for longest
        self._quiet_of: dict[str, dict[M, None]] = {}
        self._bodies: dict[M, int] = {}  # bytes of arriving bodies; the first has been arriving for longest
        self._held: dict[M, int] = {}  # bytes of bodies that wait for a thread or have one
        self._bodies_bytes = 0  # the sum of _bodies and _held

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[M]:
        return iter(tuple(self._members))

    def admit(self, member: M) -> bool:
        """Take a new connection in as quiet, if need be in another's place. False: there is no place for it."""
        source = member.source
        is_one_too_many = self._counts.get(source, 0) >= self._limits.connections_per_address and not member.is_exempt
        if is_one_too_many and not self._clear_one(self._quiet_of.get(source, {})):
            return False
        if len(self._members) >= self._limits.connections and not self._clear_one(self._quiet):
            return False
        self._members[member] = None
        self._counts[source] = self._counts.get(source, 0) + 1
        self.note_quiet(member)
        return True

    def note_quiet(self, member: M) -> None:
        """From now on `member` waits for a request."""
        if member not in self._members:  # it was closed, and does not know yet
            return
        self._forget(member)
        self._quiet[member] = None
        self._quiet_of.setdefault(member.source, {})[member] = None

    def note_busy(self, member: M) -> None:
        """A whole request of `member` is being answered. Its body is in memory until `note_quiet` or `leave`."""
        body_bytes = self._bodies.get(member, 0)
        self._forget(member)
        if body_bytes and member in self._members:
            self._held[member] = body_bytes
            self._bodies_bytes += body_bytes

    def note_body(self, member: M, size_bytes: int) -> None:
        """More of a body has arrived. If all bodies together are too large, the one that began first gives way."""
        if member not in self._members:
            return
        self._bodies[member] = self._bodies.get(member, 0) + size_bytes
        self._bodies_bytes += size_bytes
        while self._bodies_bytes > self._limits.bodies_bytes and self._clear_one(self._bodies):
            pass

    def leave(self, member: M) -> None:
        """The connection is closed."""
        if member not in self._members:
            return
        self._forget(member)
        del self._members[member]
        self._counts[member.source] -= 1
        if not self._counts[member.source]:
            del self._counts[member.source]

    def look_at_deadlines(self, now_s: float) -> None:
        for member in [member for member in self._members if member.due_s <= now_s]:
            member.look_at_deadlines(now_s)

    def _forget(self, member: M) -> None:
        self._quiet.pop(member, None)
        mine = self._quiet_of.get(member.source, {})
        mine.pop(member, None)
        if not mine:
            self._quiet_of.pop(member.source, None)
        self._bodies_bytes -= self._bodies.pop(member, 0) + self._held.pop(member, 0)

    def _clear_one(self, candidates: dict[M, None] | dict[M, int]) -> bool:
        for member in candidates:
            self.leave(member)
            member.give_way()
            return True
        return False
