"""What the recorder does when the disk fills: it reports that in the record and the log, and keeps the reserve.

    ok -> warning (75 %) -> alarm (90 %) -> full: the reserve is given back, prompts are refused
    full -> ok, warning or alarm: once the reserve can be filled again

A message is repeated only after use has fallen `_SLACK` below the mark. If the disk takes no event, the event is
recorded as soon as the disk does, with the time when it happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from appliance.audit.event import Action, Actor, Content, NewEvent
from appliance.audit.log import AuditLog, RecordError
from appliance.database.transactions import as_iso, now_us
from appliance.disk import ALARM_SHARE, LEVELS, WARNING_SHARE, DiskUse, Level, Reserve, measure, why_unwritable

_SLACK = 0.02
_MARKS: dict[Level, float] = {"warning": WARNING_SHARE, "alarm": ALARM_SHARE}
_log = logging.getLogger(__name__)


class DiskWatch:
    """Watches the disk of one record. Not thread-safe: the recorder's loop owns it."""

    def __init__(
        self, record_dir: Path, *, clock_us: Callable[[], int] = now_us, measure: Callable[[Path], DiskUse] = measure
    ) -> None:
        """Take the reserve, or give it back at once if the disk is full, because the database is opened next."""
        self._record_dir = record_dir
        self._clock_us = clock_us
        self._measure = measure
        self._reserve = Reserve(record_dir)
        self._said: Level = "ok"
        self._unrecorded: list[NewEvent] = []
        if self._is_full(measure(record_dir)) is not None or not self._reserve.fill():
            self._reserve.give_back()

    def look(self, log: AuditLog, actor: Actor) -> None:
        """Measure the disk and do what is due. Nothing that is wrong with the disk raises an error."""
        try:
            use = self._measure(self._record_dir)
        except OSError as exc:
            _log.error("the disk of the record cannot be asked: %s", exc.strerror)
            return
        why = self._is_full(use)
        if why is None and not self._reserve.fill():
            why = f"there is no room for the reserve: {use.words()}"
        if why is not None:
            self._reserve.give_back()
            self._say("full", "disk_full", f"{why}; prompts are refused", actor)
        elif self._said == "full":
            self._said = "ok"
            self._say_freed(use, actor)
        else:
            self._say_filling(use, actor)
        self._record(log)

    def _is_full(self, use: DiskUse) -> str | None:
        if use.level == "full":
            return use.words()
        problem = why_unwritable(self._record_dir)
        return None if problem is None else f"the disk of the record takes nothing more ({problem})"

    def _say_filling(self, use: DiskUse, actor: Actor) -> None:
        level = use.level
        if LEVELS.index(level) > LEVELS.index(self._said):
            self._say(level, "disk_filling", use.words(), actor)
        elif self._said in _MARKS and use.share < _MARKS[self._said] - _SLACK:
            self._said = level

    def _say_freed(self, use: DiskUse, actor: Actor) -> None:
        _log.warning("%s: prompts are answered again", use.words())
        self._note("disk_freed", f"{use.words()}; prompts are answered again", actor)

    def _say(self, level: Level, action: Action, text: str, actor: Actor) -> None:
        if self._said == level:
            return
        self._said = level
        _log.log(logging.WARNING if level == "warning" else logging.ERROR, "%s", text)
        self._note(action, text, actor)

    def _note(self, action: Action, text: str, actor: Actor) -> None:
        failed = action == "disk_full"
        content = Content(f"{text} (since {as_iso(self._clock_us())})")
        self._unrecorded.append(NewEvent(actor, action, "failed" if failed else "ok", content=content))

    def _record(self, log: AuditLog) -> None:
        while self._unrecorded:
            try:
                log.append(self._unrecorded[0])
            except RecordError as exc:
                _log.error("not yet recorded: %s: %s", self._unrecorded[0].action, exc.__cause__ or exc)
                return
            del self._unrecorded[0]
