"""Limits how many passwords the machine hashes at once, however many web workers and people there are.

A hash takes a core and 64 MiB for a good part of a second. Half of the cores are for strangers; the others, at least
one, are kept for browsers and addresses that have signed in before, for people who are signed in, and for one-time
links, so that a flood of strangers does not keep them out. Few may wait, and not long: all others are told at once.

Across processes a place is a lock on a file, which the kernel gives back when its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from appliance.errors import ApplianceError

_MOST_PLACES: Final = 8  # 512 MiB
_WAITING: Final = {False: 4, True: 16}  # per process; known: True
_LONGEST_WAIT_S: Final = 3.0
_LOOK_AGAIN_S: Final = 0.01  # between looks for a place that another process gives back


class HashingBusyError(ApplianceError):
    """Too many passwords are being checked; none was looked at."""

    retry_after_s = 5.0

    def __init__(self) -> None:
        super().__init__("Too many people are signing in just now. Wait a few seconds, then try again.")


class HashingPlaces:
    """Places of one machine, as one of its processes sees them; thread-safe."""

    def __init__(
        self, directory: Path | None, *, cores: int | None = None, longest_wait_s: float = _LONGEST_WAIT_S
    ) -> None:
        """Args: directory: where all processes of a site lock files; None: each process counts for itself."""
        cores = cores or len(os.sched_getaffinity(0))
        self.total = min(max(cores, 2), _MOST_PLACES)
        self.of_strangers = self.total // 2
        self._directory = directory
        self._longest_wait_s = longest_wait_s
        self._changed = threading.Condition()
        self._running = {False: 0, True: 0}  # by whether they are known; guarded by _changed
        self._waiting = {False: 0, True: 0}  # guarded by _changed

    @contextmanager
    def take(self, *, known: bool) -> Iterator[None]:
        """Hold a place.

        Raises:
            HashingBusyError: too many wait already, or none became free in time.
        """
        deadline_s = time.monotonic() + self._longest_wait_s
        self._enter(known, deadline_s)
        try:
            descriptor = self._lock_one(known, deadline_s)
            try:
                yield
            finally:
                if descriptor is not None:
                    os.close(descriptor)
        finally:
            with self._changed:
                self._running[known] -= 1
                self._changed.notify_all()

    def _enter(self, known: bool, deadline_s: float) -> None:
        with self._changed:
            if self._waiting[known] >= _WAITING[known] and not self._is_free(known):
                raise HashingBusyError
            self._waiting[known] += 1
            try:
                if not self._changed.wait_for(lambda: self._is_free(known), max(deadline_s - time.monotonic(), 0)):
                    raise HashingBusyError
                self._running[known] += 1
            finally:
                self._waiting[known] -= 1

    def _is_free(self, known: bool) -> bool:
        running = sum(self._running.values())
        return running < self.total and (known or self._running[False] < self.of_strangers)

    def _lock_one(self, known: bool, deadline_s: float) -> int | None:
        if self._directory is None:
            return None
        # The last files first: strangers have the first ones alone.
        numbers = range(self.total - 1, -1, -1) if known else range(self.of_strangers)
        while True:
            for number in numbers:
                descriptor = _locked(self._directory / f"hashing-{number}.lock")
                if descriptor is not None:
                    return descriptor
            if time.monotonic() >= deadline_s:
                raise HashingBusyError
            time.sleep(_LOOK_AGAIN_S)


def _locked(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ApplianceError(f"passwords cannot be checked: {path.name} cannot be opened: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
