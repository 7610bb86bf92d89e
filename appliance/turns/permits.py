"""Ends a running turn when the person may no longer have its answer: the account was disabled, the session or key
ended, or the role was removed. `appliance.turns.running` ends stopped turns in the same way.

`ended_by` puts a check between a turn and the engine. The check runs as events arrive, at most once in an interval. The
engine's client makes an event at least twice a second, so a turn is cancelled within a second of the change, even if
another web worker or the command line made the change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Final

from appliance.database.transactions import DatabaseError
from appliance.turns.engine import Answered, Engine, Question, Status
from appliance.turns.events import Done, Failed, TurnEvent
from appliance.turns.request import TurnRequest

CHECK_INTERVAL_S: Final = 0.5
_UNKNOWN: Final = "Your access could not be checked"

Permit = Callable[[], str | None]  # why the person may no longer have the answer; None while the access holds


def permitted(engine: Engine, permit: Permit, *, clock_s: Callable[[], float] = time.monotonic) -> Engine:
    """An engine like `engine` whose turns end with ``Failed("access_ended")`` once ``permit`` gives a reason."""

    def ended() -> Failed | None:
        why = _ask(permit)
        return None if why is None else Failed("access_ended", f"{why}. The answer was cancelled.")

    return ended_by(engine, ended, interval_s=CHECK_INTERVAL_S, clock_s=clock_s)


def now_and_then(permit: Permit, *, clock_s: Callable[[], float] = time.monotonic) -> Permit:
    """A permit like `permit`, for somebody who reads along: it is asked at most once in an interval."""
    asked_s = clock_s()

    def why_ended() -> str | None:
        nonlocal asked_s
        if clock_s() - asked_s < CHECK_INTERVAL_S:
            return None
        asked_s = clock_s()
        return _ask(permit)

    return why_ended


def _ask(permit: Permit) -> str | None:
    """What a permit says; that it cannot be asked is a reason, too."""
    try:
        return permit()
    except DatabaseError:
        return _UNKNOWN


def ended_by(
    engine: Engine, check: Callable[[], Failed | None], *, interval_s: float,
    clock_s: Callable[[], float] = time.monotonic,
) -> Engine:  # fmt: skip
    """An engine like `engine` whose turns end with the failure that ``check`` returns, once it returns one."""
    return _Checked(engine, check, interval_s, clock_s)


class _Checked:
    def __init__(
        self, engine: Engine, check: Callable[[], Failed | None], interval_s: float, clock_s: Callable[[], float]
    ) -> None:
        self._engine, self._check, self._interval_s, self._clock_s = engine, check, interval_s, clock_s

    @contextmanager
    def turn(self, request: TurnRequest) -> Iterator[Iterator[TurnEvent]]:
        with closing(self._events(request)) as events:
            yield events

    def status(self, timeout_s: float = 2.0) -> Status:
        return self._engine.status(timeout_s)

    def ask(self, question: Question, timeout_s: float = 60.0) -> Answered | Failed:
        return self._engine.ask(question, timeout_s)

    def _events(self, request: TurnRequest) -> Generator[TurnEvent, None, None]:
        checked_s = self._clock_s()
        with self._engine.turn(request) as events:
            for event in events:
                if not isinstance(event, Done | Failed) and self._clock_s() - checked_s >= self._interval_s:
                    end = self._check()
                    if end is not None:
                        yield end
                        return
                    checked_s = self._clock_s()
                yield event
