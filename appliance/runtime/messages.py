"""Messages of the supervisor to the recorder, kept until they are recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from appliance.runtime.one_way import one_way_pipe


class Messages:
    """Lines of JSON for the recorder, each kept until a recorder has recorded it; the end of the pipe tells it to stop.

    A recorder that dies between an event and its answer leaves a message that its successor records again: a message
    may become two events with the same words, never none.
    """

    def __init__(self, first: Sequence[dict[str, object]]) -> None:
        self._unsent = [*first]
        self._unrecorded: list[dict[str, object]] = []  # sent, not answered
        self._answers = 0
        self._sent_bytes = 0  # of the first unsent line: a pipe may take only part of a long one
        self._reader = self._writer = -1

    def recorded(self, answers: int) -> None:
        """Forget recorded messages; ``answers`` is how many the recorder has answered since the start."""
        del self._unrecorded[: answers - self._answers]
        self._answers = answers

    def new_reader(self) -> int:
        """The reading end of a new pipe, for a new recorder; closed here at the next `send`."""
        self.close()
        self._unsent = self._unrecorded + self._unsent
        self._unrecorded = []
        self._reader, self._writer = one_way_pipe()
        self._sent_bytes = 0
        os.set_blocking(self._writer, False)
        return self._reader

    def add(self, message: dict[str, object]) -> None:
        self._unsent.append(message)

    def send(self) -> None:
        """Write as much of the unsent messages as the pipe takes."""
        self._close_reader()
        while self._unsent and self._writer >= 0:
            line = json.dumps(self._unsent[0]).encode() + b"\n"
            try:
                self._sent_bytes += os.write(self._writer, line[self._sent_bytes :])
            except (BrokenPipeError, BlockingIOError):  # it ended, or is busy
                return
            if self._sent_bytes < len(line):
                return
            self._sent_bytes = 0
            self._unrecorded.append(self._unsent.pop(0))

    def close(self) -> None:
        self._close_reader()
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def _close_reader(self) -> None:
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
