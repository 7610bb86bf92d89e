"""The threads in which requests are answered, shared fairly between the addresses that ask.

At most `threads` requests are worked on at once; the others wait, and each address has its turn, however many it sent.
An answer that streams is taken out of that count: its thread is lent to the stream, and another takes its place.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)
Job = Callable[[], None]


class Pool:
    """Threads that are started when they are needed; thread-safe."""

    def __init__(self, *, threads: int, streams: int, waiting: int) -> None:
        """Args: waiting: requests that may wait in all; one address may have half of them."""
        self._most_threads, self._most_streams, self._most_waiting = threads, streams, waiting
        self._changed = threading.Condition()
        self._jobs: OrderedDict[str, deque[Job]] = OrderedDict()  # by address, the next to be served first
        self._waiting = 0
        self._idle = 0
        self._threads = 0  # not counting those that are lent
        self._lent = 0

    def submit(self, source: str, job: Job, *, is_exempt: bool = False) -> bool:
        """Have `job` run in a thread; False: too many wait, in all or from this address, unless it `is_exempt`."""
        with self._changed:
            share = self._most_waiting if is_exempt else max(1, self._most_waiting // 2)
            if self._waiting >= self._most_waiting or len(self._jobs.get(source, ())) >= share:
                return False
            self._jobs.setdefault(source, deque()).append(job)
            self._waiting += 1
            self._see_to_it()
        return True

    @contextmanager
    def lent(self) -> Iterator[None]:
        """While this thread streams it does not count; where too many stream already it goes on counting."""
        with self._changed:
            is_lent = self._lent < self._most_streams
            if is_lent:
                self._lent += 1
                self._threads -= 1
                self._see_to_it()
        try:
            yield
        finally:
            if is_lent:
                with self._changed:
                    self._lent -= 1
                    self._threads += 1  # may be one too many until this thread's job has ended

    def _see_to_it(self) -> None:
        """Wake a thread for what waits, or start one. Held under `_changed`."""
        if self._idle >= self._waiting:
            self._changed.notify()
        elif self._waiting and self._threads < self._most_threads:
            self._threads += 1
            threading.Thread(target=self._run, name="request", daemon=True).start()
        else:
            self._changed.notify()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:  # a thread must outlive whatever one request does
                _log.exception("a request failed outside the application")

    def _next(self) -> Job | None:
        """The next job; None when there are too many threads."""
        with self._changed:
            while not self._waiting or self._threads > self._most_threads:
                if self._threads > self._most_threads:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            source, jobs = next(iter(self._jobs.items()))
            job = jobs.popleft()
            self._waiting -= 1
            del self._jobs[source]
            if jobs:
                self._jobs[source] = jobs  # at the end: the other addresses come first
            return job
