"""The threads in which requests are answered, shared fairly between the addresses that ask.

At most `threads` requests run at once. The others wait, and the addresses are served in rotation, however many requests
each has sent. A streaming answer does not count: another thread takes the place of its thread.
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
    """Threads that are started as they are needed; thread-safe."""

    def __init__(self, *, threads: int, streams: int, waiting: int) -> None:
        """Args: waiting: how many requests may wait in all; one address may have half of them."""
        self._most_threads, self._most_streams, self._most_waiting = threads, streams, waiting
        self._changed = threading.Condition()
        self._jobs: OrderedDict[str, deque[Job]] = OrderedDict()  # by address; the first is served next
        self._waiting = 0
        self._idle = 0
        self._threads = 0  # without those that stream
        self._streams = 0

    def submit(self, source: str, job: Job, *, is_exempt: bool = False) -> bool:
        """Have `job` run in a thread. False: too many wait in all, or from this address if it is not exempt."""
        with self._changed:
            share = self._most_waiting if is_exempt else max(1, self._most_waiting // 2)
            if self._waiting >= self._most_waiting or len(self._jobs.get(source, ())) >= share:
                return False
            self._jobs.setdefault(source, deque()).append(job)
            self._waiting += 1
            self._serve_waiting()
        return True

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Do not count this thread in the block. If too many stream already, it still counts."""
        with self._changed:
            is_uncounted = self._streams < self._most_streams
            if is_uncounted:
                self._streams += 1
                self._threads -= 1
                self._serve_waiting()
        try:
            yield
        finally:
            if is_uncounted:
                with self._changed:
                    self._streams -= 1
                    self._threads += 1  # may be one too many until this thread's job has ended

    def _serve_waiting(self) -> None:
        """Wake or start a thread for the waiting jobs. Call it with `_changed` held."""
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
        """The next job; None if there are too many threads."""
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
                self._jobs[source] = jobs  # at the end, so that the other addresses come first
            return job
