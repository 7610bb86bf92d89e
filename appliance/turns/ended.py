"""The files of turns that are over, kept for a while, so that a program that lost its stream can go on with it.

    ended = EndedTurns(directory)
    journal.close(ended.place(user_id, turn_id))        # instead of removing it
    ended.find(user_id, turn_id) -> Reader | None       # in any process; it reads to `Kept` and has no owner
    ended.remove(user_id, turn_id)                      # with what it answered

Only responses in the background leave such files. `kept_responses` has what they say, but not the pieces in which it
came. They go after ten minutes, and earlier if they are too many: the oldest first, counted for each person and for all
together. They are scratch: no file is promised, and each is removed with its response.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from appliance.turns.journal import MAX_FILE_BYTES, Reader, open_reader

KEPT_S: Final = 600.0
MAX_BYTES_PER_PERSON: Final = MAX_FILE_BYTES
MAX_BYTES: Final = 4 * MAX_BYTES_PER_PERSON


class EndedTurns:
    """The files in one directory, for all web workers; thread-safe."""

    def __init__(
        self, directory: Path, *, clock_s: Callable[[], float] = time.time,
        most_bytes: int = MAX_BYTES, most_bytes_per_person: int = MAX_BYTES_PER_PERSON,
    ) -> None:  # fmt: skip
        """Args: clock_s: the clock of files. If somebody sets it back, files stay longer."""
        self._directory = directory
        self._clock_s = clock_s
        self._most_bytes, self._most_bytes_per_person = most_bytes, most_bytes_per_person

    def place(self, user_id: str, turn_id: str) -> Path:
        """Where the file of a turn goes that ends now.

        Raises:
            OSError: the directory cannot be made.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._directory / f"{user_id}.{turn_id}"

    def find(self, user_id: str, turn_id: str) -> Reader | None:
        """Open a reader of a turn that is over; None where its file is gone. The caller closes the reader."""
        return open_reader(self._directory / f"{user_id}.{turn_id}")

    def remove(self, user_id: str, turn_id: str) -> None:
        """Remove the file of a turn, if there is one."""
        with suppress(OSError):
            (self._directory / f"{user_id}.{turn_id}").unlink()

    def make_room(self) -> None:
        """Remove the files that are too old, and the oldest ones beyond what may be kept."""
        held: Counter[str] = Counter()
        for path, ended_s, size_bytes in self._newest_first():
            user_id = path.name.partition(".")[0]
            held[user_id] += size_bytes
            is_old = self._clock_s() - ended_s > KEPT_S
            if is_old or held[user_id] > self._most_bytes_per_person or held.total() > self._most_bytes:
                with suppress(OSError):
                    path.unlink()

    def _newest_first(self) -> list[tuple[Path, float, int]]:
        """The files, when their turns ended, and their sizes."""
        found = []
        for path in self._directory.glob("*.*"):
            with suppress(OSError):  # another process has removed it
                facts = path.stat(follow_symlinks=False)
                found.append((path, facts.st_mtime, facts.st_size))
        return sorted(found, key=lambda one: one[1], reverse=True)
