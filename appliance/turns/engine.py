"""What the rest of the appliance may know of an engine: it runs turns, and says how busy it is.

`appliance.engine.client.EngineClient` is the one that the appliance uses; `appliance.turns.permits` puts a check in
front of another engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.errors import ApplianceError
from appliance.turns.events import TurnEvent
from appliance.turns.request import TurnRequest


class EngineUnavailableError(ApplianceError):
    """No engine answered: it is starting, stopped, or too busy to take the call."""


@dataclass(frozen=True)
class Status:
    """What the engine serves, how busy it is, and how many tokens it has generated since its start.

    ``slots`` is the most answers that it works on at once; ``active`` is how many it does now.
    """

    model: str
    release: str
    accelerator: str
    context_tokens: int
    slots: int
    active: int
    queued: int
    details: dict[str, Any] = field(default_factory=dict)
    generated_tokens: int = 0
    tokens_from_drafts: int = 0  # how many of these were computed ahead (engine/drafting.py)


class Engine(Protocol):
    """Runs turns."""

    def turn(self, request: TurnRequest) -> AbstractContextManager[Iterator[TurnEvent]]:
        """Yield the events of one turn; the last is ``Done`` or ``Failed``. Leaving the context cancels the turn.

        While the engine sends nothing, a ``Waiting`` comes twice a second.
        """

    def status(self, timeout_s: float = 2.0) -> Status:
        """What the engine serves and how busy it is.

        Raises:
            EngineUnavailableError: no answer came within ``timeout_s``, or it was not a status.
        """
