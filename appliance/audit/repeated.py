"""Denials that repeat are counted: the first of a source is an event at once, the rest of its minute one event more.

A source is an address (an IPv6 /64 is one), an actor and a code. A count is recorded when its minute is over:
by the next request, a timer, or the end of the process. A process that is killed takes the counts of its last minute
with it, never the first event of a source. Each process counts for itself.

Strangers choose their addresses, so what they cause is bounded: at most `MAX_SOURCES` a minute are told apart and get
an event at once; all beyond are counted together, by code, with the first few addresses.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from appliance.addresses import network_of
from appliance.audit.details.codec import Details
from appliance.audit.details.denials import RepeatedDenial
from appliance.audit.event import Actor, Content, NewEvent

WINDOW_S: Final = 60.0
MAX_SOURCES: Final = 120
MAX_NAMED: Final = 16  # pages of the site, and addresses, that are named in one event
_MANY: Final = Actor("", "(many sources)", "web")


@dataclass
class _Counted:
    """What came from one source after its first denial."""

    actor: Actor
    code: str
    began_s: float
    count: int = 0
    subjects: set[str] = field(default_factory=set)
    addresses: set[str] = field(default_factory=set)  # others than the actor's

    def add(self, subject: str, address: str) -> None:
        self.count += 1
        if len(self.subjects) < MAX_NAMED:
            self.subjects.add(subject)
        if address != self.actor.address and len(self.addresses) < MAX_NAMED:
            self.addresses.add(address)


class RepeatedDenials:
    """Records denials; thread-safe. The methods raise what ``append`` raises where nothing can be recorded."""

    def __init__(self, append: Callable[[NewEvent], object], *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._append = append
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._sources: OrderedDict[tuple[Actor, str], _Counted] = OrderedDict()  # oldest first; guarded by _lock

    def record(self, actor: Actor, code: str, subject: str, details: Details | None = None) -> None:
        """Record one denial, or count it.

        Raises:
            RecordError: it is neither; what was counted before is kept.
        """
        self.record_due()
        with self._lock:
            source = _source_of(actor, code)
            counted = self._sources.get(source)
            if counted is None and len(self._sources) >= MAX_SOURCES:
                counted = self._sources.setdefault((_MANY, code), _Counted(_MANY, code, self._clock_s()))
            if counted is not None:
                counted.add(subject, actor.address)
                return
            self._sources[source] = _Counted(actor, code, self._clock_s())
        try:
            self._append(NewEvent(actor, "denied", "denied", subject, Content(code, details or Details())))
        except BaseException:
            with self._lock:
                self._sources.pop(source, None)
            raise

    def record_due(self, *, all_of_it: bool = False) -> None:
        """Record the counts of every minute that is over, or of all.

        Raises:
            RecordError: some are not recorded; they are kept.
        """
        while (counted := self._take_due(all_of_it=all_of_it)) is not None:
            if not counted.count:
                continue
            try:
                self._append(_event(counted, self._clock_s() - counted.began_s))
            except BaseException:
                self._put_back(counted)
                raise

    def has_counts(self) -> bool:
        """Whether something waits to be recorded."""
        with self._lock:
            return any(counted.count for counted in self._sources.values())

    def _take_due(self, *, all_of_it: bool) -> _Counted | None:
        with self._lock:
            key = next(iter(self._sources), None)
            if key is None:
                return None
            if not all_of_it and self._clock_s() - self._sources[key].began_s < WINDOW_S:
                return None
            return self._sources.pop(key)

    def _put_back(self, counted: _Counted) -> None:
        source = _source_of(counted.actor, counted.code)
        with self._lock:
            newer = self._sources.setdefault(source, counted)
            if newer is not counted:
                newer.count += counted.count
                newer.subjects |= counted.subjects
                newer.addresses |= counted.addresses
            self._sources.move_to_end(source, last=False)


def _source_of(actor: Actor, code: str) -> tuple[Actor, str]:
    return replace(actor, address=network_of(actor.address)) if actor.address else actor, code


def _event(counted: _Counted, seconds: float) -> NewEvent:
    details = RepeatedDenial(
        count=counted.count, within_s=round(seconds, 1), subjects=tuple(sorted(counted.subjects)),
        addresses=tuple(sorted(counted.addresses)),
    )  # fmt: skip
    subject = next(iter(counted.subjects)) if len(counted.subjects) == 1 else ""
    text = f"{counted.code}, {counted.count:,} more times"
    return NewEvent(counted.actor, "denied", "denied", subject, Content(text, details))
