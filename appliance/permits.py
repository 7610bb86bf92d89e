"""An answer under way ends when the person may no longer have it: the account was disabled, the session or key ended,
the role was taken away.

`permitted` puts a check between a turn and the engine: it is asked as events come, at most twice a second. The engine's
client makes an event at least twice a second, so the turn ends, and is cancelled, within a second of the change,
whoever made it: another web worker, or the command line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Final

from appliance.database import DatabaseError
from appliance.turns.engine import Engine, Status
from appliance.turns.events import Done, Failed, TurnEvent
from appliance.turns.request import TurnRequest

CHECK_INTERVAL_S: Final = 0.5
_UNKNOWN: Final = "Whether you may still read this could not be looked up"

Permit = Callable[[], str | None]  # why the person may no longer have the answer; None while all is well


def permitted(engine: Engine, permit: Permit, *, clock_s: Callable[[], float] = time.monotonic) -> Engine:
    """`engine`, whose turns end with ``Failed("access_ended")`` once ``permit`` gives a reason."""
    return _Permitted(engine, permit, clock_s)


class _Permitted:
    def __init__(self, engine: Engine, permit: Permit, clock_s: Callable[[], float]) -> None:
        self._engine, self._permit, self._clock_s = engine, permit, clock_s

    @contextmanager
    def turn(self, request: TurnRequest) -> Iterator[Iterator[TurnEvent]]:
        with closing(self._events(request)) as events:
            yield events

    def status(self, timeout_s: float = 2.0) -> Status:
        return self._engine.status(timeout_s)

    def _events(self, request: TurnRequest) -> Generator[TurnEvent, None, None]:
        checked_s = self._clock_s()
        with self._engine.turn(request) as events:
            for event in events:
                if not isinstance(event, Done | Failed) and self._clock_s() - checked_s >= CHECK_INTERVAL_S:
                    why = self._why_ended()
                    if why is not None:
                        yield Failed("access_ended", f"{why}. The answer was cancelled.")
                        return
                    checked_s = self._clock_s()
                yield event

    def _why_ended(self) -> str | None:
        try:
            return self._permit()
        except DatabaseError:
            return _UNKNOWN
