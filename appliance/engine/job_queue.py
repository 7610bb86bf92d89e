"""The jobs that wait for a place: one queue per user, and users take turns.

Each user may have a limited number of jobs waiting. A user who has none waiting can always add one, so nobody is turned
away because of what another user sends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.engine.jobs import Job
from appliance.turns.events import Failed, FailureCode, Queued

_FIRST_ESTIMATE_S = 10.0  # how long a job is taken to last until one has finished


@dataclass(frozen=True)
class Load:
    """How busy the scheduler is."""

    active: int
    queued: int


class JobQueue:
    """The waiting jobs of one scheduler. Every method may be called from any thread."""

    def __init__(self, *, places: int, limit: int, user_limit: int) -> None:
        """
        Args:
            places: how many jobs can be worked on at once, until ``note_active`` says otherwise.
            limit, user_limit: see `Scheduler`.
        """
        self._places = places
        self._limit = limit
        self._user_limit = user_limit
        self._job_s = _FIRST_ESTIMATE_S
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()  # by user; held under _changed, as are the next two
        self._load = Load(0, 0)
        self._closed: Failed | None = None
        self._has_finished = False  # whether _job_s is known from a job; held under _changed, as is the next
        self._is_news = False

    def put(self, job: Job) -> Failed | None:
        """Add a job; the value says why it was refused, if it was."""
        with self._changed:
            refusal = self._refusal(job.request.user)
            if refusal is None:
                self._waiting.setdefault(job.request.user, deque()).append(job)
                self._count(self._load.active)
                self._is_news = True
                self._changed.notify()
        return refusal

    def refusal(self, user: str) -> Failed | None:
        """Why a job of this user would be refused now; None if it would not."""
        with self._changed:
            return self._refusal(user)

    def peek(self) -> Job | None:
        """The job that ``take`` would remove."""
        with self._changed:
            return next(iter(self._waiting.values()))[0] if self._waiting else None

    def take(self) -> Job | None:
        """Remove the next job: the oldest of the user whose turn it is."""
        with self._changed:
            if not self._waiting:
                return None
            user, jobs = self._waiting.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._waiting[user] = jobs  # to the end of the round
            self._is_news = True
            return job

    def drop_cancelled(self, active: int) -> None:
        """Remove the jobs that were cancelled; ``active`` others are being worked on."""
        with self._changed:
            for user, jobs in list(self._waiting.items()):
                kept = deque(job for job in jobs if not job.cancelled.is_set())
                self._is_news |= len(kept) < len(jobs)
                if kept:
                    self._waiting[user] = kept
                else:
                    del self._waiting[user]
            self._count(active)

    def note_active(self, active: int, places: int) -> None:
        """Publish how many jobs are being worked on, and how many can be."""
        with self._changed:
            self._places = places
            self._count(active)

    def note_finished(self, seconds: float) -> None:
        """A job took that long; the estimate of when to come back follows."""
        with self._changed:
            self._job_s += (seconds - self._job_s) / 8
            self._has_finished = self._is_news = True

    def news(self) -> list[tuple[Job, Queued]]:
        """Where each waiting job stands, if that has changed since the last call; else nothing."""
        with self._changed:
            if not self._is_news:
                return []
            self._is_news = False
            return [(job, self._queued(ahead)) for job, ahead in self._in_order()]

    def _in_order(self) -> Iterator[tuple[Job, int]]:
        """Each waiting job, and how many `take` would remove before it. Called under ``_changed``.

        In each round every user has one job taken, in the order of `_waiting`. So before a user's job number i come
        i others of theirs, i of each user behind them, and i + 1 of each user before them, or as many as there are.
        """
        lengths = [len(jobs) for jobs in self._waiting.values()]
        for place, jobs in enumerate(self._waiting.values()):
            for i, job in enumerate(jobs):
                before = sum(min(length, i + 1) for length in lengths[:place])
                behind = sum(min(length, i) for length in lengths[place + 1 :])
                yield job, before + i + behind

    def _queued(self, ahead: int) -> Queued:
        """Called under ``_changed``."""
        wait_s = self._job_s * (ahead + 1) / max(1, self._places)
        return Queued(ahead, round(wait_s, 1) if self._has_finished else None)

    def load(self) -> Load:
        with self._changed:
            return self._load

    def wake(self) -> None:
        """End ``wait_for_work``."""
        with self._changed:
            self._changed.notify()

    def wait_for_work(self, timeout_s: float) -> None:
        """Block until there may be something to do."""
        with self._changed:
            if not self._load.active and not self._load.queued and self._closed is None:
                self._changed.wait(timeout_s)

    def close(self, failure: Failed) -> list[Job]:
        """Refuse every further job with ``failure``; the value is the jobs that were waiting."""
        with self._changed:
            self._closed = failure
            waiting = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
            return waiting

    def _count(self, active: int) -> None:
        """Called under ``_changed``."""
        self._load = Load(active, sum(len(jobs) for jobs in self._waiting.values()))

    def _refusal(self, user: str) -> Failed | None:
        """Called under ``_changed``."""
        if self._closed is not None:
            return self._closed
        free = max(0, self._places - self._load.active)
        own = sum(not job.cancelled.is_set() for job in self._waiting.get(user, ()))
        waiting = self._load.queued
        if waiting >= self._limit + free and (own or not self._limit):
            message = f"The model is busy and {waiting} others are waiting. Please try again shortly."
            return self._busy("overloaded", message, waiting)
        if own and own >= self._user_limit + free:
            message = f"You have {own} requests waiting, as many as one person may. Please wait for their answers."
            return self._busy("too_many_waiting", message, own)
        return None

    def _busy(self, code: FailureCode, message: str, ahead: int) -> Failed:
        wait_s = self._job_s * (ahead + 1) / max(1, self._places)
        return Failed(code, message, retry_after_s=round(max(1.0, wait_s), 1))
