"""The recorder process: puts the appliance's own life into the record and signs a checkpoint of it regularly.

It reads the supervisor's notes, one JSON object a line, on standard input: ``started`` (with the proof of silence) and
``engine_restarted``. The end of the input, which also comes when the supervisor is killed, means that everything else
has stopped: the last event and the last checkpoint are written then. SIGTERM is ignored, because a service manager
sends it to every process at once, before the last answers are recorded.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from appliance.audit.checkpoint import write_checkpoint
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.audit.note import CheckpointError
from appliance.audit.verify import LogBrokenError
from appliance.config import Config, load_config
from appliance.database import DatabaseError, open_database
from appliance.errors import ApplianceError

_log = logging.getLogger(__name__)
_SYSTEM = Actor("", "appliance", "system")


def run_recorder(config: Config, notes_fd: int, *, tell_ready: Callable[[], None]) -> None:
    """Record notes and sign checkpoints until the notes end.

    Args:
        tell_ready: called each time that a note is durably in the record.
    Raises:
        DatabaseError, RecordError: the record cannot be opened or written.
    """
    database = open_database(config.database_url)
    try:
        log = AuditLog(database)
        for note in _notes_or_ticks(notes_fd, config.checkpoint_interval_s):
            if note is None:
                _sign(log, config.state_dir)
            else:
                log.append(_event_of(note))
                tell_ready()
        log.append(NewEvent(_SYSTEM, "appliance_stopped"))
        _sign(log, config.state_dir)
    finally:
        database.close()


def _sign(log: AuditLog, state_dir: Path) -> None:
    """Sign the log as it is. A failure is said, and tried again: the pages show how old the last checkpoint is."""
    try:
        write_checkpoint(log, state_dir)
    except (DatabaseError, CheckpointError, LogBrokenError) as exc:
        _log.error("no checkpoint: %s", exc)


def _event_of(note: dict[str, Any]) -> NewEvent:
    if note["event"] == "started":
        silence = note["silence"]
        text = f"{len(silence['attempts'])} ways out tried, each refused by the kernel"
        return NewEvent(_SYSTEM, "appliance_started", content=Content(text, {"silence": silence}))
    return NewEvent(_SYSTEM, "engine_restarted", "failed", content=Content(note["how"]))


def _notes_or_ticks(fd: int, interval_s: float) -> Iterator[dict[str, Any] | None]:
    """Notes as they come, and None every ``interval_s``, first after a second; ends with the input."""
    pending = b""
    tick_at_s = time.monotonic() + 1.0
    while True:
        readable = select.select([fd], [], [], max(tick_at_s - time.monotonic(), 0.0))[0]
        if readable:
            piece = os.read(fd, 65536)
            if not piece:
                return
            *lines, pending = (pending + piece).split(b"\n")
            yield from (json.loads(line) for line in lines)
        if time.monotonic() >= tick_at_s:
            tick_at_s += interval_s
            yield None


def _write_byte(fd: int) -> None:
    os.write(fd, b"\x01")


def main() -> None:
    """The entry: APPLIANCE_HOME and APPLIANCE_READY_FD in the environment, notes on standard input."""
    logging.basicConfig(format="%(asctime)s %(levelname)s recorder: %(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready_fd = int(os.environ["APPLIANCE_READY_FD"])
    try:
        config = load_config(Path(os.environ["APPLIANCE_HOME"]))
        run_recorder(config, sys.stdin.fileno(), tell_ready=lambda: _write_byte(ready_fd))
    except ApplianceError as exc:
        _log.error("%s", exc)
        sys.exit(1)


if __name__ == "__main__":
    main()
